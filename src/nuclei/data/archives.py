"""The official archives, zips as downloaded or extracted folders: which images they hold, and their bytes."""

import hashlib
import re
import zipfile
import zlib
from collections import defaultdict
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd

from nuclei.data.image_types import image_type
from nuclei.data.images import MASK_COUNTS, decode_image, decode_mask, merge_masks

MANIFEST_COLUMNS = ("image_id", "split", "height", "width", "cluster", "n_nuclei", *MASK_COUNTS, "sha256")
REQUIRED = {"stage1_train": ".zip", "stage1_test": ".zip"}
OPTIONAL = {"stage2_test_final": ".zip", "stage1_solution": ".csv", "stage2_solution_final": ".csv"}
_AGAIN = "delete it and download it again"
# What operating systems and notebooks leave beside the data.
_CLUTTER = re.compile(r"(^|/)(__MACOSX/|\.[^/])")
_ENTRY = re.compile(r"(?:[^/]+/)*(?P<id>[^/]+)/(?P<kind>images|masks)/(?P<name>[^/]+\.png)")


class Archive:
    """Give the image ids of an archive and the bytes of their files; open it with `open_archive`.

    Pickles as its path, and is opened once in each process that unpickles it.
    """

    def __init__(self, path: Path, split: str):
        self.path, self.split = path, split
        self._zip = None if path.is_dir() else _open_zip(path)
        self._image, self._masks = _index(path, self._entries(), split)
        self.image_ids = sorted(self._image)

    def __reduce__(self):
        return _reopen, (self.path, self.split, self.path.stat().st_mtime_ns)

    def image_name(self, image_id: str) -> str:
        return self._image[image_id]

    def mask_names(self, image_id: str) -> list[str]:
        return self._masks[image_id]

    def read(self, name: str) -> bytes:
        """Read one file of the archive; raise ValueError naming it if it is damaged."""
        if self._zip is None:
            return (self.path / name).read_bytes()
        try:
            return self._zip.read(name)
        except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:
            raise ValueError(f"{self.path}: {name} is damaged ({error}); {_AGAIN}") from None

    def _entries(self) -> list[str]:
        if self._zip is not None:
            return [info.filename for info in self._zip.infolist() if not info.is_dir()]
        return sorted(path.relative_to(self.path).as_posix() for path in self.path.rglob("*.png"))


def open_archive(path: str | Path, split: str) -> Archive:
    """Open a zip or an extracted folder of <image_id>/images/<image_id>.png and <image_id>/masks/<any>.png.

    In the split "train" every image must have masks; in others masks are not looked at. Raises
    FileNotFoundError, or ValueError naming the file and the fix: no zip or a truncated one, no image in it,
    an entry that climbs out, an id twice, masks without an image, a training image without masks.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"no archive {path}")
    return Archive(path, split)


def prepare_image(archive: Archive, image_id: str) -> tuple[np.ndarray, np.ndarray | None, dict]:
    """Decode one image of an archive and merge its masks.

    Returns (image uint8 [H, W, 3] RGB, labels int32 [H, W] or None without masks, row of the manifest). A row
    has MANIFEST_COLUMNS (cluster: the image type), counts are None without masks; sha256 is of the image file. Raises ValueError naming
    the broken file.
    """
    image_name, mask_names = archive.image_name(image_id), archive.mask_names(image_id)
    data = archive.read(image_name)
    image = decode_image(data, f"{archive.path}: {image_name}")
    height, width = image.shape[:2]
    row = dict.fromkeys(MANIFEST_COLUMNS) | {
        "image_id": image_id,
        "split": archive.split,
        "height": height,
        "width": width,
        "cluster": image_type(image),
        "sha256": hashlib.sha256(data).hexdigest(),
    }
    if not mask_names:
        return image, None, row
    masks = (decode_mask(archive.read(name), f"{archive.path}: {name}") for name in mask_names)
    labels, counts = merge_masks(masks, (height, width))
    return image, labels, row | counts | {"n_nuclei": int(labels.max())}


def manifest_table(rows: list[dict]) -> pd.DataFrame:
    """Put rows of `prepare_image` into a table, train first, then by image_id; absent counts are NA."""
    whole_numbers = dict.fromkeys(["n_nuclei", *MASK_COUNTS], "Int64")
    table = pd.DataFrame(rows, columns=MANIFEST_COLUMNS).astype(whole_numbers)
    return table.sort_values(["split", "image_id"], ascending=[False, True], ignore_index=True)


def find_archives(folder: str | Path) -> dict[str, Path]:
    """Find the official files in a folder: name without suffix -> zip, else extracted folder, or csv.

    Raises FileNotFoundError listing exactly what is missing of stage1_train and stage1_test; the stage 2
    archive and the solutions are optional.
    """
    folder = Path(folder)
    found = {}
    for name, suffix in (REQUIRED | OPTIONAL).items():
        file, extracted = folder / f"{name}{suffix}", folder / name
        if file.is_file():
            found[name] = file
        elif suffix == ".zip" and extracted.is_dir():
            found[name] = extracted
    missing = [
        f"  {folder / name}{suffix} (or the extracted folder {folder / name})"
        for name, suffix in REQUIRED.items()
        if name not in found
    ]
    if missing:
        raise FileNotFoundError("missing, put here or download:\n" + "\n".join(missing))
    return found


@lru_cache(maxsize=8)
def _reopen(path: Path, split: str, modified_ns: int) -> Archive:
    # The time is there for the cache: a worker that lives on must not go on with a file that was replaced.
    return open_archive(path, split)


def _open_zip(path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except (zipfile.BadZipFile, EOFError) as error:
        size = path.stat().st_size
        raise ValueError(f"{path} ({size} bytes) is truncated or not a zip ({error}); {_AGAIN}") from None


def _index(path: Path, entries: list[str], split: str) -> tuple[dict[str, str], dict[str, list[str]]]:
    """Sort the entries of an archive into image_id -> image entry and image_id -> sorted mask entries."""
    images, masks = defaultdict(list), defaultdict(list)
    for entry in entries:
        if re.match(r"/|\\|[A-Za-z]:", entry) or ".." in re.split(r"[/\\]", entry):
            raise ValueError(f"{path}: the entry {entry!r} climbs out of the archive: {_AGAIN}")
        match = None if _CLUTTER.search(entry) else _ENTRY.fullmatch(entry)
        if match:
            (images if match["kind"] == "images" else masks)[match["id"]].append(entry)
    if not images and not masks:
        raise ValueError(f"{path} is empty: it holds no <image_id>/images/<image_id>.png; {_AGAIN}")
    for image_id, found in images.items():
        if len(found) > 1:
            raise ValueError(f"{path}: the id {image_id} appears twice, as {' and '.join(found)}: keep one")
        if not found[0].endswith(f"/{image_id}.png"):
            raise ValueError(f"{path}: {found[0]} must have the name of its id, {image_id}.png")
    problems = {"masks without an image": masks.keys() - images.keys()}
    if split == "train":
        problems["an image without masks"] = images.keys() - masks.keys()
    for problem, ids in problems.items():
        if ids:
            more = f" and {len(ids) - 1} more ids" if len(ids) > 1 else ""
            raise ValueError(f"{path}: {min(ids)}{more} has {problem}; {_AGAIN}, or remove the id")
    return (
        {image_id: found[0] for image_id, found in images.items()},
        {image_id: sorted(masks[image_id]) if split == "train" else [] for image_id in images},
    )
