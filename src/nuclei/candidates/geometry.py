"""Geometry of all candidates of an image at once: boxes, moments, hulls, outlines and the pixels around them.

Local measures (outline, holes, depth, ring) need every nested candidate as a mask of its own: `draw_canvas`
lays the masks side by side in one picture, so that one OpenCV call serves all of them.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

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
class Boxes:
    """Hold the bounding boxes of N candidates, [N] each, in image pixels."""

    top: NDArray[np.int64]
    left: NDArray[np.int64]
    height: NDArray[np.int64]
    width: NDArray[np.int64]


@dataclass(frozen=True)
class Canvas:
    """Hold N candidates side by side in one picture, each in its own box with a margin of RING_WIDTH_PX."""

    mask: NDArray[np.uint8]  # [h, w], 0 or 1
    position: NDArray[np.int64]  # [P]: flat canvas index of each entry of Candidates.pixels
    distance_px: NDArray[np.float32]  # [P]: distance of each entry to the nearest pixel outside, 1 on the rim
    offset: NDArray[np.int64]  # [2, N]: canvas (row, column) minus image (y, x) of a candidate's pixels
    shelf_of_row: NDArray[np.int64]  # [h]
    owner_at: NDArray[np.int32]  # [shelves, w]: candidate whose box covers the column on the shelf


def bound_candidates(candidates: Candidates) -> Boxes:
    """Return the bounding boxes of the candidates; raise ValueError if a candidate has no pixel."""
    if (candidates.area_px() == 0).any():
        raise ValueError("a candidate without pixels has no shape: leave it out of Candidates")
    starts, ends = candidates.indptr[:-1], candidates.indptr[1:] - 1
    width = candidates.shape[1]
    top, bottom = candidates.pixels[starts] // width, candidates.pixels[ends] // width
    x = candidates.pixels % width
    left, right = np.minimum.reduceat(x, starts), np.maximum.reduceat(x, starts)
    return Boxes(*(a.astype(np.int64) for a in (top, left, bottom - top + 1, right - left + 1)))


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


def draw_canvas(candidates: Candidates, boxes: Boxes) -> Canvas:
    """Lay the candidates' masks side by side in one picture and measure their depth."""
    box_width = boxes.width + 2 * RING_WIDTH_PX
    row, column, (height, width) = pack_boxes(boxes.height + 2 * RING_WIDTH_PX, box_width)
    offset = np.stack([row - boxes.top, column - boxes.left]) + RING_WIDTH_PX
    # Flat canvas index, (y + dy) · w + x + dx, written with the flat image index in place of x.
    y = candidates.pixels // candidates.shape[1]
    position = y * np.int64(width - candidates.shape[1]) + candidates.pixels
    position += np.repeat(offset[0] * width + offset[1], candidates.area_px())
    mask = np.zeros((height, width), np.uint8)
    mask.reshape(-1)[position] = 1
    distance_px = cv2.distanceTransform(mask, cv2.DIST_L2, cv2.DIST_MASK_5).reshape(-1)[position]

    shelf_row, shelf = np.unique(row, return_inverse=True)
    shelf_of_row = np.searchsorted(shelf_row, np.arange(height), side="right") - 1
    owner_at = np.zeros((len(shelf_row), width), np.int32)
    within = np.arange(box_width.sum()) - np.repeat(np.cumsum(box_width) - box_width, box_width)
    covered = np.repeat(shelf * width + column, box_width) + within
    owner_at.reshape(-1)[covered] = np.repeat(np.arange(len(candidates)), box_width)
    return Canvas(mask, position, distance_px, offset, shelf_of_row, owner_at)


def locate(
    canvas: Canvas, position: NDArray[np.int64]
) -> tuple[NDArray[np.int32], NDArray[np.int64], NDArray[np.int64]]:
    """Return the candidate whose box covers each flat canvas index, and its image coordinates y, x."""
    row, column = np.divmod(position, canvas.mask.shape[1])
    owner = canvas.owner_at[canvas.shelf_of_row[row], column]
    return owner, row - canvas.offset[0][owner], column - canvas.offset[1][owner]


def membership(candidates: Candidates) -> csr_array:
    """Return the matrix [N, H·W] that is 1 where a candidate owns a pixel."""
    n_pixels = len(candidates.pixels)
    indptr = candidates.indptr.astype(np.int32 if n_pixels < 2**31 else np.int64)
    shape = (len(candidates), candidates.shape[0] * candidates.shape[1])
    return csr_array((np.ones(n_pixels), candidates.pixels, indptr), shape=shape)


def find_rims(candidates: Candidates, canvas: Canvas) -> csr_array:
    """Return the matrix [N, H·W] of the candidates' pixels with a 4-neighbour outside (of the image, too)."""
    on_rim = canvas.distance_px < 1.1
    shape = (len(candidates), candidates.shape[0] * candidates.shape[1])
    rows, columns = candidates.owner()[on_rim], candidates.pixels[on_rim]
    return csr_array((np.ones(len(rows)), (rows, columns)), shape=shape)


