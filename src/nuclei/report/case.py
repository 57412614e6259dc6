"""The picture of all that was made of one image: result and errors, maps, candidates, and which of them were chosen."""

import textwrap
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial

import cv2
import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.patheffects import withStroke
from numpy.typing import NDArray
from scipy import ndimage

from nuclei.candidates.selection import paint
from nuclei.data.images import stretch_contrast
from nuclei.data.labels import count_touching, find_outlines
from nuclei.evaluation.metric import THRESHOLDS, score_image, sort_errors
from nuclei.report.charts import BLUE, GRAY, GREEN, ORANGE, PURPLE, SKY, VERMILION, name_type, styled
from nuclei.report.pictures import (
    GAP_PX,
    PREDICTION_COLOUR,
    TRUTH_COLOUR,
    ImageSteps,
    Labels,
    Pixels,
    Values,
    Window,
    as_bytes,
    best_of_each_node,
    busiest_window,
    colour_map,
    enlarge,
    fill_labels,
    outline_candidates,
    place_tiles,
)

# As in charts.draw_errors.
ERROR_COLOURS = {
    "found": GREEN,
    "merged": VERMILION,
    "split": PURPLE,
    "badly_outlined": BLUE,
    "missed": SKY,
    "false": ORANGE,
}
# Of few colours, these are kept as they are.
CASE_COLOURS = (
    TRUTH_COLOUR,
    PREDICTION_COLOUR,
    (0, 0, 0),
    (255, 255, 255),
    *(as_bytes(colour) for colour in ERROR_COLOURS.values()),
)
PANEL_COLUMNS = 4
TILE_PX = 385  # four of them and their gaps are 1600 pixels
TITLE_PX = 34  # above a tile
CAPTION_PX = 64  # below it
HEAD_LINE_PX, CHARACTERS_PER_TILE = 24, 27  # of the title above all
LINE_PX = 2
SMALLEST_INSIDE_PX = 9  # radius of the circle that two numbers need


@dataclass(frozen=True)
class Panel:
    """Hold a square picture, uint8 [S, S, 3], its title and caption, a colour bar (map, largest value) and a finish.

    The finish draws what is not pixels onto the axes.
    """

    title: str
    tile: Pixels
    caption: str = ""
    bar: tuple[str, float] | None = None
    finish: Callable[[Axes], None] | None = None


@styled
def draw_case(steps: ImageSteps, title: str, side_px: int = 256) -> Figure:
    """Draw everything about one image in at most 1600 pixels of width; leave out the steps that were not taken.

    First truth, instances and errors; then the maps; then the candidates: coloured by predicted and by true IoU, one
    IoU against the other, and the chosen ones with both in hundredths. All show the window of at most `side_px` that
    holds the most outlines; counts are of the whole image.
    """
    outlines = [find_outlines(labels) for labels in (steps.truth, steps.instances) if labels is not None]
    window = busiest_window(np.any(outlines, axis=0), side_px)
    steps = replace(steps, image=stretch_contrast(steps.image))
    rows = [show_result(steps, window), show_maps(steps.maps, window), show_candidates(steps, window)]
    return place_panels([list(row) for row in rows], title)


def place_panels(rows: list[list[Panel]], title: str) -> Figure:
    """Place panels in rows of at most PANEL_COLUMNS; longer rows are broken, empty ones left out."""
    rows = [row[i : i + PANEL_COLUMNS] for row in rows for i in range(0, len(row), PANEL_COLUMNS)]
    lines = textwrap.wrap(title, CHARACTERS_PER_TILE * max(map(len, rows)))
    figure = place_tiles(
        [[p.tile for p in row] for row in rows],
        [[p.caption for p in row] for row in rows],
        HEAD_LINE_PX * len(lines) + 14 + TITLE_PX,
        CAPTION_PX + TITLE_PX,
    )
    figure.text(
        GAP_PX / figure.bbox.width,
        1 - 10 / figure.bbox.height,
        "\n".join(lines),
        va="top",
        fontsize=9.5,
        fontweight="bold",
    )
    panels = [panel for row in rows for panel in row]
    for panel, axes in zip(panels, list(figure.axes), strict=True):
        axes.set_title(panel.title, fontsize=9.5, pad=4)
        if panel.bar:
            add_bar(axes, *panel.bar, below_px=30 if panel.caption else 8)
        if panel.finish:
            panel.finish(axes)
    return figure


