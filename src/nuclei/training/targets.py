"""Target maps that a network learns, computed from a label image."""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, cast

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from nuclei.errors import UserError

Labels = NDArray[Any]  # [H, W], integers in 0..65535
Target = NDArray[np.float32]  # [H, W] in 0..1

POINT_SIGMA_PX = 3
LARGE_NUCLEUS_PX = 4000  # an image with a nucleus beyond this gets a wider border on background


def as_uint16(labels: Labels) -> NDArray[np.uint16]:
    """Return labels int [H, W] as uint16; raise ValueError on one outside 0..65535."""
    if labels.size and (labels.min() < 0 or labels.max() > 65535):
        raise ValueError(f"labels {labels.min()}..{labels.max()} are not in 0..65535: number the nuclei from 1")
    return labels.astype(np.uint16, copy=False)


def label_extremes(labels: NDArray[np.uint16], radius: int) -> tuple[NDArray[np.uint16], NDArray[np.uint16]]:
    """Return the smallest and largest non-zero label in each (2·radius + 1)² window, 0 where there is none.

    labels uint16 [H, W] -> uint16 [H, W] twice.
    """
    # Of unsigned numbers the negative turns the order of all but 0 around.
    return np.negative(dilate(np.negative(labels), radius)), dilate(labels, radius)


def dilate(labels: NDArray[np.uint16], radius: int) -> NDArray[np.uint16]:
    """Return the largest value in each (2·radius + 1)² window: uint16 [H, W] -> uint16 [H, W]."""
    window = np.ones((2 * radius + 1, 2 * radius + 1), np.uint8)
    return cast("NDArray[np.uint16]", cv2.dilate(labels, window, borderType=cv2.BORDER_REPLICATE))


def mask_target(labels: Labels) -> Target:
    """Return 1 on every nucleus, 0 elsewhere: labels int [H, W] -> float32 [H, W]."""
    return (labels > 0).astype(np.float32)


def border_target(labels: Labels) -> Target:
    """Return 1 between nuclei, 0 elsewhere: labels int [H, W] -> float32 [H, W].

    A pixel is border if two labels meet in its window. The window's half-width is 3 px on background (6 if the
    largest nucleus exceeds 4000 px) and, on a nucleus, 1 px below 300 px of area, 2 below 2000, else 3
    (rule of the first place, github.com/selimsef/dsb2018_topcoders, without its watershed gate).
    """
    labels = as_uint16(labels)
    area_px = np.bincount(labels.ravel(), minlength=2)
    outside = 6 if area_px[1:].max(initial=0) > LARGE_NUCLEUS_PX else 3
    radius_of_label = np.where(area_px < 300, 1, np.where(area_px < 2000, 2, 3))
    radius_of_label[0] = outside
    radius_px = radius_of_label[labels]
    border = np.zeros(labels.shape, bool)
    for radius in np.unique(radius_of_label[area_px > 0]):
        smallest, largest = label_extremes(labels, int(radius))
        border |= (radius_px == radius) & (smallest != largest)
    return border.astype(np.float32)


def center_target(labels: Labels) -> Target:
    """Return each pixel's distance to its nucleus's outline over the nucleus's largest: float32 [H, W] in 0..1.

    The energy of the deep watershed (Bai & Urtasun 2017), normalised per nucleus so that every nucleus, whatever
    its size, peaks at 1. The image frame does not count as an outline.
    """
    labels = as_uint16(labels)
    smallest, largest = label_extremes(labels, 1)
    nuclei = labels > 0
    inside = (nuclei & (smallest == largest)).astype(np.uint8)
    distance = cv2.distanceTransform(inside, cv2.DIST_L2, cv2.DIST_MASK_PRECISE) if inside.any() else 0 * inside
    # OpenCV's last digit differs from call to call, but squares of distances are whole numbers.
    distance = np.sqrt(np.rint(np.square(distance, dtype=np.float64)))
    # Pixels where nuclei touch are at distance 0 here though they belong to one: half a pixel puts them inside.
    distance = np.where(nuclei, distance + 0.5, 0)
    peak = np.zeros(int(labels.max()) + 1)
    np.maximum.at(peak, labels[nuclei], distance[nuclei])
    center: Target = (distance / np.maximum(peak, 0.5)[labels]).astype(np.float32)
    return center


def core_target(labels: Labels) -> Target:
    """Return 1 on the core of each nucleus, where center_target is above a half: float32 [H, W]."""
    return (center_target(labels) > 0.5).astype(np.float32)


def point_target(labels: Labels) -> Target:
    """Return a Gaussian of 3 px around the deepest pixel of each nucleus, cut at its outline: float32 [H, W], 0..1."""
    deepest = ndimage.maximum_position(center_target(labels), labels, np.arange(1, int(labels.max()) + 1))
    y, x = np.array([(0.0, 0.0), *deepest]).T[:, labels]
    rows, columns = np.indices(labels.shape)
    squared = (rows - y) ** 2 + (columns - x) ** 2
    return np.where(labels > 0, np.exp(-squared / (2 * POINT_SIGMA_PX**2)), 0).astype(np.float32)


class TargetChannel(NamedTuple):
    """Hold what makes a target map of a label image, and what it is on a nucleus; it is 0 elsewhere."""

    make: Callable[[Labels], Target]
    meaning: str


TARGETS = {
    "mask": TargetChannel(mask_target, "1 on every nucleus"),
    "border": TargetChannel(
        border_target,
        "1 where two nuclei meet in a small window, which grows with their size (the first place's rule without its "
        "watershed gate)",
    ),
    "center": TargetChannel(
        center_target,
        "distance to the nucleus's outline over its largest: 1 at the core of every nucleus, whatever its size",
    ),
    "core": TargetChannel(core_target, "1 where center is above a half"),
    "point": TargetChannel(point_target, "a Gaussian around the deepest pixel of every nucleus"),
}


def check_channels(names: Iterable[str]) -> None:
    """Raise UserError listing the channels on an unknown name."""
    if unknown := set(names) - TARGETS.keys():
        raise UserError(f"unknown channel {', '.join(sorted(unknown))}; valid: {', '.join(TARGETS)}")


def make_targets(labels: Labels, channels: tuple[str, ...]) -> NDArray[np.float32]:
    """Stack the targets of `channels`: labels int [H, W], 0..65535 -> float32 [C, H, W].

    Raises UserError on an unknown channel, and ValueError on a label out of range.
    """
    check_channels(channels)
    return np.stack([TARGETS[channel].make(labels) for channel in channels])
