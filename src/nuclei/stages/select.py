"""Scores, or maps -> instances/{oof,test}: label images, by selection or by a plain decoding; and select.json."""

import numpy as np
from joblib import Parallel, delayed
from tqdm import tqdm

from nuclei.candidates.selection import SEARCHES, expected_gain, paint, score_selection
from nuclei.candidates.table import Candidates
from nuclei.config.schema import Config
from nuclei.data.images import encode_labels_png
from nuclei.decoding.methods import choose_candidates, decode_plain
from nuclei.decoding.tuning import choose_per_fold
from nuclei.evaluation.metric import THRESHOLDS
from nuclei.networks.maps import dequantise
from nuclei.runs.cache import fingerprint, stage
from nuclei.runs.files import read_arrays, read_json, read_table, write_bytes, write_json
from nuclei.runs.layout import Dataset, Options, Run

PASSES = 2  # the precision that the gain is measured against is that of the selection before


def main(run: Run, config: Config, options: Options) -> None:
    dataset = Dataset(config.data, run.folder.parent)
    scored = config.selection.method == "scored"
    source = "score" if scored else "plain"
    inputs = {source: fingerprint(run.meta(source))}
    settings = {"selection": config.selection.record()}
    outputs = [run.folder / "instances", run.tuned]
    with stage(run.meta("select"), settings, inputs, outputs, options.force, share=True) as needed:
        if not needed:
            return
        table = dataset.read_folds()
        # The manifest's counts are of these labels, the fold table's of those it was made from.
        n_nuclei = read_table(dataset.manifest).set_index("image_id")["n_nuclei"]
        table["n_nuclei"] = table["image_id"].map(n_nuclei)
        tuned = (
            tune(run, config, table, options) if scored else read_json(run.plain / f"{config.selection.method}.json")
        )
        write_json(run.tuned, tuned)
        fold_of = dict(zip(table["image_id"], table["fold"].astype(str), strict=True))
        for split, image_ids in dataset.splits().items():

            def setting(image_id, split=split):
                return tuned["fold"][fold_of[image_id]] if split == "oof" else tuned["test"]

            results = Parallel(options.jobs, return_as="generator_unordered")(
                delayed(write_instances)(run, config, split, i, setting(i)) for i in image_ids
            )
            for _ in tqdm(results, f"{run.name} select {split}", len(image_ids), unit="image", mininterval=2):
                pass


def write_instances(run: Run, config: Config, split: str, image_id: str, setting: dict) -> None:
    """Decode one image and write its label image."""
    path = run.instances(split) / f"{image_id}.png"
    if not path.is_file():  # else by a run that was killed
        write_bytes(path, encode_labels_png(decode_one(run, config, split, image_id, setting)))


def decode_one(run: Run, config: Config, split: str, image_id: str, setting: dict) -> np.ndarray:
    """Return the labels of the best candidates, or of a plain decoding, under what was tuned."""
    name = f"{image_id}.npz"
    if config.selection.method != "scored":
        detections = read_arrays(run.detections(split) / name) if config.detects else None
        return decode_plain(dequantise(read_arrays(run.maps(split) / name)), detections, config, setting)
    candidates = Candidates.unpack(read_arrays(run.candidates(split) / name))
    scores = read_arrays(run.scores(split) / name)["scores"]
    return paint(candidates, choose_candidates(candidates, scores, setting, config.selection.search))


def tune(run: Run, config: Config, table, options: Options) -> dict:
    """Choose the keep threshold, and the expected precision of the gain, for each fold on the other folds."""
    grid, folds = config.selection.keep_grid, table["fold"].to_numpy()
    start = np.interp(THRESHOLDS, [0.5, 0.95], [0.8, 0.1])
    precision = dict.fromkeys([*np.unique(folds).tolist(), None], start)  # None: for new images
    for number in range(PASSES):
        rows = Parallel(options.jobs, return_as="generator")(
            delayed(try_thresholds)(run, config, row.image_id, row.n_nuclei, [precision[row.fold], precision[None]])
            for row in table.itertuples()
        )
        title = f"{run.name} select: tune {number + 1}/{PASSES}"
        results = np.array(list(tqdm(rows, title, len(table), unit="image", mininterval=2)))  # [N, 2, K, T]
        curves = results.mean(axis=3)
        chosen, _ = choose_per_fold(curves[:, 0], folds)
        _, overall = choose_per_fold(curves[:, 1], folds)
        used = precision
        precision = {fold: results[folds != fold, 0, k].mean(axis=0) for fold, k in chosen.items()}
        precision[None] = results[:, 1, overall].mean(axis=0)
    return {
        "options": grid,
        "curve": curves[:, 0].mean(axis=0).round(5).tolist(),
        "fold": {str(fold): {"keep": grid[k], "precision": used[fold].tolist()} for fold, k in chosen.items()},
        "test": {"keep": grid[overall], "precision": used[None].tolist()},
    }


def try_thresholds(run: Run, config: Config, image_id: str, n_true: int, precisions) -> np.ndarray:
    """Return the precision of an image at each threshold, for each expected precision and keep threshold: [2, K, T]."""
    arrays = read_arrays(run.candidates("oof") / f"{image_id}.npz")
    scores = read_arrays(run.scores("oof") / f"{image_id}.npz")["scores"]
    candidates, search = Candidates.unpack(arrays), SEARCHES[config.selection.search]
    result = []
    for precision in precisions:
        gain = expected_gain(scores[:, :-1], precision)
        chosen = [search(candidates, gain - keep) for keep in config.selection.keep_grid]
        result.append([score_selection(arrays["iou"][c], THRESHOLDS, n_true) for c in chosen])
    return np.array(result)
