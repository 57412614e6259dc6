"""Candidate scoring: LightGBM learns how well a candidate outlines a nucleus from what can be measured of it."""

import gzip
import json
import re
import zlib
from collections.abc import Iterator, Sequence
from functools import cache, partial
from itertools import accumulate
from typing import Any

import lightgbm as lgb
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from nuclei.config.schema import ScorerConfig
from nuclei.errors import UserError
from nuclei.evaluation.metric import THRESHOLDS
from nuclei.evaluation.sheets import gunzip
from nuclei.limits import MAX_BOOSTERS_BYTES

# One target per threshold t, "IoU > t", and the IoU itself.
TARGETS = (*(f"p{round(100 * t)}" for t in THRESHOLDS), "iou")
# A set of boosters: one per target of TARGETS.
Boosters = dict[str, lgb.Booster]
END_OF_MODEL = "\nend of parameters\n\npandas_categorical:null\n"
# LightGBM's text of a model names the threads that trained it, on which nothing else in it depends.
_THREADS = re.compile(r"^\[num_threads: -?\d+\]$", re.MULTILINE)


def fold_rows(row_fold: NDArray[np.integer[Any]]) -> Iterator[tuple[int, NDArray[np.bool_]]]:
    """Yield each fold and the rows bool [N] its boosters may learn from: those of the other folds."""
    for fold in np.unique(row_fold):
        yield int(fold), row_fold != fold


def train_boosters(
    features: pd.DataFrame,
    iou: NDArray[np.float32],
    weight: NDArray[np.float64],
    settings: ScorerConfig,
    seed: int,
    jobs: int = -1,
) -> Boosters:
    """Train one booster per target of TARGETS on the features of N candidates, their true IoU and their weight, [N].

    P(IoU > t) is learned by log loss, the IoU by squared error. Each tree sees `settings.share` of the rows and of
    the features. Boosters remember the names of the table's columns. `seed` replaces `settings.seed`, from which that
    of each set is derived; jobs: threads, -1: one per core.
    """
    # Targets share one binned table, which is where the memory and half of the time go.
    table = lgb.Dataset(
        features.to_numpy(np.float32), feature_name=list(features.columns), weight=weight, free_raw_data=True
    )
    boosters = {}
    for target in TARGETS:
        probability = target != "iou"
        label = iou > THRESHOLDS[TARGETS.index(target)] if probability else iou
        parameters = {
            "objective": "binary" if probability else "regression",
            "num_leaves": settings.leaves,
            "verbosity": -1,
            "learning_rate": settings.learning_rate,
            "min_data_in_leaf": settings.min_leaf_rows,
            "seed": seed,
            "max_bin": 127,
            "bagging_fraction": settings.share,
            "bagging_freq": 1,
            "feature_fraction": settings.share,
            "lambda_l2": 1.0,
            "deterministic": True,
            "force_row_wise": True,
            "num_threads": 0 if jobs == -1 else jobs,
        }
        table.set_label(label.astype(np.float32))
        boosters[target] = lgb.train(parameters, table, num_boost_round=settings.rounds)
    return boosters


def predict_scores(boosters: Sequence[Boosters], features: pd.DataFrame, threads: int = 0) -> NDArray[np.float32]:
    """Average the predictions of several sets of boosters for N candidates: float32 [N, 11], columns as TARGETS.

    Each booster takes the columns that it was trained on by their names, so the table may hold more, in any order;
    raises UserError naming those that it lacks. A candidate cannot pass a threshold more likely than a lower one: a
    rise is levelled by the running minimum of the average. threads: as many; 0: as OpenMP chooses.
    """
    if not len(features):
        return np.zeros((0, len(TARGETS)), np.float32)
    columns = cache(partial(pick_columns, features))  # which the boosters of a run have in common
    predictions = [
        [one[target].predict(columns(tuple(one[target].feature_name())), num_threads=threads) for one in boosters]
        for target in TARGETS
    ]
    scores = np.stack([np.mean(np.asarray(of_target), axis=0) for of_target in predictions], axis=1)
    scores[:, :-1] = np.minimum.accumulate(scores[:, :-1], axis=1)
    return scores.clip(0, 1).astype(np.float32)


