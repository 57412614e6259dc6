"""Files of a run: atomic writes, and images, tables, arrays and JSON read back."""

import hashlib
import json
import os
import reprlib
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from safetensors import SafetensorError

from nuclei.data.images import decode_image, decode_labels_png
from nuclei.errors import UserError
from nuclei.limits import MAX_TEXT_BYTES, check_file, check_kind, read_whole
from nuclei.runs.rehearsal import rehearses

_PARTIAL = ".partial."
HEAD_CHARACTERS = 1000  # of a file, which say whose it is
_DAMAGE = (OSError, EOFError, ValueError, KeyError, zlib.error, zipfile.BadZipFile, SafetensorError, RecursionError)
# The stage that makes the files of a folder of a run, or of prepared data, again.
MADE_BY = {
    "images": "the stage prepare",
    "labels": "the stage prepare",
    "copies": "the stage external",
    "crops": "the stage crops",
    "maps": "the stage predict, of an ensemble the stage ensemble,",
    "detections": "the stage predict, of an ensemble the stage ensemble,",
    "plain": "the stage plain",
    "candidates": "the stage candidates",
    "scorer": "the stage score",
    "instances": "the stage select",
}


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path` that takes its name only if the block ends without an error.

    The block makes a file of it, or a folder: that takes the place of another, which is gone for a moment before.
    An OSError of the block that names no file, as of a full disk, or the temporary one, names `path`.
    """
    assert not rehearses(), f"a rehearsal writes nothing, and would have written {path}"
    path.parent.mkdir(parents=True, exist_ok=True)
    # The suffix stays last: writers such as cv2 and numpy choose the format by it.
    temporary = path.with_name(f".{os.getpid()}{_PARTIAL}{path.name}")
    try:
        yield temporary
        for written in (*temporary.rglob("*"), temporary):
            _sync(written)
        if temporary.is_dir():
            remove(path)
        temporary.replace(path)
        with suppress(OSError):  # some shared file systems cannot sync a folder
            _sync(path.parent)
    except OSError as error:
        if error.errno and error.filename in (None, temporary, str(temporary)):
            error.filename, error.filename2 = str(path), None
        raise
    finally:
        with suppress(OSError):  # of which the block's own says more
            remove(temporary)


def remove(path: Path) -> None:
    """Remove a file, a folder with all that is in it, or a link but not what it leads to, if there is one."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def check_target(path: Path, mark: str) -> None:
    """Raise UserError naming a file that cannot be written, before the hours of work whose result it is to hold.

    mark: what is found at the beginning of all files of this kind. One that is there without it is another's, and is
    not replaced, unless it is empty.
    """
    if path.is_dir():
        raise UserError(f"{path} is a folder, and is to be written as a file: name a file")
    if path.exists() and not (path.is_file() and (path.stat().st_size == 0 or begins_with(path, mark))):
        raise UserError(f"{path} is not of this command, and would be replaced: name another file or folder")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise UserError(
            f"{path} cannot be written ({error.strerror or error}): name a file in another folder"
        ) from None


def begins_with(path: Path, mark: str) -> bool:
    """Return whether a text is among the first HEAD_CHARACTERS of a file, of which no more is read."""
    with path.open(encoding="utf-8", errors="replace") as file:
        return mark in file.read(HEAD_CHARACTERS)


def remove_partial_files(paths: Iterable[Path]) -> None:
    """Remove what killed processes left of unfinished writes to these files, and below these folders.

    For whoever alone may write there: a process that lives would lose what it is writing.
    """
    wanted = set(paths)
    for path, left_of_it in find_partial_files({path.parent for path in wanted}).items():
        if path in wanted:
            for left in left_of_it:
                remove(left)
    for folder in wanted:
        for left in folder.rglob(f".*{_PARTIAL}*"):
            remove(left)


def find_partial_files(folders: Iterable[Path]) -> dict[Path, list[Path]]:
    """Return what unfinished writes into these folders have left, by the file that each was to be."""
    found: dict[Path, list[Path]] = {}
    for folder in folders:
        for left in list_matching(folder, f".*{_PARTIAL}*"):
            found.setdefault(folder / left.name.partition(_PARTIAL)[2], []).append(left)
    return found


def list_matching(folder: Path, pattern: str) -> Iterator[Path]:
    """Yield what lies in a folder under names that match, looking at one at a time: Path.glob holds all of them.

    Of a folder that is not there, nothing.
    """
    if folder.is_dir():
        with os.scandir(folder) as entries:
            yield from (folder / entry.name for entry in entries if fnmatchcase(entry.name, pattern))


def _sync(path: Path) -> None:
    """Have the disk hold what was written to a file or folder, so that not even a power cut takes it back."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_bytes(path: Path, data: bytes) -> None:
    with atomic(path) as temporary:
        temporary.write_bytes(data)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    write_bytes(path, (json.dumps(content, indent=1, sort_keys=True) + "\n").encode())


def read_json(path: Path, maker: str | None = None) -> dict[str, Any]:
    """Read a JSON file that holds a mapping; raise UserError naming it, and what makes it again, if it is damaged."""
    with named(path, maker):
        check_file(path, MAX_TEXT_BYTES)
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError(f"it holds a {type(content).__name__}, not a mapping")
        return content


@contextmanager
def named(path: Path, maker: str | None = None) -> Iterator[None]:
    """Turn what a reader raises of a damaged file, of any format, into a UserError naming it and the fix.

    Errors of the operating system that name a file, such as a missing one, pass as they are; so do UserErrors of files
    that no stage makes again. maker: the stage that makes the file, where its folder does not tell.
    """
    maker = maker or MADE_BY.get(path.parent.name) or MADE_BY.get(path.parent.parent.name)
    try:
        check_kind(path)
        yield
    except _DAMAGE as error:
        if (isinstance(error, OSError) and error.filename) or (isinstance(error, UserError) and not maker):
            raise
        # What a decoder says already names the file, and another fix.
        kind = type(error).__name__ if type(error).__name__ != "error" else type(error).__module__  # such as zlib's
        said = "" if isinstance(error, UserError) else f" ({kind}: {str(error).partition(chr(10))[0]})"
        raise UserError(
            f"{path} is damaged, or no {path.suffix.lstrip('.').upper()} file{said}: delete it and run "
            f"{maker or 'the stage that makes it'} again"
        ) from error


def file_hash(path: Path) -> str:
    """Return the sha256 of a file, or of the names and contents of all files of a folder, hexadecimal."""
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.is_file())
        lines = (f"{file.relative_to(path).as_posix()} {file_hash(file)}\n" for file in files)
        return hashlib.sha256("".join(lines).encode(errors="replace")).hexdigest()
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def read_image(path: Path) -> NDArray[np.uint8]:
    """Read an image, uint8 [H, W, 3]; raise UserError naming the file if it is damaged."""
    with named(path):
        return decode_image(read_whole(path), str(path))


def read_labels(path: Path) -> NDArray[np.int32]:
    """Read a label image, int32 [H, W]; raise UserError naming the file if it is damaged."""
    with named(path):
        return _flat(decode_labels_png(read_whole(path), str(path)))


def _flat(labels: NDArray[np.int32]) -> NDArray[np.int32]:
    if labels.ndim != 2:
        raise ValueError(f"labels have one channel, this has shape {labels.shape}")
    return labels


def read_table(path: Path, columns: Iterable[str] = ()) -> pd.DataFrame:
    """Read a CSV table whose ids stay text, whatever digits they are made of, and whose numbers are those written.

    columns: those that it must have. Raises UserError naming the file if it is damaged, or lacks one of them.
    """
    with named(path):
        table = pd.read_csv(path, dtype={"image_id": str, "group": str}, float_precision="round_trip")
        if lacking := [name for name in columns if name not in table]:
            raise ValueError(f"it lacks {', '.join(lacking)}")
        return table


def write_table(path: Path, table: pd.DataFrame) -> None:
    write_bytes(path, table.to_csv(index=False, lineterminator="\n").encode())


def read_arrays(path: Path, names: Iterable[str] = ()) -> dict[str, NDArray[Any]]:
    """Read an .npz file, of it the arrays `names` alone if any are given; raise UserError naming it if damaged."""
    with named(path):
        loaded = np.load(path, allow_pickle=False)
        if not isinstance(loaded, np.lib.npyio.NpzFile):
            raise ValueError("it holds one array without a name")
        with loaded as file:
            return {name: file[name] for name in names or file.files}


def write_arrays(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    with atomic(path) as temporary:
        np.savez_compressed(temporary, **arrays)  # type: ignore[arg-type]  # taken for allow_pickle, which no array is called


def content_hash(content: Any) -> str:
    """Return a short hash of anything JSON can hold."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:16]


def as_json(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return `content` as it comes back from JSON, so that it can be compared with what was read."""
    again: dict[str, Any] = json.loads(json.dumps(content, default=str))
    return again


def link(source: str | Path, target: str | Path) -> None:
    """Make `target` the same file as `source`, or a copy of it if that lies on another disk."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def differences(found: Any, wanted: Any, where: str = "") -> list[str]:
    """List where two nested mappings differ, a line each: 'key: old -> new'; of lists of names, what came and went."""
    if isinstance(found, dict) and isinstance(wanted, dict):
        return [
            line
            for key in sorted(found.keys() | wanted.keys())
            for line in differences(found.get(key), wanted.get(key), f"{where}.{key}".lstrip("."))
        ]
    if found == wanted:
        return []
    if _are_names(found) and _are_names(wanted) and set(found) != set(wanted):
        gone, new = ([name for name in a if name not in b] for a, b in ((found, wanted), (wanted, found)))
        return [
            f"{where}: " + ", ".join([*(f"without {name!r}" for name in gone), *(f"with {name!r}" for name in new)])
        ]
    return [f"{where}: {_SHORT.repr(found)} -> {_SHORT.repr(wanted)}"]


def _are_names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 80
