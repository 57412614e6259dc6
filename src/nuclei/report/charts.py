"""Charts of a report: numbers in, matplotlib figures out, in one style."""

import functools
import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ParamSpec, TypeVar

import matplotlib as mpl
import numpy as np
import pandas as pd
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter
from numpy.typing import NDArray
from PIL import Image

from nuclei.decoding.tuning import Tuned
from nuclei.evaluation.summary import judge_gain

P = ParamSpec("P")
R = TypeVar("R")
Floats = NDArray[np.float64]
Point = tuple[float, float]
Curve = tuple[list[float], list[float]]  # x values, scores
DPI = 160
WIDTH_IN = 6.2
# Okabe and Ito's colours, which remain distinct under every kind of colour vision.
BLUE, ORANGE, GREEN, SKY, VERMILION, PURPLE = "#0072b2", "#e69f00", "#009e73", "#56b4e9", "#d55e00", "#cc79a7"
COLOURS = (BLUE, ORANGE, GREEN, VERMILION, SKY, PURPLE)
GRAY = "#52606d"
STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 10.5,
    "axes.titlesize": 11.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 9,
    "axes.labelsize": 10.5,
    "xtick.labelsize": 10,
    "ytick.labelsize": 10,
    "legend.fontsize": 10,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GRAY,
    "xtick.color": "#1f2933",
    "ytick.color": "#1f2933",
    "axes.grid": True,
    "grid.color": "#e4e7eb",
    "grid.linewidth": 0.8,
    "axes.axisbelow": True,
    "lines.linewidth": 2,
    "lines.markersize": 5.5,
    "axes.prop_cycle": cycler(color=COLOURS),
    "figure.dpi": DPI,
    "text.parse_math": False,
}


def styled(draw: Callable[P, R]) -> Callable[P, R]:
    """Make a function that draws do so in the style of the report, whatever the user's own settings are."""

    @functools.wraps(draw)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        with mpl.rc_context():
            mpl.rcdefaults()
            mpl.rcParams.update(STYLE)
            return draw(*args, **kwargs)

    return wrapped


def new_figure(height_in: float, width_in: float = WIDTH_IN) -> Figure:
    """Return an empty figure of a size in inches, whose axes are laid out automatically."""
    figure = Figure((width_in, height_in), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


@styled
def render_png(figure: Figure, keep: tuple[tuple[int, int, int], ...] = (), n_colours: int = 256) -> bytes:
    """Return a figure as PNG bytes, the same each time; with colours to `keep`, RGB 0..255, as a third of the bytes.

    It then has the `n_colours` colours that suit it best, among them those; fewer make fewer bytes.
    """
    result = io.BytesIO()
    if not keep:
        # Matplotlib would write its version into the file.
        figure.savefig(result, format="png", dpi=DPI, metadata={"Software": None})
        return result.getvalue()
    canvas: Any = FigureCanvasAgg(figure)
    canvas.draw()
    pixels = Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3])
    fitted = (
        pixels.quantize(n_colours - len(keep), Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE).getpalette() or []
    )
    palette = Image.new("P", (1, 1))
    palette.putpalette(fitted[: 3 * (n_colours - len(keep))] + [value for colour in keep for value in colour])
    pixels.quantize(palette=palette, dither=Image.Dither.NONE).save(result, format="PNG", optimize=True)
    return result.getvalue()


def name_type(cluster: str) -> str:
    """Return an image type as words."""
    return cluster.replace("_", " ")


@styled
def draw_precision(curves: Mapping[str, Mapping[str, float]]) -> Figure:
    """Draw mean precision against the IoU threshold: {series: {'0.50': precision}}."""
    figure = new_figure(3.6)
    axes = figure.subplots()
    for (name, curve), marker in zip(curves.items(), "osD^v", strict=False):
        axes.plot([float(t) for t in curve], list(curve.values()), marker=marker, label=name)
    axes.set(
        title="Precision falls as the outlines must fit better",
        xlabel="IoU threshold (overlap of outline and truth)",
        ylabel="precision TP / (TP + FP + FN)",
        ylim=(0, 1),
    )
    axes.legend(loc="lower left")
    return figure


