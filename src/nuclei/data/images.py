"""Images and masks from PNG bytes and back, and one label image from the masks of its nuclei."""

from collections.abc import Iterable
from typing import Any

import cv2
import numpy as np
from imagecodecs import ZlibngError, deflate_crc32, zlibng_decode, zlibng_encode
from numpy.typing import NDArray

from nuclei.data.labels import renumber
from nuclei.errors import UserError
from nuclei.limits import MAX_PIXELS

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
# Of the header, so that an image of more is refused before its memory is taken.
MAX_ENLARGEMENT = 2.0
MASK_COUNTS = ("overlap_px", "empty_masks", "wrong_shape_masks", "split_masks", "duplicate_masks")


def decode_png(data: bytes, name: str) -> NDArray[Any]:
    """Decode a PNG into its values, [H, W] or [H, W, C] of uint8 or uint16, colours in the order of OpenCV.

    Raises UserError naming `name`, the damage and the fix, and for an image of more than MAX_PIXELS.
    """
    if not data.startswith(PNG_SIGNATURE):
        raise UserError(f"{name} is not a PNG file ({len(data)} bytes): extract it again from the archive")
    # The header follows the signature, the length and the type of its chunk.
    width, height = (int.from_bytes(data[start : start + 4], "big") for start in (16, 20))
    if width * height > MAX_PIXELS:
        raise UserError(
            f"{name} is refused: {width:,} x {height:,} pixels, more than {MAX_PIXELS:,}: cut it into tiles"
        )
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        raise UserError(f"{name} cannot be decoded: {error.err}") from None
    if pixels is None:
        raise UserError(f"{name} is a broken PNG (cut short or damaged): extract it again from the archive")
    return pixels


def decode_image(data: bytes, name: str) -> NDArray[np.uint8]:
    """Decode a PNG of any colour type and depth into an RGB image, uint8 [H, W, 3]; transparency is dropped.

    16-bit values are brought to 8 bits as `to_8_bits` says. Raises UserError naming `name`, the damage and
    the fix.
    """
    pixels = to_8_bits(decode_png(data, name))
    if pixels.ndim == 2:
        to_rgb = cv2.COLOR_GRAY2RGB
    else:
        to_rgb = cv2.COLOR_BGRA2RGB if pixels.shape[2] == 4 else cv2.COLOR_BGR2RGB
    return np.asarray(cv2.cvtColor(pixels, to_rgb), np.uint8)


def decode_mask(data: bytes, name: str) -> NDArray[np.bool_]:
    """Decode the PNG of one nucleus into a mask, bool [H, W], inside where any colour is not 0.

    Transparency is ignored. Raises UserError naming `name`, the damage and the fix.
    """
    return np.asarray(decode_inside(data, name) != 0, np.bool_)


def decode_inside(data: bytes, name: str) -> NDArray[Any]:
    """Decode the PNG of one nucleus into a picture, uint8 or uint16 [H, W], 0 outside only, as `decode_mask` does."""
    pixels = decode_sparse(data)
    if pixels is None:
        pixels = decode_png(data, name)
    return pixels[..., :3].max(2) if pixels.ndim == 3 else pixels


