"""Every kind of PNG comes in as 8-bit RGB, and masks merge into the labels they were cut from."""

import io
import zlib

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image
from scipy import ndimage

from nuclei.data import images
from nuclei.data.images import (
    decode_image,
    decode_labels_png,
    decode_mask,
    decode_sparse,
    encode_image_png,
    encode_labels_png,
    enlargement,
    merge_masks,
    scale_pair,
    to_8_bits,
)

RGB = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
GRAY = RGB[..., 0]


def png(pixels, **options):
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    stream = io.BytesIO()
    image.save(stream, "PNG", **options)
    return stream.getvalue()


def png_16(pixels):
    return cv2.imencode(".png", pixels)[1].tobytes()


def as_rgb(gray):
    return np.repeat(gray[..., None], 3, axis=2)


PALETTE = Image.fromarray(RGB).quantize(16)
SOURCES = {
    "rgb": (png(RGB), RGB),
    "rgba": (png(np.dstack([RGB, np.full_like(GRAY, 255)])), RGB),
    "rgba, half transparent": (png(np.dstack([RGB, GRAY])), RGB),
    "gray": (png(GRAY), as_rgb(GRAY)),
    "gray with alpha": (png(Image.merge("LA", [Image.fromarray(GRAY)] * 2)), as_rgb(GRAY)),
    "one bit": (png(Image.fromarray(GRAY > 127)), as_rgb(np.where(GRAY > 127, 255, 0))),
    "palette": (png(PALETTE), np.asarray(PALETTE.convert("RGB"))),
    "palette, transparent": (png(PALETTE, transparency=3), np.asarray(PALETTE.convert("RGB"))),
    "16-bit gray, widened": (png_16(GRAY * np.uint16(257)), as_rgb(GRAY)),
    "16-bit rgb, widened": (png_16(RGB[..., ::-1] * np.uint16(257)), RGB),
    "16-bit gray, 12 used": (png_16(GRAY * np.uint16(16) + np.uint16(5)), as_rgb(GRAY)),
}


@pytest.mark.parametrize("source", SOURCES)
def test_every_kind_of_png_becomes_rgb(source):
    data, expected = SOURCES[source]
    image = decode_image(data, source)
    assert image.dtype == np.uint8
    np.testing.assert_array_equal(image, expected)


@given(arrays.arrays(np.uint16, st.tuples(st.integers(1, 6), st.integers(1, 6))))
def test_16_bits_keep_their_order_and_fill_the_range(pixels):
    values = to_8_bits(pixels)
    order = np.argsort(pixels, axis=None)
    assert (np.diff(values.ravel()[order].astype(int)) >= 0).all()
    if pixels.max() > 255 and (pixels % 257).any():
        assert values.max() >= 128
    if pixels.max() < 255:
        np.testing.assert_array_equal(values, pixels)


@pytest.mark.parametrize("alpha", [255, 0])
def test_a_mask_is_inside_where_any_colour_is(alpha):
    inside = GRAY > 200
    plain = inside.astype(np.uint8)
    blue = np.zeros((*inside.shape, 4), np.uint8)
    blue[..., 2], blue[..., 3] = plain, alpha
    for data in (png(plain), png(255 * plain), png(blue), png_16(plain * np.uint16(300))):
        mask = decode_mask(data, "m")
        assert mask.dtype == bool
        np.testing.assert_array_equal(mask, inside)


def png_of_rows(rows):
    """Return the PNG, 8 bits gray, whose rows are stored so: [H, 1 + W], first the filter of each."""
    header = b"".join(n.to_bytes(4, "big") for n in (rows.shape[1] - 1, len(rows))) + b"\x08\0\0\0\0"
    chunks = b"IHDR" + header, b"IDAT" + zlib.compress(rows.tobytes()), b"IEND"
    framed = [(len(c) - 4).to_bytes(4, "big") + c + zlib.crc32(c).to_bytes(4, "big") for c in chunks]
    return images.PNG_SIGNATURE + b"".join(framed)