def add_bar(axes: Axes, name: str, largest: float, below_px: int) -> None:
    """Add the bar of a colour map from 0 to a largest value below a tile's left half."""
    figure, box = axes.figure, axes.get_position()
    bar = figure.add_axes(
        (
            box.x0 + 0.01 * box.width,
            box.y0 - (below_px + 10) / figure.bbox.height,
            0.45 * box.width,
            10 / figure.bbox.height,
        )
    )
    bar.imshow(np.linspace(0, 1, 256)[None], cmap=name, aspect="auto", extent=(0, largest, 0, 1))
    bar.set(xticks=[0, largest / 2, largest], yticks=[])
    bar.xaxis.set_major_formatter("{x:.2g}")
    bar.tick_params(labelsize=7.5, length=2, pad=1)
    bar.grid(False)
    bar.spines[:].set_visible(False)


def show_result(steps: ImageSteps, window: Window) -> Iterator[Panel]:
    """Yield the image, the outlines of truth and prediction, and the errors."""
    image, truth, instances = steps.image, steps.truth, steps.instances
    rows, columns = window
    height, width = image.shape[:2]
    place = f"{height} × {width} px"
    if (rows.stop - rows.start, columns.stop - columns.start) != (height, width):
        place += f", shown: rows {rows.start} to {rows.stop - 1},\ncolumns {columns.start} to {columns.stop - 1}"
    yield Panel("image", enlarge(image[window], TILE_PX, smooth=True), place)
    score = ""
    if truth is not None:
        yield Panel("truth", outline_labels(image, truth, window, TRUTH_COLOUR), describe_labels(truth))
        mean, precisions = score_image(truth, instances)
        precision = dict(zip(THRESHOLDS.tolist(), precisions, strict=True))
        score = f"; score {mean:.3f}\nprecision {precision[0.5]:.2f} at IoU 0.5, {precision[0.75]:.2f} at 0.75"
    tile = outline_labels(image, instances, window, PREDICTION_COLOUR)
    yield Panel("prediction", tile, describe_labels(instances) + score)
    if truth is not None:
        kinds, false = sort_errors(truth, instances)
        counts = {kind: list(kinds.values()).count(kind) for kind in ERROR_COLOURS} | {"false": len(false)}
        tile = colour_errors(image, truth, instances, kinds, false, window)
        yield Panel("errors (white: prediction)", tile, finish=lambda axes: add_legend(axes, counts))


def describe_labels(labels: Labels) -> str:
    """Say how many nuclei there are and how many of them touch."""
    n = len(np.unique(labels[labels > 0]))
    return f"{n} {'nucleus' if n == 1 else 'nuclei'}, {count_touching(labels)} touching"


def outline_labels(image: Pixels, labels: Labels, window: Window, colour: tuple[int, int, int]) -> Pixels:
    """Outline labels on a window of the image in one colour."""
    tile = enlarge(image[window], TILE_PX, smooth=True)
    tile[find_outlines(enlarge(labels[window], TILE_PX, smooth=False), LINE_PX)] = colour
    return tile


def colour_errors(
    image: Pixels,
    truth: Labels,
    prediction: Labels,
    kinds: dict[int, str],
    false: list[int],
    window: Window,
) -> Pixels:
    """Fill each nucleus by its kind and each false prediction on a faint window, with the predictions' outlines."""
    tile = (0.4 * enlarge(image[window], TILE_PX, smooth=True)).astype(np.uint8)
    for labels, kind_of in ((prediction, dict.fromkeys(false, "false")), (truth, kinds)):
        palette = np.zeros((int(labels.max(initial=0)) + 1, 3))
        for label, kind in kind_of.items():
            palette[label] = 255 * np.array(mpl.colors.to_rgb(ERROR_COLOURS[kind]))
        shown = enlarge(labels[window], TILE_PX, smooth=False)
        inside = np.asarray((palette > 0).any(axis=1))[shown]
        edge = inside & find_outlines(shown, LINE_PX)
        tile[inside] = (0.45 * tile[inside] + 0.55 * palette[shown[inside]]).astype(np.uint8)
        tile[edge] = palette[shown[edge]].astype(np.uint8)
    tile[find_outlines(enlarge(prediction[window], TILE_PX, smooth=False))] = 255
    return tile


def add_legend(axes: Axes, counts: dict[str, int]) -> None:
    """Add the colours and counts of the kinds of errors below a tile."""
    patches = [Patch(color=ERROR_COLOURS[kind], label=f"{n} {name_type(kind)}") for kind, n in counts.items()]
    axes.legend(
        handles=patches,
        loc="upper left",
        bbox_to_anchor=(0, -0.012),
        ncols=3,
        fontsize=7,
        borderaxespad=0,
        borderpad=0.2,
        handlelength=0.8,
        handletextpad=0.4,
        columnspacing=0.7,
        labelspacing=0.4,
    )


