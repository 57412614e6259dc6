"""The disk layout: where every file of a run lies, atomic writes, and what counts as up to date.

    runs/data/<dataset>/  manifest.csv  images/<id>.png  labels/<id>.png  <solution>.csv  meta/prepare.json
    runs/<run>/           config.yaml  fold<k>/  maps/{oof,test}/  plain/  candidates/{oof,test}/  scorer/
                          instances/{oof,test}/  select.json  metrics.json  per_image.csv  submission.csv  report/
                          meta/<stage>.json
"""

import hashlib
import json
import os
import platform
import shutil
import subprocess
import time
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import pandas as pd
import yaml

from nuclei.images import decode_image, decode_labels_png

PACKAGES = (
    "torch", "timm", "segmentation-models-pytorch", "lightgbm", "albumentations", "numpy", "opencv-python-headless"
)


class StageError(ValueError):
    """Say why a stage cannot run, naming the file and the fix."""


@dataclass(frozen=True)
class Options:
    """Hold what a user says on the command line: how to compute, never what."""

    data: Path = Path("data")  # folder of the official archives
    fold: int | None = None  # train only this fold
    devices: int = 1
    jobs: int = -1  # processes of the stages that go image by image; -1: one per core
    force: bool = False  # replace what was made with other settings


class Dataset:
    """Name the files of prepared data: runs/data/<name>/."""

    def __init__(self, name: str, root: Path = Path("runs")):
        self.name, self.folder = name, Path(root) / "data" / name
        self.manifest = self.folder / "manifest.csv"
        self.meta = self.folder / "meta" / "prepare.json"

    def image(self, image_id: str) -> Path:
        return self.folder / "images" / f"{image_id}.png"

    def labels(self, image_id: str) -> Path:
        return self.folder / "labels" / f"{image_id}.png"

    def solution(self, name: str) -> Path:
        return self.folder / f"{name}.csv"

    def splits(self, folds: Path) -> dict[str, list[str]]:
        """Return the images whose maps a run has: 'oof', those of the fold table, and each split without masks."""
        manifest = read_table(self.manifest)
        rest = manifest[manifest["split"] != "train"].groupby("split")["image_id"].apply(list).to_dict()
        return {"oof": read_table(folds)["image_id"].tolist(), **rest}


class Run:
    """Name the files of one run: runs/<name>/."""

    def __init__(self, name: str, root: Path = Path("runs")):
        self.name, self.folder = name, Path(root) / name
        self.config = self.folder / "config.yaml"
        self.plain = self.folder / "plain"
        self.scorer = self.folder / "scorer"
        self.tuned = self.folder / "select.json"
        self.report = self.folder / "report"
        self.metrics = self.folder / "metrics.json"

    def fold(self, fold: int) -> Path:
        return self.folder / f"fold{fold}"

    def maps(self, split: str) -> Path:
        return self.folder / "maps" / split

    def candidates(self, split: str) -> Path:
        return self.folder / "candidates" / split

    def scores(self, split: str) -> Path:
        return self.scorer / split

    def instances(self, split: str) -> Path:
        return self.folder / "instances" / split

    def per_image(self, split: str) -> Path:
        return self.folder / ("per_image.csv" if split == "oof" else f"per_image_{split}.csv")

    def submission(self, split: str) -> Path:
        return self.folder / ("submission.csv" if split == "test" else f"submission_{split}.csv")

    def meta(self, stage: str) -> Path:
        return self.folder / "meta" / f"{stage}.json"


@contextmanager
def atomic(path: Path):
    """Yield a temporary path beside `path` that takes its name only if the block ends without an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # The suffix stays last: writers such as cv2 and numpy choose the format by it.
    temporary = path.with_name(f".{os.getpid()}.partial.{path.name}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_bytes(path: Path, data: bytes) -> None:
    with atomic(path) as temporary:
        temporary.write_bytes(data)


def write_json(path: Path, content: dict) -> None:
    write_bytes(path, (json.dumps(content, indent=1, sort_keys=True) + "\n").encode())


def read_json(path: Path) -> dict:
    return json.loads(path.read_text())


def file_hash(path: Path) -> str:
    """Return the sha256 of a file, hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def source_hash(path: Path) -> str:
    """Return the sha256 of a file, or of the names and sizes of the files in a folder."""
    if path.is_file():
        return file_hash(path)
    return content_hash(sorted((str(p.relative_to(path)), p.stat().st_size) for p in path.rglob("*") if p.is_file()))


def read_image(path: Path) -> np.ndarray:
    """Read an image, uint8 [H, W, 3]; raise ValueError naming the file if it is damaged."""
    return decode_image(path.read_bytes(), str(path))


