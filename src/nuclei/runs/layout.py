"""The disk layout: where every file of a run lies.

runs/comparisons/     leaderboard.csv  ablations.csv  climb.csv  <run>_<run>.csv, each with its page
runs/data/<dataset>/  manifest.csv  images/<id>.png  labels/<id>.png  <solution>.csv  fold_tables.json  meta/
                      copies/<set>_<split>.csv, external images that are not used, for they are copies of these
runs/data/external/<set>/  manifest.csv  images/<id>.png  labels/<id>.png  meta/external.json
runs/<run>/           config.yaml  novelty.npz  crops/  fold<k>/  maps/<split>/  detections/<split>/  plain/
                      candidates/<split>/  outside/  scorer/  instances/<split>/  select.json  metrics.json
                      per_image.csv  submission.csv  report/  meta/<stage>.json
A split is 'oof', the training images each seen by the networks that never learnt it, or one without masks.
"""

import difflib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from nuclei.config.load import load_config, parse_config
from nuclei.config.schema import Config, DataConfig, check_run_name
from nuclei.data.competition import EXTERNAL_FOLD
from nuclei.data.fold_table import read_folds
from nuclei.data.image_ids import find_id_fault
from nuclei.data.images import enlargement, scale_pair
from nuclei.data.size import choose_factor
from nuclei.errors import UserError
from nuclei.runs.cache import fingerprint
from nuclei.runs.files import content_hash, file_hash, read_image, read_json, read_labels, read_table, write_json
from nuclei.runs.outputs import record_file
from nuclei.runs.rehearsal import foreseen, is_made

# The stages that may have made a run's maps and instances.
MAKERS: dict[str, tuple[str, ...]] = {"maps": ("ensemble", "predict"), "instances": ("select", "classical")}


SYNTHETIC = "demo"  # data sets of this name, or that begin with it and an underscore, hold synthetic images


@dataclass(frozen=True)
class Options:
    """Hold what a user says on the command line: how to compute, never what."""

    data: Path = Path("data")  # folder of the official archives
    fold: int | None = None  # train only this fold
    devices: int = 1
    jobs: int = -1  # processes of the stages that go image by image; -1: one per core
    force: bool = False  # replace what was made with other settings
    published: bool = False  # take networks that ensembles/ has, trained with the same settings, instead of training
    threads: int = 0  # of one operation; 0: as cores.use_threads says
    parallel: int = 1  # networks trained side by side on this machine; 0: as many as fit


class ExternalSet:
    """Name the files of an external data set as it was prepared, runs/data/external/<set>/."""

    def __init__(self, name: str, root: Path = Path("runs")):
        self.name, self.folder = name, Path(root) / "data" / "external" / name
        self.manifest, self.meta = self.folder / "manifest.csv", self.folder / "meta" / "external.json"

    def image(self, image_id: str) -> Path:
        return self.folder / "images" / f"{image_id}.png"

    def labels(self, image_id: str) -> Path:
        return self.folder / "labels" / f"{image_id}.png"

    def fingerprint(self) -> str:
        """Return a hash of the prepared images and labels; raise UserError if the stage external has not finished."""
        fingerprint(self.meta)
        return hash_images(read_table(self.manifest))


def hash_images(manifest: pd.DataFrame) -> str:
    """Return a hash of the images and labels in rows of the manifest of an external set."""
    return content_hash(sorted(zip(manifest["image_id"], manifest["content"], strict=True)))