@styled
def draw_types(series: Mapping[str, Mapping[str, dict[str, Any]]], order: Sequence[str]) -> Figure:
    """Draw the score of each image type with its interval: {series: {type: {n_images, score [mean, low, high]}}}.

    Types come in `order`, others after them.
    """
    found = sorted({c for clusters in series.values() for c in clusters})
    clusters = [*(c for c in order if c in found), *(c for c in found if c not in order)]
    figure = new_figure(0.9 + len(clusters) * (0.25 + 0.24 * len(series)))
    axes = figure.subplots()
    thickness = 0.8 / len(series)
    for i, (name, values) in enumerate(series.items()):
        rows = [(j, values[c]) for j, c in enumerate(clusters) if c in values]
        y = [j + (i - (len(series) - 1) / 2) * thickness for j, _ in rows]
        mean, low, high = np.array([v["score"] for _, v in rows]).T
        axes.barh(y, mean, thickness * 0.88, color=COLOURS[i], label=name)
        axes.errorbar(mean, y, xerr=spans(mean, low, high), fmt="none", ecolor="#1f2933", elinewidth=1.2, capsize=2.5)
        for position, (_, v) in zip(y, rows, strict=True):
            text = f"{v['score'][0]:.3f}  (n = {v['n_images']})" + (
                ", no interval" if v["score"][1] == v["score"][2] else ""
            )
            axes.text(v["score"][2] + 0.015, position, text, va="center", fontsize=8.5)
    axes.set(
        title="Score of each image type",
        xlabel="score (whiskers: 95 % interval)",
        xlim=(0, 1.25 if all(v["score"][1] < v["score"][2] for t in series.values() for v in t.values()) else 1.4),
        xticks=np.linspace(0, 1, 6),
    )
    axes.set_yticks(range(len(clusters)), [name_type(c) for c in clusters])
    axes.invert_yaxis()
    axes.grid(False, axis="y")
    if len(series) > 1:
        figure.legend(loc="outside lower center", ncols=len(series))
    return figure


def spans(mean: NDArray[Any], low: NDArray[Any], high: NDArray[Any]) -> NDArray[Any]:
    """Return the lengths of whiskers below and above the mean, [2, N], none of them negative."""
    whiskers: NDArray[Any] = np.maximum([mean - low, high - mean], 0)
    return whiskers


def widen(axes: Axes, least: float = 0.002) -> None:
    """Give the x axis at least a span, so that differences of zero are not drawn on a scale of rounding errors."""
    low, high = axes.get_xlim()
    if high - low < least:
        axes.set_xlim((low + high - least) / 2, (low + high + least) / 2)
    axes.ticklabel_format(axis="x", style="plain", useOffset=False)


@styled
def draw_steps(labels: Sequence[str], steps: Sequence[Mapping[str, Any]]) -> Figure:
    """Draw the score of each step with its interval, and its paired gain: `steps` as summary.compare_steps.

    labels: their names, the first line that of the method.
    """
    label_of = {(step["run"], step["method"]): label for step, label in zip(steps, labels, strict=True)}
    figure = new_figure(1.15 + 0.52 * len(steps), WIDTH_IN + 3)
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(1, 1))
    y = np.arange(len(steps))
    mean, low, high = np.array([step["score"] for step in steps]).T
    left.errorbar(mean, y, xerr=spans(mean, low, high), fmt="o", color=BLUE, capsize=3, elinewidth=1.6)
    for i, value in enumerate(mean):
        left.annotate(f"{value:.3f}", (value, i), (0, 6), textcoords="offset points", ha="center", fontsize=9)
    for i, step in enumerate(steps):
        if step["gain"]:
            gain, gain_low, gain_high = np.array(step["gain"])[:, None]
            colour = {"better": GREEN, "worse": VERMILION}.get(judge_gain(step["gain"]), GRAY)
            whiskers = spans(gain, gain_low, gain_high)
            right.errorbar(gain, [i], xerr=whiskers, fmt="D", color=colour, capsize=3, elinewidth=1.6)
            # Beside the axes, where no error bar runs through it.
            said = f"{round(gain[0], 3) + 0.0:+.3f}".replace("-", "−")
            over = label_of[tuple(step["over"])].replace("\n", "\nof ")
            right.text(
                1.03,
                i,
                f"identical to {over}" if judge_gain(step["gain"]) == "identical" else f"{said} over {over}",
                transform=right.get_yaxis_transform(),
                va="center",
                fontsize=8.5,
                linespacing=1.15,
            )
    right.axvline(0, color=GRAY, linewidth=1)
    left.set_yticks(y, labels)
    left.set_ylim(len(steps) - 0.5, -0.6)
    left.set(title="Score", xlabel="score (95 % interval)")
    right.set(title="Paired gain over an earlier step", xlabel="difference of scores (95 % interval)")
    for axes in (left, right):
        axes.margins(x=0.15)
        widen(axes)
    return figure


