"""A demo data set of synthetic images in the official layout: two archives and a solution file."""

import csv
import hashlib
import io
import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from nuclei.data.images import encode_image_png
from nuclei.data.synthetic import KINDS, drop_slivers, make_image
from nuclei.errors import UserError
from nuclei.evaluation.rle import encode_labels

MIDNIGHT = (2018, 4, 16, 0, 0, 0)  # the time of all files in the archives


def write_demo(folder: str | Path, n_train: int, n_test: int, size: int, seed: int) -> None:
    """Write stage1_train.zip, stage1_test.zip and the test's truth, stage1_solution.csv, into a folder.

    Images are `size` px high and `size` or 5/4 `size` px wide, of every kind in turn. Of every 12 train
    images 4 (but of all at most 12) are the quarters of one field, and 2 have a mask drawn a pixel too large,
    as annotators do. The same arguments give the same bytes. Raises UserError naming an archive of others there.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("stage1_train.zip", "stage1_test.zip"):
        if (folder / name).exists() and not _is_own(folder / name):
            raise UserError(f"{folder / name} is not of the demo, and would be replaced: name another folder by --data")
    train = draw_images(n_train, min(n_train // 12, 3), size, (seed, 0))
    train_files = (file for item in train for file in _files_of_image(*item, masks=True))
    _write_zip(folder / "stage1_train.zip", train_files)
    rows: list[tuple[str, str, int, int, str]] = []

    def test_files() -> Iterator[tuple[str, bytes]]:
        for number, image_id, image, labels in draw_images(n_test, 0, size, (seed, 1)):
            height, width = labels.shape
            rows.extend((image_id, text, height, width, "Public") for text in encode_labels(labels))
            yield from _files_of_image(number, image_id, image, labels, masks=False)

    _write_zip(folder / "stage1_test.zip", test_files())
    table = io.StringIO(newline="")
    csv.writer(table, lineterminator="\n").writerows(
        [("ImageId", "EncodedPixels", "Height", "Width", "Usage"), *sorted(rows, key=lambda row: row[0])]
    )
    _write(folder / "stage1_solution.csv", lambda path: path.write_text(table.getvalue()))


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
    def write(temporary: Path) -> None:
        with zipfile.ZipFile(temporary, "w") as archive:
            for name, data in files:
                # A fixed time, so that equal content gives equal bytes.
                archive.writestr(zipfile.ZipInfo(name, date_time=MIDNIGHT), data)

    _write(path, write)


def _is_own(path: Path) -> bool:
    """Return whether an archive is one of the demo's, by the time that all its files have."""
    try:
        with zipfile.ZipFile(path) as archive:
            return all(info.date_time == MIDNIGHT for info in archive.infolist())
    except (zipfile.BadZipFile, OSError):
        return False


def _write(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a temporary file, which is renamed to `path` when it is complete."""
    temporary = path.with_name(path.name + ".part")
    write(temporary)
    temporary.replace(path)
