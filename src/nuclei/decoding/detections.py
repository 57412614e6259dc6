"""Detections of one image as label images, as maps, and as candidates.

Detections are arrays in descending order of score: boxes float32 [N, 4] as (x0, y0, x1, y1) in pixels, where pixel i
reaches from i to i + 1; scores float32 [N]; masks uint8 [N, M, M], which divide a box into M × M cells and hold the
probability of each in steps of 1/255.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nuclei.candidates.table import Candidates
from nuclei.config.schema import WatershedConfig
from nuclei.data.labels import drop_small, largest_part

Detections = dict[str, NDArray[Any]]
Labels = NDArray[np.int32]
Map = NDArray[np.float32]


def paste_masks(detections: Detections, shape: tuple[int, ...]) -> Iterator[tuple[slice, slice, Map]]:
    """Yield rows, columns and probabilities there, float32, of each detection, bilinear between the cells' centres."""
    for (x0, y0, x1, y1), mask in zip(detections["boxes"].astype(float), detections["masks"], strict=True):
        rows, row_weights = sample_axis(y0, y1, mask.shape[0], shape[0])
        columns, column_weights = sample_axis(x0, x1, mask.shape[1], shape[1])
        yield rows, columns, row_weights @ (mask.astype(np.float32) / 255) @ column_weights.T


def sample_axis(start: float, stop: float, n_cells: int, length: int) -> tuple[slice, Map]:
    """Return the pixels of an axis that a mask's cells reach and the cells' weights in each, float32 [n, n_cells]."""
    cell_px = max(stop - start, 1e-6) / n_cells
    pixels = slice(max(0, int(np.floor(start - cell_px / 2))), min(length, int(np.ceil(stop + cell_px / 2))))
    position = (np.arange(pixels.start, pixels.stop) + 0.5 - start) / cell_px - 0.5
    return pixels, np.maximum(0, 1 - np.abs(position[:, None] - np.arange(n_cells))).astype(np.float32)


def claim_pixels(detections: Detections, shape: tuple[int, ...]) -> tuple[Labels, Map]:
    """Return the detection of highest score · probability at each pixel, int32 [H, W], −1: none, and that value."""
    owner, value = np.full(shape, -1, np.int32), np.zeros(shape, np.float32)
    for i, (rows, columns, patch) in enumerate(paste_masks(detections, shape)):
        claim = detections["scores"][i] * patch
        better = claim > value[rows, columns]
        owner[rows, columns][better], value[rows, columns][better] = i, claim[better]
    return owner, value


def make_maps(detections: Detections, shape: tuple[int, ...]) -> dict[str, Map]:
    """Return the map `mask`, float32 [H, W] in 0..1: the largest score · probability of a detection at each pixel."""
    return {"mask": np.minimum(claim_pixels(detections, shape)[1], 1)}


def decode_detections(
    detections: Detections, shape: tuple[int, ...], score_threshold: float, mask_threshold: float, min_area_px: int
) -> Labels:
    """Paint the detections above a score, the best first, as labels int32 [H, W]; a painted pixel stays.

    A detection more than half of which is painted already, or whose rest is below `min_area_px`, is skipped.
    """
    labels = np.zeros(shape, np.int32)
    good = {key: value[detections["scores"] > score_threshold] for key, value in detections.items()}
    for number, (rows, columns, patch) in enumerate(paste_masks(good, shape), start=1):
        part = patch > mask_threshold
        rest = part & (labels[rows, columns] == 0)
        if np.count_nonzero(rest) >= max(min_area_px, np.count_nonzero(part) / 2):
            labels[rows, columns][rest] = number
    return drop_small(labels, 1)


def make_detection_candidates(
    detections: Detections, shape: tuple[int, ...], settings: WatershedConfig, min_score: float = 0.0
) -> Candidates:
    """Return detections of at least `min_score` as candidates: each is a root, with its score as peak.

    A detection owns the largest part of what claim_pixels gives it; of that the largest part above each mask threshold
    is a candidate, holes filled. Candidates below `min_area_px`, copies, and detections without any candidate are
    dropped.
    """
    kept = {key: value[detections["scores"] >= min_score] for key, value in detections.items()}
    owner = claim_pixels(kept, shape)[0]
    found: dict[tuple[int, bytes], tuple[Labels, float]] = {}
    for i, (rows, columns, patch) in enumerate(paste_masks(kept, shape)):
        inside = largest_part(owner[rows, columns] == i, np.zeros(patch.shape, bool))
        for threshold in settings.mask_thresholds:
            y, x = np.nonzero(largest_part(inside & (patch > threshold), inside))
            if len(y) >= max(1, settings.min_area_px):
                pixels = ((y + rows.start) * shape[1] + x + columns.start).astype(np.int32)
                found.setdefault((i, pixels.tobytes()), (pixels, threshold))
    detection, node = np.unique(np.array([i for i, _ in found], np.int64), return_inverse=True)
    pieces = [pixels for pixels, _ in found.values()]
    return Candidates(
        shape=(shape[0], shape[1]),
        indptr=np.cumsum([0, *map(len, pieces)], dtype=np.int64),
        pixels=np.concatenate([np.zeros(0, np.int32), *pieces]),
        node=node.astype(np.int32),
        threshold=np.array([threshold for _, threshold in found.values()], np.float32),
        parent=np.full(len(detection), -1, np.int32),
        level=np.zeros(len(detection), np.float32),
        peak=kept["scores"][detection],
    )
