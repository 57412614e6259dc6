"""The disk layout: where every file of a run lies.

runs/comparisons/     leaderboard.csv  ablations.csv  climb.csv, each with its page
runs/data/<dataset>/  manifest.csv  images/<id>.png  labels/<id>.png  <solution>.csv  meta/prepare.json
runs/<run>/           config.yaml  crops/  fold<k>/  maps/<split>/  detections/<split>/  plain/  candidates/<split>/
                      scorer/  instances/<split>/  select.json  metrics.json  per_image.csv  submission.csv  report/
                      meta/<stage>.json
A split is 'oof', the training images each seen by the networks that never learnt it, or one without masks.
"""

import difflib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from nuclei.config.load import load_config
from nuclei.config.schema import Config, DataConfig
from nuclei.data.images import enlarge
from nuclei.errors import UserError
from nuclei.runs.cache import fingerprint
from nuclei.runs.files import file_hash, read_image, read_labels, read_table

# The stages that may have made a run's maps and instances.
MAKERS: dict[str, tuple[str, ...]] = {"maps": ("ensemble", "predict"), "instances": ("select", "classical")}


@dataclass(frozen=True)
class Options:
    """Hold what a user says on the command line: how to compute, never what."""

    data: Path = Path("data")  # folder of the official archives
    fold: int | None = None  # train only this fold
    devices: int = 1
    jobs: int = -1  # processes of the stages that go image by image; -1: one per core
    force: bool = False  # replace what was made with other settings
    published: bool = False  # take networks that ensembles/ has, trained with the same settings, instead of training


class Dataset:
    """Name the files of prepared data, runs/data/<dataset>/, and the images that a run is about."""

    def __init__(self, settings: DataConfig, root: Path = Path("runs")):
        self.settings, self.name = settings, settings.dataset
        self.folder, self.folds = Path(root) / "data" / settings.dataset, Path(settings.folds)
        self.manifest, self.meta = self.folder / "manifest.csv", self.folder / "meta" / "prepare.json"

    def image(self, image_id: str) -> Path:
        return self.folder / "images" / f"{image_id}.png"

    def labels(self, image_id: str) -> Path:
        return self.folder / "labels" / f"{image_id}.png"

    def solution(self, name: str) -> Path:
        return self.folder / f"{name}.csv"

    def read_folds(self) -> pd.DataFrame:
        """Return the rows of the fold table that are predicted and scored out of fold."""
        table, only = read_table(self.folds), self.settings.only_folds
        if unknown := set(only) - set(table["fold"]):
            raise UserError(f"no fold {unknown.pop()} in {self.folds}; it has {sorted(set(table['fold'].tolist()))}")
        return table[table["fold"].isin(only)].reset_index(drop=True) if only else table

    def read_manifest(self) -> pd.DataFrame:
        """Return the manifest, a row per image; raise UserError naming it if it is damaged."""
        table = read_table(self.manifest)
        if lacking := {"image_id", "split", "height", "width", "n_nuclei"} - set(table):
            raise UserError(
                f"{self.manifest} is damaged, it lacks {', '.join(sorted(lacking))}: delete it and run the stage "
                "prepare again"
            )
        return table

    def list_folds(self) -> list[int]:
        return sorted(self.read_folds()["fold"].unique().tolist())

    def fold_of(self, split: str, image_id: str) -> int | None:
        """Return the fold in which an image is held out, None for an image of another split than 'oof'."""
        table = self.read_folds() if split == "oof" else None
        return None if table is None else int(table.loc[table["image_id"] == image_id, "fold"].iloc[0])

    def splits(self) -> dict[str, list[str]]:
        """Return the images whose maps a run has: 'oof', those of read_folds, and each split without masks."""
        manifest = self.read_manifest()
        unseen = manifest[manifest["split"].isin(self.settings.unseen)]
        splits = {str(split): rows["image_id"].tolist() for split, rows in unseen.groupby("split")}
        return {"oof": self.read_folds()["image_id"].tolist(), **splits}

    def inputs(self, split: str = "oof") -> dict[str, str]:
        """Return the fingerprints of the images of a split: of 'oof', of the training images and of the fold table."""
        if split == "oof":
            return {"data": fingerprint(self.meta, "train"), "folds": file_hash(self.folds)}
        return {"data": fingerprint(self.meta, split)}

    def choice(self) -> dict[str, tuple[int, ...] | tuple[str, ...]]:
        """Return what the settings choose of the images."""
        return {"only_folds": self.settings.only_folds, "unseen": self.settings.unseen}


