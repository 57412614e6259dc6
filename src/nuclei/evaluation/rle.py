"""Run-length encoding as Kaggle defines it: 'start length' pairs, 1-indexed, down the columns.

Values are separated by single spaces, as Kaggle's own code reads them (`text.split(" ")`); any other white space is a
violation.
"""

import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nuclei.errors import UserError

_INTEGER = re.compile(r"-?[0-9]+")
# White space that is not one space between two values.
_STRAY_SPACE = re.compile(r"[^\S ]|  |^ | $")
# Larger numbers are outside any image; the cap keeps start + length inside int64, and int() from very long ones.
_LARGEST_VALUE = 10**18
_LONGEST_QUOTE = 60


def encode_mask(mask: NDArray[Any]) -> str:
    """Encode a mask [H, W] (non-zero is inside) as one RLE string; an empty mask gives an empty string."""
    rows = encode_labels((np.asarray(mask) != 0).view(np.uint8))
    return rows[0] if rows else ""


def encode_labels(labels: NDArray[Any]) -> list[str]:
    """Encode a label image [H, W] (0 is background) as one RLE string per label, labels ascending."""
    flat = np.ravel(labels, order="F")
    start = np.concatenate([[0], np.flatnonzero(flat[1:] != flat[:-1]) + 1])[: flat.size]
    length, label = np.diff(start, append=flat.size), flat[start]
    inside = np.flatnonzero(label)
    by_label = inside[np.argsort(label[inside], kind="stable")]
    label = label[by_label]
    values = np.column_stack([start[by_label] + 1, length[by_label]]).ravel().tolist()
    words = list(map(str, values))
    cuts = 2 * np.append(np.flatnonzero(label[1:] != label[:-1]) + 1, len(label))
    first = 0
    rows = []
    for cut in cuts[cuts > 0].tolist():
        rows.append(" ".join(words[first:cut]))
        first = cut
    return rows


def decode_rle(text: str, shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Decode an RLE string into a mask, bool [H, W]; raise UserError naming everything wrong with it."""
    mask = np.zeros(shape[0] * shape[1], dtype=bool)
    mask[decode_pixels(text, shape)] = True
    return mask.reshape(shape)


def decode_pixels(text: str, shape: tuple[int, int]) -> NDArray[np.int64]:
    """Decode an RLE string into flat row-major pixel indices of an image [H, W], int64 ascending.

    Raises UserError naming everything that is wrong with the string.
    """
    violations = find_rle_violations(text, shape)
    if violations:
        raise UserError("; ".join(violations))
    return decode_usable_pixels(text, shape)


def decode_usable_pixels(text: str, shape: tuple[int, int]) -> NDArray[np.int64]:
    """Decode those pairs of an RLE string that lie in an image [H, W], whatever is wrong with the others.

    Returns distinct flat row-major pixel indices, int64 ascending.
    """
    height, width = shape
    start, length = _parse(text)
    usable = (start >= 1) & (length >= 1) & (start + length - 1 <= height * width)
    # Runs are cut down to what no earlier one holds: repeated long runs would not fit into memory.
    order = np.argsort(start[usable], kind="stable")
    start, end = start[usable][order], (start + length)[usable][order]
    start[1:] = np.maximum(start[1:], np.maximum.accumulate(end)[:-1])
    start, length = start[start < end], (end - start)[start < end]
    first = np.cumsum(length) - length
    position = np.repeat(start - 1 - first, length) + np.arange(length.sum())
    column, row = np.divmod(position, height)
    pixels: NDArray[np.int64] = np.unique(row * width + column)
    return pixels


def decode_masks(texts: list[str], shape: tuple[int, int]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Decode the RLE strings of an image into (indptr int64 [N + 1], pixels int64 [P]).

    Mask i owns the flat row-major pixels[indptr[i]:indptr[i + 1]]; masks may overlap. Raises UserError
    naming the mask and everything that is wrong with its string.
    """
    masks = []
    for number, text in enumerate(texts, start=1):
        try:
            masks.append(decode_pixels(text, shape))
        except ValueError as error:
            raise UserError(f"mask {number}: {error}") from None
    indptr = np.cumsum([0, *map(len, masks)], dtype=np.int64)
    return indptr, np.concatenate([np.zeros(0, dtype=np.int64), *masks])


def decode_labels(texts: list[str], shape: tuple[int, int]) -> NDArray[np.int32]:
    """Decode the RLE strings of an image into a label image, int32 [H, W], numbered in their order from 1.

    Raises UserError naming two masks that share pixels, or everything wrong with a string.
    """
    indptr, pixels = decode_masks(texts, shape)
    owner = np.repeat(np.arange(1, len(texts) + 1, dtype=np.int32), np.diff(indptr))
    labels = np.zeros(shape[0] * shape[1], dtype=np.int32)
    labels[pixels] = owner
    lost = np.flatnonzero(labels[pixels] != owner)
    if len(lost):
        one, other = owner[lost[0]], labels[pixels[lost[0]]]
        raise UserError(f"masks {one} and {other} overlap; {len(lost)} pixels are claimed more than once")
    return labels.reshape(shape)


def find_rle_violations(text: str, shape: tuple[int, int]) -> list[str]:
    """List everything that makes a string no valid RLE of a mask [H, W], one phrase per kind of violation.

    An empty string is a valid, empty mask.
    """
    words = text.split()
    strange = [word for word in words if not _INTEGER.fullmatch(word)]
    violations = []
    if stray := _STRAY_SPACE.search(text):
        violations.append(f"white space {stray[0]!r} that is not a single space between two values")
    if strange:
        violations.append(f"{len(strange)} values are not integers, first {quote(strange[0])}")
    if len(words) % 2:
        violations.append(f"odd number of values ({len(words)}): starts and lengths come in pairs")
    start, length = _parse(text)
    end = start + length - 1
    size_px = shape[0] * shape[1]
    order = np.argsort(start, kind="stable")
    reached = np.maximum.accumulate(end[order])[:-1]
    twice = np.zeros(len(start), dtype=bool)
    twice[order[1:]] = (start[order[1:]] <= reached) & (length[order[1:]] > 0)
    kinds = {
        "zero length": length == 0,
        "negative length": length < 0,
        "start below 1": start < 1,
        f"out of range of an image of {size_px} pixels": end > size_px,
        "not sorted by start": np.diff(start, prepend=start[:1]) < 0,
        "a pixel listed twice": twice,
    }
    for kind, wrong in kinds.items():
        pairs = np.flatnonzero(wrong)
        if len(pairs):
            first = f"{start[pairs[0]]} {length[pairs[0]]}"
            violations.append(f"{kind}: {len(pairs)} of {len(start)} pairs, first '{first}'")
    return violations


def quote(text: str) -> str:
    """Return a text in quotation marks for a message, its end left out where it is long."""
    return repr(text if len(text) <= _LONGEST_QUOTE else text[:_LONGEST_QUOTE] + "…")


def _parse(text: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the starts and lengths of those pairs that are two integers, int64."""
    values = [_parse_integer(word) for word in text.split()]
    pairs = [pair for pair in zip(values[::2], values[1::2], strict=False) if None not in pair]
    start, length = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
    return start, length


def _parse_integer(word: str) -> int | None:
    """Return the integer that a word stands for, at most ±_LARGEST_VALUE, None if it is none."""
    if not _INTEGER.fullmatch(word):
        return None
    digits = word.removeprefix("-").lstrip("0")
    size = int(digits or "0") if len(digits) <= 18 else _LARGEST_VALUE
    return -size if word[0] == "-" else size
