"""What a finished stage left on the disk: recorded in its meta, and compared when the stage is asked for again."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nuclei.runs.files import file_hash

# By the path below the run's folder: `bytes` and `sha256` of a file; of a folder of a file per image `files`, `bytes`.
Records = dict[str, dict[str, Any]]
PER_IMAGE = (".npz", ".png")
FIGURES = "figures"  # of a report: few, and all looked at
LOGS = ("tensorboard",)  # which nothing is made of, and people thin out


@dataclass(frozen=True)
class Damage:
    """Say what has become of an output.

    name: its path below the run's folder; text: what is wrong with it; incomplete: what is left of it is good.
    """

    name: str
    text: str
    incomplete: bool = False


def record_outputs(outputs: Iterable[Path], folder: Path) -> Records:
    """Return the records of files and folders below the `folder` of a run, of those that exist."""
    records: Records = {}
    for output in outputs:
        if output.is_file():
            records[_name(output, folder)] = record_file(output)
        for inner in [output, *sorted(path for path in output.rglob("*") if path.is_dir())] if output.is_dir() else []:
            files = _list_files(inner)
            if not files or set(inner.relative_to(folder).parts) & set(LOGS):
                continue
            if inner.name != FIGURES and all(path.suffix in PER_IMAGE for path in files):
                records[_name(inner, folder)] = _record_folder(files)
            else:
                records |= {_name(path, folder): record_file(path) for path in files}
    return records


def record_file(path: Path) -> dict[str, Any]:
    """Return the size and the sha256 of a file."""
    return {"bytes": path.stat().st_size, "sha256": file_hash(path)}


def find_damage(records: Mapping[str, Mapping[str, Any]], folder: Path) -> list[Damage]:
    """List the outputs in the `folder` of a run that are not as they were recorded.

    A folder of a file per image may be missing as a whole: it was deleted to save space.
    """
    compared = (_compare(name, was, folder / name) for name, was in records.items())
    return [damage for damage in compared if damage]


def _compare(name: str, was: Mapping[str, Any], path: Path) -> Damage | None:
    if "files" in was:
        if not path.is_dir():
            return None
        now, n = _record_folder(_list_files(path)), was["files"]
        if now["files"] < n:
            return Damage(name, f"{path} lacks {n - now['files']} of {n} files", incomplete=True)
        if now["files"] == n and now["bytes"] != was["bytes"]:
            return Damage(name, f"{path} has files of {now['bytes']:,} bytes in all, not of {was['bytes']:,}")
        return None
    if not path.is_file():
        return Damage(name, f"{path} is missing", incomplete=True)
    size = path.stat().st_size
    if size != was["bytes"]:
        return Damage(name, f"{path} is damaged: {size:,} bytes, not {was['bytes']:,}")
    if "sha256" in was and file_hash(path) != was["sha256"]:
        return Damage(name, f"{path} is damaged or was changed: its sha256 differs")
    return None


def _name(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix()


def _list_files(folder: Path) -> list[Path]:
    """Return the files of a folder, without the hidden ones of an operating system or of writes that go on."""
    return sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))


def _record_folder(files: list[Path]) -> dict[str, Any]:
    return {"files": len(files), "bytes": sum(path.stat().st_size for path in files)}
