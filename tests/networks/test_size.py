"""Nuclei that are far from the size that networks learned are brought to it; others are left as they are."""

import cv2
import numpy as np
import pytest
import torch

from nuclei.config.schema import Config, ModelConfig, PredictConfig
from nuclei.data.size import LARGEST, SMALLEST, choose_factor
from nuclei.networks.kinds import KINDS, NEAR


def draw_disks(diameter_px: int, side_px: int = 256) -> np.ndarray:
    """Return labels, int32, of disks of one diameter on a grid."""
    labels, step = np.zeros((side_px, side_px), np.int32), 2 * diameter_px
    centres = range(diameter_px, side_px - diameter_px // 2, step)
    for number, (y, x) in enumerate(((y, x) for y in centres for x in centres), start=1):
        cv2.circle(labels, (x, y), diameter_px // 2, number, -1)
    return labels


@pytest.mark.parametrize("diameter_px", [12, 16, 60, 80])
@pytest.mark.parametrize("min_side_px", [0, 512])
def test_the_factor_brings_nuclei_to_the_diameter(diameter_px, min_side_px):
    enlarged = 2 if min_side_px else 1
    factor = choose_factor(draw_disks(diameter_px), min_side_px, 36, NEAR)
    wanted = 36 / (diameter_px * enlarged)
    if 1 / NEAR < wanted < NEAR:
        assert factor == 1
    else:
        assert factor == pytest.approx(min(max(wanted, SMALLEST), LARGEST), rel=0.1)


def test_nuclei_near_the_diameter_and_images_without_any_are_left():
    assert choose_factor(draw_disks(36), 0, 36, NEAR) == 1
    assert choose_factor(draw_disks(30), 0, 36, NEAR) == 1
    assert choose_factor(np.zeros((64, 64), np.int32), 0, 36, NEAR) == 1


class FindBright:
    """Stand for a network: mask and center are the bright pixels, and it keeps the sizes that it was given."""

    def __init__(self):
        self.sizes = []

    def __call__(self, batch: torch.Tensor) -> torch.Tensor:
        self.sizes.append(tuple(batch.shape[2:]))
        bright = (batch[:, :1] > 127).float()
        return torch.cat([bright, bright], 1)


@pytest.mark.parametrize(("diameter_px", "side_px"), [(72, 256), (36, 512), (18, 717)])
def test_a_network_is_given_nuclei_of_the_diameter_and_its_maps_have_the_images_size(diameter_px, side_px):
    image = np.repeat((draw_disks(diameter_px, 512) > 0)[..., None] * np.uint8(255), 3, 2)
    config = Config(model=ModelConfig(channels=("mask", "center")), predict=PredictConfig(tta="none", diameter_px=36.0))
    network = FindBright()
    found = KINDS["maps"].predict([network], [image], config)[0]
    look, size = network.sizes
    assert abs(look[0] - 0.45 * 512) <= 32
    assert abs(size[0] - side_px) <= 0.06 * side_px + 32  # padded to a multiple of 32
    assert found.maps["mask"].shape == image.shape[:2]
    assert ((found.maps["mask"] > 0.5) == (image[..., 0] > 0)).mean() > 0.97