def find_rings(candidates: Candidates, canvas: Canvas) -> csr_array:
    """Return the matrix [N, H·W] of the pixels at most RING_WIDTH_PX outside each candidate, in holes too."""
    height, width = candidates.shape
    ring = cv2.dilate(canvas.mask, RING_KERNEL) - canvas.mask
    owner, y, x = locate(canvas, np.flatnonzero(ring))
    in_frame = (y >= 0) & (y < height) & (x >= 0) & (x < width)
    owner, pixels = owner[in_frame], (y * width + x)[in_frame]
    return csr_array((np.ones(len(pixels)), (owner, pixels)), shape=(len(candidates), height * width))


def measure_ellipses(candidates: Candidates, boxes: Boxes) -> dict[str, NDArray[np.float64]]:
    """Return centroid_y, centroid_x, major_axis_px and minor_axis_px, float64 [N].

    The axes are those of the ellipse with equal second moments: four standard deviations, as in regionprops.
    """
    n_pixels, starts = candidates.area_px(), candidates.indptr[:-1]
    row = candidates.pixels // candidates.shape[1]
    # Relative to the box, so that a candidate measures the same wherever it lies.
    y = (row - np.repeat(boxes.top, n_pixels)).astype(np.float64)
    x = (candidates.pixels - row * candidates.shape[1] - np.repeat(boxes.left, n_pixels)).astype(np.float64)
    my, mx, myy, mxx, mxy = (np.add.reduceat(v, starts) / n_pixels for v in (y, x, y * y, x * x, y * x))
    var_y, var_x, cov = myy - my * my, mxx - mx * mx, mxy - my * mx
    centre, spread = (var_y + var_x) / 2, np.hypot((var_y - var_x) / 2, cov)
    # Rounding can leave a one-pixel-wide candidate a variance just below zero.
    major, minor = (4 * np.sqrt(np.maximum(v, 0)) for v in (centre + spread, centre - spread))
    return {
        "centroid_y": my + boxes.top,
        "centroid_x": mx + boxes.left,
        "major_axis_px": major,
        "minor_axis_px": minor,
    }


def convex_chain(y: NDArray[np.int64], x: NDArray[np.int64], is_end: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return the indices of the points that bound the chains from the left in the sense of a convex hull.

    Chains follow one another in the arrays, y increasing within each; ``is_end`` marks both ends of each.
    """
    keep = np.arange(len(y))
    while True:
        before, here, after = keep[:-2], keep[1:-1], keep[2:]
        # A point on or right of the line between its neighbours is no vertex, whatever else is dropped.
        dented = (x[here] - x[before]) * (y[after] - y[here]) >= (x[after] - x[here]) * (y[here] - y[before])
        dented &= ~is_end[here]
        if not dented.any():
            return keep
        keep = np.concatenate([keep[:1], here[~dented], keep[-1:]])


def measure_hulls(candidates: Candidates) -> dict[str, NDArray[np.float64]]:
    """Return convex_area_px and hull_perimeter_px of the hulls of the candidates' pixel centres, float64 [N].

    The area counts the pixels whose centres lie in the hull (Pick's theorem), so a digitally convex candidate
    has solidity 1. Equal to ``skimage.morphology.convex_hull_image(offset_coordinates=False)``; regionprops
    pads the hull by half a pixel and counts more.
    """
    n = len(candidates)
    if n == 0:
        return {"convex_area_px": np.zeros(0), "hull_perimeter_px": np.zeros(0)}
    y = candidates.pixels // candidates.shape[1]
    is_first = np.ones(len(y), bool)
    is_first[1:] = y[1:] != y[:-1]
    is_first[candidates.indptr[:-1]] = True
    first = np.flatnonzero(is_first)
    last = np.append(first[1:], len(y)) - 1
    owner = candidates.owner()[first]
    row = y[first].astype(np.int64)
    x_left = candidates.pixels[first] - row * candidates.shape[1]
    x_right = candidates.pixels[last] - row * candidates.shape[1]
    top = np.searchsorted(owner, np.arange(n))
    bottom = np.append(top[1:], len(row)) - 1
    is_end = np.zeros(len(row), bool)
    is_end[top] = is_end[bottom] = True

    area = np.zeros(n)
    length = (x_right - x_left)[top] + (x_right - x_left)[bottom].astype(np.float64)
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
    position = np.flatnonzero((quads > 0) & (quads < 15))  # empty and full windows add nothing
    owner, _, _ = locate(canvas, position)
    codes = owner.astype(np.int64) * 16 + quads.reshape(-1)[position]
    counts = np.bincount(codes, minlength=16 * len(candidates)).reshape(-1, 16)
    radius = np.maximum.reduceat(canvas.distance_px, candidates.indptr[:-1])
    return {
        "perimeter_px": counts @ QUAD_LENGTH,
        "euler_number": counts @ QUAD_EULER,
        "inscribed_radius_px": radius.astype(np.float64),
    }
