"""Label images keep what is to be kept, numbered from 1 without gaps."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage

from nuclei.data.labels import count_touching, drop_small, fill_holes, largest_parts, renumber

LABELS = hnp.arrays(np.int32, hnp.array_shapes(min_dims=2, max_dims=2, max_side=6), elements=st.integers(0, 6))


@given(LABELS, hnp.arrays(bool, 7))
def test_kept_labels_are_numbered_in_their_order_and_the_others_cleared(labels, kept):
    before = kept.copy()
    numbered = renumber(labels, kept)
    assert numbered.dtype == np.int32
    order = [label for label in range(1, 7) if kept[label]]
    expected = [[order.index(label) + 1 if label in order else 0 for label in row] for row in labels.tolist()]
    assert numbered.tolist() == expected
    assert (kept == before).all()


@given(LABELS, st.integers(0, 8))
def test_labels_below_an_area_are_dropped(labels, min_area_px):
    dropped = drop_small(labels, min_area_px)
    names = [name for name in np.unique(labels) if name and (labels == name).sum() >= min_area_px]
    # With no least area every number up to the largest counts as kept, also where no pixel has it.
    if min_area_px:
        assert dropped.max() == len(names)
    assert all(((dropped > 0) == np.isin(labels, names)).ravel())
    assert len(np.unique(dropped[dropped > 0])) == len(names)


@given(hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=2, max_side=9)))
def test_filled_holes_are_those_of_the_reference(mask):
    assert (fill_holes(mask) == ndimage.binary_fill_holes(mask)).all()


def test_labels_beside_another_are_counted():
    labels = np.array([[1, 1, 0, 4], [0, 2, 0, 4], [3, 0, 5, 0]])
    assert count_touching(labels) == 2
    assert count_touching(labels * 0) == 0


@given(hnp.arrays(bool, st.tuples(st.integers(1, 4), st.integers(1, 7), st.integers(1, 7))))
def test_parts_side_by_side_are_what_scipy_makes_of_each(parts):
    inside = np.ones(parts.shape[1:], bool)
    inside[-1] = False
    for part, found in zip(parts, largest_parts(parts & inside, inside), strict=True):
        labels, n = ndimage.label(part & inside)
        areas = np.bincount(labels.ravel(), minlength=n + 1)[1:]
        largest = (labels == 1 + areas.argmax()) if n else part & inside
        np.testing.assert_array_equal(found, ndimage.binary_fill_holes(largest, np.ones((3, 3))) & inside)
