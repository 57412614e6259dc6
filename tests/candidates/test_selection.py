"""The selection is the best of all non-overlapping sets, as trying them all shows."""

from itertools import chain, combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nuclei.candidates.selection import expected_gain, paint, score_selection, select_candidates, select_greedily
from nuclei.candidates.table import Candidates
from nuclei.evaluation.metric import THRESHOLDS, score_image


def make_forest(rng: np.random.Generator, n_leaves: int) -> Candidates:
    """Draw a forest over `n_leaves` basins of 4 pixels, with up to two candidates per node."""
    owner = list(range(n_leaves))
    pixels_of = [set(range(4 * i, 4 * i + 4)) for i in range(n_leaves)]
    parent = [-1] * n_leaves
    while len(owner) > 1 and rng.random() < 0.8:
        a, b = rng.choice(owner, 2, replace=False)
        owner = [i for i in owner if i not in (a, b)] + [len(parent)]
        parent[a] = parent[b] = len(parent)
        parent.append(-1)
        pixels_of.append(pixels_of[a] | pixels_of[b])
    pieces, node = [], []
    for i, pixels in enumerate(pixels_of):
        for size in {len(pixels), len(pixels) - int(rng.integers(2))} if rng.random() < 0.9 else ():
            pieces.append(sorted(pixels)[:size])
            node.append(i)
    n = len(parent)
    return Candidates(
        (4, n_leaves),
        np.cumsum([0, *map(len, pieces)]),
        np.array(list(chain.from_iterable(pieces)), np.int32),
        np.array(node, np.int32),
        np.zeros(len(node), np.float32),
        np.array(parent, np.int32),
        np.zeros(n, np.float32),
        np.zeros(n, np.float32),
    )


def make_pair() -> Candidates:
    """Return two nuclei of one pixel, candidates 0 and 1, and their union, candidate 2."""
    return Candidates(
        (1, 2),
        np.array([0, 1, 2, 4]),
        np.array([0, 1, 0, 1], np.int32),
        np.arange(3, dtype=np.int32),
        np.zeros(3, np.float32),
        np.array([2, 2, -1], np.int32),
        np.zeros(3, np.float32),
        np.zeros(3, np.float32),
    )


def best_by_brute_force(candidates: Candidates, gain: np.ndarray) -> float:
    pixels = [set(candidates.pixels[a:b]) for a, b in zip(candidates.indptr[:-1], candidates.indptr[1:], strict=True)]
    sets = (s for k in range(len(gain) + 1) for s in combinations(range(len(gain)), k))
    free = (s for s in sets if sum(len(pixels[i]) for i in s) == len(set().union(*(pixels[i] for i in s))))
    return max(sum(gain[i] for i in s) for s in free)


@given(st.integers(0, 10_000))
@settings(max_examples=60, deadline=None)
def test_no_other_set_gains_more(seed):
    rng = np.random.default_rng(seed)
    candidates = make_forest(rng, int(rng.integers(1, 5)))
    gain = rng.normal(0.2, 1, len(candidates)).round(1)
    chosen = select_candidates(candidates, gain)
    paint(candidates, chosen)  # raises where two overlap
    assert gain[chosen].sum() == pytest.approx(best_by_brute_force(candidates, gain))


@given(st.integers(0, 10_000))
@settings(max_examples=60, deadline=None)
def test_the_greedy_set_gains_no_more_and_leaves_nothing_free(seed):
    rng = np.random.default_rng(seed)
    candidates = make_forest(rng, int(rng.integers(1, 6)))
    gain = rng.normal(0.2, 1, len(candidates)).round(1)
    chosen = select_greedily(candidates, gain)
    covered = paint(candidates, chosen).reshape(-1)  # raises where two overlap
    assert gain[chosen].sum() <= gain[select_candidates(candidates, gain)].sum() + 1e-9
    for i in np.flatnonzero(gain > 0):
        met = covered[candidates.pixels[candidates.indptr[i] : candidates.indptr[i + 1]]]
        assert i in chosen or gain[chosen[met[met > 0] - 1]].max() >= gain[i]


def test_greed_can_miss_the_best_set():
    candidates = make_pair()
    gain = np.array([0.6, 0.6, 1.0])
    assert select_greedily(candidates, gain).tolist() == [2]
    assert select_candidates(candidates, gain).tolist() == [0, 1]


def test_nothing_is_chosen_where_nothing_gains():
    candidates = make_forest(np.random.default_rng(0), 3)
    assert len(select_candidates(candidates, np.full(len(candidates), -0.1))) == 0


def test_painting_refuses_overlaps():
    candidates = make_forest(np.random.default_rng(1), 2)
    assert candidates.parent[0] == 2
    overlapping = np.array([0, int(np.flatnonzero(candidates.node == 2)[0])])
    with pytest.raises(ValueError, match="overlaps"):
        paint(candidates, overlapping)


def test_gain_is_that_of_the_metric():
    # 6 of 10 nuclei found and 2 false: precision 0.5. One more candidate that is surely right, or surely wrong.
    tp, fp, fn = 6, 2, 4
    before = tp / (tp + fp + fn)
    right, wrong = (tp + 1) / (tp + fp + fn), tp / (tp + fp + 1 + fn)
    gains = expected_gain(np.array([[1.0], [0.0]]), np.array([before]))
    assert gains[0] == pytest.approx((right - before) * (tp + fp + fn))
    assert gains[1] == pytest.approx((wrong - before) * (tp + fp + fn + 1))


@given(st.integers(0, 10_000))
@settings(max_examples=30, deadline=None)
def test_score_from_ious_equals_score_of_the_painted_labels(seed):
    rng = np.random.default_rng(seed)
    truth, prediction = np.repeat(rng.integers(0, 4, (2, 6, 1)), 6, axis=2)
    truth[:, 3:] = np.where(rng.random((6, 3)) < 0.5, truth[:, 3:], 0)
    labels = np.unique(prediction[prediction > 0])
    nuclei = np.unique(truth[truth > 0])
    iou = np.array(
        [
            max(
                [
                    np.mean(
                        (truth == t)[(truth == t) | (prediction == p)]
                        & (prediction == p)[(truth == t) | (prediction == p)]
                    )
                    for t in nuclei
                ],
                default=0,
            )
            for p in labels
        ]
    )
    expected = score_image(truth, prediction)[1]
    assert score_selection(iou, THRESHOLDS, len(nuclei)) == pytest.approx(expected)
