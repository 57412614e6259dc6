"""Runs compared: ablations over their bases, the climb step by step, the field's five systems. Tables and figures.

Each comparison is a table with one row per run, in the columns named below. Scores are out of fold; a gain is a paired
difference with the ends of its 95 % interval, empty where there is nothing to compare with.

Scores of the field: "Deconvoluting Convolutions", talk at a Data Science Meetup, April 2018: ranges of the
leaderboard's mean average precision, on images that this project has no truth of.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter

from nuclei.errors import UserError
from nuclei.evaluation.summary import format_gain, format_interval, format_score, judge_gain
from nuclei.report.blocks import Block, Link, Paragraph, Picture, Table
from nuclei.report.charts import (
    BLUE,
    GRAY,
    GREEN,
    SKY,
    VERMILION,
    WIDTH_IN,
    new_figure,
    render_png,
    spans,
    styled,
    widen,
)
from nuclei.report.placement import place_labels
from nuclei.report.tables import each_row, name_method
from nuclei.report.unseen import NOT_MEASURED

ABLATION_COLUMNS = (
    "ablation",
    "base",
    "kind",
    "changed",
    "hypothesis",
    "n_images",
    "score",
    "score_low",
    "score_high",
    "gain",
    "gain_low",
    "gain_high",
    "seeds",
    "seed_spread",
    "seconds",
)
VERDICTS = {"better": GREEN, "undecided": GRAY, "identical": SKY, "worse": VERMILION}  # than the base -> its colour
FindPage = Callable[[str], str | None]  # from a run's name to the address of its report, where it has one
MARKERS = {"retrain": "o", "post-process": "D"}
ABOUT_ABLATIONS = (
    "Each row changes its base in one respect. The gain is the ablation's score minus that of its base on the same "
    "images, with the 95 % bootstrap interval over mosaic groups: where a part is taken away, a negative gain means "
    "that the part helped. A change is undecided if zero is inside its interval, and identical if every image has the "
    "score that it has in the base. The interval covers the choice of "
    "images, not the luck of a training: where several seeds were trained, the spread between them is in the table."
)


def check_ablations(table: pd.DataFrame) -> None:
    """Raise UserError naming the columns that a table of ablations lacks."""
    if missing := [name for name in ABLATION_COLUMNS if name not in table]:
        raise UserError(
            f"the table of ablations lacks the columns {', '.join(missing)}; it has {', '.join(map(str, table))}"
        )


def add_ablations(before: pd.DataFrame, table: pd.DataFrame) -> pd.DataFrame:
    """Return `table` with the rows of an earlier one that it does not have: few have the time to run all at once.

    Rows whose base has another score by now are left out: what they were compared with no longer exists. Raises
    UserError as check_ablations does.
    """
    check_ablations(before)
    others = before[~before["ablation"].isin(table["ablation"])]
    now, then = (others["base"].map(rows.set_index("ablation")["score"]) for rows in (table, before))
    parts = [part for part in (others[now.isna() | (now == then)], table) if len(part)]
    return pd.concat(parts, ignore_index=True) if parts else table


def judge(table: pd.DataFrame) -> pd.Series:
    """Return what can be told of each row: better or worse than its base, identical, undecided, or base."""
    gains = table[["gain", "gain_low", "gain_high"]].to_numpy(float)
    return pd.Series(
        ["base" if np.isnan(gain[0]) else judge_gain(gain.tolist()) for gain in gains], table.index, dtype=object
    )


def sort_ablations(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table with bases first, then the ablations from the greatest gain to the greatest loss."""
    check_ablations(table)
    order = table.assign(is_base=table["gain"].isna()).sort_values(
        ["is_base", "gain", "ablation"], ascending=[False, False, True]
    )
    return order.drop(columns="is_base").reset_index(drop=True)


def find_none(_: str) -> None:
    """Find no page of any run."""


def link_run(name: str, find_page: FindPage) -> str:
    """Return a run's name, as a link to its page where there is one."""
    address = find_page(name)
    return Link(name, address) if address else name


