"""The competition metric, exactly: integer arithmetic on the overlaps of nuclei and predictions."""

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Thresholds are kept as twentieths k, so that IoU > t is the integer comparison
# 20 · intersection > k · union: no rounding can turn an IoU of exactly 0.55 into a match.
_TWENTIETHS = np.arange(10, 20)
THRESHOLDS = _TWENTIETHS / 20
_WELL_OUTLINED_TWENTIETHS = 15
NUCLEUS_KINDS = ("found", "merged", "split", "badly_outlined", "missed")
_LARGEST_LABEL = 2**31 - 1
_DENSE = 8  # values of up to so many times their number are added in a table, not sorted
_Column = NDArray[np.int64]
_Areas = tuple[_Column, _Column]  # labels, ascending, and the area_px of each


@dataclass(frozen=True)
class Overlaps:
    """Hold the K pairs of a nucleus and a prediction that share a pixel, and the areas of all of both.

    Pairs refer to rows of ``truth_labels`` and ``prediction_labels``, which ascend.
    """

    truth_labels: NDArray[np.int64]  # [n_true]
    prediction_labels: NDArray[np.int64]  # [n_pred]
    truth_area_px: NDArray[np.int64]  # [n_true]
    prediction_area_px: NDArray[np.int64]  # [n_pred]
    truth: NDArray[np.int64]  # [K]: nucleus of each pair
    prediction: NDArray[np.int64]  # [K]: prediction of each pair
    intersection_px: NDArray[np.int64]  # [K], > 0

    def union_px(self) -> NDArray[np.int64]:
        """Return the union of each pair in pixels, int64 [K]."""
        areas_px: NDArray[np.int64] = self.truth_area_px[self.truth] + self.prediction_area_px[self.prediction]
        return areas_px - self.intersection_px


def overlap_labels(truth: NDArray[Any], prediction: NDArray[Any]) -> Overlaps:
    """Count the pixels that each nucleus of one label image shares with each prediction of another.

    Both are integer arrays of one shape with 0 as background; labels may have gaps and need no background.
    Raises ValueError for differing shapes and for negative, fractional or too large (> 2³¹ − 1) labels.
    """
    if np.shape(truth) != np.shape(prediction):
        raise ValueError(f"truth has shape {np.shape(truth)} but prediction has {np.shape(prediction)}")
    true, predicted, count = _count_pairs(truth, prediction)
    return _overlaps(_sum_by(true, count), _sum_by(predicted, count), (true, predicted, count))


def overlap_masks(indptr: NDArray[np.int64], pixels: NDArray[Any], labels: NDArray[Any]) -> Overlaps:
    """Count the pixels that each of N masks, which may overlap, shares with each label of a label image.

    Mask i owns the flat row-major pixels[indptr[i]:indptr[i + 1]]; it is nucleus i + 1 of the result, which
    lists empty masks too. Raises ValueError for bad labels as ``overlap_labels`` does.
    """
    area_px = np.diff(indptr)
    numbers = np.arange(1, len(area_px) + 1)
    pairs = _count_pairs(np.repeat(numbers, area_px), np.ravel(labels)[pixels])
    return _overlaps((numbers, area_px), _count_values(labels), pairs)


def pair_iou(truth: NDArray[Any], prediction: NDArray[Any]) -> NDArray[np.float64]:
    """Return the IoU of every nucleus with every prediction, float64 [n_true, n_pred], labels ascending.

    Takes and raises what ``overlap_labels`` does.
    """
    overlaps = overlap_labels(truth, prediction)
    table = np.zeros((len(overlaps.truth_labels), len(overlaps.prediction_labels)))
    table[overlaps.truth, overlaps.prediction] = overlaps.intersection_px / overlaps.union_px()
    return table


def match_counts(truth: NDArray[Any], prediction: NDArray[Any]) -> dict[str, NDArray[np.int64]]:
    """Count the matches of two label images at each threshold: tp, fp and fn, int64 [10] each.

    Takes and raises what ``overlap_labels`` does.
    """
    return count_matches(overlap_labels(truth, prediction))


def count_matches(overlaps: Overlaps) -> dict[str, NDArray[np.int64]]:
    """Count true positives, false positives and false negatives at each threshold, int64 [10] each.

    A nucleus and a prediction match when IoU > t. No assignment problem has to be solved: t >= 1/2, so a
    match takes more than half of the nucleus, and disjoint predictions cannot both do that. A prediction
    can match two nuclei only where truth masks overlap; it then counts once.
    """
    n_true, n_pred = len(overlaps.truth_labels), len(overlaps.prediction_labels)
    # The greatest k of which 20 · intersection > k · union, of each pair, and of each prediction with a match.
    twentieths = (20 * overlaps.intersection_px - 1) // overlaps.union_px()
    greatest = np.zeros(n_pred, dtype=np.int64)
    np.maximum.at(greatest, overlaps.prediction, twentieths)
    # Of each threshold the predictions that pass it, or a higher one.
    tp = np.bincount(greatest, minlength=20)[:9:-1].cumsum()[::-1]
    return {"tp": tp, "fp": n_pred - tp, "fn": n_true - tp}


