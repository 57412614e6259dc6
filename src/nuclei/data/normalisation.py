"""From the values of a file to what networks see, uint8: chosen once from all values of an image, applied to any part.

An image that does not fit into memory is looked at block by block, and the choice is the same.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nuclei.errors import UserError

# Of the values of an image that is not of 8 bits; what lies outside is clipped, as stardist does by default.
PERCENTILES = (1.0, 99.8)
DIGIT_BITS = 16  # of a value that are counted in one pass over all blocks
Blocks = Callable[[], Iterable[NDArray[Any]]]  # the values of an image, part by part, each time it is called


@dataclass(frozen=True)
class Rule:
    """Say how values become uint8, and in words: `spread` between low and high, or `cut` to the upper 8 bits."""

    kind: str  # unchanged, widened, spread, cut or unit
    text: str
    low: float = 0.0
    high: float = 255.0

    def __call__(self, pixels: NDArray[Any]) -> NDArray[np.uint8]:
        """Return what networks see of pixels, [H, W] or [H, W, 3] -> uint8 [H, W, 3]."""
        values = self._convert(pixels)
        return np.dstack([values] * 3) if values.ndim == 2 else np.ascontiguousarray(values)

    def _convert(self, pixels: NDArray[Any]) -> NDArray[np.uint8]:
        if self.kind == "unchanged":
            return pixels
        if self.kind == "widened":
            return np.asarray(pixels // 257, np.uint8)
        if self.kind == "unit":
            return np.asarray(np.rint(255 * pixels), np.uint8)
        if self.kind == "cut":
            depth = max(int(self.high).bit_length() - 8, 0)
            return np.asarray((pixels.astype(np.uint16) >> depth).clip(0, 255), np.uint8)
        # In one array, for large images have no room for five; of halves, whose difference no float is too small for.
        spread = pixels.astype(np.float64)
        spread /= 2
        spread -= self.low / 2
        spread /= (self.high / 2 - self.low / 2) or 1.0
        np.clip(spread, 0, 1, out=spread)
        spread *= 255
        return np.rint(spread, out=spread).astype(np.uint8)


def normalise(pixels: NDArray[Any], robust: bool = True) -> tuple[NDArray[np.uint8], str]:
    """Bring pixels, [H, W] or [H, W, 3] of any real type, to what networks see, uint8 [H, W, 3], and name the rule.

    8-bit values pass unchanged, also where every one was widened to 16 bits. Other values are spread between their
    PERCENTILES over 0..255, all colours alike, as stardist does and cellpose much alike: neither an offset nor a hot
    pixel matters. Without `robust`, integers lose the bits below their upper 8, as by images.to_8_bits, and real
    numbers must be 0..1; else UserError is raised.
    """
    rule = choose_rule(lambda: [pixels], robust)
    return rule(pixels), rule.text


def choose_rule(blocks: Blocks, robust: bool = True) -> Rule:
    """Return the rule of `normalise` for an image that is given block by block, of one type, all of them finite."""
    dtype = next(iter(blocks())).dtype
    if dtype == np.uint8:
        return Rule("unchanged", "8-bit values, unchanged")
    if dtype == np.uint16 and not any((block % 257).any() for block in blocks()):
        return Rule("widened", "16-bit values that are widened 8-bit values, given back")
    if not robust:
        return _cut_bits(blocks, dtype)
    low, high = (float(value) for value in find_percentiles(blocks, PERCENTILES))
    if not math.isfinite(low) or not math.isfinite(high):  # differences beyond what a float holds
        low, high = (2 * float(value) for value in find_percentiles(lambda: (b / 2 for b in blocks()), PERCENTILES))
    if low == high:  # nearly all pixels are equal
        low, high = (float(value) for value in find_range(blocks))
    text = f"percentiles {PERCENTILES[0]:g} and {PERCENTILES[1]:g}: {low:g}..{high:g}"
    return Rule("spread", text, low, high)


def _cut_bits(blocks: Blocks, dtype: np.dtype[Any]) -> Rule:
    low, high = find_range(blocks)
    if dtype.kind == "f":
        if low < 0 or high > 1:
            raise UserError(f"values {low:g}..{high:g} are not 0..1, so they need normalisation: no --no-normalise")
        return Rule("unit", "0..1 times 255")
    if low < 0 or high > 65535:
        raise UserError(f"values {low}..{high} do not fit 16 bits, so they need normalisation: no --no-normalise")
    text = f"the upper 8 of {max(int(high).bit_length(), 8)} bits"
    is_widened = not any((block % 257).any() for block in blocks())
    return Rule("widened" if is_widened else "cut", text, high=float(high))


def find_range(blocks: Blocks) -> tuple[Any, Any]:
    """Return the least and the greatest value of all blocks, in their type."""
    least, greatest = zip(*((block.min(), block.max()) for block in blocks() if block.size), strict=True)
    return min(least), max(greatest)


def find_percentiles(blocks: Blocks, percentiles: Iterable[float]) -> list[float]:
    """Return percentiles of the values of all blocks, as np.percentile has them, to the last bit of a float64.

    One block is sorted as it is. Of several, the value of a rank is found digit by digit, DIGIT_BITS at a time: each
    pass counts how often each digit occurs among the values that share the digits found before.
    """
    several = list(_first(blocks(), 2))
    if len(several) == 1:
        return [float(value) for value in np.percentile(several[0], list(percentiles))]
    count = sum(block.size for block in blocks())
    found = []
    for percentile in percentiles:
        place = percentile / 100 * (count - 1)
        below = math.floor(place)
        low = find_rank(blocks, below)
        high = find_rank(blocks, min(below + 1, count - 1))
        found.append(_between(low, high, place - below))
    return found


def _first(blocks: Iterable[NDArray[Any]], n: int) -> Iterable[NDArray[Any]]:
    for number, block in enumerate(blocks):
        if number == n:
            return
        yield block


def _between(low: Any, high: Any, share: float) -> float:
    """Return what lies between two values, computed as np.percentile does of a float64: from the nearer one."""
    step = np.subtract(high, low, dtype=np.float64)  # in 32 bits a step over 0 would lose digits of what is near it
    value = high - step * (1 - share) if share >= 0.5 else low + step * share
    return float(value)


def find_rank(blocks: Blocks, rank: int) -> Any:
    """Return the value of a rank, from 0, among the values of all blocks, in ascending order."""
    dtype = next(iter(blocks())).dtype
    bits, prefix = 8 * dtype.itemsize, 0
    for shift in range(max(bits - DIGIT_BITS, 0), -1, -DIGIT_BITS):
        counts = np.zeros(1 << min(bits, DIGIT_BITS), np.int64)
        for block in blocks():
            keys = sort_keys(block)
            if shift + DIGIT_BITS < bits:
                keys = keys[keys >> (shift + DIGIT_BITS) == prefix]
            counts += np.bincount((keys >> shift & (len(counts) - 1)).astype(np.int64), minlength=len(counts))
        ends = np.cumsum(counts)
        digit = int(np.searchsorted(ends, rank, side="right"))
        rank -= int(ends[digit] - counts[digit])
        prefix = prefix << min(bits, DIGIT_BITS) | digit
    return undo_keys(np.array([prefix], f"u{dtype.itemsize}"), dtype)[0]


def sort_keys(values: NDArray[Any]) -> NDArray[Any]:
    """Return unsigned integers, [N], in the order of the values; of -0.0 and 0.0 the former comes first."""
    flat = np.ascontiguousarray(values).reshape(-1)
    size = 8 * flat.dtype.itemsize
    keys: NDArray[Any] = flat.view(f"u{flat.dtype.itemsize}")
    top = keys.dtype.type(1 << (size - 1))
    if flat.dtype.kind == "u":
        return keys
    if flat.dtype.kind == "i":
        return np.asarray(keys ^ top)
    # A negative number has its bits turned, a positive one its sign alone (Herf 2001).
    return np.asarray(np.where(keys & top, ~keys, keys | top))


def undo_keys(keys: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return the values that sort_keys gave these keys."""
    top = keys.dtype.type(1 << (8 * dtype.itemsize - 1))
    if dtype.kind == "i":
        keys = keys ^ top
    elif dtype.kind == "f":
        keys = np.where(keys & top, keys & ~top, ~keys)
    return keys.view(dtype)
