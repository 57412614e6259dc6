"""Pictures of a report: images with the outlines of truth and prediction, and a prediction step by step."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import cv2
import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from nuclei.candidates.table import Candidates
from nuclei.data.images import stretch_contrast
from nuclei.data.labels import find_outlines
from nuclei.report.charts import DPI, styled

Pixels = NDArray[np.uint8]
Labels = NDArray[Any]  # of any integer type
Values = NDArray[np.floating[Any]]
Window = tuple[slice, slice]  # rows and columns of an image
# Both are seen on black, on white and on purple, and remain distinct under every kind of colour vision.
TRUTH_COLOUR, PREDICTION_COLOUR = (0, 190, 255), (255, 96, 0)
GAP_PX = 12
CAPTION_PX = 52
HEAD_PX = 44
OVERVIEW_PX, OVERVIEW_COLUMNS = 1500, 3


@dataclass(frozen=True)
class Example:
    """Hold one image of a gallery, uint8 [H, W, 3], the label images int [H, W] outlined on it, and its caption."""

    image: Pixels
    caption: str
    truth: Labels | None = None
    prediction: Labels | None = None
    outlined: bool = True


@dataclass(frozen=True)
class ImageSteps:
    """Hold what every step made of one image; None, or no maps, for a step that was not taken.

    Candidates are N; `chosen` are the indices of those selected.
    """

    image: Pixels  # uint8 [H, W, 3]
    instances: Labels  # int [H, W], the result
    maps: Mapping[str, Values]  # float [H, W] each, in 0..1
    truth: Labels | None = None  # int [H, W]
    energy: Values | None = None  # float [H, W] in 0..1
    candidates: Candidates | None = None
    predicted_iou: Values | None = None  # float [N] in 0..1
    true_iou: Values | None = None  # float [N] in 0..1
    chosen: NDArray[np.int64] | None = None


def as_plain(example: Example, caption: str) -> Example:
    """Return an example that shows the same window without outlines."""
    return replace(example, caption=caption, outlined=False)


def busiest_window(marks: NDArray[np.bool_], side_px: int) -> Window:
    """Return the square of at most `side_px` that holds the most of `marks`, bool [H, W]; of equal ones the central."""
    side = min(side_px, *marks.shape)
    sums = np.pad(marks.astype(np.int64).cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    count = sums[side:, side:] - sums[:-side, side:] - sums[side:, :-side] + sums[:-side, :-side]
    places = np.argwhere(count == count.max())
    top, left = places[np.square(places - (np.array(count.shape) - 1) / 2).sum(1).argmin()].tolist()
    return slice(top, top + side), slice(left, left + side)


def enlarge(array: NDArray[Any], size_px: int, smooth: bool) -> NDArray[Any]:
    """Scale a square image (`smooth`) or label image to `size_px` × `size_px`."""
    if smooth:
        how = cv2.INTER_CUBIC if size_px >= len(array) else cv2.INTER_AREA
        resized: NDArray[Any] = cv2.resize(array, (size_px, size_px), interpolation=how)
        return resized
    rows = np.arange(size_px) * len(array) // size_px
    chosen: NDArray[Any] = array[rows[:, None], rows]
    return chosen


def make_tile(example: Example, size_px: int, side_px: int) -> Pixels:
    """Draw an example as a square tile, uint8 [size_px, size_px, 3]: its busiest window of at most `side_px`, enlarged.

    The truth's outline is twice as thick as the prediction's above it: where the two agree, both are seen.
    """
    drawn = [labels for labels in (example.truth, example.prediction) if labels is not None]
    nowhere = np.zeros(example.image.shape[:2], bool)
    marks = np.any([nowhere, *map(find_outlines, drawn)], axis=0)
    window = busiest_window(marks, side_px)
    # Stretched by the contrast of the whole image: that of an empty corner is noise.
    tile = enlarge(stretch_contrast(example.image)[window], size_px, smooth=True)
    line_px = max(1, round(size_px / 220))
    layers = (example.truth, 2 * line_px, TRUTH_COLOUR), (example.prediction, line_px, PREDICTION_COLOUR)
    for labels, thickness_px, colour in layers if example.outlined else ():
        if labels is not None:
            tile[find_outlines(enlarge(labels[window], size_px, smooth=False), thickness_px)] = colour
    return tile


def place_tiles(
    tiles: Sequence[Sequence[Pixels]], captions: Sequence[Sequence[str]], head_px: int, caption_px: int
) -> Figure:
    """Return a figure in which tiles of one size are placed in rows, pixel for pixel, with captions below them."""
    size = tiles[0][0].shape[0]
    n_rows, n_columns = len(tiles), max(map(len, tiles))
    width, height = n_columns * (size + GAP_PX) + GAP_PX, n_rows * (size + caption_px) + head_px
    figure = Figure((width / DPI, height / DPI), dpi=DPI)
    FigureCanvasAgg(figure)
    for r, row in enumerate(tiles):
        for c, tile in enumerate(row):
            left, top = GAP_PX + c * (size + GAP_PX), head_px + r * (size + caption_px)
            axes = figure.add_axes((left / width, 1 - (top + size) / height, size / width, size / height))
            axes.imshow(tile, interpolation="nearest")
            axes.set_axis_off()
            figure.text(
                left / width, 1 - (top + size + 6) / height, captions[r][c], va="top", fontsize=8, linespacing=1.25
            )
    return figure


@styled
def draw_gallery(rows: Sequence[Sequence[Example]], size_px: int = 520, side_px: int = 320) -> Figure:
    """Draw rows of examples, each with its outlines, and one legend."""
    tiles = [[make_tile(example, size_px, side_px) for example in row] for row in rows]
    figure = place_tiles(tiles, [[example.caption for example in row] for row in rows], HEAD_PX, CAPTION_PX)
    names = {"truth": TRUTH_COLOUR, "prediction": PREDICTION_COLOUR}
    lines = [Line2D([], [], color=as_rgb(colour), linewidth=3) for colour in names.values()]
    figure.legend(
        lines,
        list(names),
        loc="upper left",
        ncols=2,
        fontsize=9.5,
        borderaxespad=0.3,
        bbox_to_anchor=(0, 1),
        frameon=False,
    )
    return figure


def as_rgb(colour: tuple[int, int, int]) -> tuple[float, float, float]:
    """Return a colour of 0..255 as matplotlib has it, in 0..1."""
    red, green, blue = (value / 255 for value in colour)
    return red, green, blue


def as_bytes(colour: str) -> tuple[int, int, int]:
    """Return a colour that matplotlib knows, such as '#0072b2', as red, green and blue in 0..255."""
    red, green, blue = (round(255 * part) for part in mpl.colors.to_rgb(colour))
    return red, green, blue


def draw_overview(examples: Sequence[Example]) -> Figure:
    """Draw a run at a glance: examples with their outlines in rows of three, OVERVIEW_PX wide, and one legend."""
    size_px = (OVERVIEW_PX - GAP_PX) // OVERVIEW_COLUMNS - GAP_PX
    rows = [examples[i : i + OVERVIEW_COLUMNS] for i in range(0, len(examples), OVERVIEW_COLUMNS)]
    return draw_gallery(rows, size_px, side_px=256)


def colour_map(values: Values, name: str) -> Pixels:
    """Colour values in 0..1 by one of matplotlib's colour maps: [...] -> uint8 [..., 3]."""
    coloured: Pixels = mpl.colormaps[name](np.clip(values, 0, 1), bytes=True)[..., :3]
    return coloured


