"""Run-length encoding: Kaggle's definition, the round trip, and every violation by name."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from nuclei.evaluation.rle import (
    decode_labels,
    decode_masks,
    decode_pixels,
    decode_rle,
    decode_usable_pixels,
    encode_labels,
    encode_mask,
    find_rle_violations,
)

SHAPES = hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=9)


def reference_encoding(mask):
    """Walk down the columns pixel by pixel."""
    runs, position, previous = [], 0, None
    for column in range(mask.shape[1]):
        for row in range(mask.shape[0]):
            position += 1
            if mask[row, column]:
                if previous == position - 1:
                    runs[-1][1] += 1
                else:
                    runs.append([position, 1])
                previous = position
    return " ".join(f"{start} {length}" for start, length in runs)


def test_hand_computed_example():
    mask = np.array([[0, 1, 0, 1], [0, 1, 0, 0], [1, 0, 0, 1]])
    # Columns of 3 pixels: 1-3, 4-6, 7-9, 10-12; inside are 3, 4, 5, then 10 and 12.
    assert encode_mask(mask) == "3 3 10 1 12 1"
    assert np.array_equal(decode_rle("3 3 10 1 12 1", (3, 4)), mask > 0)


@given(hnp.arrays(bool, SHAPES))
def test_masks_survive_the_round_trip_and_equal_the_walk(mask):
    text = encode_mask(mask)
    assert text == reference_encoding(mask)
    assert not find_rle_violations(text, mask.shape)
    decoded = decode_rle(text, mask.shape)
    assert decoded.dtype == bool
    assert np.array_equal(decoded, mask)
    assert decode_pixels(text, mask.shape).tolist() == np.flatnonzero(mask).tolist()


@given(hnp.arrays(np.uint16, SHAPES, elements=st.sampled_from([0, 1, 2, 9, 65535])))
def test_all_nuclei_of_an_image_are_encoded_in_one_pass(labels):
    texts = encode_labels(labels)
    names = [name for name in np.unique(labels) if name]
    assert texts == [reference_encoding(labels == name) for name in names]
    decoded = decode_labels(texts, labels.shape)
    assert np.array_equal(decoded, np.searchsorted([0, *names], labels))
    indptr, pixels = decode_masks(texts, labels.shape)
    for i, name in enumerate(names):
        assert pixels[indptr[i] : indptr[i + 1]].tolist() == np.flatnonzero(labels == name).tolist()


def test_empty_masks_are_empty_strings():
    empty = np.zeros((3, 4), dtype=int)
    assert encode_mask(empty) == ""
    assert encode_labels(empty) == encode_labels(np.zeros((0, 0), dtype=int)) == []
    assert not decode_rle("", (3, 4)).any()
    assert not decode_labels([], (3, 4)).any()


def test_masks_without_gaps_between_pairs_are_valid():
    assert decode_rle("1 2 3 1", (2, 2)).ravel(order="F").tolist() == [True, True, True, False]


VIOLATIONS = {
    "1 2 x 1": "1 values are not integers, first 'x'",
    "1 2.0": "first '2.0'",
    "1 1_0": "first '1_0'",
    "1 2  3 1": "white space '  '",
    " 1 2": "white space ' '",
    "1\u00a02": "white space",
    "1 2\n": "white space",
    "\u3000": "white space",
    "1 2 3": "odd number of values",
    "1 0": "zero length",
    "3 -2": "negative length",
    "0 2": "start below 1",
    "-4 2": "start below 1",
    "12 2": "out of range of an image of 12 pixels",
    "99999999999999999999999999 1": "out of range",
    "9" * 4301 + " 1": "out of range",
    "1 " + "9" * 4301: "out of range",
    "1 -" + "9" * 4301: "negative length",
    "5 2 1 2": "not sorted by start",
    "1 3 3 2": "a pixel listed twice",
    "2 1 2 1": "a pixel listed twice",
    "1 9 2 1 4 1": "a pixel listed twice: 2 of 3 pairs, first '2 1'",
}


@pytest.mark.parametrize("text", VIOLATIONS)
def test_a_violation_is_named_and_alone(text):
    violations = find_rle_violations(text, (3, 4))
    assert len(violations) == 1
    assert VIOLATIONS[text] in violations[0]
    with pytest.raises(ValueError, match=violations[0].split("'")[0].split("(")[0]):
        decode_rle(text, (3, 4))


def test_leading_zeros_count_for_nothing():
    assert decode_pixels("0" * 5000 + "1 02", (3, 4)).tolist() == [0, 4]


def test_what_is_quoted_in_a_message_is_short():
    assert len(find_rle_violations("x" * 100_000 + " 1", (3, 4))[0]) < 120


def test_all_violations_of_a_string_are_listed():
    text = "13 1 5 0 4 -1 -1 1 2 2 3 1 x 1  7"
    kinds = ["white space", "integer", "odd", "zero", "negative", "below 1", "out of range", "sorted", "twice"]
    violations = find_rle_violations(text, (3, 4))
    assert len(violations) == len(kinds)
    assert all(kind in violation for kind, violation in zip(kinds, violations, strict=True))


def test_usable_pairs_of_a_broken_string_are_decoded():
    assert decode_usable_pixels("1 2 x 1 2 1 99 1 4 0", (3, 4)).tolist() == [0, 4]


@given(hnp.arrays(np.int64, st.tuples(st.integers(0, 6), st.just(2)), elements=st.integers(-2, 14)))
def test_usable_pairs_are_those_inside_the_image_in_any_order(pairs):
    inside = [(start, length) for start, length in pairs.tolist() if start > 0 < length and start + length <= 13]
    positions = {position for start, length in inside for position in range(start - 1, start + length - 1)}
    expected = sorted(position % 3 * 4 + position // 3 for position in positions)
    assert decode_usable_pixels(" ".join(map(str, pairs.ravel())), (3, 4)).tolist() == expected


def test_long_runs_repeated_take_no_more_memory_than_the_image():
    text = "1 4000000 " * 10_000
    assert len(decode_usable_pixels(text, (2000, 2000))) == 4_000_000


@given(hnp.arrays(np.int64, st.tuples(st.integers(0, 6), st.just(2)), elements=st.integers(-2, 14)))
def test_pixels_listed_twice_are_found_in_any_order(pairs):
    pairs = pairs[(pairs[:, 1] > 0) & (pairs[:, 0] > 0) & (pairs.sum(axis=1) <= 13)]
    text = " ".join(map(str, pairs.ravel()))
    pixels = [pixel for start, length in pairs for pixel in range(start, start + length)]
    found = any("twice" in violation for violation in find_rle_violations(text, (3, 4)))
    assert found == (len(set(pixels)) < len(pixels))


def test_overlapping_and_broken_masks_are_named():
    with pytest.raises(ValueError, match="masks 1 and 3 overlap; 2 pixels"):
        decode_labels(["1 3", "7 1", "2 2"], (3, 4))
    with pytest.raises(ValueError, match="mask 2: zero length"):
        decode_labels(["1 3", "7 0"], (3, 4))
