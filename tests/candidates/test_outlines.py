"""Outlines that are moved by fractions of a pixel: areas by Steiner's formula, and never an overlap."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from nuclei.candidates.outlines import Growth, grow_labels

SIDE = 96


def draw_disk(y: float, x: float, radius: float) -> NDArray[np.bool_]:
    rows, columns = np.mgrid[:SIDE, :SIDE]
    disk: NDArray[np.bool_] = np.hypot(rows - y, columns - x) <= radius
    return disk


def flat() -> NDArray[np.float32]:
    return np.full((SIDE, SIDE), 0.5, np.float32)


@settings(max_examples=60, deadline=None)
@given(st.floats(4, 25), st.floats(-1.2, 6).filter(lambda g: abs(g) > 0.05), st.floats(0, 1), st.floats(0, 1))
def test_a_disk_grows_and_shrinks_to_the_disk_of_the_other_radius(
    radius: float, px: float, dy: float, dx: float
) -> None:
    disk = draw_disk(48 + dy, 48 + dx, radius)
    rows, columns = np.mgrid[:SIDE, :SIDE]
    mask = np.exp(-np.hypot(rows - 48 - dy, columns - 48 - dx) / SIDE).astype(np.float32)
    grown = grow_labels(disk.astype(np.int32), mask, Growth(px=px)) > 0
    found = np.sqrt(grown.sum() / np.pi) - np.sqrt(disk.sum() / np.pi)
    assert found == pytest.approx(px, abs=0.1 + 0.06 * abs(px))
    assert (grown & disk).sum() == min(grown.sum(), disk.sum())  # one lies in the other
    wanted = draw_disk(48 + dy, 48 + dx, radius + px)
    assert (grown & wanted).sum() / (grown | wanted).sum() > 0.7


def test_a_share_grows_by_the_radius() -> None:
    labels = draw_disk(30, 30, 10).astype(np.int32) + 2 * draw_disk(68, 68, 20)
    grown = grow_labels(labels, flat(), Growth(share=0.15))
    for label in (1, 2):
        ratio = np.sqrt((grown == label).sum() / (labels == label).sum())
        assert ratio == pytest.approx(1.15, abs=0.01)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.floats(-3, 5))
def test_no_nucleus_takes_of_another_or_is_lost(seed: int, px: float) -> None:
    random = np.random.default_rng(seed)
    labels = np.zeros((SIDE, SIDE), np.int32)
    for label in range(1, 15):
        y, x, radius = random.uniform(0, SIDE), random.uniform(0, SIDE), random.uniform(1, 14)
        labels[draw_disk(y, x, radius) & (labels == 0)] = label
    grown = grow_labels(labels, random.random((SIDE, SIDE), np.float32), Growth(px=px))
    kept = labels > 0
    if px >= 0:
        assert (grown[kept] == labels[kept]).all()
    else:
        assert (grown[grown > 0] == labels[grown > 0]).all()
    assert set(np.unique(grown)) == set(np.unique(labels))


def test_nothing_changes_without_growth_and_the_input_is_kept() -> None:
    labels = draw_disk(40, 40, 9).astype(np.uint16)
    assert (grow_labels(labels, flat(), Growth()) == labels).all()
    before = labels.copy()
    grow_labels(labels, flat(), Growth(px=2))
    assert (labels == before).all()


def test_of_equally_near_pixels_the_mask_decides() -> None:
    labels = np.zeros((SIDE, SIDE), np.int32)
    labels[40:50, 40:50] = 1
    mask = flat()
    mask[:, 50:] = 0.9  # the nucleus reaches further to the right
    grown = grow_labels(labels, mask, Growth(px=0.25))
    added = np.argwhere(grown != labels)
    assert len(added)
    assert (added[:, 1] == 50).all()


def test_two_that_meet_share_the_gap() -> None:
    labels = draw_disk(48, 30, 12).astype(np.int32) + 2 * draw_disk(48, 60, 12)
    grown = grow_labels(labels, flat(), Growth(px=8))
    left, right = (grown == 1)[48], (grown == 2)[48]
    assert abs(int(np.flatnonzero(left).max()) - 45) <= 1
    assert int(np.flatnonzero(right).min()) - int(np.flatnonzero(left).max()) == 1


def test_shapes_must_agree() -> None:
    with pytest.raises(ValueError, match="the mask"):
        grow_labels(np.zeros((4, 4), np.int32), np.zeros((4, 5), np.float32), Growth(px=1))
