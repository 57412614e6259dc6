"""Label images that another tool wrote, one file per image: found by image id, read and checked."""

import hashlib
import math
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from nuclei.data.images import decode_png
from nuclei.data.tiff import open_tiff
from nuclei.errors import UserError
from nuclei.limits import MAX_PIXELS, check_kind, read_whole

SUFFIXES = (".png", ".tif", ".tiff")
LARGEST_LABEL = 65535  # of the label images of a run
BINARY = (1, 255)  # the one value of a mask that is not zero


class LabelFolder:
    """Find and read the label images of a folder, searched with its subfolders.

    A label image is a TIFF or a PNG of one channel, 0 on background and a number of its own on each nucleus. It belongs
    to the image whose id its name begins with, up to a '.', '_' or '-': `<id>.png`, `<id>_labels.tif`,
    `<id>_cp_masks.png`.
    """

    def __init__(self, folder: str):
        self.folder = Path(folder)

    @cached_property
    def files(self) -> list[Path]:
        """The label images of the folder, sorted; raises UserError if there is no such folder, or nothing in it."""
        if not self.folder.is_dir():
            raise UserError(f"labels.folder: no folder {self.folder}; name the folder of the other tool's label images")
        files = sorted(
            path for path in self.folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.name[0] != "."
        )
        if not files:
            raise UserError(f"labels.folder: no label images in {self.folder}; looked for *{', *'.join(SUFFIXES)}")
        for path in files:
            check_kind(path)
        return files

    def find(self, image_id: str) -> Path:
        """Return the label image of an image; raise UserError if there is none, or several of which none is `<id>`."""
        found = [path for path in self.files if path.name.startswith(image_id) and path.name[len(image_id)] in "._-"]
        found = [path for path in found if path.stem == image_id] or found
        if len(found) != 1:
            names = ", ".join(path.name for path in found) or "none"
            raise UserError(
                f"{self.folder} must have one label image of {image_id}, {image_id}.png or .tif; it has {names}"
            )
        return found[0]

    def read(self, image_id: str, shape: tuple[int, ...]) -> NDArray[np.int32]:
        """Return the labels of an image, int32 [H, W], from 1 without gaps; raise UserError as `check_labels` does."""
        path = self.find(image_id)
        return read_labels(path, shape)

    def hash_files(self) -> str:
        """Return a hash of the names and bytes of all label images, hexadecimal."""
        digest = hashlib.sha256()
        for path in self.files:
            digest.update(f"{path.relative_to(self.folder)}\0".encode())
            with path.open("rb") as stream:
                digest.update(hashlib.file_digest(stream, "sha256").digest())
        return digest.hexdigest()


def read_labels(path: Path, shape: tuple[int, ...]) -> NDArray[np.int32]:
    """Read a label image, TIFF or PNG, for an image of a shape; return and raise as `check_labels` does."""
    values = decode_png(read_whole(path), str(path)) if path.suffix.lower() == ".png" else read_tiff(path)
    return check_labels(values, shape, str(path))


def read_tiff(path: Path) -> NDArray[np.generic]:
    """Read the first image of a TIFF; raise UserError naming the file if it is damaged or has too many pixels."""
    try:
        with open_tiff(path) as file:
            size_px = math.prod(file.series[0].shape)
            if size_px <= MAX_PIXELS:  # as its header says: a damaged one must not take all memory
                return np.asarray(file.asarray())
    except Exception as error:  # damage takes tifffile and its codecs to errors of every kind
        raise UserError(f"{path} cannot be read ({type(error).__name__}: {error}): export it again") from error
    raise UserError(f"{path} is refused: {size_px:,} pixels, more than {MAX_PIXELS:,}: export it again")


def check_labels(values: NDArray[np.generic], shape: tuple[int, ...], name: str) -> NDArray[np.int32]:
    """Return label values [H, W] as int32, numbered from 1 in their order without gaps.

    shape: (H, W) of the image. Raises UserError naming `name` and the fix for another shape, several channels, values
    that are no whole numbers from 0 on, more than 65535 nuclei, and for a mask in which all nuclei have one value.
    """
    values = np.squeeze(values)
    if values.shape != tuple(shape):
        raise UserError(
            f"{name} is {values.shape}, its image {tuple(shape)}: export labels of one channel at the image's size"
        )
    if values.dtype.kind == "f" and not (np.isfinite(values) & (values == np.trunc(values))).all():
        raise UserError(f"{name} holds fractions: export labels, whole numbers from 0 on, not probabilities")
    if values.dtype.kind not in "uif" or (values.size and values.min() < 0):
        raise UserError(f"{name} holds {values.dtype} from {values.min()}: labels are whole numbers from 0 on")
    numbers, index = np.unique(values, return_inverse=True)
    labels: NDArray[np.int32] = index.reshape(values.shape).astype(np.int32)
    if numbers.size and numbers[0] != 0:
        labels += 1  # no background: every pixel is nucleus
    if labels.max(initial=0) > LARGEST_LABEL:
        raise UserError(f"{name} holds {labels.max()} labels: at most {LARGEST_LABEL} are possible")
    n_parts = ndimage.label(labels)[1]
    if labels.max(initial=0) == 1 and numbers[-1] in BINARY and n_parts > 1:
        raise UserError(
            f"{name} is a mask: its {n_parts} objects all have the value {numbers[-1]}. Export labels, a number of its "
            "own for each nucleus"
        )
    return labels
