"""A demo data set of synthetic images in the official layout: two archives and a solution file."""

import csv
import hashlib
import io
import json
import zipfile
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from nuclei.data.images import encode_image_png
from nuclei.data.synthetic import KINDS, drop_slivers, make_image
from nuclei.errors import UserError
from nuclei.evaluation.rle import encode_labels
from nuclei.limits import MAX_TEXT_BYTES, check_file

MIDNIGHT = (2018, 4, 16, 0, 0, 0)  # the time of all files in the archives
FILES = ("stage1_train.zip", "stage1_test.zip", "stage1_solution.csv")
RECORD = "demo.json"  # of what was written: the settings, and the sha256 of each file


def write_demo(folder: str | Path, n_train: int, n_test: int, size: int, seed: int) -> bool:
    """Write stage1_train.zip, stage1_test.zip and the test's truth, stage1_solution.csv, into a folder.

    Images are `size` px high and `size` or 5/4 `size` px wide, of every kind in turn. Of every 12 train
    images 4 (but of all at most 12) are the quarters of one field, and 2 have a mask drawn a pixel too large,
    as annotators do. The same arguments give the same bytes. Returns False if all is there already. Raises UserError
    naming a file there that was not written here, or a demo of other settings.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    settings = {"n_train": n_train, "n_test": n_test, "size": size, "seed": seed}
    record = _check_record(folder, settings)
    if all((folder / name).is_file() for name in FILES):
        return False
    train = draw_images(n_train, min(n_train // 12, 3), size, (seed, 0))
    train_files = (file for item in train for file in _files_of_image(*item, masks=True))
    _write(folder / "stage1_train.zip", partial(_write_zip, files=train_files), record)
    rows: list[tuple[str, str, int, int, str]] = []

    def test_files() -> Iterator[tuple[str, bytes]]:
        for number, image_id, image, labels in draw_images(n_test, 0, size, (seed, 1)):
            height, width = labels.shape
            rows.extend((image_id, text, height, width, "Public") for text in encode_labels(labels))
            yield from _files_of_image(number, image_id, image, labels, masks=False)

    _write(folder / "stage1_test.zip", partial(_write_zip, files=test_files()), record)
    table = io.StringIO(newline="")
    csv.writer(table, lineterminator="\n").writerows(
        [("ImageId", "EncodedPixels", "Height", "Width", "Usage"), *sorted(rows, key=lambda row: row[0])]
    )
    _write(folder / "stage1_solution.csv", lambda path: path.write_text(table.getvalue(), encoding="utf-8"), record)
    return True


def draw_images(
    n_images: int, n_fields: int, size: int, seed: tuple[int, ...]
) -> Iterator[tuple[int, str, NDArray[np.uint8], NDArray[np.int32]]]:
    """Draw images of every kind in turn, each with a nucleus; the first 4·n_fields are quarters of fields.

    Yields (number, image_id of 64 hexadecimal digits, image uint8 [H, W, 3], labels int32 [H, W]).
    """
    number = 0
    for field in range(n_images - 3 * n_fields):
        rng = np.random.default_rng((*seed, field))
        shape = size, size if field % 2 == 0 else size * 5 // 4
        kind = list(KINDS)[field % len(KINDS)]
        for tile in _draw_tiles(kind, shape, 2 if field < n_fields else 1, rng):
            yield number, hashlib.sha256(f"{seed} {number}".encode()).hexdigest(), *tile
            number += 1


def _draw_tiles(
    kind: str, shape: tuple[int, int], side: int, rng: np.random.Generator
) -> list[tuple[NDArray[np.uint8], NDArray[np.int32]]]:
    """Draw a field and cut it into side·side tiles (image, labels) of a shape, each with a nucleus."""
    while True:
        image, labels = make_image(kind, (side * shape[0], side * shape[1]), rng)
        tiles = [
            (image_tile, drop_slivers(labels_tile))
            for image_band, labels_band in zip(np.split(image, side), np.split(labels, side), strict=True)
            for image_tile, labels_tile in zip(
                np.split(image_band, side, axis=1), np.split(labels_band, side, axis=1), strict=True
            )
        ]
        if all(labels_tile.any() for _, labels_tile in tiles):
            return tiles


def _files_of_image(
    number: int, image_id: str, image: NDArray[np.uint8], labels: NDArray[np.int32], masks: bool
) -> Iterator[tuple[str, bytes]]:
    """Yield the (name, bytes) of an image and its masks; gray, RGB and RGBA take turns as in the real data."""
    gray = (image == image[..., :1]).all()
    alpha = np.full((*image.shape[:2], 1), 255, np.uint8)
    stored = [image[..., 0] if gray else image, image, np.concatenate([image, alpha], axis=2)][number % 3]
    yield f"{image_id}/images/{image_id}.png", encode_image_png(np.ascontiguousarray(stored))
    for label in range(1, labels.max() + 1) if masks else ():
        mask: NDArray[Any] = (labels == label).astype(np.uint8)
        if label == 1 and number % 6 == 5:
            mask = cv2.dilate(mask, np.ones((3, 3), np.uint8))
        name = hashlib.sha256(f"{image_id} {label}".encode()).hexdigest()
        yield f"{image_id}/masks/{name}.png", encode_image_png(255 * mask)


def _write_zip(path: Path, files: Iterable[tuple[str, bytes]]) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files:
            # A fixed time, so that equal content gives equal bytes.
            archive.writestr(zipfile.ZipInfo(name, date_time=MIDNIGHT), data)


def _check_record(folder: Path, settings: dict[str, int]) -> dict[str, Any]:
    """Return what was recorded of a demo in a folder, or is to be; raise UserError if something else is there."""
    path, record = folder / RECORD, {"settings": settings, "sha256": {}}
    if path.is_file():
        try:
            check_file(path, MAX_TEXT_BYTES)
            record = json.loads(path.read_text(encoding="utf-8"))
            found, sums = record["settings"], dict(record["sha256"])
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise UserError(f"{path} is no record of the demo ({error!r}): name another folder by --data") from None
        if found != settings:
            raise UserError(f"{folder} holds a demo of other settings, {found}: name another folder by --data")
    else:
        sums = {}
    for other in (folder / name for name in FILES):
        if (other.exists() or other.is_symlink()) and not (other.is_file() and _hash(other) == sums.get(other.name)):
            raise UserError(f"{other} is not of the demo, by {path}: move it away, or name another folder by --data")
    return record


def _write(path: Path, write: Callable[[Path], object], record: dict[str, Any]) -> None:
    """Let `write` fill a temporary file, which is recorded and then renamed to `path` when it is complete."""
    temporary, record_path = (path.with_name(f".demo.{name}") for name in (path.name, RECORD))
    write(temporary)
    record["sha256"][path.name] = _hash(temporary)
    record_path.write_text(json.dumps(record, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    record_path.replace(path.with_name(RECORD))
    temporary.replace(path)


def _hash(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
