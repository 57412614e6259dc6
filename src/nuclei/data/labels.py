"""Label images: small and stray parts, outlines, and which nuclei touch."""

import cv2
import numpy as np


def drop_small(labels: np.ndarray, min_area_px: int) -> np.ndarray:
    """Remove labels below an area and number the others from 1: int [H, W] -> int32 [H, W]."""
    kept = np.bincount(labels.ravel()) >= min_area_px
    kept[0] = False
    return (np.cumsum(kept, dtype=np.int32) * kept)[labels]


def largest_part(part: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Return the largest 4-connected component of `part` with its holes filled where `inside`, bool [H, W]."""
    n, labels, stats, _ = cv2.connectedComponentsWithStats(part.view(np.uint8), connectivity=4)
    if n == 1:
        return part
    if n > 2:
        part = labels == 1 + stats[1:, cv2.CC_STAT_AREA].argmax()
    framed = np.pad(~part, 1, constant_values=True)
    n, background = cv2.connectedComponents(framed.view(np.uint8), connectivity=8)
    if n == 2:
        return part
    # What the background at the frame does not reach is a hole.
    return part | ((background[1:-1, 1:-1] != background[0, 0]) & inside)


def count_touching(labels: np.ndarray) -> int:
    """Return how many labels have a pixel beside another label's, int [H, W] -> count."""
    touching = set()
    for first, second in ((labels[:, 1:], labels[:, :-1]), (labels[1:], labels[:-1])):
        meet = (first != second) & (first > 0) & (second > 0)
        touching |= set(first[meet].tolist()) | set(second[meet].tolist())
    return len(touching)


def find_outlines(labels: np.ndarray, thickness_px: int = 1) -> np.ndarray:
    """Return the pixels of labels within `thickness_px` of other labels or background, bool [H, W].

    Distance is counted in 4-connected steps; the frame of the image is no boundary.
    """
    # To float, as OpenCV erodes no int32; 2^24 labels are still exact.
    values = labels.astype(np.float32)
    cross = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))
    least, most = values, values
    for _ in range(thickness_px):
        least, most = cv2.erode(least, cross), cv2.dilate(most, cross)
    return (labels > 0) & ((least != values) | (most != values))
