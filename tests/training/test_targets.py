"""Targets equal literal pixel-by-pixel references, and their perfect prediction decodes to the truth."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage
from skimage.segmentation import watershed

from nuclei.data.synthetic import KINDS, make_image
from nuclei.evaluation.metric import score_image
from nuclei.training.targets import TARGETS, border_target, center_target, make_targets, mask_target

BLOCKS = st.tuples(st.integers(1, 9), st.integers(1, 9)).flatmap(
    lambda shape: hnp.arrays(np.int32, shape, elements=st.sampled_from([0, 0, 1, 2, 3, 40, 65535]))
)


def enlarge(blocks, factor):
    return np.kron(blocks, np.ones((factor, factor), np.int32))


def reference_border(labels):
    areas = {label: int((labels == label).sum()) for label in set(labels.ravel().tolist()) - {0}}
    outside = 6 if max(areas.values(), default=0) > 4000 else 3
    border = np.zeros(labels.shape, np.float32)
    for y, x in np.ndindex(labels.shape):
        label = int(labels[y, x])
        on_nucleus = 1 if areas.get(label, 0) < 300 else 2 if areas[label] < 2000 else 3
        s = on_nucleus if label else outside
        window = labels[max(0, y - s) : y + s + 1, max(0, x - s) : x + s + 1]
        border[y, x] = len(np.unique(window[window > 0])) > 1
    return border


@given(BLOCKS)
def test_border_of_small_nuclei_equals_the_reference(labels):
    assert np.array_equal(border_target(labels), reference_border(labels))


@settings(max_examples=12)
@given(BLOCKS, st.sampled_from([5, 12]))
def test_border_of_larger_nuclei_equals_the_reference(blocks, factor):
    labels = enlarge(blocks, factor)
    assert np.array_equal(border_target(labels), reference_border(labels))


def wall(area_px, gap_px):
    """Draw a nucleus of `area_px`, filled column by column from column 59 leftwards, and a thin one to its right."""
    labels = np.zeros((80, 120), np.int32)
    labels[:, 59::-1] = (np.arange(60 * 80) < area_px).reshape(60, 80).T
    labels[:, 60 + gap_px : 62 + gap_px] = 2
    return labels


@pytest.mark.parametrize(("area_px", "half_width"), [(299, 1), (300, 2), (1999, 2), (2000, 3), (4000, 3), (4001, 3)])
def test_border_on_a_nucleus_widens_with_its_area(area_px, half_width):
    labels = wall(area_px, 0)
    assert np.flatnonzero(border_target(labels)[10, :61]).tolist() == [*range(60 - half_width, 61)]


@pytest.mark.parametrize(("area_px", "columns"), [(4000, []), (4001, [62, 63, 64, 65])])
def test_border_on_background_widens_beside_a_large_nucleus(area_px, columns):
    assert np.flatnonzero(border_target(wall(area_px, 8))[10]).tolist() == columns


@given(BLOCKS, st.integers(1, 3))
def test_mask_is_where_nuclei_are(blocks, factor):
    labels = enlarge(blocks, factor)
    assert np.array_equal(mask_target(labels), labels != 0)


@given(BLOCKS, st.integers(1, 6))
def test_center_peaks_at_one_in_every_nucleus_and_is_zero_outside(blocks, factor):
    labels = enlarge(blocks, factor)
    center = center_target(labels)
    assert (center[labels == 0] == 0).all()
    assert ((center[labels > 0] > 0) & (center[labels > 0] <= 1)).all()
    for label in set(labels.ravel().tolist()) - {0}:
        assert center[labels == label].max() == 1


@settings(max_examples=30)
@given(st.integers(2, 20), st.integers(-3, 3))
def test_center_of_a_lone_nucleus_is_its_normalised_distance(radius, offset):
    y, x = np.mgrid[:50, :50] - 25
    labels = (np.hypot(y - offset, x) <= radius).astype(int)
    distance = np.where(labels, ndimage.distance_transform_edt(labels) + 0.5, 0)
    assert center_target(labels) == pytest.approx(distance / distance.max(), abs=1e-6)


def test_center_sinks_where_nuclei_touch():
    labels = np.zeros((30, 60), np.int32)
    labels[5:25, 10:30], labels[5:25, 30:50] = 1, 2
    center = center_target(labels)
    row = center[15]
    assert row[29] == row[30] < 0.1
    assert (np.diff(row[20:30]) < 0).all()
    assert np.allclose(center, center[:, ::-1])


def test_center_is_the_same_at_every_call():
    # Bit for bit, or a resumed training would go another way: OpenCV's distances depend on the memory they get.
    y, x = np.mgrid[:41, :41] - 20
    labels = (np.hypot(y, x) <= 15).astype(int)
    first, held = center_target(labels), []
    for n_bytes in range(1, 100):
        held.append(np.ones(n_bytes * 37, np.uint8))
        assert np.array_equal(center_target(labels), first)


def test_the_frame_is_no_outline():
    y, x = np.mgrid[:41, :41] - 20
    disc = (np.hypot(y, x) <= 15).astype(int)
    assert np.array_equal(center_target(disc[20:]), center_target(disc)[20:])
    assert (center_target(np.ones((9, 7), int)) == 1).all()


@pytest.mark.parametrize("kind", KINDS)
def test_nuclei_regrown_from_mask_minus_border_are_the_truth(kind):
    scores, n_nuclei, n_seeds = [], 0, 0
    for seed in range(4):
        _, labels = make_image(kind, (192, 192), np.random.default_rng(seed))
        mask, border = make_targets(labels, ("mask", "border"))
        seeds, n = ndimage.label((mask > 0) & (border == 0), np.ones((3, 3)))
        distance = ndimage.distance_transform_edt(seeds == 0)
        scores.append(score_image(labels, watershed(distance, seeds, mask=mask > 0))[0])
        n_nuclei, n_seeds = n_nuclei + labels.max(), n_seeds + n
        assert border.any()
    assert np.mean(scores) > 0.97
    assert abs(n_seeds - n_nuclei) <= 0.03 * n_nuclei


def test_channels_come_in_the_order_asked_for():
    labels = enlarge(np.array([[0, 1, 2], [3, 3, 0]]), 6)
    stack = make_targets(labels, ("center", "mask", "border"))
    assert stack.dtype == np.float32
    assert stack.shape == (3, 12, 18)
    for ours, name in zip(stack, ("center", "mask", "border"), strict=True):
        assert np.array_equal(ours, TARGETS[name].make(labels))
    assert len(np.unique(stack.reshape(3, -1), axis=0)) == 3


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.int64])
@pytest.mark.parametrize("channel", TARGETS)
def test_empty_images_and_every_integer_type_are_taken(channel, dtype):
    assert not TARGETS[channel].make(np.zeros((5, 4), dtype)).any()
    labels = enlarge(np.array([[0, 1, 2], [3, 3, 0]]), 4)
    assert np.array_equal(TARGETS[channel].make(labels.astype(dtype)), TARGETS[channel].make(labels))
    renamed = np.where(labels == 3, np.iinfo(dtype).max if dtype in (np.uint8, np.uint16) else 65535, labels)
    assert np.array_equal(TARGETS[channel].make(renamed.astype(dtype)), TARGETS[channel].make(labels))


def test_unknown_channels_are_answered_with_the_known_ones():
    with pytest.raises(ValueError, match="unknown channel edge; valid: mask, border, center"):
        make_targets(np.zeros((3, 3), int), ("mask", "edge"))


@pytest.mark.parametrize("channel", ["border", "center"])
@pytest.mark.parametrize("label", [-1, 65536, 2**31])
def test_labels_that_do_not_fit_are_refused(channel, label):
    labels = np.array([[0, 1], [label, 0]])
    with pytest.raises(ValueError, match=r"are not in 0\.\.65535: number the nuclei from 1"):
        make_targets(labels, (channel,))