def decode_sparse(data: bytes) -> NDArray[np.uint8] | None:
    """Decode a PNG of 8 bits gray that is mostly 0, as the mask of one nucleus is, uint8 [H, W]; None of other bytes.

    Other bytes are those of another kind of PNG, of more than one chunk of pixels, or damaged. zlib-ng unpacks a
    background twenty times as fast as the zlib in OpenCV, which is then given the rows from the first to the last
    that is not background.
    """
    header, packed = data[12:29], data[41 : 41 + int.from_bytes(data[33:37], "big")]
    if not header.endswith(b"\x08\0\0\0\0") or data != _make_png(header, packed):
        return None
    width, height = np.frombuffer(header[4:12], ">u4").tolist()
    if not 0 < width * height <= MAX_PIXELS:
        return None
    try:
        rows = np.frombuffer(zlibng_decode(packed, out=height * (width + 1)), np.uint8).reshape(height, width + 1)
    except (ZlibngError, ValueError):
        return None
    # Each row begins with its filter, one of five; what is stored as 0 below a row of 0 is 0 by any of them.
    _, top, _, n_rows = cv2.boundingRect(rows[:, 1:])
    bottom = min(top + n_rows + 1, height)
    header = header[:8] + (bottom - top).to_bytes(4, "big") + header[12:]
    stored = _make_png(header, bytes(zlibng_encode(rows[top:bottom].tobytes(), level=0)))
    part = cv2.imdecode(np.frombuffer(stored, np.uint8), cv2.IMREAD_UNCHANGED)
    if part is None or rows[:, 0].max() > 4 or (bottom < height and part[-1].any()):
        return None
    pixels = np.zeros((height, width), np.uint8)
    pixels[top:bottom] = part
    return pixels


def _make_png(header: bytes, pixels: bytes) -> bytes:
    """Return the PNG of a header, with the type of its chunk, and of packed pixels."""
    parts = [PNG_SIGNATURE]
    for chunk in (header, b"IDAT" + pixels, b"IEND"):
        parts += [(len(chunk) - 4).to_bytes(4, "big"), chunk, deflate_crc32(chunk).to_bytes(4, "big")]
    return b"".join(parts)


def decode_labels_png(data: bytes, name: str) -> NDArray[np.int32]:
    """Decode what `encode_labels_png` made into labels, int32 [H, W]; raise UserError naming `name`."""
    return decode_png(data, name).astype(np.int32)


def encode_image_png(image: NDArray[np.uint8]) -> bytes:
    """Encode an image, uint8 [H, W] gray, [H, W, 3] RGB or [H, W, 4] RGBA, as PNG."""
    stored: NDArray[Any] = image
    if image.ndim == 3:
        stored = cv2.cvtColor(image, cv2.COLOR_RGB2BGR if image.shape[2] == 3 else cv2.COLOR_RGBA2BGRA)
    return cv2.imencode(".png", stored)[1].tobytes()


def encode_labels_png(labels: NDArray[Any]) -> bytes:
    """Encode a label image, int [H, W] in 0..65535, as 16-bit gray PNG; raise ValueError on other labels."""
    if labels.size and not 0 <= labels.min() <= labels.max() <= 65535:
        found = f"{labels.min()}..{labels.max()}"
        raise ValueError(f"labels {found} do not fit 16 bits: number the nuclei from 1")
    return cv2.imencode(".png", labels.astype(np.uint16))[1].tobytes()


def to_8_bits(pixels: NDArray[Any]) -> NDArray[np.uint8]:
    """Bring uint16 values to uint8 by the depth they use; uint8 values pass unchanged.

    An 8-bit image that was widened (every value a multiple of 257) gets its old values back. Otherwise the
    depth is the number of bits of the largest value, at least 8, as cameras store 10, 12 or 14 bits.
    """
    if pixels.dtype == np.uint8:
        return pixels
    if not (pixels % 257).any():
        return (pixels // 257).astype(np.uint8)
    colours = pixels[..., :3] if pixels.ndim == 3 else pixels
    return (pixels >> max(int(colours.max()).bit_length() - 8, 0)).clip(0, 255).astype(np.uint8)


def enlargement(shape: tuple[int, ...], min_side_px: int) -> float:
    """Return the factor, 1..MAX_ENLARGEMENT, that brings the shorter side of [H, W, …] closest to `min_side_px`.

    A microscope of low magnification gives small nuclei and small images: enlarged, their nuclei have the size of
    the others', and outlines that the first strides of an encoder do not lose.
    """
    return min(max(1.0, min_side_px / min(shape[:2])), MAX_ENLARGEMENT)


def scale_pair(
    pair: tuple[NDArray[np.uint8], NDArray[np.uint16]], factor: float
) -> tuple[NDArray[np.uint8], NDArray[np.uint16]]:
    """Resize an image, uint8 [H, W, 3], and its labels, uint16 [H, W], by a factor, without a shift."""
    image, labels = pair
    if factor == 1:
        return pair
    size = _scale_size(labels.shape, factor)
    scaled_labels = cv2.resize(labels, size, interpolation=cv2.INTER_NEAREST_EXACT)
    return scale_image(image, factor), np.asarray(scaled_labels, np.uint16)


def scale_image(image: NDArray[np.uint8], factor: float) -> NDArray[np.uint8]:
    """Resize an image, uint8 [H, W, 3], by a factor: without a shift, since cv2 resizes about pixel centers."""
    if factor == 1:
        return image
    interpolation = cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image, _scale_size(image.shape, factor), interpolation=interpolation), np.uint8)


