"""Outlines of labels along the edges of their pixels, all labels at once."""

import gc
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray
from scipy import ndimage
from shapely.geometry.base import BaseGeometry

# Label -> its outline, a polygon or several, labels ascending: what `trace_outlines` returns.
Outlines = Mapping[int, BaseGeometry]
# Label -> parts, rings of each, points x, y: what `list_rings` returns.
Rings = dict[int, list[list[list[list[float]]]]]


def trace_outlines(labels: NDArray[Any]) -> Outlines:
    """Trace the outline of each label, int [H, W], along the edges of its pixels: {label: polygon}, labels ascending.

    Pixel (y, x) is the square from (x, y) to (x + 1, y + 1), so the area of a polygon is its nucleus's in pixels. Parts
    that meet at a corner only are polygons of their own, as OGC demands; holes wind against the outer ring.

    A ring along pixel edges is known by its corners: along each row, and along each column, they belong together in
    pairs. Where a label meets itself at a corner only this is ambiguous; such labels, which are rare, are united pixel
    by pixel instead.
    """
    corners, ambiguous = find_corners(labels)
    windows = ndimage.find_objects(labels.astype(np.int32))
    present = [label for label, window in enumerate(windows, start=1) if window is not None]
    united = {label: unite_pixels(labels, label, windows[label - 1]) for label in ambiguous}
    traced = join_rings(link_corners(corners[~np.isin(corners[:, 0], list(ambiguous))]))
    found = united | traced
    if not found:
        return {}
    geometries = np.array([found[label] for label in present], dtype=object)
    return dict(zip(present, shapely.orient_polygons(geometries), strict=True))


def find_corners(labels: NDArray[Any]) -> tuple[NDArray[np.int64], set[int]]:
    """Return the corners of outlines as rows of label, x, y, and the labels that meet themselves at a corner only."""
    framed = np.pad(labels, 1)
    parts = framed[:-1, :-1], framed[:-1, 1:], framed[1:, 1:], framed[1:, :-1]  # around a point, clockwise
    y, x = np.nonzero((parts[0] != parts[1]) | (parts[1] != parts[2]) | (parts[2] != parts[3]))
    around = [part[y, x].astype(np.int64) for part in parts]
    corners, ambiguous = [], set()
    for i in range(4):
        own, right, opposite, left = (around[(i + turn) % 4] for turn in range(4))
        inside = own > 0
        alone = inside & (own != left) & (own != right)
        corners.append(np.flatnonzero(alone & (own != opposite)))
        # The two beside it are of the label as well, and only the opposite one is not.
        corners.append(np.flatnonzero(inside & (own == left) & (own == right) & (own != opposite)))
        ambiguous |= set(own[alone & (own == opposite)].tolist())
        corners[-2:] = [np.column_stack([own[found], x[found], y[found]]) for found in corners[-2:]]
    return np.concatenate(corners), ambiguous


def link_corners(corners: NDArray[np.int64]) -> list[tuple[int, NDArray[np.int64]]]:
    """Order the corners of many labels to rings: rows of label, x, y -> (label, [K, 2] of x, y) of each ring."""
    n = len(corners)
    label, x, y = corners.T
    across, along = np.empty(n, np.int64), np.empty(n, np.int64)  # the other end of a corner's edge
    for partner, order in ((across, np.lexsort((x, y, label))), (along, np.lexsort((y, x, label)))):
        partner[order[::2]], partner[order[1::2]] = order[1::2], order[::2]
    left, right = across.tolist(), along.tolist()
    seen, ends, path = bytearray(n), [], []
    for start in range(n):
        if seen[start]:
            continue
        corner = start
        while not seen[corner]:
            other = left[corner]
            seen[corner] = seen[other] = 1
            path += [corner, other]
            corner = right[other]
        ends.append(len(path))
    points = corners[path]
    return [(int(points[begin, 0]), points[begin:end, 1:]) for begin, end in zip([0, *ends], ends, strict=False)]


