"""The record of an image's results: begun before they are written, finished after, the same of every image."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from nuclei.data.axes import Picture
from nuclei.data.slides import Windows
from nuclei.errors import UserError
from nuclei.inference.exports import FORMATS
from nuclei.inference.image_files import MADE_BY, RECORD, read_record
from nuclei.inference.label_zarr import check_zarr, write_label_zarr
from nuclei.inference.predictor import Predictor
from nuclei.inference.up_to_date import Stat, Task, stat_file
from nuclei.runs.files import remove, write_json


class OnRequest(NamedTuple):
    """Describe a form of the labels that is written where it is asked for."""

    ending: str  # of what its file or folder is called, after the image's name
    check: Callable[[], None]  # raises UserError if it cannot be written here
    write: Callable[[Path, Windows, tuple[int, int], int, float | None], None]  # as write_label_zarr


# What --format takes, beside the FORMATS of exports.py, which every image has.
ON_REQUEST = {
    "zarr": OnRequest("_labels.zarr", check_zarr, write_label_zarr),
}


def check_formats(names: Iterable[str]) -> None:
    """Raise UserError listing the forms on request on an unknown one, or naming the package that one lacks."""
    for name in names:
        if name not in ON_REQUEST:
            raise UserError(f"unknown format {name[:80]!r}; valid: {', '.join(ON_REQUEST)}")
        ON_REQUEST[name].check()


def list_requested(name: str, formats: Iterable[str]) -> list[str]:
    """Return what an image's results on request are called, relative to their folder."""
    return [f"{name}{ON_REQUEST[one].ending}" for one in formats]


def write_requested(
    output: Path,
    name: str,
    formats: Iterable[str],
    labels: Windows,
    shape: tuple[int, int],
    n_nuclei: int,
    pixel_size_um: float | None,
) -> None:
    """Write an image's results on request: arguments as write_label_zarr."""
    for one in formats:
        ON_REQUEST[one].write(output / f"{name}{ON_REQUEST[one].ending}", labels, shape, n_nuclei, pixel_size_um)


@dataclass(frozen=True)
class Made:
    """Hold what a record says of an image and its nuclei."""

    shape: tuple[int, ...]  # height and width first
    picture: Picture
    values: str  # type and range of the image's own values
    rule: str  # that brought them to 8 bits
    novelty: float | None
    diameter_px: float | None  # by which the image was resized
    n_nuclei: int
    is_scored: bool


def begin_record(output: Path, task: Task, files: Iterable[str]) -> dict[str, Any]:
    """Write that results are being made, and remove those of an earlier call that are no longer among them."""
    path = output / f"{task.source.name}{RECORD}"
    record: dict[str, Any] = {"made_by": MADE_BY, "finished": False, "files": [*files], "made_from": task.made_from}
    earlier = read_record(path)
    possible = (f"{task.source.name}{ending}" for ending in (*FORMATS, *(one.ending for one in ON_REQUEST.values())))
    for file in possible:
        if earlier and file in earlier["files"] and file not in record["files"]:
            remove(output / file)
    write_json(path, record)
    return record


def finish_record(
    output: Path,
    task: Task,
    record: dict[str, Any],
    hashes: dict[str, str],
    image_stat: Stat | None,
    predictor: Predictor,
    weights: str,
    made: Made,
    started: float,
) -> dict[str, Any]:
    """Write what was made, with the sha256 of each result, and return the whole record.

    image_stat: of the image before it was read; weights: what they are called; started: by time.perf_counter.
    """
    novelty, picture = made.novelty, made.picture
    known = predictor.novelty.describe(novelty) if predictor.novelty and novelty is not None else ""
    record |= {
        "sha256": hashes,
        "stats": {file: stat_file(output / file) for file in hashes},
        "image_stat": image_stat,
        "finished": True,
        "image": task.source.name,
        "file": task.source.file,
        "weights": weights,
        "novelty": None if novelty is None else round(novelty, 3),
        "known": known,
        "height": made.shape[0],
        "width": made.shape[1],
        "axes": picture.axes,
        "channel": picture.channel,
        "plane": picture.plane,
        "pixel_size_um": picture.pixel_size_um,
        "values": made.values,
        "notes": "; ".join(picture.notes),
        "diameter_px": made.diameter_px and round(made.diameter_px, 2),
        "normalisation": made.rule,
        "nuclei": made.n_nuclei,
        "scored": made.is_scored,
        "seconds": round(time.perf_counter() - started, 2),
    }
    write_json(output / f"{task.source.name}{RECORD}", record)
    return record
