"""Two runs side by side: tables and pictures of what the second gains over the first, image by image."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from nuclei.data.images import stretch_contrast
from nuclei.data.labels import find_outlines
from nuclei.evaluation.summary import format_gain, judge_gain
from nuclei.report.blocks import Picture, Table
from nuclei.report.charts import COLOURS, GRAY, name_type, new_figure, render_png, styled
from nuclei.report.pictures import Example, Labels, Pixels, busiest_window, draw_gallery
from nuclei.report.sections import KEPT, N_COLOURS, list_examples
from nuclei.report.tables import ID_LENGTH, WRONG, each_row, order_types

TILE_PX, WINDOW_PX = 320, 256
COUNTS = ("n_pred", *WRONG)  # of each run


@dataclass(frozen=True)
class Pair:
    """Hold an image, uint8 [H, W, 3], its truth what two runs made of it, int [H, W], and its row of pair_images."""

    row: Any
    image: Pixels
    truth: Labels
    first: Labels
    second: Labels


def pair_images(first: pd.DataFrame, second: pd.DataFrame) -> pd.DataFrame:
    """Return a row per image from the scores per image of two runs, the greatest change first.

    Columns: image_id, group, cluster, n_true; score and COUNTS of each, ending in _a and _b; change, second − first.
    """
    shared = ["image_id", "group", "cluster", "n_true"]
    own = ["image_id", "score", *COUNTS]
    table = first[[*shared, "score", *COUNTS]].merge(second[own], on="image_id", suffixes=("_a", "_b"))
    table["change"] = table["score_b"] - table["score_a"]
    order = table.assign(size=-table["change"].abs()).sort_values(["size", "image_id"])
    return order.drop(columns="size").reset_index(drop=True)


def gains_by_type_table(rows: Sequence[Mapping[str, Any]], names: tuple[str, str]) -> Table:
    """Tabulate gains: each row has what, n_images, n_groups, first, second, gain [mean, low, high]."""
    cells = [
        (
            name_type(row["what"]),
            judge_gain(row["gain"]),
            format_gain(row["gain"]),
            *(f"{row[which]:.4f}" for which in ("first", "second")),
            str(row["n_images"]),
            str(row["n_groups"]),
        )
        for row in rows
    ]
    columns = ("images", "verdict", "paired gain (95 % interval)", *names, "n", "groups")
    return Table(columns, cells, n_text=3)


def changes_table(images: pd.DataFrame, names: tuple[str, str]) -> Table:
    """Tabulate every image, the greatest change first: scores, counts of nuclei and of errors, first and second run."""
    rows = [
        (
            row.image_id[:ID_LENGTH],
            name_type(row.cluster),
            f"{row.change:+.4f}",
            f"{row.score_a:.4f}",
            f"{row.score_b:.4f}",
            str(row.n_true),
            *(f"{getattr(row, f'{count}_a')} → {getattr(row, f'{count}_b')}" for count in COUNTS),
        )
        for row in each_row(images)
    ]
    counts = ("predicted", *map(name_type, WRONG))
    return Table(("image", "image type", "change", *names, "nuclei", *counts), rows, n_text=2, tall=True)


@styled
def draw_pairs(images: pd.DataFrame, names: tuple[str, str], order: Sequence[str]) -> Figure:
    """Draw the score of each image in the second run against that in the first, coloured by type."""
    figure = new_figure(5.4, 7)
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color=GRAY, linestyle="--", linewidth=1)
    for cluster, colour in zip(order_types(images["cluster"], order), COLOURS * 9, strict=False):
        own = images[images["cluster"] == cluster]
        label = f"{name_type(cluster)} ({len(own)})"
        axes.scatter(own["score_a"], own["score_b"], s=16, color=colour, alpha=0.65, linewidths=0, label=label)
    axes.set(title="Each image in both runs", xlabel=f"score in {names[0]}", ylabel=f"score in {names[1]}")
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
    figure.legend(loc="outside lower center", ncols=3, fontsize=8.5)
    return figure


def pairs_picture(images: pd.DataFrame, names: tuple[str, str], order: Sequence[str]) -> Picture:
    """Show the score of each image in both runs."""
    better, worse = int((images["change"] > 0).sum()), int((images["change"] < 0).sum())
    said = f"{better} images are better in {names[1]}, {worse} worse, {len(images) - better - worse} equal"
    caption = f"Above the line, an image is better in {names[1]}: {said}."
    png = render_png(draw_pairs(images, names, order))
    return Picture("pairs", png, caption, alt=f"Chart of a point for each image: {said}", chart=True)


def changed_picture(name: str, caption: str, pairs: Iterable[Pair], names: tuple[str, str]) -> Picture:
    """Show images in rows of three, the truth and either run's outlines, where the runs differ most."""
    rows = [place_pair(pair, names) for pair in pairs]
    figure = draw_gallery(rows, TILE_PX, WINDOW_PX)
    alt = f"Outlines of truth and both runs: {list_examples([example for row in rows for example in row])}"
    return Picture(name, render_png(figure, KEPT, N_COLOURS), caption, wide=True, alt=alt)


def place_pair(pair: Pair, names: tuple[str, str]) -> list[Example]:
    """Return the truth and both runs' outlines of an image, in the window in which these differ most."""
    differs = find_outlines(pair.first) != find_outlines(pair.second)
    window = busiest_window(differs, WINDOW_PX)
    # Brightened by the contrast of the whole image: that of an empty corner is noise.
    image, truth = stretch_contrast(pair.image)[window], pair.truth[window]
    row = pair.row
    captions = [f"{name}: {getattr(row, f'score_{end}'):.3f}" for name, end in zip(names, "ab", strict=True)]
    wrong = [
        f"{sum(getattr(row, f'{kind}_{end}') for kind in WRONG)} errors, {getattr(row, f'missed_{end}')} missed, "
        f"{getattr(row, f'false_{end}')} false"
        for end in "ab"
    ]
    head = f"{row.image_id[:ID_LENGTH]}: {row.n_true} nuclei\n{name_type(row.cluster)}"
    return [
        Example(image, head, truth),
        Example(image, f"{captions[0]}\n{wrong[0]}", truth, pair.first[window]),
        Example(image, f"{captions[1]}\n{wrong[1]}", truth, pair.second[window]),
    ]


def count_groups(images: pd.DataFrame) -> int:
    """Return how many groups of images there are, which the interval is over."""
    return int(np.unique(images["group"].astype(str)).size)