@styled
def draw_importance(importance: Mapping[str, float], n: int = 20) -> Figure:
    """Draw the n features with the largest shares of the gain, {feature: share}."""
    largest = sorted(importance.items(), key=lambda item: (-item[1], item[0]))[:n]
    figure = new_figure(0.9 + 0.235 * len(largest))
    axes = figure.subplots()
    names, shares = zip(*largest, strict=True)
    axes.barh(range(len(names)), 100 * np.array(shares), 0.72, color=BLUE)
    axes.set_yticks(range(len(names)), names, fontsize=9)
    axes.grid(False, axis="y")
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set(title=f"The most used features, {len(names)} of {len(importance)}", xlabel="share of the total gain (%)")
    return figure


@styled
def draw_reliability(count: Floats, predicted: Floats, true: Floats, spread: Floats) -> Figure:
    """Draw mean true IoU against mean predicted IoU, and how many candidates there are, of equal bins [B] of 0..1."""
    figure = new_figure(5.6, 5.2)
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    there = count > 0
    x, y, s = predicted[there], true[there], spread[there]
    top.plot([0, 1], [0, 1], color=GRAY, linestyle="--", linewidth=1.2, label="perfect")
    top.fill_between(
        x,
        np.maximum(y - s, 0),
        np.minimum(y + s, 1),
        color=BLUE,
        alpha=0.16,
        linewidth=0,
        label="± 1 standard deviation",
    )
    top.plot(x, y, marker="o", color=BLUE, label="mean of a bin")
    top.set(title="Is the predicted IoU right?", ylabel="true IoU", xlim=(0, 1), ylim=(0, 1))
    top.legend(loc="upper left")
    edges = np.linspace(0, 1, len(count) + 1)
    bottom.bar(edges[:-1], count, np.diff(edges), align="edge", color=SKY, edgecolor="white", linewidth=0.8)
    if there.any():
        bottom.set_yscale("log")
    bottom.set(xlabel="predicted IoU, out of fold", ylabel="candidates")
    bottom.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    return figure


def split_curve(tuned: Tuned, x: str, line: str | None) -> tuple[dict[float | None, Curve], dict[int, Point], Point]:
    """Sort what a tuning left into curves against the setting `x`, one for each value of the setting `line`.

    Returns ({line: (x values, scores)}, {fold: (x, score)}, (x, score) of new images).
    """
    curves: dict[float | None, Curve] = {}
    score_of: dict[tuple[float, float | None], float] = {}

    def level(setting: Mapping[str, float]) -> float | None:
        return setting[line] if line else None

    for option, score in zip(tuned.options, tuned.curve, strict=True):
        values, scores = curves.setdefault(level(option), ([], []))
        values.append(option[x])
        scores.append(score)
        score_of[option[x], level(option)] = score

    def place(chosen: Mapping[str, float]) -> Point:
        return chosen[x], score_of[chosen[x], level(chosen)]

    return curves, {fold: place(chosen) for fold, chosen in tuned.fold.items()}, place(tuned.new)