def read_labels(path: Path) -> np.ndarray:
    """Read a label image, int32 [H, W]; raise ValueError naming the file if it is damaged."""
    return decode_labels_png(path.read_bytes(), str(path))


def read_table(path: Path) -> pd.DataFrame:
    """Read a CSV table whose ids stay text, whatever digits they are made of."""
    return pd.read_csv(path, dtype={"image_id": str, "group": str})


def write_table(path: Path, table: pd.DataFrame) -> None:
    write_bytes(path, table.to_csv(index=False, lineterminator="\n").encode())


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    with np.load(path) as file:
        return dict(file)


def write_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    with atomic(path) as temporary:
        np.savez_compressed(temporary, **arrays)


def content_hash(content) -> str:
    """Return a short hash of anything JSON can hold."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:16]


def provenance() -> dict:
    """Return the commit, its dirty flag, versions and machine that a result was made with."""
    def git(*words):
        done = subprocess.run(["git", *words], capture_output=True, text=True)
        return done.stdout.strip() if done.returncode == 0 else None

    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = None
    return {
        "commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain")),
        "python": platform.python_version(), "cpus": os.cpu_count(), "versions": versions,
    }


def fingerprint(meta: Path) -> str:
    """Return the fingerprint a finished stage left; raise StageError naming the stage that has not finished."""
    if not meta.is_file():
        raise StageError(f"{meta} is missing: the stage before this one has not finished; run it first")
    return read_json(meta)["fingerprint"]


def maps_meta(run: Run) -> Path:
    """Return the meta of the stage that made a run's maps; raise StageError if none has finished."""
    for name in ("ensemble", "predict"):
        if run.meta(name).is_file():
            return run.meta(name)
    raise StageError(f"{run.folder} has no maps: run its stages up to predict (or ensemble) first")


def maps_fingerprint(run: Run) -> str:
    return fingerprint(maps_meta(run))


def is_up_to_date(meta: Path, settings: dict, inputs: dict[str, str]) -> bool:
    """Return whether `meta` was left by a finished stage with these settings and inputs."""
    if not meta.is_file():
        return False
    found = read_json(meta)
    return {key: found[key] for key in ("settings", "inputs")} == as_json({"settings": settings, "inputs": inputs})


def as_json(content: dict) -> dict:
    """Return `content` as it comes back from JSON, so that it can be compared with what was read."""
    return json.loads(json.dumps(content, default=str))


@contextmanager
def stage(meta: Path, settings: dict, inputs: dict[str, str], outputs: list[Path] = (), force: bool = False):
    """Guard one stage: yield True if it must run, False if `meta` says that it is up to date.

    settings: what the stage reads of the config; inputs: name -> fingerprint or hash of what it reads from disk;
    outputs: what it writes. What a killed stage left in `outputs` is kept to go on from if it was begun with the
    same settings and inputs, and removed otherwise. `meta` is written last, so a killed stage never looks finished.
    Raises StageError that says what differs if `meta` was left by other settings or inputs, unless `force`.
    """
    wanted = as_json({"settings": settings, "inputs": inputs})
    begun = meta.with_suffix(".begun")
    name = f"{meta.parent.parent.name} {meta.stem}"
    if meta.is_file() and not force:
        differs = differences({key: read_json(meta)[key] for key in wanted}, wanted)
        if differs:
            raise StageError(
                f"{name} was made with other settings or inputs:\n  " + "\n  ".join(differs)
                + "\nadd --force to replace it, or give the config another file name"
            )
        print(f"{name}: up to date", flush=True)
        yield False
        return
    if meta.is_file() or not begun.is_file() or read_json(begun) != wanted:
        meta.unlink(missing_ok=True)
        for path in outputs:
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        write_json(begun, wanted)
    print(f"{name}: running", flush=True)
    start = time.monotonic()
    yield True
    seconds = round(time.monotonic() - start, 1)
    fingerprint = content_hash([meta.stem, wanted])
    write_json(meta, wanted | {"stage": meta.stem, "fingerprint": fingerprint, "seconds": seconds} | provenance())
    begun.unlink()


def differences(found, wanted, where: str = "") -> list[str]:
    """List where two nested mappings differ, one line each: 'key: old -> new'."""
    if isinstance(found, dict) and isinstance(wanted, dict):
        return [
            line for key in sorted(found.keys() | wanted.keys())
            for line in differences(found.get(key), wanted.get(key), f"{where}.{key}".lstrip("."))
        ]
    return [] if found == wanted else [f"{where}: {found!r} -> {wanted!r}"]


def save_config(run: Run, config) -> None:
    """Write the resolved, complete config of a run, a pydantic model."""
    write_bytes(run.config, yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False).encode())
