"""Candidates -> scorer/: boosters by the networks' folds, and the scores of all candidates, {oof,test}/<id>.npz."""

import numpy as np
import pandas as pd
from tqdm import tqdm

from nuclei.candidates.boosters import feature_importance, fold_rows, pack_boosters, predict_scores, train_boosters
from nuclei.candidates.features import feature_names, features_table
from nuclei.config.schema import Config
from nuclei.inference.predictor import read_boosters
from nuclei.runs.cache import fingerprint, stage
from nuclei.runs.files import read_arrays, write_arrays, write_bytes, write_json
from nuclei.runs.layout import Dataset, Options, Run


def main(run: Run, config: Config, options: Options) -> None:
    dataset = Dataset(config.data, run.folder.parent)
    inputs = {"candidates": fingerprint(run.meta("candidates"))}
    with stage(
        run.meta("score"), {"scorer": config.scorer.record()}, inputs, [run.scorer], options.force, share=True
    ) as needed:
        if not needed:
            return
        table = dataset.read_folds()
        boosters = train_all(run, config, table, options.jobs)
        everyone = [b for sets in boosters.values() for b in sets]
        fold_of = dict(zip(table["image_id"], table["fold"], strict=True))
        for split, image_ids in dataset.splits().items():
            for image_id in tqdm(image_ids, f"{run.name} score {split}", unit="image", mininterval=2):
                stored = read_arrays(run.candidates(split) / f"{image_id}.npz")["features"]
                features = features_table(stored, feature_names())
                chosen = boosters[fold_of[image_id]] if split == "oof" else everyone
                write_arrays(run.scores(split) / f"{image_id}.npz", {"scores": predict_scores(chosen, features)})
        write_json(run.scorer / "features.json", {"importance": feature_importance(everyone)})


def train_all(run: Run, config: Config, table: pd.DataFrame, jobs: int):
    """Return fold -> boosters of each seed, from disk where a run that was killed had trained them already."""
    names = feature_names(config.scorer.leave_out)
    paths = {
        (fold, seed): run.scorer / f"fold{fold}_seed{seed}.json.gz"
        for fold in sorted(table["fold"].unique().tolist())
        for seed in range(config.scorer.seeds)
    }
    if not all(path.is_file() for path in paths.values()):
        features, iou, fold, weight = read_rows(run, table)
        progress = tqdm(paths.items(), f"{run.name} score: boosters", unit="set")
        for (held_out, seed), path in progress:
            if path.is_file():
                continue
            rows = dict(fold_rows(fold))[held_out]
            trained = train_boosters(
                features.loc[rows, names],
                iou[rows],
                weight[rows],
                config.scorer,
                config.scorer.seed + 1000 * seed,
                jobs,
            )
            write_bytes(path, pack_boosters(trained))
    boosters = {fold: [] for fold, _ in paths}
    for (fold, _), path in paths.items():
        boosters[fold].append(read_boosters(path))
    return boosters


def read_rows(run: Run, table: pd.DataFrame):
    """Read the out-of-fold candidates: a table of all features, true IoU, fold and weight [N].

    The metric is a mean over images, so a candidate of a crowded image weighs less; by the root only, since crowded
    images also teach more.
    """
    features, iou, fold, weight = [], [], [], []
    for image_id, image_fold in zip(table["image_id"], table["fold"], strict=True):
        arrays = read_arrays(run.candidates("oof") / f"{image_id}.npz")
        n = len(arrays["iou"])
        features.append(arrays["features"])
        iou.append(arrays["iou"])
        fold.append(np.full(n, image_fold))
        weight.append(np.full(n, max(n, 1) ** -0.5))
    weight = np.concatenate(weight)
    named = features_table(np.concatenate(features), feature_names())
    return named, np.concatenate(iou), np.concatenate(fold), weight / weight.mean()