def _scale_size(shape: tuple[int, ...], factor: float) -> tuple[int, int]:
    """Return the width and height, as cv2 takes them, of [H, W, …] times a factor."""
    height, width = (max(1, round(n * factor)) for n in shape[:2])
    return width, height


def merge_masks(masks: Iterable[NDArray[Any]], shape: tuple[int, int]) -> tuple[NDArray[np.int32], dict[str, int]]:
    """Merge the masks of an image, [H, W] each and not 0 inside, into one label image, int32 [H, W], numbered from 1.

    Where masks overlap the smaller one owns the pixel (of equal ones the first), so that a small nucleus on
    top of a large one survives. Returns (labels, counts): `overlap_px`, pixels claimed by several masks;
    `empty_masks` and `wrong_shape_masks`, dropped; `duplicate_masks`, dropped because other masks own all of
    their pixels; `split_masks`, kept though they have several 8-connected components. `masks` may be a
    generator.
    """
    counts = dict.fromkeys(MASK_COUNTS, 0)
    crops: dict[Any, tuple[int, tuple[slice, slice], NDArray[np.bool_]]] = {}
    for mask in masks:
        if mask.shape != tuple(shape):
            counts["wrong_shape_masks"] += 1
            continue
        inside = mask if mask.dtype.itemsize == 1 else mask != 0
        left, top, width, height = cv2.boundingRect(np.ascontiguousarray(inside).view(np.uint8))
        if width == 0:
            counts["empty_masks"] += 1
            continue
        window = slice(top, top + height), slice(left, left + width)
        crop = mask[window] != 0
        key = top, left, height, width, crop.tobytes()
        counts["duplicate_masks"] += key in crops
        crops.setdefault(key, (int(np.count_nonzero(crop)), window, crop))
    claims = np.zeros(shape, dtype=np.uint16)
    labels = np.zeros(shape, dtype=np.int32)
    largest_first = sorted(enumerate(crops.values(), start=1), key=lambda item: (-item[1][0], -item[0]))
    for label, (_, window, crop) in largest_first:
        claims[window] += crop
        labels[window][crop] = label
        counts["split_masks"] += cv2.connectedComponents(crop.view(np.uint8), connectivity=8)[0] > 2
    counts["overlap_px"] = int(np.count_nonzero(claims > 1))
    visible = np.bincount(labels.ravel(), minlength=len(crops) + 1) > 0
    counts["duplicate_masks"] += len(crops) - int(visible[1:].sum())
    return renumber(labels, visible), counts


def stretch_contrast(image: NDArray[np.uint8], low: float = 1.0, high: float = 99.7) -> NDArray[np.uint8]:
    """Spread the values between two percentiles over 0..255 if they use less: uint8 [H, W, 3] -> the same.

    Hues are kept, as all channels are treated alike. Bright images (median above 90) are returned unchanged; dark
    ones are also lifted by a square root where even their brightest half is dim, else faint nuclei stay invisible.
    """
    middle, bottom, top = np.percentile(image, (50, low, high))
    if middle > 90:
        return image
    spread = np.clip((np.arange(256) - bottom) / max(top - bottom, 8), 0, 1)
    stretched = np.rint(255 * np.sqrt(spread)).astype(np.uint8)
    return np.asarray(cv2.LUT(image, stretched), np.uint8)
