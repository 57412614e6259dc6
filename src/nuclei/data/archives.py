"""The official archives, zips as downloaded or extracted folders: which images they hold, and their bytes."""

import hashlib
import os
import re
import struct
import unicodedata
import zipfile
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from nuclei.data.competition import FILES
from nuclei.data.image_ids import find_id_fault
from nuclei.data.image_types import image_type
from nuclei.data.images import MASK_COUNTS, decode_image, decode_inside, merge_masks
from nuclei.errors import UserError
from nuclei.limits import MAX_FILE_BYTES, read_whole

MANIFEST_COLUMNS = ("image_id", "split", "height", "width", "cluster", "n_nuclei", *MASK_COUNTS, "sha256")
# Files of an archive that unpack to more are refused before they are read.
# What zipfile raises on damaged bytes, according to where they are.
_DAMAGE = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, RuntimeError, ValueError)
_AGAIN = "delete it and download it again"
# An entry that ends in a slash is a folder or a pipe, not a file.
_ENTRY = re.compile(r"(?:[^/]+/)*(?P<id>[^/]+)/(?P<kind>images|masks)/(?P<stem>[^/]+)\.(?i:png)(?P<no_file>/?)")


class Archive:
    """Give the image ids of an archive and the bytes of their files; open it with `open_archive`.

    Pickles as its path, and is opened once in each process that unpickles it.
    """

    def __init__(self, path: Path, split: str):
        self.path, self.split = path, split
        self._zip = None if path.is_dir() else _open_zip(path)
        self._image, self._masks = _index(path, self._entries(), split)
        if self._zip is not None:
            _check_unused(path, self._zip)
        self.image_ids = sorted(self._image)

    def __reduce__(self) -> tuple[Callable[..., "Archive"], tuple[Path, str, int]]:
        return _reopen, (self.path, self.split, self.path.stat().st_mtime_ns)

    def image_name(self, image_id: str) -> str:
        """Return the name of an image's file in the archive."""
        return self._image[image_id]

    def mask_names(self, image_id: str) -> list[str]:
        """Return the names of the files of an image's masks in the archive, sorted; none outside of "train"."""
        return self._masks[image_id]

    def read(self, name: str) -> bytes:
        """Read one file of the archive; raise UserError naming it if it is damaged or above MAX_FILE_BYTES."""
        if self._zip is None:
            _check_size(self.path, name, (self.path / name).stat().st_size)
            return read_whole(self.path / name)
        info = self._zip.getinfo(name)
        _check_size(self.path, name, info.file_size)
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise UserError(f"{self.path}: {name} is compressed by method {info.compress_type}: zip it with deflate")
        try:
            return self._zip.read(name)
        except (*_DAMAGE, OSError) as error:
            raise UserError(f"{self.path}: {name} is damaged ({error}); {_AGAIN}") from None

    def _entries(self) -> list[str]:
        if self._zip is not None:
            return [info.filename for info in self._zip.infolist()]
        paths = sorted(path for path in self.path.rglob("*") if path.suffix.lower() == ".png")
        return [path.relative_to(self.path).as_posix() + "/" * (not path.is_file()) for path in paths]


def is_clutter(name: str) -> bool:
    """Return whether a file is what operating systems and notebooks leave beside the data.

    name: of the file, or its path with slashes. Clutter is __MACOSX, Thumbs.db, desktop.ini, and whatever has a name
    that starts with a dot (._ files of macOS, .DS_Store, .ipynb_checkpoints), or lies in such a folder.
    """
    parts = [part.lower() for part in name.split("/")]
    return any(
        part in ("__macosx", "thumbs.db", "desktop.ini") or (part.startswith(".") and part not in (".", ".."))
        for part in parts
    )


