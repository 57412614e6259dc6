"""What is measured of each nucleus: a table, made of all nuclei at once, as skimage's regionprops defines it."""

from itertools import pairwise
from typing import Any

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import ndimage

COLOURS = ("gray", "red", "green", "blue")
# Of a border pixel's place among its neighbours, 1 + 2 for each beside it + 10 for each at a corner, what it adds to
# the perimeter (Benkrid et al. 2000), as in skimage.measure.perimeter.
PERIMETER_WEIGHTS = np.zeros(50)
PERIMETER_WEIGHTS[[5, 7, 15, 17, 25, 27]] = 1
PERIMETER_WEIGHTS[[21, 33]] = np.sqrt(2)
PERIMETER_WEIGHTS[[13, 23]] = (1 + np.sqrt(2)) / 2
BESIDE, AT_CORNER = ((-1, 0), (0, -1), (0, 1), (1, 0)), ((-1, -1), (-1, 1), (1, -1), (1, 1))


def measure_nuclei(
    labels: NDArray[Any],
    image: NDArray[Any],
    pixel_size_um: float | None = None,
    origin: tuple[int, int] = (0, 0),
    shape: tuple[int, int] | None = None,
) -> pd.DataFrame:
    """Measure each nucleus of labels, int [H, W], on a gray image, [H, W], or RGB, [H, W, 3]: a row per label.

    All is defined as in skimage.measure.regionprops, units in names, y before x as in arrays; raw: the values of the
    user's file, such as 0..4095 of a 12-bit camera, those of a gray image alike in all colours. The box's bottom and
    right are exclusive, the orientation is the angle between the y axis and the major axis, −π/2..π/2. With the side of
    a pixel every length and area, the box aside, has a column in µm or µm² as well. origin: y and x of the first pixel
    in a larger image of this `shape`, in whose pixels places are then given. Raises ValueError where the image has
    another size.
    """
    if image.shape not in (labels.shape, (*labels.shape, 3)):
        raise ValueError(
            f"image has shape {image.shape}, labels {labels.shape}: a gray or RGB image of their size is needed"
        )
    y, x = np.nonzero(labels)
    present, number = np.unique(labels[y, x], return_inverse=True)
    windows = [window for window in ndimage.find_objects(labels.astype(np.int32)) if window is not None]
    box = np.array([(r.start, c.start, r.stop, c.stop) for r, c in windows], np.int64).reshape(-1, 4)
    area = np.bincount(number, minlength=len(present))
    moments = central_moments(y - box[number, 0], x - box[number, 1], number, area)
    box += np.array([*origin, *origin])
    table = pd.DataFrame(
        {
            "label": present.astype(np.int64),
            "centroid_y_px": moments["y"] + box[:, 0],
            "centroid_x_px": moments["x"] + box[:, 1],
            "area_px": area,
            "equivalent_diameter_px": np.sqrt(4 / np.pi * area),
            **describe_ellipse(moments),
            **dict(zip(("solidity", "perimeter_px"), measure_border(labels, y, x, number, area), strict=True)),
        }
    )
    table = table[[*table.columns[:7], "eccentricity", "solidity", "perimeter_px", "orientation_rad"]]
    for side, edge in zip(("top", "left", "bottom", "right"), box.T, strict=True):
        table[f"box_{side}_px"] = edge
    means, deviations = measure_colours(image[y, x], number, area)
    table["gray_mean_raw"], table["gray_std_raw"] = means[0], deviations
    for name, values in zip(COLOURS[1:], means[1:], strict=True):
        table[f"{name}_mean_raw"] = values
    height, width = shape or labels.shape
    table["touches_frame"] = (box[:, :2] == 0).any(axis=1) | (box[:, 2] == height) | (box[:, 3] == width)
    if pixel_size_um is not None:
        for name in [name for name in map(str, table) if name.endswith("_px") and not name.startswith("box_")]:
            scale, unit = (pixel_size_um**2, "um2") if name == "area_px" else (pixel_size_um, "um")
            table[f"{name.removesuffix('_px')}_{unit}"] = table[name] * scale
    return table


def central_moments(
    y: NDArray[np.int64], x: NDArray[np.int64], number: NDArray[np.int64], area: NDArray[np.int64]
) -> dict[str, NDArray[np.float64]]:
    """Return the centroid, y and x, and the variances, yy, yx and xx, of pixels numbered by their nucleus."""
    mean_y, mean_x = (np.bincount(number, values, len(area)) / area for values in (y, x))
    dy, dx = y - mean_y[number], x - mean_x[number]
    second = {"yy": dy * dy, "yx": dy * dx, "xx": dx * dx}
    return {
        "y": mean_y,
        "x": mean_x,
        **{name: np.bincount(number, values, len(area)) / area for name, values in second.items()},
    }


def describe_ellipse(moments: dict[str, NDArray[np.float64]]) -> dict[str, NDArray[np.float64]]:
    """Return axes, eccentricity and orientation of the ellipses with these moments; 0 degrees where none is longer."""
    yy, yx, xx = (moments[name] for name in ("yy", "yx", "xx"))
    yx = np.where(np.abs(yx) < 1e-9, 0, yx)  # what rounding leaves of a sum that is 0
    half, spread = (yy + xx) / 2, np.hypot((yy - xx) / 2, yx)
    major, minor = half + spread, np.maximum(half - spread, 0)
    flat = np.abs(yy - xx) < 1e-9
    angle = np.where(flat, np.where(yx > 0, np.pi / 4, -np.pi / 4), 0.5 * np.arctan2(2 * yx, yy - xx))
    return {
        "major_axis_px": 4 * np.sqrt(major),
        "minor_axis_px": 4 * np.sqrt(minor),
        "eccentricity": np.sqrt(1 - minor / np.where(major > 0, major, 1)) * (major > 0),
        "orientation_rad": angle,
    }


