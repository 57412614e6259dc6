"""Summaries of scores per image: means with intervals, by threshold, by image type, and from step to step."""

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from nuclei.evaluation.bootstrap import bootstrap_mean, bootstrap_ratio, paired_difference
from nuclei.evaluation.metric import NUCLEUS_KINDS, THRESHOLDS, count_errors, measure_outlines, score_image
from nuclei.evaluation.submission import SCORE_COLUMNS

ERRORS = (*NUCLEUS_KINDS, "false")
OFFSETS = ("offset_px", "offset_percent")  # of the outlines of matched nuclei, above 0 where they are too tight


def score_labels(truth: NDArray[Any], prediction: NDArray[Any]) -> dict[str, Any]:
    """Score the label image of one image, int [H, W], and count what went wrong: a row of per_image.csv.

    Columns are those of SCORE_COLUMNS without the image's id, n_true, n_pred, ERRORS, and what metric.measure_outlines
    returns. Takes and raises what metric.overlap_labels does; labels have no gaps.
    """
    score, precision = score_image(truth, prediction)
    counts = {"n_true": int(truth.max(initial=0)), "n_pred": int(prediction.max(initial=0))}
    errors = count_errors(truth, prediction)
    return (
        dict(zip(SCORE_COLUMNS[1:], [score, *precision], strict=True))
        | counts
        | errors
        | measure_outlines(truth, prediction)
    )


def summarise(table: pd.DataFrame) -> dict[str, Any]:
    """Summarise a table with one row per image and the columns of SCORE_COLUMNS, group and cluster.

    Scores are [mean, low, high] with the ends of the 95 % interval over groups. Returns n_images, score,
    by_threshold {'0.50': mean precision}, by_cluster {name: {n_images, score}}, mean_over_clusters and, where the
    table has the columns of them: `errors`, the counts of ERRORS; what summarise_finding returns; by_kind, as
    by_cluster. Of clusters and kinds, errors and finding are given as well.
    """
    summary: dict[str, Any] = {"n_images": len(table), "score": interval(table["score"], table["group"])}
    summary |= _summarise_nuclei(table)
    summary["by_cluster"] = _summarise_by(table, "cluster")
    if "kind" in table:
        summary["by_kind"] = _summarise_by(table, "kind")
    summary["by_threshold"] = {
        f"{t:.2f}": round(float(table[column].mean()), 5)
        for t, column in zip(THRESHOLDS, SCORE_COLUMNS[2:], strict=True)
    }
    clusters = [one["score"][0] for one in summary["by_cluster"].values()]
    summary["mean_over_clusters"] = round(float(np.mean(clusters)), 5)
    return summary


def _summarise_by(table: pd.DataFrame, column: str) -> dict[Hashable, dict[str, Any]]:
    return {
        name: {"n_images": len(rows), "score": interval(rows["score"], rows["group"])} | _summarise_nuclei(rows)
        for name, rows in table.groupby(column)
    }


def _summarise_nuclei(table: pd.DataFrame) -> dict[str, Any]:
    errors = {name: int(table[name].sum()) for name in ERRORS} if set(ERRORS) <= set(table) else None
    finding = summarise_finding(table) if {"matched", *OFFSETS} <= set(table) else {}
    return ({"errors": errors} if errors else {}) | finding


def summarise_finding(table: pd.DataFrame) -> dict[str, list[float]]:
    """Summarise what metric.measure_outlines measured of images, each as [value, low, high] over groups.

    table: columns group, n_true, n_pred, matched and OFFSETS. Returns `recall` and `precision`, the shares of all
    nuclei, and of all predictions, that are matched at IoU > 0.5, and the means of OFFSETS over the images that have a
    match; what has no image to come from is left out.
    """
    found = {}
    for name, whole in (("recall", "n_true"), ("precision", "n_pred")):
        if table[whole].sum() > 0:
            parts, wholes, groups = (table[column].to_numpy() for column in ("matched", whole, "group"))
            ratio = bootstrap_ratio(parts, wholes, groups)
            found[name] = [round(v, 5) for v in ratio]
    matched = table[table["matched"] > 0]
    return found | ({name: interval(matched[name], matched["group"]) for name in OFFSETS} if len(matched) else {})


def interval(values: "pd.Series[Any]", groups: "pd.Series[Any]") -> list[float]:
    """Return the mean of N image values and the ends of its 95 % interval over groups, rounded to 5 digits."""
    return [round(v, 5) for v in bootstrap_mean(values.to_numpy(), groups.to_numpy())]


