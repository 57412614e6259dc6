"""Images and masks from PNG bytes and back, and one label image from the masks of its nuclei."""

from collections.abc import Iterable

import cv2
import numpy as np

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
MAX_ENLARGEMENT = 2.0
MASK_COUNTS = ("overlap_px", "empty_masks", "wrong_shape_masks", "split_masks", "duplicate_masks")


def decode_image(data: bytes, name: str) -> np.ndarray:
    """Decode a PNG of any colour type and depth into an RGB image, uint8 [H, W, 3]; transparency is dropped.

    16-bit values are brought to 8 bits as `to_8_bits` says. Raises ValueError naming `name`, the damage and
    the fix.
    """
    pixels = to_8_bits(_decode(data, name))
    if pixels.ndim == 2:
        return cv2.cvtColor(pixels, cv2.COLOR_GRAY2RGB)
    return cv2.cvtColor(pixels, cv2.COLOR_BGRA2RGB if pixels.shape[2] == 4 else cv2.COLOR_BGR2RGB)


def decode_mask(data: bytes, name: str) -> np.ndarray:
    """Decode the PNG of one nucleus into a mask, bool [H, W], inside where any colour is not 0.

    Transparency is ignored. Raises ValueError naming `name`, the damage and the fix.
    """
    pixels = _decode(data, name)
    if pixels.ndim == 3:
        pixels = pixels[..., :3].max(2)
    return pixels != 0


def decode_labels_png(data: bytes, name: str) -> np.ndarray:
    """Decode what `encode_labels_png` made into labels, int32 [H, W]; raise ValueError naming `name`."""
    return _decode(data, name).astype(np.int32)


def encode_image_png(image: np.ndarray) -> bytes:
    """Encode an image, uint8 [H, W] gray, [H, W, 3] RGB or [H, W, 4] RGBA, as PNG."""
    if image.ndim == 3:
        image = cv2.cvtColor(image, cv2.COLOR_RGB2BGR if image.shape[2] == 3 else cv2.COLOR_RGBA2BGRA)
    return cv2.imencode(".png", image)[1].tobytes()


def encode_labels_png(labels: np.ndarray) -> bytes:
    """Encode a label image, int [H, W] in 0..65535, as 16-bit gray PNG; raise ValueError on other labels."""
    if labels.size and not 0 <= labels.min() <= labels.max() <= 65535:
        found = f"{labels.min()}..{labels.max()}"
        raise ValueError(f"labels {found} do not fit 16 bits: number the nuclei from 1")
    return cv2.imencode(".png", labels.astype(np.uint16))[1].tobytes()


def to_8_bits(pixels: np.ndarray) -> np.ndarray:
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
    """Return the factor, 1..MAX_ENLARGEMENT, that brings the shorter side of [H, W, …] as near to `min_side_px` as it can.

    A microscope of low magnification gives small nuclei, and small images: enlarged, their nuclei have the size of
    the others' and outlines that are not lost in the first strides of an encoder.
    """
    return min(max(1.0, min_side_px / min(shape[:2])), MAX_ENLARGEMENT)


def enlarge(image: np.ndarray, labels: np.ndarray, min_side_px: int) -> tuple[np.ndarray, np.ndarray]:
    """Enlarge an image, uint8 [H, W, 3], and its labels, uint16 [H, W], by `enlargement`, without a shift."""
    factor = enlargement(labels.shape, min_side_px)
    if factor == 1:
        return image, labels
    height, width = (round(n * factor) for n in labels.shape)
    labels = cv2.resize(labels, (width, height), interpolation=cv2.INTER_NEAREST_EXACT)
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR), labels


def merge_masks(masks: Iterable[np.ndarray], shape: tuple[int, int]) -> tuple[np.ndarray, dict[str, int]]:
    """Merge the masks of an image, bool [H, W] each, into one label image, int32 [H, W], numbered from 1.

    Where masks overlap the smaller one owns the pixel (of equal ones the first), so that a small nucleus on
    top of a large one survives. Returns (labels, counts): `overlap_px`, pixels claimed by several masks;
    `empty_masks` and `wrong_shape_masks`, dropped; `duplicate_masks`, dropped because other masks own all of
    their pixels; `split_masks`, kept though they have several 8-connected components. `masks` may be a
    generator.
    """
    counts = dict.fromkeys(MASK_COUNTS, 0)
    crops = {}
    for mask in masks:
        if mask.shape != tuple(shape):
            counts["wrong_shape_masks"] += 1
            continue
        left, top, width, height = cv2.boundingRect(np.ascontiguousarray(mask).view(np.uint8))
        if width == 0:
            counts["empty_masks"] += 1
            continue
        window = slice(top, top + height), slice(left, left + width)
        crop = mask[window].copy()
        key = top, left, height, width, crop.tobytes()
        counts["duplicate_masks"] += key in crops
        crops.setdefault(key, (int(crop.sum()), window, crop))
    claims = np.zeros(shape, dtype=np.uint16)
    labels = np.zeros(shape, dtype=np.int32)
    largest_first = sorted(enumerate(crops.values(), start=1), key=lambda item: (-item[1][0], -item[0]))
    for label, (_, window, crop) in largest_first:
        claims[window] += crop
        labels[window][crop] = label
        counts["split_masks"] += cv2.connectedComponents(crop.view(np.uint8), connectivity=8)[0] > 2
    counts["overlap_px"] = int(np.count_nonzero(claims > 1))
    visible = np.bincount(labels.ravel(), minlength=len(crops) + 1) > 0
    visible[0] = False
    counts["duplicate_masks"] += len(crops) - int(visible.sum())
    return (np.cumsum(visible, dtype=np.int32) * visible)[labels], counts


def _decode(data: bytes, name: str) -> np.ndarray:
    if not data.startswith(PNG_SIGNATURE):
        raise ValueError(f"{name} is not a PNG file ({len(data)} bytes): extract it again from the archive")
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        raise ValueError(f"{name} cannot be decoded: {error.err}") from None
    if pixels is None:
        raise ValueError(f"{name} is a broken PNG (cut short or damaged): extract it again from the archive")
    return pixels


def stretch_contrast(image: np.ndarray, low: float = 1.0, high: float = 99.7) -> np.ndarray:
    """Spread the values between two percentiles over 0..255, if they use less: uint8 [H, W, 3] -> the same.

    Colours are kept, as all channels are treated alike. Bright images (median above 90) are returned unchanged; dark
    ones are also lifted by a square root where even their brightest half is dim, else faint nuclei stay invisible.
    """
    if np.median(image) > 90:
        return image
    bottom, top = np.percentile(image, (low, high))
    spread = np.clip((image.astype(np.float32) - bottom) / max(top - bottom, 8), 0, 1)
    return np.rint(255 * np.sqrt(spread)).astype(np.uint8)