def best_of_each_node(candidates: Candidates, score: Values) -> NDArray[np.int64]:
    """Return the index of each node's best candidate by `score` [N], those with the best scores last."""
    order = np.argsort(score, kind="stable")
    best = np.full(len(candidates.parent), -1)
    best[candidates.node[order]] = order
    found = best[best >= 0]
    return found[np.argsort(score[found], kind="stable")]


def outline_candidates(image: Pixels, candidates: Candidates, score: Values, window: Window, size_px: int) -> Pixels:
    """Outline each node's best candidate, coloured by its score in 0..1, on a faint window of the image."""
    tile = enlarge(image[window], size_px, smooth=True)
    tile = (tile * 0.45).astype(np.uint8)
    colours = colour_map(score, "viridis")
    for i in best_of_each_node(candidates, score):
        mask = np.zeros(candidates.shape, np.uint8)
        mask.flat[candidates.pixels[candidates.indptr[i] : candidates.indptr[i + 1]]] = 1
        tile[find_outlines(enlarge(mask[window], size_px, smooth=False), 2)] = colours[i]
    return tile


def fill_labels(image: Pixels, labels: Labels, window: Window, size_px: int) -> Pixels:
    """Tint and outline each label of a window of the image in a colour of its own."""
    tile = enlarge(image[window], size_px, smooth=True)
    shown = enlarge(labels[window], size_px, smooth=False)
    # Steps of the golden ratio keep the hues of consecutive labels, which are often neighbours, apart.
    hues = (np.arange(labels.max() + 1) * 0.618034) % 1
    palette = np.rint(255 * mpl.colors.hsv_to_rgb(np.stack([hues, np.full_like(hues, 0.75), np.ones_like(hues)], 1)))
    inside, edge = shown > 0, find_outlines(shown, 2)
    tile[inside] = (0.6 * tile[inside] + 0.4 * palette[shown[inside]]).astype(np.uint8)
    tile[edge] = palette[shown[edge]]
    return tile