def join_rings(rings: list[tuple[int, NDArray[np.int64]]]) -> dict[int, BaseGeometry]:
    """Join the rings of each label, which do not touch, to a polygon or several.

    Each ring begins at its leftmost corner, of several the uppermost.
    """
    if not rings:
        return {}
    lengths = [len(ring) for _, ring in rings]
    points = np.concatenate([ring for _, ring in rings]).astype(np.float64)
    # Linear rings are closed by shapely.
    made = shapely.linearrings(points, indices=np.repeat(np.arange(len(rings)), lengths))
    filled: NDArray[Any] = np.asarray(shapely.normalize(shapely.polygons(made)))
    of_label: dict[int, list[int]] = defaultdict(list)
    for number, (label, _) in enumerate(rings):
        of_label[label].append(number)
    return {
        label: filled[numbers[0]] if len(numbers) == 1 else _nest(filled[numbers])
        for label, numbers in of_label.items()
    }


def _nest(filled: NDArray[Any]) -> BaseGeometry:
    """Make polygons of filled rings that do not touch: one in an odd number of others is a hole of the smallest.

    The longest come first, of equal ones the rightmost: so GEOS orders the parts of a union of pixels.
    """
    begin = np.array([one.exterior.coords[0] for one in filled])
    filled = filled[np.lexsort((begin[:, 1], begin[:, 0], shapely.length(filled)))[::-1]]
    inside = shapely.contains(filled[:, None], filled[None])  # [i, j]: i is around j
    np.fill_diagonal(inside, False)
    depth, areas = inside.sum(axis=0), shapely.area(filled)
    holes: dict[int, list[Any]] = {int(i): [] for i in np.flatnonzero(depth % 2 == 0)}
    for j in np.flatnonzero(depth % 2 == 1):
        around = np.flatnonzero(inside[:, j])
        holes[int(around[areas[around].argmin()])].append(filled[j].exterior)
    polygons = [shapely.polygons(filled[i].exterior, holes=inner or None) for i, inner in holes.items()]
    return polygons[0] if len(polygons) == 1 else shapely.multipolygons(polygons)


def unite_pixels(labels: NDArray[Any], label: int, window: tuple[slice, slice]) -> BaseGeometry:
    """Return the outline of the one label in a window as the union of its pixels."""
    y, x = np.nonzero(labels[window] == label)
    y, x = y + window[0].start, x + window[1].start
    outline = shapely.normalize(shapely.coverage_union_all(shapely.box(x, y, x + 1, y + 1)))
    # Normalised rings start at a corner, so simplifying with tolerance 0 leaves only corners.
    return shapely.simplify(outline, 0)


@contextmanager
def uncollected() -> Iterator[None]:
    """Let Python's collector of cycles rest while millions of lists are made, none of them in a cycle.

    It would look through all of them again and again, for twice the time that making them takes.
    """
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def list_rings(outlines: Outlines) -> Rings:
    """Return the closed rings of each label as lists, as GeoJSON nests them: parts, rings of each, points x, y."""
    shapes = np.array([*outlines.values()], dtype=object)
    parts, shape_of_part = shapely.get_parts(shapes, return_index=True)
    rings, part_of_ring = shapely.get_rings(parts, return_index=True)
    points, ring_of_point = shapely.get_coordinates(rings, return_index=True)
    with uncollected():
        values = points.tolist()
    bounds = np.searchsorted(ring_of_point, np.arange(len(rings) + 1)).tolist()
    nested: list[list[list[list[float]]]] = [[] for _ in parts]
    for number, part in enumerate(part_of_ring.tolist()):
        nested[part].append(values[bounds[number] : bounds[number + 1]])
    found: Rings = {label: [] for label in outlines}
    labels = [*outlines]
    for number, shape in enumerate(shape_of_part.tolist()):
        found[labels[shape]].append(nested[number])
    return found
