"""A teacher sees what the student sees, in its own views and sizes; its maps are mixed into the targets."""

import numpy as np
import pytest
import torch

from nuclei.config.schema import PredictConfig
from nuclei.networks.tiling import VIEWS, apply_view
from nuclei.training.teacher import Voice, mix, taught_loss, teach, turn_back, turn_batch


def brightness(batch):
    """Give what no view changes but the turning: a map that is the image's red."""
    return batch[:, :1].float() / 255


def lower_half(batch):
    """Give what depends on the view: 1 in the lower half."""
    maps = torch.zeros_like(batch[:, :1], dtype=torch.float32)
    maps[:, :, maps.shape[2] // 2 :] = 1
    return maps


def make_batch(side=64):
    return torch.randint(0, 256, (2, 3, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("view", VIEWS["dihedral"])
def test_views_of_batches_are_those_of_images_and_turn_back(view):
    batch = make_batch()
    assert torch.equal(turn_back(turn_batch(batch, view), view), batch)
    image = batch[0].permute(1, 2, 0).numpy()
    assert np.array_equal(turn_batch(batch, view)[0].permute(1, 2, 0).numpy(), apply_view(image, view))


@pytest.mark.parametrize("tta", list(VIEWS))
def test_maps_of_all_views_lie_over_the_image(tta):
    batch, predict = make_batch(), PredictConfig(tta=tta, scales=(0.6,))
    assert torch.allclose(teach([Voice([brightness], predict, 2.0)], batch, 0.6), brightness(batch), atol=1e-6)
    expected = lower_half(batch) if tta == "none" else torch.full_like(brightness(batch), 0.5)
    assert torch.allclose(teach([Voice([lower_half], predict, 1.0)], batch, 0.6), expected)


def test_a_voice_sees_the_crop_at_its_own_size():
    seen = []

    def look(batch):
        seen.append(batch.shape[-1])
        return brightness(batch)

    smooth = make_batch(4).repeat_interleave(16, 2).repeat_interleave(16, 3)
    taught = teach([Voice([look], PredictConfig(tta="none", scales=(0.5, 1.0)), 1.0)], smooth, 0.5)
    assert seen == [64, 128]
    assert taught.shape == (2, 1, 64, 64)
    assert (taught - brightness(smooth)).abs().mean() < 0.03


def test_voices_and_their_networks_are_averaged():
    predict, batch = PredictConfig(tta="none"), make_batch()
    zero, one = (lambda b: 0 * brightness(b)), (lambda b: 0 * brightness(b) + 1)
    taught = teach([Voice([one, zero], predict, 1.0), Voice([one], predict, 3.0)], batch, 1.0)
    assert torch.allclose(taught, torch.full_like(taught, 0.875))


def test_where_there_is_no_truth_the_teacher_has_all_the_say():
    target = torch.tensor([0.0, 1.0, torch.nan])
    assert torch.allclose(mix(target, torch.tensor([0.5, 0.5, 0.5]), 0.4), torch.tensor([0.2, 0.8, 0.5]))


def test_a_student_learns_from_a_teacher_that_is_in_inference_mode():
    network = torch.nn.Conv2d(3, 1, 1)

    def teacher(batch):
        with torch.inference_mode():
            return brightness(batch)

    def loss_of(network, image, target):
        return (network(image.float() / 255) - target).square().mean()

    batch = make_batch()
    loss = taught_loss(loss_of, [Voice([teacher], PredictConfig(tta="none"), 1.0)], 1.0, 1.0)
    unknown = torch.full((2, 1, 64, 64), torch.nan)
    optimizer = torch.optim.Adam(network.parameters(), 0.05)
    first = loss(network, batch, unknown)
    for _ in range(100):
        optimizer.zero_grad()
        loss(network, batch, unknown).backward()
        optimizer.step()
    assert loss(network, batch, unknown) < first / 20
