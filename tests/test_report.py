"""A report says what the artefacts say, stands alone, names what is missing, and is the same each time."""

import base64
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from nuclei import runs
from nuclei.config import parse_config
from nuclei.images import decode_labels_png
from nuclei.inference import quantise
from nuclei.report import Files, Heading, Missing, Paragraph, Picture, Table, anchor, render_html, render_markdown
from nuclei.rle import decode_labels
from nuclei.stages import candidates, ensemble, evaluate, folds, plain, prepare, score, select, submit
from nuclei.stages import report as report_stage
from nuclei.submission import read_solution
from nuclei.tables import list_errors, list_settings, list_stages, list_steps, list_worst
from nuclei.targets import make_targets

CHANNELS = ("mask", "border", "center")
VOID = ("img", "meta")
PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg=="
)


def make_config(root: Path, **changes):
    few = {"rounds": 8, "seeds": 1, "min_leaf_rows": 20}
    data = {"dataset": "demo", "folds": str(root / "folds.csv"), "n_folds": 2}
    return parse_config({"data": data, "scorer": few, "hypothesis": "nuclei <can> be found"} | changes, "test")


def make_run(root: Path, archives: Path, name: str = "tiny", jobs: int = 1, **changes) -> tuple:
    """Take a run through all stages but the report, its networks replaced by blurred and noisy truth."""
    run, config, options = runs.Run(name, root), make_config(root, **changes), runs.Options(archives, jobs=jobs)
    runs.save_config(run, config.model_dump(mode="json"))
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


def pretend_to_train(run: runs.Run, config) -> None:
    """Write the histories and maps that networks which are right but for blur and noise would have left."""
    dataset, rng = runs.Dataset("demo", run.folder.parent), np.random.default_rng(0)
    solution = read_solution(dataset.solution("stage1_solution"))
    inputs = {"data": runs.fingerprint(dataset.meta), "folds": runs.file_hash(Path(config.data.folds))}
    for fold in sorted(runs.read_table(Path(config.data.folds))["fold"].unique()):
        with runs.stage(run.meta(f"train_fold{fold}"), {}, inputs):
            steps = np.arange(20, 201, 20)
            scores = [None if step % 100 else step / 400 for step in steps]
            history = {"step": steps, "loss": 1 / (1 + steps / 50) + fold / 50, "learning_rate": 1e-3, "score": scores}
            runs.write_table(run.fold(fold) / "history.csv", pd.DataFrame(history))
    with runs.stage(run.meta("predict"), {}, inputs):
        for split, image_ids in dataset.splits(Path(config.data.folds)).items():
            for image_id in image_ids:
                if split == "oof":
                    path = dataset.labels(image_id)
                    labels = decode_labels_png(path.read_bytes(), str(path))
                else:
                    rows = solution[solution["ImageId"] == image_id]
                    labels = decode_labels(list(rows["EncodedPixels"]), tuple(rows[["Height", "Width"]].iloc[0]))
                maps = [blur(target, rng) for target in make_targets(labels, CHANNELS)]
                maps = dict(zip(CHANNELS, maps, strict=True)) | {"disagreement": np.full(labels.shape, 0.1)}
                runs.write_arrays(run.maps(split) / f"{image_id}.npz", quantise(maps))


def blur(target: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    noise = cv2.GaussianBlur(rng.normal(0, 1, target.shape), (0, 0), 4)
    return np.clip(cv2.GaussianBlur(target, (0, 0), 1.5) + 0.12 * noise / noise.std(), 0, 1)