def score_image(truth: NDArray[Any], prediction: NDArray[Any]) -> tuple[float, NDArray[np.float64]]:
    """Return an image's competition score, 0..1, and its precision at each threshold, float64 [10].

    Precision is TP / (TP + FP + FN), the score their mean over the ten thresholds (Kaggle, Data Science
    Bowl 2018). Takes and raises what ``overlap_labels`` does.
    """
    return score_counts(match_counts(truth, prediction))


def score_counts(counts: dict[str, NDArray[np.int64]]) -> tuple[float, NDArray[np.float64]]:
    """Return the score, 0..1, and the precision at each threshold, float64 [10], of an image's match counts.

    An image without nuclei scores 1 if nothing is predicted, else 0.
    """
    total = counts["tp"] + counts["fp"] + counts["fn"]
    precision = np.where(total > 0, counts["tp"] / np.maximum(total, 1), 1.0)
    return float(precision.mean()), precision


def measure_outlines(truth: NDArray[Any], prediction: NDArray[Any]) -> dict[str, float]:
    """Measure how many nuclei of a label image are found at IoU > 0.5 in another, and how tightly they are outlined.

    Returns ``matched``, the number of matched pairs, and their mean signed outline offset: true minus predicted radius
    of the circle of the same area, ``offset_px`` in pixels and ``offset_percent`` of the true radius; above 0 the
    predictions are too tight, below 0 too wide. Without a match both are NaN. Takes and raises what ``overlap_labels``
    does.
    """
    overlaps = overlap_labels(truth, prediction)
    is_match = 2 * overlaps.intersection_px > overlaps.union_px()
    areas_px = overlaps.truth_area_px[overlaps.truth], overlaps.prediction_area_px[overlaps.prediction]
    true_px, predicted_px = (np.sqrt(area_px[is_match] / np.pi) for area_px in areas_px)
    if not len(true_px):
        return {"matched": 0, "offset_px": np.nan, "offset_percent": np.nan}
    offset_px = true_px - predicted_px
    return {
        "matched": len(true_px),
        "offset_px": float(offset_px.mean()),
        "offset_percent": float((100 * offset_px / true_px).mean()),
    }


def best_iou(
    truth: NDArray[Any], indptr: NDArray[np.int64], pixels: NDArray[Any]
) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """Return the IoU of each of N candidates with its best nucleus, float32 [N], and that label, int32 [N].

    Candidate i owns the flat row-major pixels[indptr[i]:indptr[i + 1]] of the label image ``truth``;
    candidates may overlap. Of equally good nuclei the smallest label is taken; where a candidate touches
    none, IoU and label are 0.
    """
    overlaps = overlap_masks(indptr, pixels, truth)
    pair_iou = overlaps.intersection_px / overlaps.union_px()
    # The pairs ascend by candidate and nucleus, and lexsort is stable, so ties keep the smallest label first.
    order = np.lexsort((-pair_iou, overlaps.truth))
    candidate, first = np.unique(overlaps.truth[order], return_index=True)
    iou = np.zeros(len(indptr) - 1, dtype=np.float32)
    label = np.zeros(len(indptr) - 1, dtype=np.int32)
    iou[candidate] = pair_iou[order][first]
    label[candidate] = overlaps.prediction_labels[overlaps.prediction[order][first]]
    return iou, label


def sort_errors(truth: NDArray[Any], prediction: NDArray[Any]) -> tuple[dict[int, str], list[int]]:
    """Return how each nucleus was found, {label: kind}, and the labels of the predictions that are no nucleus.

    Every nucleus falls into the first kind that applies; "mostly" is more than half of the pixels:

    * ``found``: IoU > 0.75 with a prediction;
    * ``merged``: mostly inside a prediction that also holds most of another nucleus;
    * ``split``: holds most of two or more predictions;
    * ``badly_outlined``: mostly inside a prediction, or holds most of one;
    * ``missed``: none of these.

    False are the predictions that neither hold most of a nucleus nor lie mostly inside one.
    Takes and raises what ``overlap_labels`` does.
    """
    overlaps = overlap_labels(truth, prediction)
    t, p, shared_px = overlaps.truth, overlaps.prediction, overlaps.intersection_px
    n_true, n_pred = len(overlaps.truth_labels), len(overlaps.prediction_labels)
    nucleus_inside = 2 * shared_px > overlaps.truth_area_px[t]
    prediction_inside = 2 * shared_px > overlaps.prediction_area_px[p]
    nuclei_held = np.bincount(p[nucleus_inside], minlength=n_pred)
    parts_held = np.bincount(t[prediction_inside], minlength=n_true)

    well_outlined = 20 * shared_px > _WELL_OUTLINED_TWENTIETHS * overlaps.union_px()
    in_clump = nucleus_inside & (nuclei_held[p] > 1)
    related = nucleus_inside | prediction_inside
    kinds = [_mark(t[well_outlined], n_true), _mark(t[in_clump], n_true), parts_held > 1, _mark(t[related], n_true)]
    kind = np.array(NUCLEUS_KINDS)[np.select(kinds, range(len(kinds)), default=len(kinds))]
    false = overlaps.prediction_labels[~_mark(p[related], n_pred)]
    return dict(zip(overlaps.truth_labels.tolist(), kind.tolist(), strict=True)), false.tolist()