def measure_border(
    labels: NDArray[Any], y: NDArray[np.int64], x: NDArray[np.int64], number: NDArray[np.int64], area: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the solidity and the perimeter of each nucleus, whose pixels are y, x and numbered by it."""
    framed = np.pad(labels, 1)
    own = framed[y + 1, x + 1]
    outer = np.zeros(len(y), bool)
    for dy, dx in BESIDE:
        outer |= framed[y + 1 + dy, x + 1 + dx] != own
    y, x, number = y[outer], x[outer], number[outer]
    border = np.zeros_like(framed)
    border[y + 1, x + 1] = own[outer]
    place = np.ones(len(y), np.int64)
    for worth, steps in ((2, BESIDE), (10, AT_CORNER)):
        for dy, dx in steps:
            place += worth * (border[y + 1 + dy, x + 1 + dx] == own[outer])
    perimeter = np.bincount(number, PERIMETER_WEIGHTS[place], len(area)).astype(np.float64)
    return area / count_hulls(y, x, number, len(area)), perimeter


def count_hulls(y: NDArray[np.int64], x: NDArray[np.int64], number: NDArray[np.int64], n: int) -> NDArray[np.int64]:
    """Return how many pixel centres lie in the convex hull of the border pixels of each of n nuclei, [n].

    A pixel counts by the middles of its sides, as in skimage.morphology.convex_hull_image. All is done in whole
    numbers, twice the coordinates, so that points on a hull's edge are counted as such.
    """
    order = np.argsort(number, kind="stable")
    centres = 2 * np.column_stack([x, y])[order]
    points = (centres[:, None] + np.array([(1, 0), (-1, 0), (0, 1), (0, -1)])).astype(np.int32)
    bounds = np.searchsorted(number[order], np.arange(n + 1))
    hulls = [cv2.convexHull(points[a:b].reshape(-1, 2))[:, 0] for a, b in pairwise(bounds)]
    if not hulls:
        return np.zeros(0, np.int64)
    start = np.concatenate(hulls).astype(np.int64)
    lengths = np.array([len(hull) for hull in hulls])
    of_hull = np.repeat(np.arange(n), lengths)
    following = np.arange(1, len(start) + 1)
    following[np.cumsum(lengths) - 1] -= lengths  # a hull's last corner is followed by its first
    end = start[following]
    sloped = start[:, 1] != end[:, 1]
    start, end, of_hull = start[sloped], end[sloped], of_hull[sloped]
    down = end[:, 1] > start[:, 1]
    upper, lower = (np.where(down[:, None], *pair) for pair in ((start, end), (end, start)))
    # Rows of pixel centres are even; an edge has those from its upper end to above its lower one.
    first, last = -(-upper[:, 1] // 2), -(-lower[:, 1] // 2)
    edge = np.repeat(np.arange(len(first)), last - first)
    row = 2 * (np.arange(len(edge)) - np.repeat(np.cumsum(last - first) - (last - first), last - first) + first[edge])
    slope, rise = (lower - upper)[edge].T
    reach = upper[edge, 0] * rise + (row - upper[edge, 1]) * slope  # x of the edge at the row, times rise
    clockwise = np.bincount(of_hull, (start[:, 0] + end[:, 0]) * (end[:, 1] - start[:, 1]), n) > 0
    is_right = down[edge] == clockwise[of_hull[edge]]
    # Of a row's pixels those from the left edge's x on, up to the right edge's.
    counted = np.where(is_right, reach // (2 * rise) + 1, -(-reach // (2 * rise)) * -1)
    return np.bincount(of_hull[edge], counted, n).astype(np.int64)


def measure_colours(
    values: NDArray[Any], number: NDArray[np.int64], area: NDArray[np.int64]
) -> tuple[list[NDArray[np.float64]], NDArray[np.float64]]:
    """Return the means of gray, red, green and blue of each nucleus, and the standard deviation of gray.

    values: of the pixels of nuclei, [N] gray or [N, 3] RGB.
    """
    gray = values if values.ndim == 1 else to_gray(values)
    colours = [gray] * 4 if values.ndim == 1 else [gray, *values.T]
    means = [np.bincount(number, colour, len(area)) / area for colour in colours]
    variance = np.bincount(number, (gray - means[0][number]) ** 2, len(area)) / area
    return means, np.sqrt(variance)


def to_gray(values: NDArray[Any]) -> NDArray[Any]:
    """Return the gray values of colours, [N, 3] -> [N], in their units."""
    # OpenCV weighs the colours of these types alone.
    known = values if values.dtype in (np.uint8, np.uint16, np.float32) else values.astype(np.float32)
    if not len(known):
        return known[:, 0]
    return np.asarray(cv2.cvtColor(np.ascontiguousarray(known[None]), cv2.COLOR_RGB2GRAY)[0])