def show_maps(maps: Mapping[str, Values], window: Window) -> Iterator[Panel]:
    """Yield the maps, each with its colour bar; disagreements, which are small, by their largest value."""
    for name, values in maps.items():
        unsure = "disagreement" in name
        largest = max(float(values.max(initial=0)), 0.01) if unsure else 1.0
        colours = "magma" if unsure else "gray"
        tile = enlarge(colour_map(values[window] / largest, colours), TILE_PX, smooth=True)
        yield Panel(name_type(name) if unsure else f"{name_type(name)} map", tile, bar=(colours, largest))


def show_candidates(steps: ImageSteps, window: Window) -> Iterator[Panel]:
    """Yield the candidates coloured by each known IoU, one IoU against the other, and the chosen candidates."""
    candidates, predicted, true, chosen = steps.candidates, steps.predicted_iou, steps.true_iou, steps.chosen
    if candidates is None:
        return
    known = {name: iou for name, iou in (("predicted", predicted), ("true", true)) if iou is not None}
    for name, iou in known.items():
        n_nodes = len(best_of_each_node(candidates, iou))
        yield Panel(
            f"candidates by {name} IoU",
            outline_candidates(steps.image, candidates, iou, window, TILE_PX),
            f"the best of each of {n_nodes:,} nodes",
            ("viridis", 1.0),
        )
    if predicted is not None and true is not None:
        blank = np.full((TILE_PX, TILE_PX, 3), 255, np.uint8)
        scatter = partial(scatter_ious, predicted=predicted, true=true, chosen=chosen)
        yield Panel("true against predicted IoU", blank, finish=scatter)
    if chosen is not None:
        labels, ious = paint(candidates, chosen), [iou[chosen] for iou in known.values()]
        caption = f"{len(chosen):,} of {len(candidates):,} candidates"
        if known:
            caption += f"\nIoU in hundredths: {' above '.join(known)}"
        yield Panel(
            "chosen candidates",
            fill_labels(steps.image, labels, window, TILE_PX),
            caption,
            finish=partial(label_ious, labels=labels[window], ious=ious),
        )


def scatter_ious(axes: Axes, predicted: Values, true: Values, chosen: NDArray[np.int64] | None) -> None:
    """Draw true against predicted IoU, [N] each, and mark the chosen ones, inside the box of a tile."""
    box, title = axes.get_position(), axes.get_title(loc="left")
    left, bottom, width, height = 0.16, 0.12, 0.81, 0.88  # of the tile
    axes.clear()
    axes.set_axis_on()
    axes.set_aspect("auto")
    axes.set_position((box.x0 + left * box.width, box.y0 + bottom * box.height, width * box.width, height * box.height))
    axes.set_title(title, x=-left / width, fontsize=9.5, pad=4)
    axes.plot([0, 1], [0, 1], color=GRAY, linestyle="--", linewidth=1)
    axes.scatter(predicted, true, s=9, color=BLUE, alpha=0.4, linewidths=0, label="candidate")
    if chosen is not None:
        axes.scatter(
            predicted[chosen], true[chosen], s=20, color=VERMILION, edgecolors="white", linewidths=0.6, label="chosen"
        )
    axes.set(xlim=(0, 1), ylim=(0, 1), xticks=np.linspace(0, 1, 6), yticks=np.linspace(0, 1, 6))
    axes.set_xlabel("predicted IoU", fontsize=8.5, labelpad=2)
    axes.set_ylabel("true IoU", fontsize=8.5, labelpad=2)
    axes.tick_params(labelsize=8, pad=2)
    axes.legend(loc="upper left", fontsize=8, handletextpad=0.2, borderaxespad=0.2)


def label_ious(axes: Axes, labels: Labels, ious: list[Values]) -> None:
    """Write IoUs in hundredths, [N] each and label i + 1 having entry i, one above the other, in large nuclei."""
    shown = enlarge(labels, TILE_PX, smooth=False)
    inside = (shown > 0) & ~find_outlines(shown)
    depth = cv2.distanceTransform(np.pad(inside, 1).view(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[1:-1, 1:-1]
    large = np.unique(shown[depth >= SMALLEST_INSIDE_PX])
    for label, (y, x) in zip(large, ndimage.maximum_position(depth, shown, large), strict=True):
        text = "\n".join(f"{100 * iou[label - 1]:.0f}" for iou in ious)
        axes.text(
            x,
            y,
            text,
            ha="center",
            va="center",
            fontsize=6,
            linespacing=0.95,
            color="white",
            path_effects=[withStroke(linewidth=1.5, foreground="black")],
        )