class Dataset:
    """Name the files of prepared data, runs/data/<dataset>/, and the images that a run is about."""

    def __init__(self, settings: DataConfig, root: Path = Path("runs")):
        self.settings, self.name = settings, settings.dataset
        self.folder, self.folds = Path(root) / "data" / settings.dataset, Path(settings.folds)
        self.manifest, self.meta = self.folder / "manifest.csv", self.folder / "meta" / "prepare.json"
        self.folds_records = self.folder / "fold_tables.json"  # of the fold tables that this data was used with

    @property
    def is_synthetic(self) -> bool:
        """Tell whether the images are those of `nuclei demo`, by the name that data sets of no other kind have."""
        return self.name == SYNTHETIC or self.name.startswith(f"{SYNTHETIC}_")

    def image(self, image_id: str) -> Path:
        return self.folder / "images" / f"{image_id}.png"

    def labels(self, image_id: str) -> Path:
        return self.folder / "labels" / f"{image_id}.png"

    def solution(self, name: str) -> Path:
        return self.folder / f"{name}.csv"

    def read_fold_table(self) -> pd.DataFrame:
        """Return the whole fold table, as fold_table.read_folds does; raise UserError if it is not as it was recorded.

        A table that was cut off at the end of a row is as good a table as any: only the record tells.
        """
        table, was = read_folds(self.folds), self._read_folds_records().get(str(self.folds))
        if was is not None and was != record_file(self.folds) | {"images": len(table)}:
            raise UserError(
                f"{self.folds} is not the fold table that was first used: it has {len(table)} rows, and had "
                f"{was['images']}: put it back or, if the change is meant, delete {self.folds_records}"
            )
        return table

    def record_folds(self) -> None:
        """Record the fold table as it is now."""
        record = record_file(self.folds) | {"images": len(read_folds(self.folds))}
        records = self._read_folds_records()
        if records.get(str(self.folds)) != record:
            write_json(self.folds_records, records | {str(self.folds): record})

    def _read_folds_records(self) -> dict[str, Any]:
        if not self.folds_records.is_file():
            return {}
        records = read_json(self.folds_records, "the stage folds")
        if not all(isinstance(one, dict) and "images" in one for one in records.values()):
            raise UserError(f"{self.folds_records} is damaged: delete it and run the stage folds again")
        return records

    def read_folds(self) -> pd.DataFrame:
        """Return the rows of the fold table that are predicted and scored out of fold."""
        table, only = self.read_fold_table(), self.settings.only_folds
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
        for image_id in map(str, table["image_id"]):
            if fault := find_id_fault(image_id):
                raise UserError(
                    f"{self.manifest} is damaged, the id {image_id!r} {fault}: delete it and run the stage prepare "
                    "again"
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

    def external(self, name: str) -> ExternalSet:
        return ExternalSet(name, self.folder.parents[1])

    def copies(self, name: str, split: str) -> Path:
        return self.folder / "copies" / f"{name}_{split}.csv"

    def copies_meta(self, name: str) -> Path:
        return self.folder / "meta" / f"external_{name}.json"

    def read_external(self, name: str) -> pd.DataFrame:
        """Return the manifest of an external set without the images that are copies of one of any split.

        Raises UserError if the stage external has not finished.
        """
        external = self.external(name)
        splits = sorted(self.read_manifest()["split"].unique())
        for split in splits:
            fingerprint(self.copies_meta(name), split)
        copied = {image_id for split in splits for image_id in read_table(self.copies(name, split))["image_id"]}
        external.fingerprint()
        manifest = read_table(external.manifest)
        return manifest[~manifest["image_id"].isin(copied)].reset_index(drop=True)

    def external_table(self) -> pd.DataFrame:
        """Return a row for each external image that is learned from: set, image_id, scale, fold, weight."""
        columns = ["set", "image_id", "scale", "fold", "weight"]
        tables = [
            self.read_external(name).assign(set=name, fold=EXTERNAL_FOLD, weight=weight)[columns]
            for name, weight in self.settings.external_sets().items()
        ]
        return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=columns)

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
        self.nuclei = self.folder / "nuclei.json"  # of a published run: how large those are that it was trained on
        self.report = self.folder / "report"
        self.writeup = self.folder / "writeup"
        self.metrics = self.folder / "metrics.json"
        self.outside = self.folder / "outside"
        self.novelty = self.folder / "novelty.npz"

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

    def submission(self, split: str, growth: str | None = None) -> Path:
        """Return the submission of a split; with a growth, as selection.grow has it, that of nuclei grown by it."""
        name = "submission" if split == "test" else f"submission_{split}"
        return self.folder / (f"{name}.csv" if growth is None else f"{name}_grow_{growth.replace('%', 'percent')}.csv")

    def meta(self, stage: str) -> Path:
        return self.folder / "meta" / f"{stage}.json"