@styled
def draw_threshold(title: str, x_label: str, tuned: Tuned, x: str, line: str | None = None) -> Figure:
    """Draw the score against a threshold and mark what was chosen: arguments as split_curve."""
    curves, folds, test = split_curve(tuned, x, line)
    figure = new_figure(3.9, WIDTH_IN + (1.2 if line else 0))
    axes = figure.subplots()
    colours = mpl.colormaps["viridis"](np.linspace(0, 0.88, len(curves))) if line else [BLUE]
    for (value_of_line, curve), colour in zip(curves.items(), colours, strict=True):
        label = f"{name_type(line)} {value_of_line:g}" if line else None
        axes.plot(*curve, marker="o", markersize=4, color=colour, label=label)
    folds_at: dict[float, dict[int, float]] = {}
    for fold, (value, score) in folds.items():
        folds_at.setdefault(value, {})[fold] = score
    for value, places in sorted(folds_at.items()):
        axes.plot(
            [value] * len(places),
            list(places.values()),
            "o",
            markersize=12,
            markerfacecolor="none",
            markeredgecolor=VERMILION,
            markeredgewidth=1.8,
            linestyle="none",
            # The legend says which: a label on the axes would lie on the curves.
            label=f"chosen for fold {', '.join(map(str, places))}: {value:g}",
        )
    axes.plot(
        *test,
        "*",
        markersize=11,
        color=VERMILION,
        markeredgecolor="white",
        markeredgewidth=0.6,
        linestyle="none",
        label="chosen for new images",
        zorder=5,
    )
    axes.set(title=title, xlabel=x_label, ylabel="out-of-fold score")
    axes.margins(y=0.18)
    figure.legend(loc="outside right center" if line else "outside lower center", ncols=1 if line else 2)
    return figure


@styled
def draw_training(title: str, histories: Mapping[str, pd.DataFrame]) -> Figure:
    """Draw loss and held-out score against the step: {fold: table with step, loss, score (NaN where not measured)}."""
    figure = new_figure(3.3, WIDTH_IN + 1.4)
    left, right = figure.subplots(1, 2)
    for i, (fold, table) in enumerate(histories.items()):
        colour = COLOURS[i % len(COLOURS)]
        left.plot(table["step"], table["loss"], color=colour, linewidth=1.4, label=f"fold {fold}")
        scored = table.dropna(subset="score")
        right.plot(scored["step"], scored["score"], marker="o", color=colour)
    left.set(title=title, xlabel="optimiser step", ylabel="training loss", ylim=(0, None))
    right.set(
        title="Quick score on the fold left out", xlabel="optimiser step", ylabel="score, few images", ylim=(0, 1)
    )
    right.set_xlim(left.get_xlim())
    figure.legend(loc="outside lower center", ncols=max(1, len(histories)))
    return figure


@styled
def draw_errors(counts: Mapping[str, Mapping[str, int]], kinds: Sequence[str]) -> Figure:
    """Draw how many nuclei of each image type went wrong, by kind: {type: {kind: count, "n_true": nuclei}}.

    Bars are per 100 true nuclei, so that types of different size can be compared.
    """
    figure = new_figure(1.15 + 0.42 * len(counts), WIDTH_IN + 0.6)
    axes = figure.subplots()
    left = np.zeros(len(counts))
    for kind, colour in zip(kinds, (VERMILION, PURPLE, BLUE, SKY, ORANGE), strict=True):
        share = np.array([100 * c[kind] / max(c["n_true"], 1) for c in counts.values()])
        axes.barh(
            range(len(counts)),
            share,
            0.68,
            left=left,
            color=colour,
            label=name_type(kind),
            edgecolor="white",
            linewidth=0.6,
        )
        left += share
    names = [f"{name_type(name)}\n({c['n_true']:,} nuclei)" for name, c in counts.items()]
    axes.set_yticks(range(len(counts)), names, fontsize=9)
    axes.invert_yaxis()
    axes.grid(False, axis="y")
    axes.set(title="What goes wrong", xlabel="errors per 100 true nuclei", xlim=(0, 1.04 * max(left.max(), 1)))
    figure.legend(loc="outside lower center", ncols=len(kinds))
    return figure
