"""Ablations as a table and a forest plot: what each change to a base gains or loses, and what can be told from it.

The table has one row per run, with the COLUMNS below. Scores are out of fold; gain is the paired difference ablation
minus base with the ends of its 95 % interval, and is empty where a row is itself a base.
"""

from collections.abc import Iterator

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from nuclei.report.blocks import Block, Paragraph, Table
from nuclei.report.charts import GRAY, GREEN, VERMILION, WIDTH_IN, new_figure, spans, styled
from nuclei.report.sections import make_picture
from nuclei.report.tables import format_interval

COLUMNS = (
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
VERDICTS = {"better": GREEN, "undecided": GRAY, "worse": VERMILION}  # than the base -> its colour
MARKERS = {"retrain": "o", "post-process": "D"}
ABOUT_ABLATIONS = (
    "Each row changes its base in one respect. The gain is the ablation's score minus that of its base on the same "
    "images, with the 95 % bootstrap interval over mosaic groups: where a part is taken away, a negative gain means "
    "that the part helped. Undecided is what has zero inside its interval. The interval covers the choice of images, "
    "not the luck of a training: where several seeds were trained, the spread between them is in the table."
)


def check_ablations(table: pd.DataFrame) -> None:
    """Raise ValueError naming the columns that a table of ablations lacks."""
    if missing := [name for name in COLUMNS if name not in table]:
        raise ValueError(f"the table of ablations lacks the columns {', '.join(missing)}; it has {', '.join(table)}")


def add_ablations(before: pd.DataFrame, table: pd.DataFrame) -> pd.DataFrame:
    """Return `table` with the rows of an earlier one that it does not have: few have the time to run all at once.

    Rows are left out whose base has another score by now, as their gains are over what is no longer there. Raises
    ValueError as check_ablations does.
    """
    check_ablations(before)
    others = before[~before["ablation"].isin(table["ablation"])]
    now, then = (others["base"].map(rows.set_index("ablation")["score"]) for rows in (table, before))
    parts = [part for part in (others[now.isna() | (now == then)], table) if len(part)]
    return pd.concat(parts, ignore_index=True) if parts else table


def judge(table: pd.DataFrame) -> pd.Series:
    """Return what can be told of each row: better or worse than its base, undecided, or base."""
    low, high = table["gain_low"], table["gain_high"]
    verdict = np.select([table["gain"].isna(), low > 0, high < 0], ["base", "better", "worse"], "undecided")
    return pd.Series(verdict, table.index)


def sort_ablations(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table with bases first, then the ablations from the greatest gain to the greatest loss."""
    check_ablations(table)
    order = table.assign(is_base=table["gain"].isna()).sort_values(
        ["is_base", "gain", "ablation"], ascending=[False, False, True]
    )
    return order.drop(columns="is_base").reset_index(drop=True)


def list_ablations(table: pd.DataFrame) -> Table:
    """Tabulate the ablations, bases first, then by gain."""
    table = sort_ablations(table)
    rows = [
        (
            row.ablation,
            verdict,
            name_gain(row),
            as_text(row.changed),
            as_text(row.hypothesis),
            as_text(row.base),
            as_text(row.kind),
            *format_interval([row.score, row.score_low, row.score_high]),
            as_text(row.n_images, ".0f"),
            as_text(row.seeds, ".0f"),
            as_text(row.seed_spread, ".4f"),
            as_text(row.seconds / 60, ",.0f"),
        )
        for row, verdict in zip(table.itertuples(), judge(table), strict=True)
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


def list_verdict(table: pd.DataFrame, verdict: str) -> Table:
    """Tabulate the ablations of one verdict, the farthest from zero first: the gain, what was changed, and why."""
    chosen = sort_ablations(table)
    chosen = chosen[judge(chosen) == verdict]
    chosen = chosen.iloc[np.argsort(-chosen["gain"].abs(), kind="stable")]
    rows = [
        (row.ablation, name_gain(row), as_text(row.changed), as_text(row.hypothesis)) for row in chosen.itertuples()
    ]
    return Table(("ablation", "paired gain (95 % interval)", "changed", "hypothesis"), rows, n_text=4)


def list_gains(table: pd.DataFrame) -> Table:
    """Tabulate score, gain and verdict alone, in the order of list_ablations: narrow enough for a terminal."""
    table = sort_ablations(table)
    rows = [
        (row.ablation, as_text(row.base), f"{row.score:.4f}", name_gain(row), verdict)
        for row, verdict in zip(table.itertuples(), judge(table), strict=True)
    ]
    return Table(("ablation", "base", "score", "paired gain (95 % interval)", "verdict"), rows, n_text=2)


def name_gain(row) -> str:
    """Return a row's gain and its interval in one cell, nothing for a base."""
    if pd.isna(row.gain):
        return ""
    gain, span = format_interval([row.gain, row.gain_low, row.gain_high], "+")
    return f"{gain} ({span})"


def as_text(value, form: str = "") -> str:
    """Return a cell as text, nothing for one that is empty."""
    return "" if pd.isna(value) else format(value, form)


@styled
def draw_ablations(table: pd.DataFrame) -> Figure:
    """Draw the gain of each ablation with its interval: green above zero, red below, gray undecided."""
    table = sort_ablations(table)
    table = table[table["gain"].notna()].reset_index(drop=True)
    figure = new_figure(1.5 + 0.3 * len(table), WIDTH_IN + 1.4)
    axes = figure.subplots()
    for i, (row, verdict) in enumerate(zip(table.itertuples(), judge(table), strict=True)):
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
    names = [f"{row.ablation} (of {row.base})" if several else row.ablation for row in table.itertuples()]
    axes.set_yticks(range(len(table)), names, fontsize=9)
    axes.set_ylim(max(len(table), 1) - 0.4, -0.6)
    axes.set(title="What each change gains or loses", xlabel="score minus that of the base (95 % interval)")
    axes.margins(x=0.08)
    marks = [
        Line2D([], [], marker="s", linestyle="none", color=colour, label=verdict)
        for verdict, colour in VERDICTS.items()
    ]
    marks += [
        Line2D([], [], marker=marker, linestyle="none", color=GRAY, markerfacecolor="none", label=kind)
        for kind, marker in MARKERS.items()
        if kind in set(table["kind"])
    ]
    figure.legend(handles=marks, loc="outside lower center", ncols=len(marks), handletextpad=0.2, columnspacing=1.4)
    return figure


def write_ablations(table: pd.DataFrame) -> Iterator[Block]:
    """Explain, draw and tabulate all ablations."""
    yield Paragraph(ABOUT_ABLATIONS)
    table = sort_ablations(table)
    if table["gain"].notna().any():
        yield make_picture(
            "ablations",
            draw_ablations(table),
            "Paired gain of each ablation over its base: green above zero, gray undecided, red below zero.",
        )
    yield list_ablations(table)
