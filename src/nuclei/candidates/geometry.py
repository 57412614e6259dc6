"""Geometry of all candidates of an image at once: boxes, moments, hulls, outlines and the pixels around them.

Boxes, moments and hulls need no more than the runs of pixels in each row, a twentieth of the pixels. Local measures
(outline, holes, depth, ring) need every nested candidate as a mask of its own: `draw_canvas` lays the masks side by
side in one picture, so that one OpenCV call serves all of them.
"""

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from nuclei.candidates.table import Candidates

RING_WIDTH_PX = 3  # also the margin of each box on the canvas, so that rings do not meet
RING_REACH = np.hypot(*np.mgrid[-RING_WIDTH_PX : RING_WIDTH_PX + 1, -RING_WIDTH_PX : RING_WIDTH_PX + 1])
RING_KERNEL = (RING_REACH <= RING_WIDTH_PX + 0.2).astype(np.uint8)
# The 2 × 2 windows of a mask are coded by their bits a b / c d. What each of the 16 codes adds to a measure:
QUAD_KERNEL = np.array([[1, 2], [4, 8]], np.float32)
A, B, C, D = (np.arange(16) >> np.arange(4)[:, None]) & 1
# Euler number at 8-connectivity (Gray 1971): lone corners minus notches minus twice the touching diagonals.
QUAD_EULER = np.array([0, 1, 1, 0, 1, 0, -2, -1, 1, -2, 0, -1, 0, -1, -1, 0]) / 4
# Cauchy-Crofton: π / 4 times the entries along rows, columns and diagonals (whose lines lie 1 / √2 px apart).
QUAD_LENGTH = np.pi / 4 * ((1 - A) * B + (1 - A) * C + ((1 - A) * D + (1 - B) * C) / np.sqrt(2))


@dataclass(frozen=True)
class Runs:
    """Hold the K runs of neighbouring pixels in a row that N candidates consist of, in the order of their pixels."""

    owner: NDArray[np.int64]  # [K]
    y: NDArray[np.int64]  # [K]
    x: NDArray[np.int64]  # [K]: first column
    n_pixels: NDArray[np.int64]  # [K]
    first: NDArray[np.int64]  # [N]: first run of each candidate


@dataclass(frozen=True)
class Boxes:
    """Hold the bounding boxes of N candidates, [N] each, in image pixels."""

    top: NDArray[np.int64]
    left: NDArray[np.int64]
    height: NDArray[np.int64]
    width: NDArray[np.int64]


@dataclass(frozen=True)
class Canvas:
    """Hold N candidates side by side in one picture, each in its own box with a margin of RING_WIDTH_PX.

    A column more on the right of each box is empty, so that rings of two candidates do not touch.
    """

    mask: NDArray[np.uint8]  # [h, w], 0 or 1
    position: NDArray[np.int64]  # [P]: flat canvas index of each entry of Candidates.pixels
    distance_px: NDArray[np.float32]  # [P]: distance of each entry to the nearest pixel outside, 1 on the rim
    offset: NDArray[np.int64]  # [2, N]: canvas (row, column) minus image (y, x) of a candidate's pixels
    shelf_of_row: NDArray[np.int64]  # [h]
    owner_at: NDArray[np.int32]  # [shelves, w]: candidate whose box covers the column on the shelf


@dataclass(frozen=True)
class Rings:
    """Hold the K runs of neighbouring pixels in a row that the rings of all candidates consist of, in no order."""

    owner: NDArray[np.int32]  # [K]
    start: NDArray[np.int64]  # [K]: flat index of the first pixel
    n_pixels: NDArray[np.int64]  # [K]