def ablations_table(table: pd.DataFrame, find_page: FindPage = find_none) -> Table:
    """Tabulate the ablations, bases first, then by gain; names of runs lead to the pages that `find_page` finds."""
    table = sort_ablations(table)
    rows = [
        (
            link_run(row.ablation, find_page),
            verdict,
            name_gain(row),
            as_text(row.changed),
            as_text(row.hypothesis),
            link_run(as_text(row.base), find_page),
            as_text(row.kind),
            *format_interval([row.score, row.score_low, row.score_high]),
            as_text(row.n_images, ".0f"),
            as_text(row.seeds, ".0f"),
            as_text(row.seed_spread, ".4f"),
            as_text(row.seconds / 60, ",.0f"),
        )
        for row, verdict in zip(each_row(table), judge(table), strict=True)
    ]
    columns = (
        "ablation",
        "verdict",
        "paired gain (95 % interval)",
        "changed",
        "hypothesis",
        "base",
        "kind",
        "score",
        "95 % interval",
        "images",
        "seeds",
        "spread over seeds",
        "minutes",
    )
    return Table(columns, rows, n_text=7)


def verdict_table(table: pd.DataFrame, verdict: str) -> Table:
    """Tabulate the ablations of one verdict, the farthest from zero first: the gain, what was changed, and why."""
    chosen = sort_ablations(table)
    chosen = chosen[judge(chosen) == verdict]
    chosen = chosen.iloc[np.argsort(-chosen["gain"].abs(), kind="stable")]
    rows = [(row.ablation, name_gain(row), as_text(row.changed), as_text(row.hypothesis)) for row in each_row(chosen)]
    return Table(("ablation", "paired gain (95 % interval)", "changed", "hypothesis"), rows, n_text=4)


def gains_table(table: pd.DataFrame, find_page: FindPage = find_none) -> Table:
    """Tabulate score, gain and verdict alone, in the order of ablations_table: narrow enough for a terminal."""
    table = sort_ablations(table)
    rows = [
        (
            link_run(row.ablation, find_page),
            link_run(as_text(row.base), find_page),
            f"{row.score:.4f}",
            name_gain(row),
            verdict,
        )
        for row, verdict in zip(each_row(table), judge(table), strict=True)
    ]
    return Table(("ablation", "base", "score", "paired gain (95 % interval)", "verdict"), rows, n_text=2)


def name_score(row: Any) -> str:
    """Return a row's score and its interval in one cell."""
    return format_score([row.score, row.score_low, row.score_high])


def name_gain(row: Any) -> str:
    """Return a row's gain and its interval in one cell, nothing for a row that is compared with none."""
    return "" if pd.isna(row.gain) else format_gain([row.gain, row.gain_low, row.gain_high])


def as_text(value: Any, form: str = "") -> str:
    """Return a cell as text, nothing for one that is empty."""
    return "" if pd.isna(value) else format(value, form)


@styled
def draw_ablations(table: pd.DataFrame) -> Figure:
    """Draw the gain of each ablation with its interval: green above zero, red below, gray undecided."""
    table = sort_ablations(table)
    table = table[table["gain"].notna()].reset_index(drop=True)
    figure = new_figure(1.5 + 0.3 * len(table), WIDTH_IN + 1.4)
    axes = figure.subplots()
    for i, (row, verdict) in enumerate(zip(each_row(table), judge(table), strict=True)):
        gain, low, high = np.array([[row.gain], [row.gain_low], [row.gain_high]])
        axes.errorbar(
            gain,
            [i],
            xerr=spans(gain, low, high),
            fmt=MARKERS.get(row.kind, "s"),
            color=VERDICTS[verdict],
            capsize=3,
            elinewidth=1.6,
        )
        text = f"{round(row.gain, 4) + 0.0:+.4f}".replace("-", "−")
        axes.text(1.01, i, text, transform=axes.get_yaxis_transform(), va="center", fontsize=9, color=VERDICTS[verdict])
    axes.axvline(0, color=GRAY, linewidth=1)
    several = table["base"].nunique() > 1
    names = [f"{row.ablation} (of {row.base})" if several else row.ablation for row in each_row(table)]
    axes.set_yticks(range(len(table)), names, fontsize=9)
    axes.set_ylim(max(len(table), 1) - 0.4, -0.6)
    axes.set(title="What each change gains or loses", xlabel="score minus that of the base (95 % interval)")
    axes.margins(x=0.08)
    widen(axes)
    marks = [
        Line2D([], [], marker="s", linestyle="none", color=colour, label=verdict)
        for verdict, colour in VERDICTS.items()
        if verdict != "identical" or verdict in set(judge(table))
    ]
    marks += [
        Line2D([], [], marker=marker, linestyle="none", color=GRAY, markerfacecolor="none", label=kind)
        for kind, marker in MARKERS.items()
        if kind in set(table["kind"])
    ]
    figure.legend(handles=marks, loc="outside lower center", ncols=len(marks), handletextpad=0.2, columnspacing=1.4)
    return figure


