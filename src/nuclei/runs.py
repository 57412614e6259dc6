"""The disk layout: where every file of a run lies, atomic writes, and what counts as up to date.

    runs/comparisons/     leaderboard.csv  ablations.csv  climb.csv, each with its page
    runs/data/<dataset>/  manifest.csv  images/<id>.png  labels/<id>.png  <solution>.csv  meta/prepare.json
    runs/<run>/           config.yaml  crops/  fold<k>/  maps/{oof,test}/  detections/{oof,test}/  plain/  candidates/{oof,test}/  scorer/
                          instances/{oof,test}/  select.json  metrics.json  per_image.csv  submission.csv  report/
                          meta/<stage>.json
"""

import hashlib
import json
import os
import shutil
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from nuclei.images import decode_image, decode_labels_png
from nuclei.provenance import cpu_seconds, provenance

# The stages that may have made a run's maps and instances.
MAKERS = {"maps": ("ensemble", "predict"), "instances": ("select", "classical")}


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
    published: bool = False  # take networks that ensembles/ has, trained with the same settings, instead of training


class Dataset:
    """Name the files of prepared data, runs/data/<dataset>/, and the images that a run is about.

    settings: an object with the fields of config.DataConfig.
    """

    def __init__(self, settings, root: Path = Path("runs")):
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
            raise ValueError(f"no fold {unknown.pop()} in {self.folds}; it has {sorted(set(table['fold'].tolist()))}")
        return table[table["fold"].isin(only)].reset_index(drop=True) if only else table

    def list_folds(self) -> list[int]:
        return sorted(self.read_folds()["fold"].unique().tolist())

    def splits(self) -> dict[str, list[str]]:
        """Return the images whose maps a run has: 'oof', those of read_folds, and each split without masks."""
        manifest = read_table(self.manifest)
        unseen = manifest[manifest["split"].isin(self.settings.unseen)]
        return {"oof": self.read_folds()["image_id"].tolist(), **unseen.groupby("split")["image_id"].apply(list).to_dict()}

    def inputs(self) -> dict[str, str]:
        """Return the fingerprints of the data and of the fold table."""
        return {"data": fingerprint(self.meta), "folds": file_hash(self.folds)}

    def choice(self) -> dict:
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

    def fold(self, fold: int) -> Path:
        return self.folder / f"fold{fold}"

    def maps(self, split: str) -> Path:
        return self.folder / "maps" / split

    def detections(self, split: str) -> Path:
        return self.folder / "detections" / split

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


def comparison(root: Path, kind: str) -> Path:
    """Return the table that compares runs, kind 'leaderboard', 'ablations' or 'climb'; its page lies beside it."""
    return root / "comparisons" / f"{kind}.csv"


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


def read_image(path: Path) -> np.ndarray:
    """Read an image, uint8 [H, W, 3]; raise ValueError naming the file if it is damaged."""
    return decode_image(path.read_bytes(), str(path))


def read_labels(path: Path) -> np.ndarray:
    """Read a label image, int32 [H, W]; raise ValueError naming the file if it is damaged."""
    return decode_labels_png(path.read_bytes(), str(path))


def read_table(path: Path) -> pd.DataFrame:
    """Read a CSV table whose ids stay text, whatever digits they are made of, and whose numbers are those written."""
    return pd.read_csv(path, dtype={"image_id": str, "group": str}, float_precision="round_trip")


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


def expected_fingerprint(stage: str, settings: dict, inputs: dict[str, str]) -> str:
    """Return the fingerprint that a stage leaves which is run with these settings and inputs."""
    return content_hash([stage, as_json({"settings": settings, "inputs": inputs})])


def fingerprint(meta: Path) -> str:
    """Return the fingerprint a finished stage left; raise StageError naming the stage that has not finished."""
    if not meta.is_file():
        raise StageError(f"{meta} is missing: the stage before this one has not finished; run it first")
    return read_json(meta)["fingerprint"]


def find_meta(run: Run, what: str) -> Path:
    """Return the meta of the stage that made a run's maps or instances; raise StageError if none has finished."""
    names = MAKERS[what]
    found = next((run.meta(name) for name in names if run.meta(name).is_file()), None)
    if found is None:
        raise StageError(f"{run.folder} has no {what}: run its stages up to {' or '.join(names)} first")
    return found