def find_runs(candidates: Candidates) -> Runs:
    """Return the runs of the candidates; raise ValueError if a candidate has no pixel."""
    if (candidates.area_px() == 0).any():
        raise ValueError("a candidate without pixels has no shape: leave it out of Candidates")
    pixels, width = candidates.pixels, candidates.shape[1]
    begins = np.ones(len(pixels), bool)
    np.not_equal(pixels[1:] - pixels[:-1], 1, out=begins[1:])
    begins[candidates.indptr[:-1]] = True
    begin = np.flatnonzero(begins)
    if (pixels[begin] % width + np.diff(begin, append=len(pixels)) > width).any():
        # A run that leaves the image on the right and goes on at the left of the next row is several.
        begin = np.flatnonzero(begins | (pixels % width == 0))
    y, x = (v.astype(np.int64) for v in np.divmod(pixels[begin], width))
    first = np.searchsorted(begin, candidates.indptr)
    owner = np.repeat(np.arange(len(candidates)), np.diff(first))
    return Runs(owner, y, x, np.diff(begin, append=len(pixels)), first[:-1])


def bound_candidates(runs: Runs) -> Boxes:
    """Return the bounding boxes of the candidates."""
    top, bottom = runs.y[runs.first], runs.y[last_of(runs.first, len(runs.y))]
    if not len(top):
        return Boxes(top, top, top, top)
    left = np.minimum.reduceat(runs.x, runs.first)
    right = np.maximum.reduceat(runs.x + runs.n_pixels, runs.first)
    return Boxes(top, left, bottom - top + 1, right - left)


def last_of(first: NDArray[np.int64], n: int) -> NDArray[np.int64]:
    """Return the last index of each group of n consecutive entries, from the first of each."""
    return np.append(first[1:], n)[: len(first)] - 1


def expand(start: NDArray[Any], n: NDArray[np.int64]) -> NDArray[Any]:
    """Return n numbers that count up from the start of each run, one run after the other, of the type of the start."""
    before = np.cumsum(n, dtype=start.dtype) - n.astype(start.dtype)
    numbers: NDArray[Any] = np.repeat(start - before, n)
    numbers += np.arange(len(numbers), dtype=start.dtype)
    return numbers


def pack_boxes(
    height: NDArray[np.int64], width: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], tuple[int, int]]:
    """Place boxes on shelves, tallest first; return first rows, first columns, and the (h, w) needed."""
    order = np.argsort(-height, kind="stable")
    end = np.cumsum(width[order])
    canvas_width = int(max(width.max(initial=1), np.sqrt((height * width).sum())))
    row, column = np.empty_like(height), np.empty_like(height)
    first, canvas_height = 0, 0
    while first < len(order):
        start = end[first] - width[order[first]]
        last = int(np.searchsorted(end, start + canvas_width, side="right"))
        shelf = order[first:last]
        row[shelf], column[shelf] = canvas_height, end[first:last] - width[shelf] - start
        canvas_height += int(height[shelf[0]])
        first = last
    return row, column, (max(canvas_height, 1), canvas_width)


def draw_canvas(candidates: Candidates, runs: Runs, boxes: Boxes) -> Canvas:
    """Lay the candidates' masks side by side in one picture and measure their depth."""
    box_width = boxes.width + 2 * RING_WIDTH_PX + 1
    row, column, (height, width) = pack_boxes(boxes.height + 2 * RING_WIDTH_PX, box_width)
    offset = np.stack([row - boxes.top, column - boxes.left]) + RING_WIDTH_PX
    # Flat canvas index, (y + dy) · w + x + dx, written with the flat image index in place of x.
    shift = runs.y * (width - candidates.shape[1]) + (offset[0] * width + offset[1])[runs.owner]
    position = np.repeat(shift, runs.n_pixels)
    position += candidates.pixels
    mask = np.zeros((height, width), np.uint8)
    mask.reshape(-1)[position] = 1
    distance_px = np.asarray(cv2.distanceTransform(mask, cv2.DIST_L2, cv2.DIST_MASK_5), np.float32)
    distance_px = distance_px.take(position, mode="clip")

    shelf_row, shelf = np.unique(row, return_inverse=True)
    shelf_of_row = np.searchsorted(shelf_row, np.arange(height), side="right") - 1
    owner_at = np.zeros((len(shelf_row), width), np.int32)
    within = np.arange(box_width.sum()) - np.repeat(np.cumsum(box_width) - box_width, box_width)
    covered = np.repeat(shelf * width + column, box_width) + within
    owner_at.reshape(-1)[covered] = np.repeat(np.arange(len(candidates)), box_width)
    return Canvas(mask, position, distance_px, offset, shelf_of_row, owner_at)


