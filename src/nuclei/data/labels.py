"""Label images: small and stray parts, outlines, and which nuclei touch."""

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray


def renumber(labels: NDArray[Any], kept: NDArray[np.bool_]) -> NDArray[np.int32]:
    """Number the kept labels from 1 without gaps, in their order, and clear the others: int [H, W] -> int32 [H, W].

    kept: bool [N], for each label 0..N - 1 whether it stays; 0 is background whatever it says.
    """
    kept = kept.copy()
    kept[:1] = False
    numbers: NDArray[np.int32] = np.cumsum(kept, dtype=np.int32) * kept
    return np.asarray(numbers[labels], np.int32)


def drop_small(labels: NDArray[Any], min_area_px: int) -> NDArray[np.int32]:
    """Remove labels below an area and number the others from 1: int [H, W] -> int32 [H, W]."""
    return renumber(labels, np.bincount(labels.ravel()) >= min_area_px)


def largest_part(part: NDArray[np.bool_], inside: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the largest 4-connected component of `part` with its holes filled where `inside`, bool [H, W]."""
    only: NDArray[np.bool_] = largest_parts(part[None], inside)[0]
    return only


def largest_parts(parts: NDArray[np.bool_], inside: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return `largest_part` of each of K parts: bool [K, H, W], [H, W] -> bool [K, H, W].

    They lie below one another in one picture, a frame around each, so that OpenCV is called twice for all of them.
    """
    n, height, width = parts.shape
    framed = np.zeros((n, height + 2, width + 2), np.uint8)
    framed[:, 1:-1, 1:-1] = parts
    picture = framed.reshape(-1, width + 2)
    n_labels, labels = cv2.connectedComponents(picture, connectivity=4)
    if n_labels > 1 + parts.any(axis=(1, 2)).sum():
        # Labels ascend from part to part; of each part the largest is kept, of equal ones the first.
        last = np.maximum.accumulate(labels.reshape(n, -1).max(axis=1))
        area, owner = np.bincount(labels.ravel())[1:], np.searchsorted(last, np.arange(1, n_labels))
        order = np.lexsort((-area, owner))
        kept = np.zeros(n_labels, bool)
        kept[1 + order[np.searchsorted(owner, np.unique(owner))]] = True
        picture = kept[labels].view(np.uint8)
        parts = picture.reshape(framed.shape)[:, 1:-1, 1:-1].view(bool)
    n_labels, background = cv2.connectedComponents(1 - picture, connectivity=8)
    if n_labels == 2:
        return parts
    # What the background at the frames does not reach is a hole.
    holes = (background != background[0, 0]).reshape(framed.shape)[:, 1:-1, 1:-1]
    return np.asarray(parts | (holes & inside), np.bool_)


def fill_holes(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return a mask with the background that no 4-connected way leads to from the frame: bool [H, W] -> bool [H, W].

    As scipy.ndimage.binary_fill_holes, which takes twenty times as long.
    """
    _, background = cv2.connectedComponents(_frame(~mask), connectivity=4)
    return np.asarray(background[1:-1, 1:-1] != background[0, 0], np.bool_)


def count_touching(labels: NDArray[Any]) -> int:
    """Return how many labels have a pixel beside another label's, int [H, W] -> count."""
    touching = set()
    for first, second in ((labels[:, 1:], labels[:, :-1]), (labels[1:], labels[:-1])):
        meet = (first != second) & (first > 0) & (second > 0)
        touching |= set(first[meet].tolist()) | set(second[meet].tolist())
    return len(touching)


def find_outlines(labels: NDArray[Any], thickness_px: int = 1) -> NDArray[np.bool_]:
    """Return the pixels of labels within `thickness_px` of other labels or background, bool [H, W].

    Distance is counted in 4-connected steps; the border of the image is no outline.
    """
    # As float, since OpenCV does not erode int32; up to 2^24 labels are exact.
    values = labels.astype(np.float32)
    cross = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))
    least: NDArray[Any] = values
    most: NDArray[Any] = values
    for _ in range(thickness_px):
        least, most = cv2.erode(least, cross), cv2.dilate(most, cross)
    return np.asarray((labels > 0) & ((least != values) | (most != values)), np.bool_)


def _frame(background: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Return a mask with a pixel of background more on each side; np.pad takes ten times as long."""
    framed = cv2.copyMakeBorder(background.view(np.uint8), 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=1)
    return np.asarray(framed, np.uint8)