def count_errors(truth: NDArray[Any], prediction: NDArray[Any]) -> dict[str, int]:
    """Count the nuclei of an image of each kind, and the ``false`` predictions, as ``sort_errors`` defines them."""
    kinds, false = sort_errors(truth, prediction)
    counts = Counter(kinds.values())
    return {kind: counts[kind] for kind in NUCLEUS_KINDS} | {"false": len(false)}


def _overlaps(truth_areas: _Areas, prediction_areas: _Areas, pairs: tuple[_Column, _Column, _Column]) -> Overlaps:
    """Drop the background from two tables (labels, area_px) and from the pairs, and make pairs refer to rows."""
    true, predicted, count = pairs
    truth_labels, truth_area_px = _drop_background(*truth_areas)
    prediction_labels, prediction_area_px = _drop_background(*prediction_areas)
    both = (true > 0) & (predicted > 0)
    return Overlaps(
        truth_labels=truth_labels,
        prediction_labels=prediction_labels,
        truth_area_px=truth_area_px,
        prediction_area_px=prediction_area_px,
        truth=truth_labels.searchsorted(true[both]),
        prediction=prediction_labels.searchsorted(predicted[both]),
        intersection_px=count[both],
    )


def _drop_background(labels: _Column, area_px: _Column) -> _Areas:
    """Drop the label 0 of ascending labels, if it is among them."""
    first = int(labels.searchsorted(1))
    return labels[first:], area_px[first:]


def _count_pairs(first: NDArray[Any], second: NDArray[Any]) -> tuple[_Column, _Column, _Column]:
    """Return the distinct pairs of two label arrays of one shape, ascending, and how often each occurs."""
    (first, second), length = _find_runs(first, second)
    width = int(second.max(initial=0)) + 1
    keys, count = _sum_by(first * width + second, length)
    true, predicted = np.divmod(keys, width)
    return true, predicted, count


def _count_values(labels: NDArray[Any]) -> _Areas:
    """Return the distinct labels of an array, int64 ascending, and how often each occurs."""
    (values,), length = _find_runs(labels)
    return _sum_by(values, length)


def _find_runs(*arrays: NDArray[Any]) -> tuple[list[_Column], _Column]:
    """Return the labels of each array of one shape, int64, at the runs in which none of them changes, and the lengths.

    Neighbours in a row mostly agree: what is left to check, to sort and to add is a few percent of the pixels.
    """
    flat = [_as_integers(array).ravel() for array in arrays]
    starts = np.ones(flat[0].size, bool)
    np.not_equal(flat[0][1:], flat[0][:-1], out=starts[1:])
    for labels in flat[1:]:
        starts[1:] |= labels[1:] != labels[:-1]
    start = starts.nonzero()[0]
    length = np.empty_like(start)
    np.subtract(start[1:], start[:-1], out=length[:-1])
    length[-1:] = starts.size - start[-1:]
    return [_checked(labels[start]) for labels in flat], length


def _sum_by(values: _Column, count: _Column) -> _Areas:
    """Return the distinct values >= 0, ascending, and the sum of the counts > 0 of each."""
    if values.max(initial=0) < _DENSE * (len(values) + _DENSE):
        # As float64, in which numbers of pixels are exact.
        total = np.bincount(values, count)
        values = (total > 0).nonzero()[0]
        return values, total[values].astype(np.int64)
    order = np.argsort(values, kind="stable")
    values, count = values[order], count[order]
    start = np.flatnonzero(np.diff(values, prepend=-1))
    return values[start], np.add.reduceat(count, start)


def _mark(index: _Column, size: int) -> NDArray[np.bool_]:
    """Return which of 0..size - 1 an index names, bool [size]."""
    marked = np.zeros(size, dtype=bool)
    marked[index] = True
    return marked


def _as_integers(labels: NDArray[Any]) -> NDArray[Any]:
    labels = np.asarray(labels)
    if labels.dtype == bool:
        labels = labels.view(np.uint8)
    if labels.dtype.kind not in "iu":
        raise ValueError(f"labels must be integers, got {labels.dtype}")
    return labels


def _checked(labels: NDArray[Any]) -> _Column:
    """Return labels as int64; raise ValueError unless all lie in 0..2³¹ − 1."""
    values: _Column = labels.astype(np.int64)
    if values.view(np.uint64).max(initial=0) > _LARGEST_LABEL:  # as unsigned, negative labels are the largest
        raise ValueError(f"labels must lie in 0..{_LARGEST_LABEL}, got {labels.min()}..{labels.max()}")
    return values
