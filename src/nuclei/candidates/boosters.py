"""Candidate scoring: LightGBM learns how well a candidate outlines a nucleus from what can be measured of it."""

from collections.abc import Iterator

import lightgbm as lgb
import numpy as np

from nuclei.evaluation.metric import THRESHOLDS

# One target per threshold t, "IoU > t", and the IoU itself.
TARGETS = (*(f"p{round(100 * t)}" for t in THRESHOLDS), "iou")


def fold_rows(row_fold: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Yield each fold and the rows bool [N] its boosters may learn from: those of the other folds."""
    for fold in np.unique(row_fold):
        yield int(fold), row_fold != fold


def train_boosters(
    features: np.ndarray,
    names: list[str],
    iou: np.ndarray,
    weight: np.ndarray,
    rounds: int,
    leaves: int,
    learning_rate: float,
    min_leaf_rows: int,
    share: float,
    seed: int,
    jobs: int = -1,
) -> dict[str, lgb.Booster]:
    """Train one booster per target of TARGETS: features float32 [N, F], iou and weight [N].

    P(IoU > t) is learned by log loss, the IoU by squared error. Each tree sees `share` of the rows and of the
    features. Targets share one binned table, which is where the memory and half of the time go.
    """
    table = lgb.Dataset(features, feature_name=names, weight=weight, free_raw_data=True)
    boosters = {}
    for target in TARGETS:
        probability = target != "iou"
        label = iou > THRESHOLDS[TARGETS.index(target)] if probability else iou
        settings = {
            "objective": "binary" if probability else "regression",
            "num_leaves": leaves,
            "verbosity": -1,
            "learning_rate": learning_rate,
            "min_data_in_leaf": min_leaf_rows,
            "seed": seed,
            "max_bin": 127,
            "bagging_fraction": share,
            "bagging_freq": 1,
            "feature_fraction": share,
            "lambda_l2": 1.0,
            "deterministic": True,
            "force_row_wise": True,
            "num_threads": 0 if jobs == -1 else jobs,
        }
        table.set_label(label.astype(np.float32))
        boosters[target] = lgb.train(settings, table, num_boost_round=rounds)
    return boosters


def predict_scores(boosters: list[dict[str, lgb.Booster]], features: np.ndarray) -> np.ndarray:
    """Average the predictions of several sets of boosters: float32 [N, 11], columns as TARGETS.

    A candidate cannot pass a threshold more likely than a lower one: a rise is levelled by the running minimum of
    the average.
    """
    if not len(features):
        return np.zeros((0, len(TARGETS)), np.float32)
    scores = np.stack([np.mean([b[target].predict(features) for b in boosters], axis=0) for target in TARGETS], axis=1)
    scores[:, :-1] = np.minimum.accumulate(scores[:, :-1], axis=1)
    return scores.clip(0, 1).astype(np.float32)


def feature_importance(boosters: list[dict[str, lgb.Booster]]) -> dict[str, float]:
    """Return each feature's share of the total gain, averaged over all boosters, largest first."""
    total = {}
    for booster in (b for sets in boosters for b in sets.values()):
        gain = booster.feature_importance("gain")
        for name, value in zip(booster.feature_name(), gain / max(gain.sum(), 1e-12), strict=True):
            total[name] = total.get(name, 0.0) + float(value)
    scale = sum(total.values()) or 1.0
    return {name: value / scale for name, value in sorted(total.items(), key=lambda item: -item[1])}
