"""The vanilla U-Nets are those that were published, and see beyond an image's frame only what it mirrors."""

import numpy as np
import pytest
import torch
from torch import nn

from nuclei.config.schema import ModelConfig
from nuclei.networks.encoder_decoder import build_network
from nuclei.networks.plain_unet import VALID_MARGIN_PX, VANILLA, PlainUnet, mirror

torch.set_num_threads(1)  # tiny networks gain nothing from more
WIDTHS = (3, 4, 5, 6, 7)  # all different, so that no level can take another's place
BOTH = pytest.mark.parametrize("valid", [False, True])


def make_net(valid: bool, widths=WIDTHS, dropout=0.0) -> PlainUnet:
    torch.manual_seed(5)
    return PlainUnet(2, widths, valid, dropout)


def random_image(*shape) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(3))


def reflect(image: torch.Tensor, margin_px: int) -> np.ndarray:
    """Mirror an image [B, C, H, W] beyond its frame by another library, which takes any margin."""
    return np.pad(image.numpy(), ((0, 0), (0, 0), (margin_px, margin_px), (margin_px, margin_px)), mode="reflect")


@BOTH
@pytest.mark.parametrize("shape", [(32, 32), (64, 32), (32, 160), (48, 96), (224, 224)])
def test_logits_have_the_images_size(valid, shape):
    with torch.inference_mode():
        logits = make_net(valid)(random_image(2, 3, *shape))
    assert logits.shape == (2, 2, *shape)
    assert (logits.std(dim=(2, 3)) > 0).all()


def test_the_networks_are_as_large_as_those_published():
    layers = {
        name: [m for m in build(1).modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d)]
        for name, build in VANILLA.items()
    }
    count = {name: sum(p.numel() for layer in found for p in layer.parameters()) for name, found in layers.items()}
    assert count["KerasUnet"] == 485_817  # as Keras prints of the starter
    assert round(count["OriginalUnet"] / 1e6, 2) == 31.03
    # 23 convolutions in Ronneberger et al. 2015, of which 4 are transposed; the 18 of 3 x 3 are valid.
    assert [len(found) for found in layers.values()] == [23, 23]
    padding = {name: [m.padding for m in found if m.kernel_size == (3, 3)] for name, found in layers.items()}
    assert padding == {"KerasUnet": 18 * [(1, 1)], "OriginalUnet": 18 * [(0, 0)]}


@BOTH
def test_every_parameter_learns(valid):
    net = make_net(valid, widths=(8, 8, 8, 8, 8))
    net(random_image(2, 3, 32, 64)).square().mean().backward()
    assert not [name for name, p in net.named_parameters() if not p.grad.any()]


@pytest.mark.parametrize("shape", [(64, 64), (48, 96), (32, 128)])
def test_valid_convolutions_see_the_image_and_its_mirror_image_only(shape):
    image, border = random_image(1, 3, *shape), 96
    middle = slice(border, border + shape[0]), slice(border, border + shape[1])
    with torch.inference_mode():
        for valid in (True, False):
            net = make_net(valid)
            # The same image as the middle of a larger one that continues as the mirror does.
            larger = net(torch.from_numpy(reflect(image, border)))[..., *middle]
            assert torch.allclose(net(image), larger, atol=1e-5) == valid


@BOTH
def test_a_pixel_far_from_the_frame_knows_nothing_of_it(valid):
    image, shift = random_image(1, 3, 256, 256), 32
    net = make_net(valid)
    seen = slice(shift + VALID_MARGIN_PX, 224 - VALID_MARGIN_PX)  # at least the margin from every frame
    with torch.inference_mode():
        first, second = net(image[..., :224, :224]), net(image[..., shift:, shift:])
    moved = slice(seen.start - shift, seen.stop - shift)
    assert torch.allclose(first[..., seen, seen], second[..., moved, moved], atol=1e-5)
    assert not torch.allclose(first[..., shift:, shift:], second[..., :-shift, :-shift], atol=1e-5)


@pytest.mark.parametrize("margin_px", [0, 1, 15, 16, 40, VALID_MARGIN_PX])
@pytest.mark.parametrize("shape", [(16, 16), (32, 32), (16, 48), (200, 32)])
def test_mirroring_repeats_as_often_as_the_margin_needs(shape, margin_px):
    image = random_image(1, 2, *shape)
    np.testing.assert_array_equal(mirror(image, margin_px).numpy(), reflect(image, margin_px))


def test_dropout_is_for_training_only():
    net, image = make_net(valid=True, dropout=0.5), random_image(1, 3, 32, 32)
    assert not torch.equal(net(image), net(image))
    net.eval()
    assert torch.equal(net(image), net(image))


def test_they_are_built_by_name_for_input_in_0_to_1():
    network = build_network(ModelConfig(decoder="KerasUnet", encoder=None), None)
    seen = []
    network.body = nn.Sequential(nn.Identity(), network.body)
    network.body[0].register_forward_hook(lambda *given: seen.append(given[-1]))
    image = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16).expand(2, 3, 16, 16)
    assert network(image).shape == (2, 3, 16, 16)
    assert torch.allclose(seen[0], image / 255)
    other = build_network(ModelConfig(decoder="KerasUnet", encoder=None, mean=(0.5,) * 3, std=(0.25,) * 3), None)
    assert other.mean.flatten().tolist() == [127.5] * 3
    assert other.std.flatten().tolist() == [63.75] * 3


@pytest.mark.parametrize(("encoder", "weights"), [("resnet34", None), (None, "imagenet"), ("resnet34", "imagenet")])
@pytest.mark.parametrize("decoder", VANILLA)
def test_an_encoder_or_its_weights_are_refused(decoder, encoder, weights):
    with pytest.raises(
        ValueError, match=f"{decoder} has an encoder of its own.* set model.encoder and model.weights to null"
    ):
        build_network(ModelConfig(decoder=decoder, encoder=encoder), weights)


def test_other_decoders_need_an_encoder_and_wrong_names_list_these_networks():
    with pytest.raises(ValueError, match=r"Unet needs an encoder: set model.encoder"):
        build_network(ModelConfig(decoder="Unet", encoder=None), None)
    with pytest.raises(ValueError, match=r"unknown decoder VanillaUnet; valid: .*KerasUnet, OriginalUnet, MaskRCNN"):
        build_network(ModelConfig(decoder="VanillaUnet"), None)
