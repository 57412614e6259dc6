"""Which results of predict-images are those of an image as it is now, at the cost of a few looks at the folder.

What counts is content: a result belongs to an image's sha256, to that of the weights, and to the settings. But a file
that has the size and the time of its last change that were recorded is taken to be unchanged, and is not read; only
where one of them differs is its content compared. `verify` reads all.
"""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from stat import S_ISDIR, S_ISREG
from typing import Any

from nuclei.inference.image_files import RECORD, Reading, Source, describe_change, in_utf8, read_record, split_file
from nuclei.runs.files import file_hash, write_json

MADE, UP_TO_DATE, FAILED, TO_DO = "made", "up to date", "failed", "to do"
FORCED = "--force"  # why an image is done that is up to date
ANY = "any"  # hash, where none was recorded
# A file may be written to again within one tick of a disk's clock, of which FAT's is the coarsest.
TICK_S = 2.0
ReadRecord = Callable[[Path], dict[str, Any] | None]
Stat = list[int]  # bytes, and time of the last change in ns


@dataclass
class Task:
    """Hold an image, what its results are made from, and how far it is."""

    source: Source
    state: str
    why: str = ""
    made_from: dict[str, Any] = field(default_factory=dict)  # without image_sha256 until the image was read
    record: dict[str, Any] = field(default_factory=dict)  # without the results, if there are none


def plan_images(
    sources: Iterable[Source],
    common: dict[str, Any],
    output: Path,
    reading: Reading,
    force: bool = False,
    verify: bool = False,
    dry_run: bool = False,
) -> list[Task]:
    """Return a task for each image, time points apart, with its state: TO_DO, UP_TO_DATE or FAILED, and why.

    common: what all results are made from beside the image and the settings. A record that was found true by content
    is written anew with the sizes and times of now, unless `dry_run`.
    """
    tasks: list[Task] = []
    for source in sources:
        read, hash_image = cache(read_record), cache(source.hash)
        try:
            images = _split(source, output, reading, read)
            tasks += [
                _plan_one(one, common, output, reading, read, hash_image, force, verify, dry_run) for one in images
            ]
        except (ValueError, OSError) as error:
            tasks.append(Task(source, FAILED, in_utf8(str(error))))
    return tasks


def _split(source: Source, output: Path, reading: Reading, read: ReadRecord) -> list[Source]:
    """Return the images of a source; of one that was a single image as it is now, its headers are not read again."""
    record = read(output / f"{source.name}{RECORD}")
    if record and record.get("finished") and source.archive is None:
        made = record.get("made_from", {}).get("settings", {})
        single = made == reading.record() | {"time": None, "series": None}
        stat = stat_source(source)
        if single and stat and record.get("image_stat") == stat:
            return [source]
    return split_file(source, reading)


def _plan_one(
    image: Source,
    common: dict[str, Any],
    output: Path,
    reading: Reading,
    read: ReadRecord,
    hash_image: Callable[[], str],
    force: bool,
    verify: bool,
    dry_run: bool,
) -> Task:
    wanted = common | {"settings": reading.record() | {"time": image.time, "series": image.series}}
    path = output / f"{image.name}{RECORD}"
    record = read(path)
    why = describe_change(record, wanted)
    if why or record is None:
        return Task(image, TO_DO, why, wanted)
    is_same = not verify and record.get("image_stat") is not None and record["image_stat"] == stat_source(image)
    image_hash = record.get("made_from", {}).get("image_sha256") if is_same else hash_image()
    wanted |= {"image_sha256": image_hash}
    if record.get("made_from", {}).get("image_sha256") != image_hash:
        return Task(image, TO_DO, "the image has changed", wanted)
    lost, stats = find_lost(record, output, verify)
    if lost or force:
        return Task(image, TO_DO, lost or FORCED, wanted)
    now = {"stats": stats, "image_stat": stat_settled(image)}
    if not dry_run and any(record.get(key) != value for key, value in now.items()):
        record |= now
        write_json(path, record)
    return Task(image, UP_TO_DATE, "", wanted, record)


def was_made(task: Task, output: Path) -> bool:
    """Return whether the results of a task are there: made by a worker that died before it could say so."""
    record = read_record(output / f"{task.source.name}{RECORD}")
    if record is None or task.why == FORCED or describe_change(record, task.made_from):
        return False
    image_hash = task.made_from.get("image_sha256") or task.source.hash()
    return record.get("made_from", {}).get("image_sha256") == image_hash and not find_lost(record, output)[0]


def find_lost(record: dict[str, Any], output: Path, verify: bool = False) -> tuple[str, dict[str, Stat]]:
    """Say which result of a finished record is not as it was written, nothing if all are; and return their stats."""
    known, hashes = record.get("stats", {}), record.get("sha256", {})
    stats = {}
    for file in record["files"]:
        stat = stat_file(output / file)
        if stat is None:
            return "results are missing", {}
        stats[file] = stat
        # Records of an earlier version hold no hashes.
        wanted = hashes.get(file, ANY)
        if (verify or known.get(file) != stat) and wanted not in (ANY, file_hash(output / file)):
            return f"{file} is damaged or was changed", {}
    return "", stats


def stat_file(path: Path) -> Stat | None:
    """Return the size and the time of the last change of a file, of a folder those of all its files together.

    None where there is none.
    """
    try:
        stat = path.stat()
        if S_ISDIR(stat.st_mode):
            stats = [one.stat() for one in path.rglob("*") if one.is_file()]
            return [sum(one.st_size for one in stats), max((one.st_mtime_ns for one in stats), default=0)]
    except OSError:
        return None
    return [stat.st_size, stat.st_mtime_ns] if S_ISREG(stat.st_mode) else None


def stat_source(source: Source) -> Stat | None:
    """Return stat_file of an image's own file; None of one in an archive, and of a folder."""
    return stat_file(source.path) if source.archive is None and not source.path.is_dir() else None


def stat_settled(source: Source) -> Stat | None:
    """Return stat_source of an image that was not written to within the last TICK_S, else None: it is read again."""
    stat = stat_source(source)
    return stat if stat and abs(time.time_ns() - stat[1]) > TICK_S * 1e9 else None