def pick_columns(features: pd.DataFrame, names: tuple[str, ...]) -> NDArray[np.float32]:
    """Return columns of a table of features as float32 [N, F]; raise UserError naming those that it lacks."""
    if missing := [name for name in names if name not in features.columns]:
        raise UserError(
            f"the boosters were trained on features that the candidates lack: {', '.join(missing)}. "
            "Cut the candidates with the code that the boosters were trained with, or train the boosters anew"
        )
    return np.ascontiguousarray(features[list(names)], np.float32)


def feature_importance(boosters: Sequence[Boosters]) -> dict[str, float]:
    """Return each feature's share of the total gain, averaged over all boosters, largest first."""
    total: dict[str, float] = {}
    for booster in (b for one in boosters for b in one.values()):
        gain = booster.feature_importance("gain")
        for name, value in zip(booster.feature_name(), gain / max(gain.sum(), 1e-12), strict=True):
            total[name] = total.get(name, 0.0) + float(value)
    scale = sum(total.values()) or 1.0
    return {name: value / scale for name, value in sorted(total.items(), key=lambda item: -item[1])}


def pack_boosters(boosters: Boosters) -> bytes:
    """Return a set of boosters as gzipped JSON, target -> LightGBM's text of the model.

    Equal sets give equal bytes, whatever number of threads they were trained with.
    """
    texts = {target: _THREADS.sub("[num_threads: 0]", b.model_to_string()) for target, b in boosters.items()}
    content = json.dumps(texts)
    return gzip.compress(content.encode(), 6, mtime=0)


def unpack_boosters(content: bytes, name: str) -> Boosters:
    """Return the set of boosters that `pack_boosters` packed; raise UserError naming the file `name` if damaged."""
    try:
        texts = json.loads(gunzip(content, MAX_BOOSTERS_BYTES))
        if not isinstance(texts, dict) or set(texts) != set(TARGETS):
            raise ValueError(f"it holds no model for each of {', '.join(TARGETS)}")
        for text in texts.values():
            check_model(str(text))
        return {target: lgb.Booster(model_str=texts[target]) for target in TARGETS}
    # What gzip, JSON and LightGBM say of damage; JSON's errors and those of its characters are ValueErrors.
    except (OSError, EOFError, OverflowError, RecursionError, zlib.error, ValueError, lgb.basic.LightGBMError) as error:
        raise UserError(
            f"{name} is damaged, or no file of boosters ({error}): write it again by the stage score, or fetch it anew"
        ) from error


def check_model(text: str) -> None:
    """Raise ValueError unless LightGBM's text of a model is whole: a header, trees of the sizes it lists, and the end.

    LightGBM aborts the whole process on a text that is cut off or lacks a tree. Numbers inside a tree are not checked:
    accidental damage to them fails gzip's checksum, but a file altered on purpose can still abort the process.
    """
    header, _, rest = text.partition("\n\n")
    listed = re.search(r"^tree_sizes=([\d ]*)$", header, re.MULTILINE)
    if not (header.startswith("tree\n") and listed and text.isascii()):  # so that characters are bytes
        raise ValueError("a model has no header with the sizes of its trees")
    starts = [0, *accumulate(int(size) for size in listed[1].split())]
    marks = [*(f"Tree={i}\n" for i in range(len(starts) - 1)), "end of trees\n"]
    for start, mark in zip(starts, marks, strict=True):
        if not rest.startswith(mark, start):
            raise ValueError(f"a model has no {mark.strip()!r} where its header says")
    if not rest.endswith(END_OF_MODEL):
        raise ValueError("a model is cut off")