def ablation_blocks(table: pd.DataFrame, find_page: FindPage = find_none) -> Iterator[Block]:
    """Explain, draw and tabulate all ablations; names of runs lead to the pages that `find_page` finds."""
    yield Paragraph(ABOUT_ABLATIONS)
    table = sort_ablations(table)
    if table["gain"].notna().any():
        yield Picture(
            "ablations",
            render_png(draw_ablations(table)),
            "Paired gain of each ablation over its base: green above zero, gray undecided, red below zero.",
            alt="Chart of gains: " + "; ".join(f"{row.ablation} {name_gain(row)}" for row in each_row(table)),
            chart=True,
        )
    yield ablations_table(table, find_page)


CLIMB_COLUMNS = (
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
CLIMB_FIGURE = "score_against_compute"
ABOUT_CLIMB = (
    "All scores are out of fold, on the same images, by the competition's metric; gains are paired differences "
    "to the row above, both with their 95 % bootstrap interval over mosaic groups. Training counts the floating point "
    "operations of all networks' steps, three times those of the forward pass, whatever the processor: 1 PFLOP is "
    "about 1.3 seconds of an H200's matrix products, or three hours and a half of one AVX2 core's."
)


def climb_table(table: pd.DataFrame, find_page: FindPage = find_none) -> Table:
    """Tabulate the steps of a climb, columns CLIMB_COLUMNS; a step leads to the page that `find_page` finds."""
    rows = [
        (
            Link(name_climber(row), address) if (address := find_page(row.run)) else name_climber(row),
            name_score(row),
            name_gain(row),
            f"{row.mean_over_types:.4f}",
            f"{row.networks} networks, {row.training_pflop:.3g} PFLOP" if row.networks else "none",
        )
        for row in each_row(table)
    ]
    columns = ("step", "out-of-fold score", "gain over the row above", "mean over types", "training")
    return Table(columns, rows)


def name_climber(row: Any) -> str:
    """Return a step of the climb by its run and its method."""
    return f"{row.run}: {name_method(row.method)}"


@styled
def draw_climb(table: pd.DataFrame) -> Figure:
    """Draw each step's score, with its interval, against the operations that training took, on a logarithmic axis."""
    figure = new_figure(4.4, WIDTH_IN + 1.4)
    axes = figure.subplots()
    trained = table[table["training_pflop"] > 0]
    score, low, high = (trained[name].to_numpy() for name in ("score", "score_low", "score_high"))
    axes.errorbar(
        trained["training_pflop"], score, yerr=spans(score, low, high), fmt="o", color=BLUE, ecolor=GRAY, elinewidth=1
    )
    if len(trained):
        axes.set_xscale("log")
    untrained = table[table["training_pflop"] == 0]
    for row in each_row(untrained):
        axes.axhline(row.score, color=GRAY, linestyle="--", linewidth=1)
    axes.set(xlabel="operations of training, PFLOP", ylabel="out-of-fold score")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.margins(x=0.3, y=0.12)
    axes.autoscale_view()
    figure.canvas.draw()  # places are free or taken in the final layout
    left, right = axes.get_xlim()
    bars = [np.array([(r.training_pflop, r.score_low), (r.training_pflop, r.score_high)]) for r in each_row(trained)]
    bars += [np.array([(left, row.score), (right, row.score)]) for row in each_row(untrained)]
    points = [(row.training_pflop, row.score) for row in each_row(trained)]
    points += [(right, row.score) for row in each_row(untrained)]
    texts = [name_climber(row) for row in each_row(trained)]
    texts += [f"{name_climber(row)}, no training" for row in each_row(untrained)]
    place_labels(axes, points, texts, bars)
    return figure


@dataclass(frozen=True)
class System:
    """Hold an approach by the talk's name, and the range of scores that it gives."""

    title: str
    low: float
    high: float


SYSTEMS = {
    "classical": System("classical image processing", 0.20, 0.28),
    "vanilla_unet": System("vanilla U-Net", 0.25, 0.42),
    "mask_rcnn": System("Mask R-CNN", 0.37, 0.50),
    "deep_watershed": System("U-Net + deep watershed", 0.45, 0.55),
    "full": System("full ensemble with candidate scoring", 0.65, 0.65),
}
SYSTEM_COLUMNS = (
    "system",
    "run",
    "score",
    "score_low",
    "score_high",
    "mean_over_types",
    "recall",
    "offset_percent",
    "unseen_score",
    "unseen_low",
    "unseen_high",
    "unseen_recall",
    "unseen_offset_percent",
    "train_seconds",
    "trainings",
    "train_budget",
    "rest_seconds",
    "parameters",
    "weights",
    "processor",
)


def sort_systems(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """Return the table of runs, columns SYSTEM_COLUMNS, in the order of SYSTEMS; runs of no system come last."""
    order = list(SYSTEMS)
    table = pd.DataFrame(rows, columns=SYSTEM_COLUMNS)
    place = table["system"].map({name: i for i, name in enumerate(order)}).fillna(len(order))
    return table.assign(place=place).sort_values(["place", "score"]).drop(columns="place").reset_index(drop=True)


def systems_table(table: pd.DataFrame, find_page: FindPage = find_none, with_talk: bool = True) -> Table:
    """Tabulate runs, columns SYSTEM_COLUMNS, beside the talk's scores of their systems, unless of synthetic images.

    Names of runs lead to the pages that `find_page` finds.
    """
    columns = (
        "system",
        *(("in the talk",) if with_talk else ()),
        "run",
        "out-of-fold score (95 % interval)",
        "on unseen kinds (95 % interval)",
        "recall at IoU 0.5, seen / unseen",
        "outline offset, % of the radius, seen / unseen",
        "mean over types",
        "training, minutes",
        "allowed each",
        "the rest, minutes",
        "parameters, millions",
        "initial weights",
    )
    rows = [
        (
            *name_system(SYSTEMS.get(row.system))[: 2 if with_talk else 1],
            link_run(row.run, find_page),
            name_score(row),
            _or_not(format_score, (row.unseen_score, row.unseen_low, row.unseen_high)),
            " / ".join(_or_not("{:.3f}".format, value) for value in (row.recall, row.unseen_recall)),
            " / ".join(_or_not("{:+.1f}".format, value) for value in (row.offset_percent, row.unseen_offset_percent)),
            f"{row.mean_over_types:.4f}",
            f"{row.trainings} x {row.train_seconds / 60 / row.trainings:.1f}" if row.trainings else "none",
            row.train_budget,
            f"{row.rest_seconds / 60:.1f}",
            f"{row.parameters / 1e6:.1f}" if row.parameters else "none",
            row.weights,
        )
        for row in each_row(table.reindex(columns=SYSTEM_COLUMNS))  # one that was published before has fewer
    ]
    return Table(columns, rows, n_text=3 if with_talk else 2)


def _or_not(write: Callable[[Any], str], value: Any) -> str:
    """Write a value, or an interval, that is known; NOT_MEASURED of one that is not."""
    return NOT_MEASURED if pd.isna(np.atleast_1d(value)[0]) else write(value)


def name_system(system: System | None) -> tuple[str, str]:
    """Return the title of a system and its scores in the talk, both empty for none."""
    if system is None:
        return "", ""
    same = system.low == system.high
    return system.title, f"{system.low:.2f}" if same else f"{system.low:.2f} – {system.high:.2f}"