def find_fingerprint(run: Run, what: str) -> str:
    return fingerprint(find_meta(run, what))


def is_up_to_date(meta: Path, settings: dict, inputs: dict[str, str]) -> bool:
    """Return whether `meta` was left by a finished stage with these settings and inputs."""
    wanted = as_json({"settings": settings, "inputs": inputs})
    return meta.is_file() and {key: read_json(meta)[key] for key in wanted} == wanted


def as_json(content: dict) -> dict:
    """Return `content` as it comes back from JSON, so that it can be compared with what was read."""
    return json.loads(json.dumps(content, default=str))


@contextmanager
def stage(meta: Path, settings: dict, inputs: dict[str, str], outputs: list[Path] = (), force: bool = False,
          share: bool = False, twin: Path | None = None, same_as: str | None = None):
    """Guard one stage: yield True if it must run, False if `meta` says that it is up to date.

    settings: what the stage reads of the config; inputs: name -> fingerprint or hash of what it reads from disk;
    outputs: what it writes. What a killed stage left in `outputs` is kept to go on from if it was begun with the
    same settings and inputs, and removed otherwise. `meta` is written last, so a killed stage never looks finished.
    share: take the outputs of another run whose stage had the same settings and inputs, if there is one; not for
    outputs that name the run. twin: meta of a stage whose outputs are to be taken whatever its inputs.
    same_as: fingerprint of what the outputs are a copy of, to be that of this stage too.
    Raises StageError that says what differs if `meta` was left by other settings or inputs, unless `force`.
    """
    wanted = as_json({"settings": settings, "inputs": inputs})
    begun = meta.with_suffix(".begun")
    name = f"{meta.parent.parent.name} {meta.stem}"
    if meta.is_file() and not force:
        if differs := differences({key: read_json(meta)[key] for key in wanted}, wanted):
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
    start, cpu_start = time.monotonic(), cpu_seconds()
    twin = twin or share and find_twin(meta, wanted)
    print(f"{name}: the same as that of {twin.parent.parent}" if twin else f"{name}: running", flush=True)
    if twin:
        link_outputs(outputs, meta.parent.parent, twin.parent.parent)
        yield False
        # Whoever asks how the outputs were made, and in what time, means the run that made them.
        made = {"shared_with": twin.parent.parent.name} | read_json(twin)
    else:
        yield True
        made = {"stage": meta.stem, "fingerprint": same_as or expected_fingerprint(meta.stem, settings, inputs)} | provenance()
        made |= {"seconds": round(time.monotonic() - start, 1), "cpu_seconds": round(cpu_seconds() - cpu_start, 1)}
    write_json(meta, made | wanted)
    begun.unlink()


def find_twin(meta: Path, wanted: dict) -> Path | None:
    """Return the meta of the same stage of another run that was made with the settings and inputs `wanted`."""
    others = (path for path in sorted(meta.parent.parent.parent.glob(f"*/meta/{meta.name}")) if path != meta)
    return next((path for path in others if is_up_to_date(path, **wanted)), None)


def link_outputs(outputs: list[Path], folder: Path, source: Path) -> None:
    """Put the files that `source` has in place of the outputs of a run's `folder`, without copying what one disk holds.

    No stage writes into a file that is there, so the two runs cannot disturb each other.
    """
    for path in outputs:
        shutil.rmtree(path, ignore_errors=True)
        other = source / path.relative_to(folder)
        if other.is_dir():
            shutil.copytree(other, path, copy_function=link)
        elif other.is_file():
            path.unlink(missing_ok=True)
            link(other, path)


def link(source: Path, target: Path) -> None:
    """Make `target` the same file as `source`, or a copy of it if that lies on another disk."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def differences(found, wanted, where: str = "") -> list[str]:
    """List where two nested mappings differ, one line each: 'key: old -> new'."""
    if isinstance(found, dict) and isinstance(wanted, dict):
        return [line for key in sorted(found.keys() | wanted.keys())
                for line in differences(found.get(key), wanted.get(key), f"{where}.{key}".lstrip("."))]
    return [] if found == wanted else [f"{where}: {found!r} -> {wanted!r}"]