def open_archive(path: str | Path, split: str) -> Archive:
    """Open a zip or an extracted folder of <image_id>/images/<image_id>.png and <image_id>/masks/<any>.png.

    In the split "train" every image must have masks; in others masks are ignored, as `is_clutter` is everywhere. The
    suffix may be .PNG. Raises FileNotFoundError, or UserError naming the file and the fix: not a zip or a truncated
    one, no image in it, an entry that climbs out or is no file, an id or a mask twice, an id too long, masks without
    an image, a training image without masks.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"no archive {path}")
    if not (path.is_file() or path.is_dir()):
        raise UserError(f"{path} is neither a file nor a folder: put the archive there")
    return Archive(path, split)


def same_file(image_id: str) -> str:
    """Return what two ids have in common whose files are one, where a disk knows no case or no composed letters."""
    return unicodedata.normalize("NFC", image_id).casefold()


def check_disjoint(archives: Iterable[Archive]) -> None:
    """Raise UserError naming the id and both archives if two archives hold an image of one id.

    A training image among the test images would be scored by networks that have seen it.
    """
    first_with: dict[str, Archive] = {}
    for archive in archives:
        for image_id in archive.image_ids:
            first = first_with.setdefault(same_file(image_id), archive)
            if first is not archive:
                raise UserError(f"the id {image_id} is in both {first.path} and {archive.path}: remove it from one")


def prepare_image(
    archive: Archive, image_id: str
) -> tuple[NDArray[np.uint8], NDArray[np.int32] | None, dict[str, Any]]:
    """Decode one image of an archive and merge its masks.

    Returns (image uint8 [H, W, 3] RGB, labels int32 [H, W] or None without masks, row of the manifest). A row
    has MANIFEST_COLUMNS (cluster: the image type), counts are None without masks; sha256 is of the image file.
    Raises UserError naming the broken file.
    """
    image_name, mask_names = archive.image_name(image_id), archive.mask_names(image_id)
    data = archive.read(image_name)
    image = decode_image(data, f"{archive.path}: {image_name}")
    height, width = image.shape[:2]
    row: dict[str, Any] = dict.fromkeys(MANIFEST_COLUMNS) | {
        "image_id": image_id,
        "split": archive.split,
        "height": height,
        "width": width,
        "cluster": image_type(image),
        "sha256": hashlib.sha256(data).hexdigest(),
    }
    if not mask_names:
        return image, None, row
    masks = (decode_inside(archive.read(name), f"{archive.path}: {name}") for name in mask_names)
    labels, counts = merge_masks(masks, (height, width))
    return image, labels, row | counts | {"n_nuclei": int(labels.max())}


def manifest_table(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """Put rows of `prepare_image` into a table, train first, then by image_id; missing counts are NA."""
    whole_numbers = dict.fromkeys(["n_nuclei", *MASK_COUNTS], "Int64")
    table = pd.DataFrame(rows, columns=MANIFEST_COLUMNS).astype(whole_numbers)
    return table.sort_values(["split", "image_id"], ascending=[False, True], ignore_index=True)


def find_archives(folder: str | Path) -> dict[str, Path]:
    """Find the official files in a folder: name without suffix -> zip, else extracted folder, or csv.

    Raises FileNotFoundError listing exactly what is missing of stage1_train and stage1_test; the stage 2
    archive and the solutions are optional, but UserError names one that is there and no file.
    """
    folder = Path(folder)
    found = {}
    for file in FILES.values():
        path, extracted = folder / file.file_name, folder / file.name
        if path.is_file():
            found[file.name] = path
        elif file.suffix == ".zip" and extracted.is_dir():
            found[file.name] = extracted
    missing = [
        f"  {folder / file.file_name} (or the extracted folder {folder / file.name})"
        for file in FILES.values()
        if file.required and file.name not in found
    ]
    if missing:
        raise FileNotFoundError("missing, put here or download:\n" + "\n".join(missing))
    for file in FILES.values():
        path = folder / file.file_name
        if file.name not in found and os.path.lexists(path):
            raise UserError(f"{path} is no file, or a link that leads to none: put the file there, or remove it")
    return found


@lru_cache(maxsize=8)
def _reopen(path: Path, split: str, _modified_ns: int) -> Archive:
    # The time is part of the cache's key: a long-lived worker must not keep using a file that was replaced.
    return open_archive(path, split)


def _open_zip(path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except _DAMAGE as error:
        size = path.stat().st_size
        raise UserError(f"{path} ({size} bytes) is truncated or not a zip ({error}); {_AGAIN}") from None


def _check_size(path: Path, name: str, size_bytes: int) -> None:
    if size_bytes > MAX_FILE_BYTES:
        raise UserError(f"{path}: {name} is refused: {size_bytes:,} bytes, more than {MAX_FILE_BYTES:,}")


def _index(path: Path, entries: list[str], split: str) -> tuple[dict[str, str], dict[str, list[str]]]:
    """Sort the entries of an archive into image_id -> image entry and image_id -> sorted mask entries."""
    images: dict[str, list[str]] = defaultdict(list)
    masks: dict[str, list[str]] = defaultdict(list)
    for entry in entries:
        if re.match(r"/|\\|[A-Za-z]:", entry) or ".." in re.split(r"[/\\]", entry):
            raise UserError(f"{path}: the entry {entry!r} climbs out of the archive: {_AGAIN}")
        match = None if is_clutter(entry) else _ENTRY.fullmatch(entry)
        if match:
            _check_entry(path, match)
            (images if match["kind"] == "images" else masks)[match["id"]].append(entry)
    if not images and not masks:
        raise UserError(f"{path} is empty: it holds no <image_id>/images/<image_id>.png; {_AGAIN}")
    named: dict[str, list[str]] = defaultdict(list)
    for image_id, found in images.items():
        named[same_file(image_id)] += found
    for entries_of_one in named.values():
        if len(entries_of_one) > 1:
            image_id = entries_of_one[0].split("/")[-3]
            raise UserError(f"{path}: the id {image_id} appears twice, as {' and '.join(entries_of_one)}: keep one")
    for found in masks.values():
        if len(set(found)) < len(found):
            twice = next(entry for entry in found if found.count(entry) > 1)
            raise UserError(f"{path}: the entry {twice} appears twice: keep one")
    problems = {"masks without an image": masks.keys() - images.keys()}
    if split == "train":
        problems["an image without masks"] = images.keys() - masks.keys()
    for problem, ids in problems.items():
        if ids:
            more = f" and {len(ids) - 1} more ids" if len(ids) > 1 else ""
            raise UserError(f"{path}: {min(ids)}{more} has {problem}; {_AGAIN}, or remove the id")
    return (
        {image_id: found[0] for image_id, found in images.items()},
        {image_id: sorted(masks[image_id]) if split == "train" else [] for image_id in images},
    )


def _check_unused(path: Path, file: zipfile.ZipFile) -> None:
    """Raise UserError if the directory of a zip names an entry that is no image or mask other than the entry does.

    A bit of damage there would make another file of a mask, which then is silently lost.
    """
    for info in file.infolist():
        if not _ENTRY.fullmatch(info.filename):
            try:
                file.open(info).close()
            except (*_DAMAGE, OSError) as error:
                raise UserError(f"{path}: {info.filename} is damaged ({error}); {_AGAIN}") from None


def _check_entry(path: Path, match: re.Match[str]) -> None:
    """Raise UserError if an entry of the right place is no file, or has an id that cannot name a file."""
    entry, image_id = match[0], match["id"]
    if match["no_file"]:
        raise UserError(f"{path}: {entry.rstrip('/')} is not a file but a folder or a pipe: remove it")
    if fault := find_id_fault(image_id):
        raise UserError(f"{path}: the id {image_id if image_id.isprintable() else ascii(image_id)} {fault}: rename it")
    if match["kind"] == "images" and match["stem"] != image_id:
        raise UserError(f"{path}: {entry} must have the name of its id, {image_id}.png")
