"""Boosters learn what can be learned, out of fold, and their probabilities never rise with the threshold."""

import gzip
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from nuclei.candidates.boosters import (
    TARGETS,
    feature_importance,
    fold_rows,
    pack_boosters,
    predict_scores,
    train_boosters,
    unpack_boosters,
)
from nuclei.candidates.features import feature_names
from nuclei.config.schema import ScorerConfig
from nuclei.decoding.tuning import choose_per_fold
from nuclei.evaluation.metric import THRESHOLDS

NAMES = ["telling", "noise"]
SETTINGS = ScorerConfig(rounds=20, leaves=7, learning_rate=0.2, min_leaf_rows=20, share=1)
BUNDLE = Path(__file__).parents[2] / "ensembles/long_mobilenets/bundle/long_mobilenets/scorer"
PUBLISHED = sorted(BUNDLE.glob("*.json.gz"))


def draw_rows(n: int, seed: int):
    rng = np.random.default_rng(seed)
    features = pd.DataFrame(rng.random((n, 2)).astype(np.float32), columns=NAMES)
    iou = np.clip(features["telling"].to_numpy() + rng.normal(0, 0.05, n), 0, 1).astype(np.float32)
    return features, iou


@pytest.fixture(scope="module")
def boosters():
    features, iou = draw_rows(3000, 0)
    return train_boosters(features, iou, np.ones(3000), SETTINGS, seed=1, jobs=1)


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
    half = SETTINGS.model_copy(update={"share": 0.5})
    packed = [pack_boosters(train_boosters(features, iou, np.ones(500), half, seed, jobs=1)) for seed in (1, 1, 2)]
    assert packed[0] == packed[1] != packed[2]


def test_packed_boosters_do_not_depend_on_the_number_of_threads():
    features, iou = draw_rows(6000, 7)
    half = SETTINGS.model_copy(update={"share": 0.5})
    packed = [pack_boosters(train_boosters(features, iou, np.ones(6000), half, 1, jobs)) for jobs in (1, 2, 5, -1)]
    assert packed.count(packed[0]) == 4
    assert b"[num_threads: 0]" in gzip.decompress(packed[0])


def test_features_are_taken_by_name(boosters):
    features, _ = draw_rows(300, 4)
    scores = predict_scores([boosters], features)
    turned = features[NAMES[::-1]]
    np.testing.assert_array_equal(predict_scores([boosters], turned), scores)
    wider = turned.assign(unseen=np.float32(np.nan))[["unseen", *NAMES[::-1]]]
    np.testing.assert_array_equal(predict_scores([boosters], wider), scores)
    with pytest.raises(ValueError, match="lack: telling"):
        predict_scores([boosters], wider.drop(columns="telling"))


def test_boosters_of_different_features_are_averaged(boosters):
    features, iou = draw_rows(300, 5)
    fewer = train_boosters(features[["noise"]], iou, np.ones(300), SETTINGS, seed=1, jobs=1)
    assert fewer["iou"].feature_name() == ["noise"]
    both = predict_scores([boosters, fewer], features)[:, -1]
    alone = [predict_scores([one], features)[:, -1] for one in (boosters, fewer)]
    np.testing.assert_allclose(both, np.mean(alone, axis=0), atol=1e-6)


def test_packed_boosters_give_the_same_scores_and_bytes(boosters):
    features, _ = draw_rows(300, 6)
    packed = pack_boosters(boosters)
    again = unpack_boosters(packed, "f")
    np.testing.assert_array_equal(predict_scores([again], features), predict_scores([boosters], features))
    assert pack_boosters(again) == packed


@pytest.mark.parametrize("path", PUBLISHED, ids=lambda path: path.stem)
def test_published_boosters_are_packed_as_they_are_and_know_the_features_by_name(path):
    boosters = unpack_boosters(path.read_bytes(), path.name)
    for booster in boosters.values():
        assert set(booster.feature_name()) <= set(feature_names())
    texts = {target: booster.model_to_string() for target, booster in boosters.items()}
    # Unpacked, as zlibs compress differently.
    assert json.dumps(texts).encode() == gzip.decompress(path.read_bytes())


def test_boosters_have_been_published():
    assert len(PUBLISHED) == 8


def pack_texts(texts: dict) -> bytes:
    return gzip.compress(json.dumps(texts).encode())


def spoil(text: str, old: str, new: str) -> str:
    assert old in text
    return text.replace(old, new, 1)


# Most of these texts would end the process in LightGBM's hands.
DAMAGED_TEXTS = {
    "empty": lambda text: text[:0],
    "other": lambda text: text.upper(),
    "half": lambda text: text[: len(text) // 2],
    "tree missing": lambda text: text[: text.index("Tree=3\n")] + text[text.index("Tree=4\n") :],
    "last trees missing": lambda text: text[: text.index("Tree=15\n")] + text[text.index("end of trees") :],
    "tree of another length": lambda text: spoil(text, "num_leaves=7", "num_leaves=17"),
    "sizes missing": lambda text: spoil(text, "tree_sizes", "sizes_of_trees"),
    "one size missing": lambda text: spoil(text, "tree_sizes=", "tree_sizes=1 "),
    "end missing": lambda text: text[:-1],
    "parameters missing": lambda text: text[: text.index("\nparameters:")],
}


@pytest.mark.parametrize("damage", DAMAGED_TEXTS)
def test_a_damaged_model_is_refused_by_name(boosters, damage):
    texts = json.loads(gzip.decompress(pack_boosters(boosters)))
    unpack_boosters(pack_texts(texts), "whole")
    texts["p75"] = DAMAGED_TEXTS[damage](texts["p75"])
    with pytest.raises(ValueError, match=r"^fold0.json.gz is damaged"):
        unpack_boosters(pack_texts(texts), "fold0.json.gz")


def test_a_damaged_file_is_refused_by_name(boosters):
    packed = pack_boosters(boosters)
    texts = json.loads(gzip.decompress(packed))
    flipped = bytearray(packed)
    flipped[len(packed) // 2] ^= 1
    for content in (
        b"",
        b"hello",
        packed[:-9],
        packed[: len(packed) // 2],
        bytes(flipped),
        gzip.compress(b"hello"),
        gzip.compress(b"\xff"),
        pack_texts([1]),
        pack_texts({target: texts[target] for target in TARGETS[1:]}),
        pack_texts(texts | {"other": texts["iou"]}),
        pack_texts(texts | {"iou": None}),
    ):
        with pytest.raises(ValueError, match=r"^fold0.json.gz is damaged"):
            unpack_boosters(content, "fold0.json.gz")


def test_importance_is_a_share_and_finds_the_telling_feature(boosters):
    importance = feature_importance([boosters])
    assert next(iter(importance)) == "telling"
    assert importance["telling"] > 0.9
    assert sum(importance.values()) == pytest.approx(1)


def test_no_candidates_have_no_scores(boosters):
    assert predict_scores([boosters], draw_rows(0, 0)[0]).shape == (0, len(TARGETS))


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


def test_boosters_that_unpack_to_more_than_the_limit_are_refused(monkeypatch):
    monkeypatch.setattr("nuclei.candidates.boosters.MAX_BOOSTERS_BYTES", 1000)
    with pytest.raises(ValueError, match=r"fold0_seed1\.json\.gz is damaged.*more than 1,000 bytes"):
        unpack_boosters(gzip.compress(b'{"p50": "' + b"x" * 2000 + b'"}'), "fold0_seed1.json.gz")