@given(
    arrays.arrays(np.uint8, st.tuples(st.integers(1, 9), st.just(7)), elements=st.sampled_from([0] * 9 + [1, 255])),
    st.lists(st.integers(0, 4), min_size=9, max_size=9),
)
def test_a_sparse_mask_is_decoded_as_opencv_does_whatever_filters_its_rows_have(rows, filters):
    rows[:, 0] = filters[: len(rows)]
    data = png_of_rows(rows)
    expected = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(decode_mask(data, "m"), expected > 0)
    found = decode_sparse(data)  # None where filters alone carry a nucleus further down
    np.testing.assert_array_equal(expected if found is None else found, expected)


def test_no_byte_of_a_sparse_mask_is_taken_on_trust():
    rows = np.zeros((9, 8), np.uint8)
    rows[3:5, 2:6] = 255
    data = png_of_rows(rows)
    assert decode_sparse(data) is not None
    for i in range(len(data)):
        assert decode_sparse(data[:i] + bytes([data[i] ^ 1]) + data[i + 1 :]) is None
    rows[-1, 0] = 5
    assert decode_sparse(png_of_rows(rows)) is None
    for other in (data + b"x", data[:-1], data.replace(b"IDAT", b"IDAX"), png(RGB), b""):
        assert decode_sparse(other) is None


@given(st.integers(0, len(png(GRAY)) - 1))
@settings(max_examples=40)
def test_a_cut_png_is_an_error_that_names_it(length):
    with pytest.raises(ValueError, match=r"cell7.png.*extract it again"):
        decode_image(png(GRAY)[:length], "cell7.png")


@pytest.mark.parametrize("decode", [decode_image, decode_mask, decode_labels_png])
@pytest.mark.parametrize("damage", ["text", "flipped byte", "too large"])
def test_a_broken_png_is_an_error_that_names_it(decode, damage):
    data = bytearray(png(GRAY))
    if damage == "flipped byte":
        data[100] ^= 255
    if damage == "too large":
        # A width of 2^30 in the header, its checksum made to fit.
        data[16:20] = (1 << 30).to_bytes(4, "big")
        data[29:33] = zlib.crc32(bytes(data[12:29])).to_bytes(4, "big")
    with pytest.raises(ValueError, match=r"cell7.png"):
        decode(b"<html>" if damage == "text" else bytes(data), "cell7.png")


def test_an_image_above_the_limit_is_refused_before_it_is_decoded(monkeypatch):
    monkeypatch.setattr(images, "MAX_PIXELS", GRAY.size)
    assert decode_image(png(GRAY), "cell7.png").shape == RGB.shape
    monkeypatch.setattr(images, "MAX_PIXELS", GRAY.size - 1)
    monkeypatch.setattr(cv2, "imdecode", None)
    for decode in (decode_image, decode_mask, decode_labels_png):
        with pytest.raises(ValueError, match=r"cell7\.png is refused: 30 x 20 pixels, more than 599"):
            decode(png(GRAY), "cell7.png")


def test_png_round_trips():
    for image, expected in ((GRAY, as_rgb(GRAY)), (RGB, RGB), (np.dstack([RGB, GRAY]), RGB)):
        np.testing.assert_array_equal(decode_image(encode_image_png(image), ""), expected)
    labels = RGB[..., 0].astype(np.int32) * 257
    np.testing.assert_array_equal(decode_labels_png(encode_labels_png(labels), ""), labels)
    for wrong in (labels + 1, labels - 1):
        with pytest.raises(ValueError, match="16 bits"):
            encode_labels_png(wrong)


@given(arrays.arrays(np.int32, st.tuples(st.integers(1, 9), st.integers(1, 9)), elements=st.integers(0, 4)))
def test_masks_cut_from_labels_merge_into_them(labels):
    values, expected = np.unique(np.append(0, labels), return_inverse=True)
    merged, counts = merge_masks((labels == value for value in values[1:]), labels.shape)
    assert merged.dtype == np.int32
    np.testing.assert_array_equal(merged, expected[1:].reshape(labels.shape))
    n_parts = [ndimage.label(labels == value, np.ones((3, 3)))[1] for value in values[1:]]
    assert counts.pop("split_masks") == sum(n > 1 for n in n_parts)
    assert not any(counts.values())