def compare_steps(steps: list[tuple[str, str, "pd.Series[Any]"]], groups: NDArray[Any]) -> list[dict[str, Any]]:
    """Compare (run, method, score per image [N]) from step to step, the images being the same in all of them.

    Each step after the first has its gain, [mean, low, high] of the paired difference with the ends of its 95 %
    interval, over the step before it of its own run or, for a second run, over the same method of the first.
    """
    compared = []
    for i, (run, method, scores) in enumerate(steps):
        over, gain = None, None
        if i:
            over = i - 1 if run == steps[0][0] else next(j for j, step in enumerate(steps) if step[1] == method)
            difference = paired_difference(scores.to_numpy(), steps[over][2].to_numpy(), groups)
            gain = [round(v, 5) for v in difference]
        compared.append(
            {
                "run": run,
                "method": method,
                "score": interval(scores, pd.Series(groups)),
                "gain": gain,
                "over": None if over is None else list(steps[over][:2]),
            }
        )
    return compared


def judge_gain(gain: Sequence[float]) -> str:
    """Return what a paired difference, [mean, low, high], tells: better, worse, undecided, or identical.

    Results are identical if every resample has a difference of zero. Without an interval nothing is decided.
    """
    mean, low, high = gain
    if low == high:
        return "identical" if mean == 0 else "undecided"
    return "better" if low > 0 else "worse" if high < 0 else "undecided"


def format_interval(interval: Sequence[float], sign: str = "") -> tuple[str, str]:
    """Return [mean, low, high] as text: the mean, and 'low to high'; four decimals, `sign` '+' for signed numbers.

    An interval of no width is none: resamples of a single group are all the same. Of a difference of zero it means that
    the results are identical.
    """
    mean, low, high = (f"{round(value, 4) + 0.0:{sign}.4f}" for value in interval)  # zero has no minus sign
    if interval[1] == interval[2]:
        return mean, "identical" if sign and interval[0] == 0 else "none"
    return mean, f"{low} to {high}"


def format_score(score: Sequence[float], spelled_out: bool = False) -> str:
    """Return a score, [mean, low, high], as one text: '0.6290 (0.6004 to 0.6563)'.

    spelled_out: say that the bracket holds the 95 % interval, where no heading does.
    """
    return _bracket(*format_interval(score), spelled_out)


def format_gain(gain: Sequence[float], spelled_out: bool = False) -> str:
    """Return a paired difference, [mean, low, high], as format_score returns a score, with signs."""
    return _bracket(*format_interval(gain, "+"), spelled_out)


def _bracket(mean: str, span: str, spelled_out: bool) -> str:
    if span in ("none", "identical"):
        return f"{mean} ({'no interval' if span == 'none' else span})"
    return f"{mean} (95 % interval {span})" if spelled_out else f"{mean} ({span})"


SUMS = ("count", "predicted", "true", "true_squared", "squared_error")


def bin_predictions(predicted: NDArray[Any], true: NDArray[Any], n_bins: int = 20) -> NDArray[np.float64]:
    """Sum N pairs in 0..1 by equal bins of the predicted value: float64 [5, n_bins], rows as SUMS.

    The last bin holds 1. Sums of parts add up to the sums of the whole. Raises ValueError on unequal lengths and on
    values outside 0..1.
    """
    predicted, true = np.asarray(predicted, np.float64), np.asarray(true, np.float64)
    if predicted.ndim != 1 or predicted.shape != true.shape:
        raise ValueError(f"predicted {predicted.shape} and true {true.shape} must be equally long lists")
    if not all(((v >= 0) & (v <= 1)).all() for v in (predicted, true)):
        raise ValueError("predicted and true values must lie in 0..1")
    index = np.minimum((predicted * n_bins).astype(int), n_bins - 1)
    weights = (None, predicted, true, true**2, (predicted - true) ** 2)
    return np.stack([np.bincount(index, w, n_bins).astype(np.float64) for w in weights])


def summarise_bins(sums: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    """Return count, mean predicted, mean and standard deviation of the true value of each bin, [n_bins] each.

    Empty bins have NaN means. `sums` are those of bin_predictions.
    """
    named = dict(zip(SUMS, sums, strict=True))
    count = np.where(named["count"] > 0, named["count"], np.nan)
    mean = named["true"] / count
    spread = np.sqrt(np.maximum(named["true_squared"] / count - mean**2, 0))
    return {"count": named["count"], "predicted": named["predicted"] / count, "true": mean, "spread": spread}
