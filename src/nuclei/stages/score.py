"""Candidates -> scorer/: boosters by the networks' folds, and the scores of all candidates, {oof,test}/<id>.npz."""

from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from tqdm import tqdm

from nuclei.candidates.boosters import (
    Boosters,
    feature_importance,
    fold_rows,
    pack_boosters,
    predict_scores,
    train_boosters,
    unpack_boosters,
)
from nuclei.candidates.features import feature_names, features_table
from nuclei.config.schema import Config
from nuclei.data.competition import EXTERNAL_FOLD
from nuclei.limits import read_whole
from nuclei.runs.cache import Part, fingerprint, stage
from nuclei.runs.cores import count_jobs, count_threads
from nuclei.runs.files import read_arrays, write_arrays, write_bytes, write_json
from nuclei.runs.layout import Dataset, Options, Run

VERSION = 1
Rows = tuple[pd.DataFrame, NDArray[np.float32], NDArray[np.int64], NDArray[np.float64]]


def main(run: Run, config: Config, options: Options) -> None:
    dataset = Dataset(config.data, run.folder.parent)
    splits, table = dataset.splits(), dataset.read_folds()
    made_of = {s: fingerprint(run.meta("candidates"), s) for s in splits}
    boosters_of = list(list_boosters(run, config, table).values())
    outside = {"outside": fingerprint(run.meta("outside"))} if config.scorer.outside else {}
    with stage(
        run.meta("score"),
        {"scorer": config.scorer.record()},
        {},
        [run.scorer],
        options.force,
        version=VERSION,
        parts={
            # The boosters learn from the out-of-fold candidates, and score them all.
            s: Part({"candidates": made_of[s], **outside}, [*boosters_of, run.scorer / "features.json", run.scores(s)])
            if s == "oof"
            else Part({"candidates": made_of[s], "boosters": made_of["oof"]}, [run.scores(s)])
            for s in splits
        },
        share=True,
    ) as needed:
        if not needed:
            return
        threads = options.jobs if options.jobs > 0 else min(count_threads(), count_jobs(options.jobs))
        boosters = train_all(run, config, table, threads)
        new = boosters.pop(None, None) or [b for sets in boosters.values() for b in sets]
        fold_of = dict(zip(table["image_id"], table["fold"], strict=True))
        for split in needed:
            for image_id in tqdm(splits[split], f"{run.name} score {split}", unit="image", mininterval=2):
                stored = read_arrays(run.candidates(split) / f"{image_id}.npz", ["features"])["features"]
                chosen = boosters[fold_of[image_id]] if split == "oof" else new
                scores = predict_scores(chosen, features_table(stored, feature_names()), threads)
                write_arrays(run.scores(split) / f"{image_id}.npz", {"scores": scores})
        if "oof" in needed:
            write_json(run.scorer / "features.json", {"importance": feature_importance(new)})


def list_boosters(run: Run, config: Config, table: pd.DataFrame) -> dict[tuple[int | None, int], Path]:
    """Return the files of boosters, by the fold that they never saw, None for the whole, and their seed's number."""
    folds = [*sorted(table["fold"].unique().tolist()), *([None] if config.scorer.new_images == "whole" else [])]
    return {(fold, seed): run.boosters(fold, seed) for fold in folds for seed in range(config.scorer.seeds)}


def train_all(run: Run, config: Config, table: pd.DataFrame, threads: int) -> dict[int | None, list[Boosters]]:
    """Return fold -> boosters of each seed, from disk where a run that was killed had trained them already."""
    names, paths = feature_names(config.scorer.leave_out), list_boosters(run, config, table)
    if not all(path.is_file() for path in paths.values()):
        features, iou, fold, weight = read_rows(run, table, bool(config.scorer.outside))
        for (held_out, seed), path in tqdm(paths.items(), f"{run.name} score: boosters", unit="set", mininterval=2):
            if path.is_file():
                continue
            rows = np.ones(len(fold), bool) if held_out is None else dict(fold_rows(fold))[held_out]
            derived = config.scorer.seed + 1000 * seed
            trained = train_boosters(
                features.loc[rows, names], iou[rows], weight[rows], config.scorer, derived, threads
            )
            write_bytes(path, pack_boosters(trained))
    boosters: dict[int | None, list[Boosters]] = {held_out: [] for held_out, _ in paths}
    for (held_out, _), path in paths.items():
        boosters[held_out].append(unpack_boosters(read_whole(path), str(path)))
    return boosters


def read_rows(run: Run, table: pd.DataFrame, outside: bool) -> Rows:
    """Read the out-of-fold candidates: a table of all features, true IoU, fold and weight [N].

    outside: those of external images too, of EXTERNAL_FOLD, from which the boosters of every fold learn. The metric is
    a mean over images, so a candidate of a crowded image weighs less; by the root only, since crowded images also teach
    more.
    """
    paths = [(run.candidates("oof") / f"{i}.npz", k) for i, k in zip(table["image_id"], table["fold"], strict=True)]
    if outside:
        paths += [(path, EXTERNAL_FOLD) for path in sorted(run.outside.glob("*.npz"))]
    features, iou, fold, weight = [], [], [], []
    for path, image_fold in paths:
        arrays = read_arrays(path, ["features", "iou"])
        n = len(arrays["iou"])
        features.append(arrays["features"])
        iou.append(arrays["iou"])
        fold.append(np.full(n, image_fold))
        weight.append(np.full(n, max(n, 1) ** -0.5))
    named, weights = features_table(np.concatenate(features), feature_names()), np.concatenate(weight)
    return named, np.concatenate(iou), np.concatenate(fold), weights / weights.mean()