def counterpart(run: Run) -> Run:
    """Return the run that is the same on folds by kind, `<run>_kinds`, whose images are of kinds it has not seen."""
    return Run(f"{run.name}_kinds", run.folder.parent)


def name_fold(fold: int | None) -> str:
    """Return the name of what never saw a fold, as it is in paths; None: of what learned from all images."""
    return "whole" if fold is None else f"fold{fold}"


def comparison(root: Path, kind: str) -> Path:
    """Return the table that compares runs, kind leaderboard, ablations, climb or two runs; its page lies beside it."""
    return root / "comparisons" / f"{kind}.csv"


def find_meta(run: Run, what: str) -> Path:
    """Return the meta of the stage that made a run's maps or instances; raise UserError if none has finished."""
    names = MAKERS[what]
    found = next((run.meta(name) for name in names if is_made(run.meta(name))), None)
    if found is None:
        raise UserError(f"{run.folder} has no {what}: run its stages up to {' or '.join(names)} first")
    return found


def find_fingerprint(run: Run, what: str, split: str) -> str:
    """Return the fingerprint of a run's maps or instances of one split; raise UserError if they are not made."""
    return fingerprint(find_meta(run, what), split)


def open_run(name: str, root: Path) -> tuple[Run, Config, Dataset]:
    """Return a run, its saved config and its data; raise UserError with the nearest runs if it is missing."""
    try:
        run = Run(check_run_name(name), root)
    except ValueError as error:
        raise UserError(f"no run {name} in {root}: {error}") from None
    if not run.config.is_file():
        others = sorted(path.parent.name for path in root.glob("*/config.yaml"))
        near = difflib.get_close_matches(name, others, n=3) or others
        raise UserError(f"no run {name} in {root}" + (f"; did you mean {', '.join(near)}?" if near else ""))
    config = load_config(run.config)
    return run, config, Dataset(config.data, root)


def read_config(run: Run) -> Config:
    """Return the saved config of a run, in a rehearsal that which would be saved; raise UserError if there is none."""
    content = foreseen(run.config)
    return load_config(run.config) if content is None else parse_config(content, str(run.config))


def read_pairs(
    dataset: Dataset, image_ids: Iterable[str], min_side_px: int = 0
) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.uint16]]]:
    """Yield the images and labels of some ids, as read_pair does, each read when it is asked for."""
    return (read_pair(dataset, image_id, min_side_px) for image_id in image_ids)


def add_external(table: pd.DataFrame, external: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of a fold table, and after them those of an external table; without any the table as it is."""
    return pd.concat([table, external], ignore_index=True) if len(external) else table


def read_training_pairs(
    dataset: Dataset, table: pd.DataFrame, external: pd.DataFrame, config: Config
) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.uint16]]]:
    """Yield the images and labels of a fold table, then of an external table, of the size that a network learns from.

    External images that were brought to scale are not enlarged: the size of their nuclei is known, not only their own.
    """
    min_side_px, size = config.model.min_side_px, (config.train.scale, config.train.diameter_px)
    for image_id in table["image_id"]:
        yield read_pair(dataset, image_id, min_side_px, *size)
    for name, image_id, scaled in external[["set", "image_id", "scale"]].itertuples(index=False, name=None):
        yield read_pair(dataset.external(name), image_id, min_side_px if scaled == 1 else 0, *size)


def read_pair(
    dataset: Dataset | ExternalSet,
    image_id: str,
    min_side_px: int = 0,
    scale: float = 1.0,
    diameter_px: float | None = None,
) -> tuple[NDArray[np.uint8], NDArray[np.uint16]]:
    """Read an image, uint8 [H, W, 3], and its labels, uint16 [H, W], enlarged by images.enlargement times `scale`.

    diameter_px: first brought to the size at which the nuclei have this median diameter, as size.choose_factor does.
    """
    labels = read_labels(dataset.labels(image_id)).astype(np.uint16)
    factor = enlargement(labels.shape, min_side_px) * scale
    if diameter_px is not None:
        factor *= choose_factor(labels, min_side_px, diameter_px)
    return scale_pair((read_image(dataset.image(image_id)), labels), factor)
