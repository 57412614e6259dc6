"""A finished run in small: all stages on demo archives, its networks replaced by blurred and noisy truth."""

import shutil
from pathlib import Path

import cv2
import numpy as np
import pandas as pd

from nuclei.config.load import parse_config
from nuclei.data.images import decode_labels_png
from nuclei.evaluation.rle import decode_labels
from nuclei.evaluation.submission import read_solution
from nuclei.networks.maps import quantise
from nuclei.pipeline import save_config
from nuclei.runs import cache
from nuclei.runs.files import write_arrays, write_table
from nuclei.runs.layout import Dataset, Options, Run
from nuclei.stages import candidates, ensemble, evaluate, folds, plain, prepare, score, select, submit
from nuclei.training.targets import make_targets

CHANNELS = ("mask", "border", "center")


def make_config(root: Path, **changes):
    content = {
        "hypothesis": "nuclei <can> be found",
        "data": {"dataset": "demo", "folds": str(root / "folds.csv"), "n_folds": 2},
        "plain": {"mask_thresholds": [0.4, 0.5], "seed_levels": [0.5, 0.65]},
        "watershed": {"mask_thresholds": [0.4, 0.6]},
        "scorer": {"rounds": 8, "seeds": 1, "min_leaf_rows": 20},
        "selection": {"keep_grid": [0.0, 0.1]},
    }
    return parse_config(content | changes, "test")


def make_run(root: Path, archives: Path, name: str = "tiny", jobs: int = 1, **changes) -> tuple:
    """Take a run through all stages but the report, its networks replaced by blurred and noisy truth."""
    run, config, options = Run(name, root), make_config(root, **changes), Options(archives, jobs=jobs)
    save_config(run, config)
    prepare.main(run, config, options)
    folds.main(run, config, options)
    if config.members:
        ensemble.main(run, config, options)
    else:
        pretend_to_train(run, config)
    scored = config.selection.method == "scored"
    for stage in (plain, *((candidates, score) if scored else ()), select, submit, evaluate):
        stage.main(run, config, options)
    return run, config, options


def copy_run(made: tuple, root: Path) -> tuple:
    """Copy a run that `make_run` made, and the data that it was made of, to another root, and return it likewise."""
    run, config, options = made
    shutil.copytree(run.folder.parent, root, dirs_exist_ok=True)
    return Run(run.name, root), config, options


def pretend_to_train(run: Run, config) -> None:
    """Write the histories and maps that networks which are right but for blur and noise would have left."""
    dataset, rng = Dataset(config.data, run.folder.parent), np.random.default_rng(0)
    solution = read_solution(dataset.solution("stage1_solution"))
    inputs = dataset.inputs()
    for fold in sorted(dataset.read_folds()["fold"].unique()):
        with cache.stage(run.meta(f"train_fold{fold}"), {}, inputs):
            steps = np.arange(20, 201, 20)
            scores = [None if step % 100 else step / 400 for step in steps]
            history = {"step": steps, "loss": 1 / (1 + steps / 50) + fold / 50, "learning_rate": 1e-3, "score": scores}
            write_table(run.fold(fold) / "history.csv", pd.DataFrame(history))
    with cache.stage(run.meta("predict"), {}, inputs):
        for split, image_ids in dataset.splits().items():
            for image_id in image_ids:
                if split == "oof":
                    path = dataset.labels(image_id)
                    labels = decode_labels_png(path.read_bytes(), str(path))
                else:
                    rows = solution[solution["ImageId"] == image_id]
                    labels = decode_labels(list(rows["EncodedPixels"]), tuple(rows[["Height", "Width"]].iloc[0]))
                blurred = [blur(target, rng) for target in make_targets(labels, CHANNELS)]
                maps = dict(zip(CHANNELS, blurred, strict=True)) | {
                    "disagreement": np.full(labels.shape, 0.1, np.float32)
                }
                write_arrays(run.maps(split) / f"{image_id}.npz", quantise(maps))


def blur(target: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    noise = cv2.GaussianBlur(rng.normal(0, 1, target.shape), (0, 0), 4)
    return np.clip(cv2.GaussianBlur(target, (0, 0), 1.5) + 0.12 * noise / noise.std(), 0, 1)
