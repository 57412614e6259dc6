"""Selection: the set of non-overlapping candidates of greatest expected gain, exactly, by dynamic programming."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from nuclei.candidates.table import Candidates


def expected_gain(
    probability: NDArray[np.floating[Any]], precision: NDArray[np.floating[Any]]
) -> NDArray[np.floating[Any]]:
    """Return what each candidate is expected to add to its image's score, up to a factor common to the image: [N].

    probability: P(IoU > t) at each threshold, [N, 10]; precision: the score TP / (TP + FP + FN) the image is
    expected to reach at each threshold, [10]. A match raises TP and lowers FN by one, which adds 1 over the
    denominator; a miss raises FP by one, which costs `precision` over it. So the gain is the mean over thresholds of
    p − (1 − p)·precision.
    """
    gain: NDArray[np.floating[Any]] = (probability - (1 - probability) * precision).mean(axis=1)
    return gain


def select_candidates(candidates: Candidates, gain: NDArray[np.floating[Any]]) -> NDArray[np.int64]:
    """Return the indices, ascending, of the non-overlapping candidates with the greatest sum of `gain` [N].

    A node either gives its best candidate or leaves its pixels to its children, so the best total of a subtree is
    max(0, its best candidate, the sum of its children's best totals). Only positive gains are taken.
    """
    n_nodes = len(candidates.parent)
    best = np.full(n_nodes, -1)
    order = np.lexsort((-np.arange(len(gain)), gain))  # ascending by gain; among equals the first comes last
    best[candidates.node[order]] = order
    own = np.where(best >= 0, np.append(gain, -np.inf)[best], -np.inf)
    below = np.zeros(n_nodes)
    for node, parent in enumerate(candidates.parent):  # children come first
        if parent >= 0:
            below[parent] += max(own[node], below[node], 0)
    open_nodes = np.zeros(n_nodes, bool)  # no ancestor has been taken
    taken = []
    for node in range(n_nodes - 1, -1, -1):
        parent = candidates.parent[node]
        if parent < 0 or open_nodes[parent]:
            if own[node] > 0 and own[node] >= below[node]:
                taken.append(best[node])
            else:
                open_nodes[node] = True
    return np.sort(np.array(taken, np.int64))


def select_greedily(candidates: Candidates, gain: NDArray[np.floating[Any]]) -> NDArray[np.int64]:
    """Return the indices, ascending, of candidates taken in descending `gain` [N], each unless it overlaps one taken.

    The usual way; select_candidates finds a set whose sum of gains is never smaller.
    """
    free = np.ones(candidates.shape[0] * candidates.shape[1], bool)
    taken = []
    for i in np.argsort(-gain, kind="stable"):
        if gain[i] <= 0:
            break
        pixels = candidates.pixels[candidates.indptr[i] : candidates.indptr[i + 1]]
        if free[pixels].all():
            free[pixels] = False
            taken.append(i)
    return np.sort(np.array(taken, np.int64))


SEARCHES = {"exact": select_candidates, "greedy": select_greedily}


def paint(candidates: Candidates, chosen: NDArray[np.int64]) -> NDArray[np.int32]:
    """Return the label image of chosen candidates, int32 [H, W], numbered from 1; raise ValueError if two overlap."""
    labels = np.zeros(candidates.shape[0] * candidates.shape[1], np.int32)
    for label, i in enumerate(chosen, start=1):
        pixels = candidates.pixels[candidates.indptr[i] : candidates.indptr[i + 1]]
        if labels[pixels].any():
            raise ValueError(f"candidate {i} overlaps another of the chosen ones")
        labels[pixels] = label
    return labels.reshape(candidates.shape)


def score_selection(
    iou: NDArray[np.floating[Any]], thresholds: NDArray[np.float64], n_true: int
) -> NDArray[np.float64]:
    """Return the precision of disjoint candidates at each threshold from their best IoU: [N] -> [T].

    Disjoint candidates cannot both overlap one nucleus by more than half of the union, so each that passes t >= 0.5
    is a match of its own. An image without nuclei scores 1 if nothing was selected, else 0.
    """
    tp = (iou[:, None] > thresholds).sum(axis=0)
    total = len(iou) + n_true - tp
    return np.where(total > 0, tp / np.maximum(total, 1), 1.0)
