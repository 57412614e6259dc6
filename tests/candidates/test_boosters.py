"""Boosters learn what can be learned, out of fold, and their probabilities never rise with the threshold."""

import numpy as np
import pytest

from nuclei.candidates.boosters import TARGETS, feature_importance, fold_rows, predict_scores, train_boosters
from nuclei.decoding.tuning import choose_per_fold
from nuclei.evaluation.metric import THRESHOLDS

NAMES = ["telling", "noise"]
SETTINGS = {"rounds": 20, "leaves": 7, "learning_rate": 0.2, "min_leaf_rows": 20, "share": 1.0, "jobs": 1}


def draw_rows(n: int, seed: int):
    rng = np.random.default_rng(seed)
    features = rng.random((n, 2)).astype(np.float32)
    iou = np.clip(features[:, 0] + rng.normal(0, 0.05, n), 0, 1).astype(np.float32)
    return features, iou


@pytest.fixture(scope="module")
def boosters():
    features, iou = draw_rows(3000, 0)
    return train_boosters(features, NAMES, iou, np.ones(3000), seed=1, **SETTINGS)


def test_scores_of_new_rows_are_right(boosters):
    features, iou = draw_rows(1000, 1)
    scores = predict_scores([boosters], features)
    assert scores.shape == (1000, len(TARGETS))
    assert scores.dtype == np.float32
    assert np.abs(scores[:, -1] - iou).mean() < 0.08
    for column, threshold in enumerate(THRESHOLDS):
        assert np.mean((scores[:, column] > 0.5) == (iou > threshold)) > 0.9


def test_probabilities_fall_with_the_threshold(boosters):
    scores = predict_scores([boosters], draw_rows(500, 2)[0])
    assert (np.diff(scores[:, :-1], axis=1) <= 0).all()
    assert scores.min() >= 0
    assert scores.max() <= 1


def test_the_same_seed_gives_the_same_boosters():
    features, iou = draw_rows(500, 3)
    texts = []
    for seed in (1, 1, 2):
        trained = train_boosters(features, NAMES, iou, np.ones(500), seed=seed, **SETTINGS | {"share": 0.5})
        texts.append(trained["p75"].model_to_string())
    assert texts[0] == texts[1] != texts[2]


def test_importance_is_a_share_and_finds_the_telling_feature(boosters):
    importance = feature_importance([boosters])
    assert next(iter(importance)) == "telling"
    assert importance["telling"] > 0.9
    assert sum(importance.values()) == pytest.approx(1)


def test_no_candidates_have_no_scores(boosters):
    assert predict_scores([boosters], np.zeros((0, 2), np.float32)).shape == (0, len(TARGETS))


def test_boosters_of_a_fold_learn_from_the_others_only():
    row_fold = np.array([2, 0, 0, 1, 2])
    for fold, rows in fold_rows(row_fold):
        assert set(row_fold[rows]) == {0, 1, 2} - {fold}


def test_thresholds_are_chosen_on_the_other_folds():
    fold = np.repeat([0, 1, 2], 4)
    grid = np.zeros((12, 3))
    grid[fold == 0, 0] = 100  # option 0 is best by far, in fold 0 only
    grid[fold == 1, 1] = 1
    grid[fold == 2, 1] = 1
    chosen, overall = choose_per_fold(grid, fold)
    assert chosen == {0: 1, 1: 0, 2: 0}
    assert overall == 0


def test_one_fold_has_no_others():
    with pytest.raises(ValueError, match="at least two folds"):
        choose_per_fold(np.zeros((3, 2)), np.zeros(3))