def find_owners(canvas: Canvas, position: NDArray[np.int64]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Return the candidate whose box covers each flat canvas index, and the row of the canvas."""
    width = canvas.mask.shape[1]
    row = position // width
    # Flat index on the shelves, shelf · w + column, written with the flat canvas index in place of the column.
    shift = (canvas.shelf_of_row - np.arange(len(canvas.shelf_of_row))) * width
    return canvas.owner_at.take(position + shift.take(row)), row


def find_rims(canvas: Canvas) -> NDArray[np.int64]:
    """Return which entries of ``Candidates.pixels`` have a 4-neighbour outside (of the image, too), ascending."""
    return np.flatnonzero(canvas.distance_px < 1.1)


def find_rings(candidates: Candidates, canvas: Canvas) -> Rings:
    """Return the rings of the candidates: the pixels at most RING_WIDTH_PX outside each of them, in holes too."""
    height, width = candidates.shape
    ring = (cv2.dilate(canvas.mask, RING_KERNEL) != canvas.mask).reshape(-1)
    # A ring reaches neither the first pixel nor the last, so that each run begins and ends.
    begin, end = (np.flatnonzero(ring[1:] != ring[:-1]) + 1).reshape(-1, 2).T
    owner, row = find_owners(canvas, begin)
    y = row - canvas.offset[0].take(owner)
    left = begin - row * canvas.mask.shape[1] - canvas.offset[1].take(owner)
    left, right = np.maximum(left, 0), np.minimum(left + end - begin, width)
    in_frame = np.flatnonzero((y >= 0) & (y < height) & (left < right))
    return Rings(owner.take(in_frame), (y * width + left).take(in_frame), (right - left).take(in_frame))


def measure_ellipses(runs: Runs, boxes: Boxes) -> dict[str, NDArray[np.float64]]:
    """Return centroid_y, centroid_x, major_axis_px and minor_axis_px, float64 [N].

    The axes are those of the ellipse with equal second moments: four standard deviations, as in regionprops.
    """
    if not len(runs.first):
        return dict.fromkeys(("centroid_y", "centroid_x", "major_axis_px", "minor_axis_px"), np.zeros(0))
    # Relative to the box, so that a candidate measures the same wherever it lies. All sums are of whole numbers.
    n, y, x = runs.n_pixels, runs.y - boxes.top[runs.owner], runs.x - boxes.left[runs.owner]
    steps = n * (n - 1) // 2
    sum_x = n * x + steps
    sums = (n, n * y, sum_x, n * y * y, n * x * x + 2 * x * steps + steps * (2 * n - 1) // 3, y * sum_x)
    n_pixels, *moments = (np.add.reduceat(v, runs.first).astype(np.float64) for v in sums)
    my, mx, myy, mxx, mxy = (moment / n_pixels for moment in moments)
    var_y, var_x, cov = myy - my * my, mxx - mx * mx, mxy - my * mx
    centre, spread = (var_y + var_x) / 2, np.hypot((var_y - var_x) / 2, cov)
    # Rounding can leave a one-pixel-wide candidate a variance just below zero.
    major, minor = (4 * np.sqrt(np.maximum(v, 0)) for v in (centre + spread, centre - spread))
    return {
        "centroid_y": np.asarray(my + boxes.top, np.float64),
        "centroid_x": np.asarray(mx + boxes.left, np.float64),
        "major_axis_px": major,
        "minor_axis_px": minor,
    }


def convex_chain(y: NDArray[np.int64], x: NDArray[np.int64], is_end: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return the indices of the points that bound the chains from the left in the sense of a convex hull.

    Chains follow one another in the arrays, y increasing within each; ``is_end`` marks both ends of each.
    """
    kept: NDArray[np.int64] = np.arange(len(y))
    while True:
        dy, dx = np.diff(y), np.diff(x)
        # A point on or right of the line between its neighbours is no vertex, whatever else is dropped.
        stays = is_end.copy()
        stays[1:-1] |= dx[:-1] * dy[1:] < dx[1:] * dy[:-1]
        if stays.all():
            return kept
        vertex = np.flatnonzero(stays)
        kept, y, x, is_end = kept.take(vertex), y.take(vertex), x.take(vertex), is_end.take(vertex)


def measure_hulls(runs: Runs) -> dict[str, NDArray[np.float64]]:
    """Return convex_area_px and hull_perimeter_px of the hulls of the candidates' pixel centres, float64 [N].

    The area counts the pixels whose centres lie in the hull (Pick's theorem), so a digitally convex candidate
    has solidity 1. Equal to ``skimage.morphology.convex_hull_image(offset_coordinates=False)``; regionprops
    pads the hull by half a pixel and counts more.
    """
    n = len(runs.first)
    if n == 0:
        return {"convex_area_px": np.zeros(0), "hull_perimeter_px": np.zeros(0)}
    is_first = np.ones(len(runs.y), bool)
    is_first[1:] = runs.y[1:] != runs.y[:-1]
    is_first[runs.first] = True
    first = np.flatnonzero(is_first)
    last = last_of(first, len(runs.y))
    owner, row = runs.owner[first], runs.y[first]
    x_left, x_right = runs.x[first], runs.x[last] + runs.n_pixels[last] - 1
    top = np.searchsorted(owner, np.arange(n))
    bottom = last_of(top, len(row))
    is_end = np.zeros(len(row), bool)
    is_end[top] = is_end[bottom] = True

    area = np.zeros(n)
    width = (x_right - x_left).astype(np.float64)
    length: NDArray[np.float64] = width[top] + width[bottom]
    lattice_steps = length.copy()
    for x in (x_left, -x_right):  # the right side is a left side in the mirror
        keep = convex_chain(row, x, is_end)
        start, stop = keep[:-1], keep[1:]
        same = owner[start] == owner[stop]
        start, stop = start[same], stop[same]
        dy, dx = row[stop] - row[start], x[stop] - x[start]
        area -= np.bincount(owner[start], (x[start] + x[stop]) * dy / 2, minlength=n)
        length += np.bincount(owner[start], np.hypot(dy, dx), minlength=n)
        lattice_steps += np.bincount(owner[start], np.gcd(dy, dx), minlength=n)
    return {"convex_area_px": area + lattice_steps / 2 + 1, "hull_perimeter_px": length}


def measure_outlines(candidates: Candidates, canvas: Canvas) -> dict[str, NDArray[np.float64]]:
    """Return perimeter_px, euler_number (8-connected) and inscribed_radius_px, float64 [N].

    Equal to perimeter_crofton (4 directions) and euler_number of skimage's regionprops. The radius is the
    largest distance of a pixel to the outside (5 × 5 chamfer, within 2 % of Euclidean).
    """
    quads = cv2.filter2D(canvas.mask, -1, QUAD_KERNEL, anchor=(0, 0), borderType=cv2.BORDER_CONSTANT)
    position = np.flatnonzero(quads - np.uint8(1) < 14)  # empty and full windows add nothing
    codes = find_owners(canvas, position)[0].astype(np.int64) * 16 + quads.take(position)
    counts = np.bincount(codes, minlength=16 * len(candidates)).reshape(-1, 16)
    radius = np.maximum.reduceat(canvas.distance_px, candidates.indptr[:-1])
    return {
        "perimeter_px": counts @ QUAD_LENGTH,
        "euler_number": counts @ QUAD_EULER,
        "inscribed_radius_px": radius.astype(np.float64),
    }
