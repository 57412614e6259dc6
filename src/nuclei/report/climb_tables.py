"""The climb as a table and as a figure: what each adopted step scores, gains and took to train. Pure."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from nuclei.report.blocks import Table
from nuclei.report.charts import BLUE, GRAY, new_figure, spans, styled
from nuclei.report.tables import METHODS

COLUMNS = (
    "run",
    "method",
    "score",
    "score_low",
    "score_high",
    "mean_over_types",
    "gain",
    "gain_low",
    "gain_high",
    "networks",
    "training_pflop",
    "processor",
)
FIGURE = "score_against_compute"
ABOUT = (
    "All scores are out of fold, on the same images, by the competition's metric; gains are paired differences to the row "
    "above, both with their 95 % bootstrap interval over mosaic groups. Training counts the floating point operations of "
    "all networks' steps, three times those of the forward pass, whatever the processor: 1 PFLOP is about 1.3 "
    "seconds of an H200's matrix products, or three hours and a half of one AVX2 core's."
)


def name_step(row) -> str:
    return f"{row.run}: {METHODS[row.method]}"


def list_climb(table: pd.DataFrame) -> Table:
    """Tabulate the steps."""
    rows = []
    for row in table.itertuples():
        gain = "" if pd.isna(row.gain) else f"{row.gain:+.4f} ({row.gain_low:+.4f} to {row.gain_high:+.4f})"
        trained = f"{row.networks} networks, {row.training_pflop:.3g} PFLOP" if row.networks else "none"
        rows.append(
            (
                name_step(row),
                f"{row.score:.4f} ({row.score_low:.4f} to {row.score_high:.4f})",
                gain,
                f"{row.mean_over_types:.4f}",
                trained,
            )
        )
    return Table(
        ("step", "out-of-fold score", "gain over the row above", "mean over types", "training"), rows, n_text=1
    )


@styled
def draw_climb(table: pd.DataFrame) -> Figure:
    """Draw each step's score, with its interval, against the operations that training took, on a logarithmic axis."""
    figure = new_figure(3.6)
    axes = figure.subplots()
    trained = table[table["training_pflop"] > 0]
    score, low, high = (trained[name].to_numpy() for name in ("score", "score_low", "score_high"))
    axes.errorbar(
        trained["training_pflop"], score, yerr=spans(score, low, high), fmt="o", color=BLUE, ecolor=GRAY, elinewidth=1
    )
    if len(trained):
        axes.set_xscale("log")
    middle = np.sqrt(trained["training_pflop"].min() * trained["training_pflop"].max())
    for row in trained.itertuples():
        right = row.training_pflop <= middle  # a label goes towards the middle, where there is room
        axes.annotate(
            row.run,
            (row.training_pflop, row.score),
            xytext=(6 if right else -6, 0),
            textcoords="offset points",
            ha="left" if right else "right",
            va="center" if right else "bottom",
            fontsize=8,
        )
    for row in table[table["training_pflop"] == 0].itertuples():
        axes.axhline(row.score, color=GRAY, linestyle="--", linewidth=1)
        axes.annotate(
            f"{row.run}, no training",
            (1, row.score),
            xycoords=("axes fraction", "data"),
            ha="right",
            va="bottom",
            fontsize=8,
        )
    axes.set(xlabel="operations of training, PFLOP", ylabel="out-of-fold score")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.margins(x=0.15)
    return figure