class Run:
    """Name the files of one run: runs/<name>/."""

    def __init__(self, name: str, root: Path = Path("runs")):
        self.name, self.folder = name, Path(root) / name
        self.config = self.folder / "config.yaml"
        self.crops = self.folder / "crops"
        self.plain = self.folder / "plain"
        self.scorer = self.folder / "scorer"
        self.tuned = self.folder / "select.json"
        self.report = self.folder / "report"
        self.writeup = self.folder / "writeup"
        self.metrics = self.folder / "metrics.json"

    def fold(self, fold: int | None) -> Path:
        return self.folder / name_fold(fold)

    def maps(self, split: str) -> Path:
        return self.folder / "maps" / split

    def detections(self, split: str) -> Path:
        return self.folder / "detections" / split

    def candidates(self, split: str) -> Path:
        return self.folder / "candidates" / split

    def scores(self, split: str) -> Path:
        return self.scorer / split

    def boosters(self, fold: int | None, seed: int) -> Path:
        return self.scorer / f"{name_fold(fold)}_seed{seed}.json.gz"

    def instances(self, split: str) -> Path:
        return self.folder / "instances" / split

    def per_image(self, split: str) -> Path:
        return self.folder / ("per_image.csv" if split == "oof" else f"per_image_{split}.csv")

    def submission(self, split: str) -> Path:
        return self.folder / ("submission.csv" if split == "test" else f"submission_{split}.csv")

    def meta(self, stage: str) -> Path:
        return self.folder / "meta" / f"{stage}.json"


def name_fold(fold: int | None) -> str:
    """Return the name of what never saw a fold, as it is in paths; None: of what learned from all images."""
    return "whole" if fold is None else f"fold{fold}"


def comparison(root: Path, kind: str) -> Path:
    """Return the table that compares runs, kind 'leaderboard', 'ablations' or 'climb'; its page lies beside it."""
    return root / "comparisons" / f"{kind}.csv"


def find_meta(run: Run, what: str) -> Path:
    """Return the meta of the stage that made a run's maps or instances; raise UserError if none has finished."""
    names = MAKERS[what]
    found = next((run.meta(name) for name in names if run.meta(name).is_file()), None)
    if found is None:
        raise UserError(f"{run.folder} has no {what}: run its stages up to {' or '.join(names)} first")
    return found


def find_fingerprint(run: Run, what: str, split: str) -> str:
    """Return the fingerprint of a run's maps or instances of one split; raise UserError if they are not made."""
    return fingerprint(find_meta(run, what), split)


def open_run(name: str, root: Path) -> tuple[Run, Config, Dataset]:
    """Return a run, its saved config and its data; raise UserError with the nearest runs if it is missing."""
    run = Run(name, root)
    if not run.config.is_file():
        others = sorted(path.parent.name for path in root.glob("*/config.yaml"))
        near = difflib.get_close_matches(name, others, n=3) or others
        raise UserError(f"no run {name} in {root}" + (f"; did you mean {', '.join(near)}?" if near else ""))
    config = load_config(run.config)
    return run, config, Dataset(config.data, root)


def read_pairs(
    dataset: Dataset, image_ids: Iterable[str], min_side_px: int = 0
) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.uint16]]]:
    """Yield the images and labels of some ids, as read_pair does, each read when it is asked for."""
    return (read_pair(dataset, image_id, min_side_px) for image_id in image_ids)


def read_pair(dataset: Dataset, image_id: str, min_side_px: int = 0) -> tuple[NDArray[np.uint8], NDArray[np.uint16]]:
    """Read an image, uint8 [H, W, 3], and its labels, uint16 [H, W], enlarged as images.enlarge does."""
    labels = read_labels(dataset.labels(image_id)).astype(np.uint16)
    return enlarge(read_image(dataset.image(image_id)), labels, min_side_px)
