"""Scores, or maps -> instances/{oof,test}: label images, by selection or by a plain decoding; and select.json."""

from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from nuclei.candidates.outlines import grow_labels
from nuclei.candidates.selection import SEARCHES, expected_gain, paint, score_selection
from nuclei.candidates.table import Candidates
from nuclei.config.schema import Config
from nuclei.data.images import encode_labels_png
from nuclei.decoding.methods import (
    Labels,
    choose_candidates,
    choose_growth,
    is_scored,
    method_of,
    treats_others,
)
from nuclei.decoding.tuning import Setting, Tuned, choose_per_fold
from nuclei.evaluation.metric import THRESHOLDS
from nuclei.inference.predictions import is_other_of, read_prediction, read_scored, read_tuned
from nuclei.runs.cache import Part, fingerprint, stage
from nuclei.runs.files import read_arrays, read_json, write_bytes, write_json
from nuclei.runs.layout import Dataset, Options, Run, find_fingerprint
from nuclei.runs.parallel import each_image

VERSION = 1
PASSES = 2  # the precision that the gain is measured against is that of the selection before


def main(run: Run, config: Config, options: Options) -> None:
    dataset = Dataset(config.data, run.folder.parent)
    scored = is_scored(config)
    splits, table = dataset.splits(), dataset.read_folds()
    parts = {}
    for split in splits:
        # The scores of a split depend on the boosters, hence on all that the thresholds are tuned on.
        made_of = (
            {"score": fingerprint(run.meta("score"), split)}
            if scored
            else {"plain": fingerprint(run.meta("plain")), "maps": find_fingerprint(run, "maps", split)}
        )
        if treats_others(config.selection):
            made_of["novelty"] = fingerprint(run.meta("novelty"))
        parts[split] = Part(made_of, [run.instances(split), *([run.tuned] if split == "oof" else [])])
    with stage(
        run.meta("select"),
        {"selection": config.selection.record()},
        {},
        [run.folder / "instances", run.tuned],
        options.force,
        version=VERSION,
        parts=parts,
        share=True,
    ) as needed:
        if not needed:
            return
        # The manifest's counts are of these labels, the fold table's of those it was made from.
        n_nuclei = dataset.read_manifest().set_index("image_id")["n_nuclei"]
        table["n_nuclei"] = table["image_id"].map(n_nuclei)
        if "oof" in needed:
            plain = run.plain / f"{config.selection.method}.json"
            write_json(run.tuned, tune(run, config, table, options).as_json() if scored else read_json(plain))
        tuned = read_tuned(run)
        fold_of = dict(zip(table["image_id"], table["fold"].tolist(), strict=True))
        for split in needed:
            folds = [fold_of[i] if split == "oof" else None for i in splits[split]]
            work = partial(write_instances, run, dataset, config, split)
            settings = [tuned.setting(fold) for fold in folds]
            each_image(splits[split], work, f"{run.name} select {split}", options.jobs, settings, folds)


def write_instances(
    run: Run, dataset: Dataset, config: Config, split: str, image_id: str, setting: Setting, fold: int | None
) -> None:
    """Decode one image and write its label image."""
    path = run.instances(split) / f"{image_id}.png"
    if not path.is_file():  # else by a run that was killed
        labels = decode_one(run, dataset, config, split, image_id, setting, fold)
        write_bytes(path, encode_labels_png(labels))


def decode_one(
    run: Run, dataset: Dataset, config: Config, split: str, image_id: str, setting: Setting, fold: int | None
) -> Labels:
    """Return the labels of the best candidates, or of a plain decoding, under what was tuned, their outlines moved.

    fold: that which holds the image out; None for a new image.
    """
    other = is_other_of(run, config.selection, dataset, image_id, fold)
    if decode := method_of(config).decode:
        labels = next(decode(read_prediction(run, split, image_id), config, [setting]))
    else:
        candidates, scores = read_scored(run, split, image_id)
        labels = paint(candidates, choose_candidates(candidates, scores, setting, config.selection, other))
    if growth := choose_growth(config.selection, other):
        labels = grow_labels(labels, read_prediction(run, split, image_id).maps["mask"], growth)
    return labels


def tune(run: Run, config: Config, table: pd.DataFrame, options: Options) -> Tuned:
    """Choose the keep threshold, and the expected precision of the gain, for each fold on the other folds."""
    # Ascending, so that the first of those within the tolerance is the lowest.
    grid, folds = sorted(config.selection.keep_grid), table["fold"].to_numpy()
    tolerance = config.selection.tolerance
    start = np.interp(THRESHOLDS, [0.5, 0.95], [0.8, 0.1])
    precision: dict[int | None, NDArray[np.float64]]  # of the selection before; None: for new images
    precision = dict.fromkeys([*np.unique(folds).tolist(), None], start)
    for number in range(PASSES):
        title = f"{run.name} select: tune {number + 1}/{PASSES}"
        expected = [[precision[fold], precision[None]] for fold in folds.tolist()]
        work = partial(try_thresholds, run, config, grid)
        rows = each_image(table["image_id"].tolist(), work, title, options.jobs, table["n_nuclei"].tolist(), expected)
        results = np.array(rows)  # [N, 2, K, T]
        curves = results.mean(axis=3)
        chosen, _ = choose_per_fold(curves[:, 0], folds, tolerance)
        _, overall = choose_per_fold(curves[:, 1], folds, tolerance)
        used = precision
        precision = {fold: results[folds != fold, 0, k].mean(axis=0) for fold, k in chosen.items()}
        precision[None] = results[:, 1, overall].mean(axis=0)
    by_fold = {fold: {"keep": grid[k], "precision": used[fold].tolist()} for fold, k in chosen.items()}
    new = {"keep": grid[overall], "precision": used[None].tolist()}
    return Tuned(grid, curves[:, 0].mean(axis=0).round(5).tolist(), by_fold, new)


def try_thresholds(
    run: Run, config: Config, grid: list[float], image_id: str, n_true: int, precisions: list[NDArray[np.float64]]
) -> NDArray[Any]:
    """Return the precision of an image at each threshold, by expected precision and keep threshold: [2, K, T]."""
    arrays = read_arrays(run.candidates("oof") / f"{image_id}.npz")
    scores = read_arrays(run.scores("oof") / f"{image_id}.npz", ["scores"])["scores"]
    candidates, search = Candidates.unpack(arrays), SEARCHES[config.selection.search]
    result = []
    for precision in precisions:
        gain = expected_gain(scores[:, :-1], precision)
        chosen = [search(candidates, gain - keep) for keep in grid]
        result.append([score_selection(arrays["iou"][c], THRESHOLDS, n_true) for c in chosen])
    return np.array(result)
