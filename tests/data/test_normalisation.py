"""An image that is given block by block is brought to the same 8 bits as the same image in one piece."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from nuclei.data.images import to_8_bits
from nuclei.data.normalisation import choose_rule, find_percentiles, find_rank, normalise, sort_keys, undo_keys

TYPES = [np.uint8, np.uint16, np.int16, np.uint32, np.int32, np.float32, np.float64]


def blocks_of(image, height):
    return lambda: (image[top : top + height] for top in range(0, len(image), height))


@pytest.mark.parametrize("dtype", TYPES)
@given(data=st.data())
def test_percentiles_of_blocks_are_those_of_the_whole(dtype, data):
    shape = st.tuples(st.integers(2, 9), st.integers(1, 9))
    values = {"allow_nan": False, "allow_infinity": False} if np.dtype(dtype).kind == "f" else {}
    limits = {"min_value": -1e6, "max_value": 1e6} if np.dtype(dtype).kind == "f" else {}
    image = data.draw(arrays.arrays(dtype, shape, elements=arrays.from_dtype(np.dtype(dtype), **values, **limits)))
    found = find_percentiles(blocks_of(image, 1), (1.0, 50.0, 99.8))
    whole = np.percentile(image.astype(np.float64), (1.0, 50.0, 99.8)).tolist()
    assert found == pytest.approx(whole, rel=1e-6, abs=1e-6)
    flat = np.sort(image.ravel())
    rank = data.draw(st.integers(0, image.size - 1))
    assert find_rank(blocks_of(image, 2), rank) == flat[rank]


@pytest.mark.parametrize("dtype", [dtype for dtype in TYPES if np.dtype(dtype).kind != "u"])
@pytest.mark.parametrize("share", [0.01, 0.25, 0.5, 0.59, 0.6, 0.99])
def test_a_percentile_between_values_of_opposite_signs_is_that_of_64_bits(dtype, share):
    low, high = np.array([-82052.02, 56981.234], np.float32).astype(dtype) if dtype != np.int16 else (-32768, 32767)
    image = np.array([[low], [high]], dtype)
    (found,) = find_percentiles(blocks_of(image, 1), [100 * share])
    assert found == pytest.approx(float(low) + share * (float(high) - float(low)), rel=1e-9)


@pytest.mark.parametrize("dtype", TYPES)
def test_keys_have_the_order_of_the_values_and_give_them_back(dtype):
    rng = np.random.default_rng(0)
    values = (rng.normal(size=200) * 1000).astype(dtype)
    assert np.array_equal(values[np.argsort(sort_keys(values), kind="stable")], np.sort(values))
    assert np.array_equal(undo_keys(sort_keys(values), np.dtype(dtype)), values)


@pytest.mark.parametrize("robust", [True, False])
@pytest.mark.parametrize("dtype", TYPES)
def test_a_rule_of_blocks_is_that_of_the_whole(dtype, robust):
    rng = np.random.default_rng(1)
    image = rng.integers(0, 200, (40, 30)).astype(dtype)
    image = image / dtype(200) if np.dtype(dtype).kind == "f" else image * dtype(1 if dtype == np.uint8 else 7)
    whole, text = normalise(image, robust)
    rule = choose_rule(blocks_of(image, 7), robust)
    parts = [rule(block) for block in blocks_of(image, 7)()]
    assert rule.text == text
    # Of 32-bit numbers the percentiles of the whole are computed in 32 bits, and a value may lie on the edge.
    assert np.abs(np.concatenate(parts).astype(int) - whole).max() <= (dtype == np.float32)
    if not robust and np.dtype(dtype).kind != "f":
        assert np.array_equal(whole[..., 0], to_8_bits(image.astype(np.uint16)))


def test_widened_values_are_known_by_every_block():
    image = (np.arange(60).reshape(10, 6) * 257).astype(np.uint16)
    assert choose_rule(blocks_of(image, 3)).kind == "widened"
    image[-1, -1] += 1
    assert choose_rule(blocks_of(image, 3)).kind == "spread"