@given(st.lists(arrays.arrays(bool, (5, 6)), max_size=6))
def test_the_smaller_mask_owns_an_overlap(masks):
    distinct = list({mask.tobytes(): mask for mask in masks if mask.any()}.values())
    owner = np.zeros((5, 6), int)
    for y, x in np.ndindex(5, 6):
        claimants = [(mask.sum(), n) for n, mask in enumerate(distinct, start=1) if mask[y, x]]
        owner[y, x] = min(claimants)[1] if claimants else 0
    visible = np.unique(owner[owner > 0])
    merged, counts = merge_masks(masks, (5, 6))
    np.testing.assert_array_equal(merged, np.searchsorted(np.append(0, visible), owner))
    assert counts["empty_masks"] == sum(not mask.any() for mask in masks)
    assert counts["duplicate_masks"] == len(masks) - counts["empty_masks"] - len(visible)
    assert counts["overlap_px"] == (np.sum(distinct, axis=0) > 1).sum()


def test_what_is_wrong_with_masks_is_counted():
    square, corner = np.zeros((2, 8, 9), bool)
    square[2:5, 2:5] = corner[4:7, 4:7] = True
    split = np.zeros((8, 9), bool)
    split[0, 0] = split[0, 2] = True
    diagonal = np.zeros((8, 9), bool)
    diagonal[6, 0] = diagonal[7, 1] = True
    masks = [np.zeros((8, 9), bool), square, np.ones((9, 8), bool), corner, square, split, diagonal]
    labels, counts = merge_masks(masks, (8, 9))
    assert counts == {"overlap_px": 1, "empty_masks": 1, "wrong_shape_masks": 1, "split_masks": 1, "duplicate_masks": 1}
    assert labels.max() == 4
    assert labels[4, 4] == labels[2, 2] == 1, "of equal masks the first owns the overlap"


def test_no_masks_give_no_labels():
    labels, counts = merge_masks([], (3, 4))
    assert labels.shape == (3, 4)
    assert not labels.any()
    assert not any(counts.values())


@pytest.mark.parametrize(
    ("shape", "factor"),
    [
        ((256, 320, 3), 2),
        ((320, 256), 2),
        ((100, 100), 2),
        ((400, 900), 1.28),
        ((512, 640), 1),
        ((1024, 1024), 1),
    ],
)
def test_a_small_image_is_enlarged_to_the_shorter_side_but_at_most_twofold(shape, factor):
    assert enlargement(shape, 512) == pytest.approx(factor)
    assert enlargement(shape, 0) == 1


@pytest.mark.parametrize("side", [64, 70, 90, 128])
def test_enlarging_moves_neither_image_nor_labels(side):
    rows, columns = np.indices((64, 96))
    labels = ((rows // 8) * 12 + columns // 8 + 1).astype(np.uint16)  # squares of 8 px
    image = np.repeat((columns * 2)[..., None].astype(np.uint8), 3, axis=2)  # a ramp
    larger, larger_labels = scale_pair((image, labels), enlargement(labels.shape, side))
    factor = side / 64
    height, width = round(64 * factor), round(96 * factor)
    assert larger.shape == (height, width, 3)
    assert larger_labels.shape == (height, width)
    assert larger_labels.dtype == np.uint16
    # A pixel's centre lies where it lay, in units of the source.
    y, x = ((np.arange(n) + 0.5) / factor for n in (height, width))
    clear_y, clear_x = (np.abs(v - np.rint(v)) > 1e-6 for v in (y, x))  # not on the line between two pixels
    at_centers = labels[np.ix_(y.astype(int), x.astype(int))]
    assert np.array_equal(larger_labels[np.ix_(clear_y, clear_x)], at_centers[np.ix_(clear_y, clear_x)])
    inner = slice(4, -4)
    assert np.abs(larger[inner, inner, 0] - 2 * (x - 0.5)[inner]).max() <= 1


def test_an_image_that_is_large_enough_is_returned_as_it_is():
    image, labels = np.zeros((64, 64, 3), np.uint8), np.ones((64, 64), np.uint16)
    assert all(
        ours is given
        for ours, given in zip(scale_pair((image, labels), enlargement(labels.shape, 64)), (image, labels), strict=True)
    )