@styled
def draw_pipeline(steps: ImageSteps, size_px: int = 250, side_px: int = 160) -> Figure:
    """Draw the steps from an image to its nuclei, on the window of at most `side_px` with the most outlines.

    Between maps and nuclei come the candidates outlined by their predicted IoU, or else the energy.
    """
    window = busiest_window(find_outlines(steps.instances), side_px)
    image = stretch_contrast(steps.image)
    panels = {"image": enlarge(image[window], size_px, smooth=True)}
    panels |= {
        f"{name} map": enlarge(colour_map(value[window], "gray"), size_px, smooth=True)
        for name, value in steps.maps.items()
        if name in ("mask", "border", "center")
    }
    if steps.candidates is not None and steps.predicted_iou is not None:
        panels["candidates"] = outline_candidates(image, steps.candidates, steps.predicted_iou, window, size_px)
    elif steps.energy is not None:
        panels["energy"] = enlarge(colour_map(steps.energy[window], "viridis"), size_px, smooth=True)
    panels["nuclei"] = fill_labels(image, steps.instances, window, size_px)
    caption_px = 38 if "candidates" in panels else GAP_PX
    figure = place_tiles([list(panels.values())], [[""] * len(panels)], 34, caption_px)
    height = figure.bbox.height
    for i, (name, axes) in enumerate(zip(panels, figure.axes, strict=True)):
        number = f"{i + 1}  {name}"
        axes.set_title(number, fontsize=9.5, fontweight="bold", pad=4)
        if name == "candidates":
            box = axes.get_position()
            left, bottom = box.x0 + 0.04 * box.width, 11 / height
            bar = figure.add_axes((left, bottom, 0.3 * box.width, 14 / height))
            bar.imshow(np.linspace(0, 1, 256)[None], cmap="viridis", aspect="auto")
            bar.set_axis_off()
            middle = bottom + 7 / height
            figure.text(left - 0.015 * box.width, middle, "0", fontsize=7.5, va="center", ha="right")
            figure.text(left + 0.32 * box.width, middle, "1  predicted IoU", fontsize=7.5, va="center")
    return figure
