"""Networks of every decoder answer with the image's size, and start from exactly the weights of a file."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from nuclei.config.schema import ModelConfig
from nuclei.errors import UserError
from nuclei.networks.encoder_decoder import (
    DECODERS,
    STRIDE,
    Network,
    build_network,
    input_statistics,
    load_encoder,
    read_state_dict,
)

torch.set_num_threads(1)  # tiny networks gain nothing from more
PRETRAINED = Path(__file__).parents[2] / "pretrained"
WIDTHS = (32, 24, 16, 12, 8)
IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def build(decoder="FPN", encoder="resnet18", weights=None, n_channels=3, **options):
    settings = {"decoder": decoder, "encoder": encoder, "decoder_channels": WIDTHS} | options
    return build_network(ModelConfig(channels=("mask", "border", "center")[:n_channels], **settings), weights)


def random_images(*shape):
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(7))


@pytest.mark.parametrize("decoder", DECODERS)
def test_every_decoder_answers_with_the_images_size(decoder):
    network = build(decoder)
    logits = network(random_images(2, 3, 64, 64))
    assert logits.shape == (2, 3, 64, 64)
    logits.square().mean().backward()
    assert network.body.encoder.conv1.weight.grad.abs().sum() > 0
    network.eval()
    with torch.inference_mode():
        assert network(random_images(1, 3, STRIDE, STRIDE)).shape == (1, 3, STRIDE, STRIDE)
        assert network(random_images(1, 3, 2 * STRIDE, 3 * STRIDE)).shape == (1, 3, 2 * STRIDE, 3 * STRIDE)


@pytest.mark.parametrize("n_levels", [3, 4, 5])
@pytest.mark.parametrize("decoder", ["Unet", "UnetPlusPlus", "MAnet"])
def test_decoder_widths_are_those_asked_for(decoder, n_levels):
    network = build(decoder, n_channels=2, decoder_channels=WIDTHS[:n_levels]).eval()
    assert network.body.segmentation_head[0].in_channels == WIDTHS[n_levels - 1]
    with torch.inference_mode():
        assert network(random_images(1, 3, 32, 64)).shape == (1, 2, 32, 64)


@pytest.mark.parametrize("stride", [2, 4])
def test_maps_of_a_fraction_of_the_size_are_enlarged_to_the_images_without_a_shift(stride):
    levels = 5 - (stride.bit_length() - 1)
    network = build("Unet", decoder_channels=WIDTHS[:levels], output_stride=stride).eval()
    assert len(network.body.decoder.blocks) == levels
    assert len(network.body.encoder.out_channels) == 6
    head, width, side = network.body.segmentation_head, WIDTHS[levels - 1], 64
    with torch.inference_mode():
        assert network(random_images(1, 3, 64, 96)).shape == (1, 3, 64, 96)
        for parameter in head.parameters():
            parameter.zero_()
        head[0].weight[:, 0, 1, 1] = 1.0
        # Each feature is the mean x of the pixels it stands for, so the enlarged logits are the pixels' own x.
        x = torch.arange(side).float()
        features = x.reshape(-1, stride).mean(1).expand(1, width, side // stride, -1)
        inside = slice(stride, -stride)
        assert torch.allclose(head(features)[..., inside], x[inside].expand(1, 3, side, -1), atol=1e-4)


@pytest.mark.parametrize("decoder", ["FPN", "KerasUnet"])
def test_only_a_unet_has_an_output_stride(decoder):
    with pytest.raises(ValueError, match=f"no {decoder} of output stride 2; valid: 1, or 2 and 4 of a Unet"):
        build(decoder, output_stride=2)


@pytest.mark.parametrize(
    "name", ["mobilenetv1_100", "mobilenetv2_100", "tf_efficientnet_lite0", "tf_efficientnet_lite1"]
)
def test_encoder_starts_from_the_tensors_of_the_file(name):
    path = PRETRAINED / f"{name.removeprefix('tf_')}.safetensors"
    if not path.is_file():
        pytest.skip(f"pretrained/{path.name} is missing")
    network = build("Unet", f"tu-{name}", str(path)).eval()
    file, loaded = load_file(path), network.body.encoder.model.state_dict()
    assert all(torch.equal(value, file[key].float()) for key, value in loaded.items() if value.is_floating_point())
    assert len(loaded) > 100
    untrained = build("Unet", f"tu-{name}").body.encoder.model.state_dict()
    assert not torch.equal(untrained["conv_stem.weight"], loaded["conv_stem.weight"])
    with torch.inference_mode():
        assert network(random_images(1, 3, 32, 32)).shape == (1, 3, 32, 32)


# Encoders whose own load_state_dict returns nothing, takes no `strict`, or whose modules timm renames.
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("encoder", ["resnet18", "densenet121", "mit_b0", "tu-resnet18", "tu-convnext_atto"])
def test_whole_network_files_load_into_any_encoder(tmp_path, encoder, suffix):
    donor = build("FPN", encoder).body.encoder
    expected = {key: value.clone() for key, value in donor.state_dict().items()}
    prefix = "model." if encoder.startswith("tu-") else ""
    state = {
        key.removeprefix(prefix).replace("stages_", "stages.").replace("stem_", "stem."): value.contiguous()
        for key, value in expected.items()
    }
    state |= {"fc.weight": torch.ones(10, 4), "fc.bias": torch.ones(10)}
    path = tmp_path / f"weights{suffix}"
    (torch.save if suffix == ".pth" else save_file)(state, path)
    loaded = build("FPN", encoder, str(path)).body.encoder.state_dict()
    assert loaded.keys() == expected.keys()
    assert all(torch.equal(loaded[key], expected[key]) for key in expected)


def test_half_precision_files_become_float32(tmp_path):
    encoder = build().body.encoder
    path = tmp_path / "half.safetensors"
    save_file(
        {key: value.half() if value.is_floating_point() else value for key, value in encoder.state_dict().items()}, path
    )
    load_encoder(encoder, path)
    assert encoder.conv1.weight.dtype == torch.float32
    assert torch.equal(encoder.conv1.weight, load_file(path)["conv1.weight"].float())


def test_a_file_of_another_network_is_refused(tmp_path):
    path = tmp_path / "resnet34.pth"
    torch.save(build(encoder="resnet34").body.encoder.state_dict(), path)
    with pytest.raises(ValueError, match=r"resnet34.pth lacks \d+ tensors .* another network"):
        build(encoder="tu-mobilenetv1_100", weights=str(path))
    wider = tmp_path / "wider.safetensors"
    save_file(build(encoder="tu-mobilenetv2_050").body.encoder.model.state_dict(), wider)
    with pytest.raises(ValueError, match=r"wider.safetensors has \S+ of shape \(16, .* another network"):
        build(encoder="tu-mobilenetv2_100", weights=str(wider))


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("damage", ["emptied", "cut", "noise", "a list"])
def test_a_damaged_file_is_named(tmp_path, suffix, damage):
    path = tmp_path / f"weights{suffix}"
    (torch.save if suffix == ".pth" else save_file)({"a": torch.ones(1000)}, path)
    content = path.read_bytes()
    path.write_bytes({"emptied": b"", "cut": content[:-500], "noise": bytes(range(255)), "a list": content}[damage])
    if damage == "a list":
        torch.save([torch.ones(3)], path)
    with pytest.raises(
        UserError, match=rf"weights{suffix} is damaged, or no {suffix} file of weights .*: fetch it anew"
    ):
        read_state_dict(path)


def test_a_file_that_would_run_code_is_refused(tmp_path):
    torch.save({"a": Path("b")}, tmp_path / "weights.pth")
    with pytest.raises(UserError, match=r"weights.pth is damaged"):
        read_state_dict(tmp_path / "weights.pth")


def test_weights_of_a_missing_file_are_an_error_of_the_system(tmp_path):
    for name in ("a.pth", "a.safetensors"):
        with pytest.raises(FileNotFoundError) as raised:
            read_state_dict(tmp_path / name)
        assert Path(raised.value.filename) == tmp_path / name


def test_a_refused_file_changes_nothing(tmp_path):
    encoder = build().body.encoder
    before = {key: value.clone() for key, value in encoder.state_dict().items()}
    state = {key: value + 1 for key, value in before.items()}
    del state["layer4.1.conv2.weight"]
    torch.save(state, tmp_path / "cut.pth")
    with pytest.raises(ValueError, match=r"lacks 1 tensors of the encoder, e\.g\. layer4\.1\.conv2\.weight"):
        load_encoder(encoder, tmp_path / "cut.pth")
    assert all(torch.equal(value, before[key]) for key, value in encoder.state_dict().items())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"decoder": "UNet"}, "unknown decoder UNet; valid: Unet, .*Segformer"),
        ({"encoder": "resnt34"}, "unknown encoder resnt34; nearest: resnet34"),
        ({"encoder": "tu-mobilenetv2_10"}, "unknown encoder tu-mobilenetv2_10; nearest: .*tu-mobilenetv2_100"),
        ({"encoder": "mobilenetv2_100"}, "unknown encoder mobilenetv2_100; nearest: tu-mobilenetv2_100"),
        ({"weights": "no/such.safetensors"}, "no/such.safetensors not found: put the file there, or .* imagenet"),
        ({"weights": "imagnet"}, "unknown weights imagnet of resnet18; valid: imagenet, .* or null"),
        (
            {"weights": "x.bin", "encoder": "tu-resnet18"},
            "unknown weights x.bin of tu-resnet18; valid: imagenet, a .pth",
        ),
    ],
)
def test_wrong_names_are_answered_with_the_right_ones(options, message):
    with pytest.raises(ValueError, match=message):
        build(**options)


def test_normalisation_is_inside_and_stored_with_the_weights():
    network = Network(nn.Identity(), *IMAGENET)
    image = random_images(2, 3, 4, 5)
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in IMAGENET)
    assert torch.allclose(network(image), (image / 255 - mean) / std, atol=1e-5)
    other = Network(nn.Identity(), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    other.load_state_dict(network.state_dict())
    assert torch.equal(other(image), network(image))


def test_given_statistics_replace_the_encoders_own():
    network = build(mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7))
    assert network.mean.flatten().tolist() == pytest.approx([25.5, 51, 76.5])
    assert network.std.flatten().tolist() == pytest.approx([127.5, 153, 178.5])
    assert build().mean.flatten().tolist() == pytest.approx([255 * value for value in IMAGENET[0]])


@pytest.mark.parametrize(
    ("encoder", "weights", "mean", "std"),
    [
        ("resnet34", "imagenet", *(values[0] for values in IMAGENET)),
        ("tu-mobilenetv2_100", None, *(values[0] for values in IMAGENET)),
        ("tu-tf_efficientnet_b0.ap_in1k", "imagenet", 0.5, 0.5),
        ("inceptionresnetv2", "imagenet", 0.5, 0.5),
        ("dpn92", "imagenet+5k", 124 / 255, 1 / (0.0167 * 255)),
        ("dpn92", "local.pth", 124 / 255, 1 / (0.0167 * 255)),
        ("efficientnet-b0", "imagenet", *(values[0] for values in IMAGENET)),
        ("efficientnet-b0", "advprop", 0.5, 0.5),
        ("mit_b0", None, *(values[0] for values in IMAGENET)),
    ],
)
def test_input_statistics_are_those_of_the_published_weights(encoder, weights, mean, std):
    ours = input_statistics(encoder, weights)
    assert [values[0] for values in ours] == pytest.approx([mean, std])
    assert [len(values) for values in ours] == [3, 3]
