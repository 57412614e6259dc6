"""A trained run applied to a user's images: labels, outlines, measurements, what other tools open, a submission.

Each image gets its files in exports.FORMATS, what the page shows of it, and a record, <name>.json, of what they were
made from. The record is written before them as unfinished and after them as finished: only a finished one of the same
image, weights and settings means that there is nothing to do.
"""

import hashlib
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import tifffile

from nuclei.config.load import load_config
from nuclei.data.image_ids import FORMULA_STARTS
from nuclei.errors import UserError
from nuclei.evaluation.submission import validate_submission, write_submission
from nuclei.inference.bundle import find_run
from nuclei.inference.contents import check_files, list_required
from nuclei.inference.exports import FORMATS, LABELS, Segmented
from nuclei.inference.gallery import GENERATOR, VIEW_FORMATS, VIEWS, gallery_page
from nuclei.inference.image_files import (
    MADE_BY,
    RECORD,
    Reading,
    Source,
    check_folder,
    check_names,
    describe_change,
    in_utf8,
    read_record,
    split_file,
)
from nuclei.inference.predictor import choose_jobs, load_predictor, stamp
from nuclei.inference.segmenter import find_nuclei
from nuclei.runs.files import (
    atomic,
    check_target,
    file_hash,
    remove_partial_files,
    write_bytes,
    write_json,
    write_table,
)
from nuclei.runs.layout import Run
from nuclei.runs.locks import lock
from nuclei.runs.parallel import each_image

VERSION = 3  # of the results: raised by a change of the code that makes them others
SUMMARY, PAGE = "summary.csv", "index.html"
ANY = "any"  # hash, where none was recorded
CELL_STARTS = (*FORMULA_STARTS, "\t", "\r")
MADE, UP_TO_DATE, FAILED, TO_DO = "made", "up to date", "failed", "to do"
FORCED = "--force"  # why an image is done that is up to date
# What the summary takes of a record, beside the image, its file, the state and the reason.
FACTS = (
    "novelty",
    "known",
    "height",
    "width",
    "axes",
    "channel",
    "plane",
    "pixel_size_um",
    "diameter_px",
    "values",
    "normalisation",
    "notes",
)
FIRST_COLUMNS = ("image", "file", "state", "why", "nuclei", "seconds")  # by which a summary of any version is known
COLUMNS = (*FIRST_COLUMNS, *FACTS)


@dataclass
class Task:
    """Hold an image, what its results are made from, and how far it is."""

    source: Source
    state: str
    why: str = ""
    made_from: dict[str, Any] = field(default_factory=dict)
    record: dict[str, Any] = field(default_factory=dict)  # without the results, if there are none

    def row(self) -> dict[str, Any]:
        """Return the image's row of the summary."""
        known = {key: self.record[key] for key in COLUMNS if key in self.record}
        return known | {
            "image": self.source.name,
            "file": self.source.file,
            "state": self.state,
            "why": self.why,
        }


def segment_files(
    sources: Iterable[Source],
    weights: Path,
    output: Path,
    reading: Reading | None = None,
    *,
    force: bool = False,
    submission: Path | None = None,
    jobs: int = -1,
    dry_run: bool = False,
) -> pd.DataFrame:
    """Segment images by the run or bundle in the folder `weights`, write their results and return the summary.

    The summary has a row per image and the columns COLUMNS; it is also written as SUMMARY, and as PAGE with pictures.
    An image whose results are up to date is skipped unless `force`; one that cannot be read has the state FAILED
    and the reason, and the others are done (`check_failures` raises the error). If asked for, a `submission` whose ids
    are the images' names is written, if all were read. jobs: processes; -1: one per core. dry_run: nothing is written,
    and what would be made has the state TO_DO. Raises what Predictor raises, and UserError where results would
    overwrite what this command did not make.
    """
    run, reading = find_run(weights), reading or Reading()
    with ExitStack() as stack:
        if not dry_run:
            check_folder(output)
            if submission:
                check_target(submission)
            stack.enter_context(lock(output / ".predict-images", f"predict-images into {output}"))
        return _segment_files(sources, run, output, reading, force, submission, jobs, dry_run)


def _segment_files(
    sources: Iterable[Source],
    run: Run,
    output: Path,
    reading: Reading,
    force: bool,
    submission: Path | None,
    jobs: int,
    dry_run: bool,
) -> pd.DataFrame:
    """Do what segment_files does, in a folder that no other process is writing to."""
    predictor = run.folder, stamp(run.folder.parent)
    if not run.config.is_file():
        load_predictor(*predictor)  # says what is missing
    tasks = plan(sources, {"weights_sha256": hash_weights(run), "version": VERSION}, output, reading, force)
    check_results([task.source.name for task in tasks if task.state == TO_DO], output, force)
    if not dry_run:
        names = [file for task in tasks for file in (*list_results(task.source.name), f"{task.source.name}{RECORD}")]
        remove_partial_files([*(output / name for name in (*names, SUMMARY, PAGE)), *filter(None, [submission])])
    to_do = {task.source.name: task for task in tasks if task.state == TO_DO}
    if to_do and not dry_run:
        load_predictor(*predictor)  # reports what it lacks once, before every process does
        work = partial(segment_one, predictor, output, reading)
        done = each_image(list(to_do), work, "segment", choose_jobs(jobs), list(to_do.values()), networks=True)
        for task, (record, fault) in zip(to_do.values(), done, strict=True):
            task.record = record
            task.state, task.why = (FAILED, fault) if fault else (MADE, task.why)
    summary = pd.DataFrame([task.row() for task in tasks], columns=list(COLUMNS))
    summary = summary.astype(dict.fromkeys(("nuclei", "height", "width"), "Int64"))
    if not dry_run:
        write_table(output / SUMMARY, escape_formulas(summary))
        page = gallery_page([task.record | task.row() for task in tasks], list(FORMATS))
        write_bytes(output / PAGE, page.encode())
        if submission and not summary["state"].eq(FAILED).any():
            submit([task.source.name for task in tasks], output, submission)
    return summary


def list_results(name: str) -> dict[str, Callable[[Segmented], bytes]]:
    """Return the files of an image's results, relative to their folder -> what encodes each."""
    views = {f"{VIEWS}/{name}{ending}": encode for ending, encode in VIEW_FORMATS.items()}
    return {f"{name}{ending}": encode for ending, encode in FORMATS.items()} | views


def describe(summary: pd.DataFrame, output: Path, dry_run: bool) -> str:
    """Say what was done in a line, or, after a dry run, a line per image of what would be done and why."""
    if dry_run:
        rows = zip(*(summary[key] for key in ("state", "image", "file", "why")), strict=True)
        return "\n".join(f"{state}: {image} ({file}){f': {why}' if why else ''}" for state, image, file, why in rows)
    states = summary["state"].tolist()
    counts = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
    return f"{summary['nuclei'].sum()} nuclei in {len(summary)} images ({counts}) -> {output / PAGE}"


def escape_formulas(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table whose texts no spreadsheet takes for formulas: those that begin like one get a ' before them.

    File names come from strangers, and a cell "=..." is run when the CSV is opened (OWASP, CSV injection).
    """
    return table.map(lambda cell: f"'{cell}" if isinstance(cell, str) and cell.startswith(CELL_STARTS) else cell)


def check_failures(summary: pd.DataFrame, submission: Path | None = None) -> None:
    """Raise UserError listing the images of a summary that cannot be read, each with the reason.

    submission: what was asked for, and is not written without them.
    """
    failed = summary.loc[summary["state"] == FAILED, "why"].tolist()
    if failed:
        missing = f", so {submission} is not written" if submission else ""
        raise UserError("\n  ".join([f"{len(failed)} of {len(summary)} images cannot be read{missing}:", *failed]))


def plan(sources: Iterable[Source], common: dict[str, Any], output: Path, reading: Reading, force: bool) -> list[Task]:
    """Return a task for each image, time points apart, with its state: TO_DO, UP_TO_DATE or FAILED, and why.

    common: what all results are made from beside the image and the settings.
    """
    tasks = []
    for source in sources:
        try:
            images, image_hash = split_file(source, reading), source.hash()
        except (ValueError, OSError) as error:
            tasks.append(Task(source, FAILED, in_utf8(str(error))))
            continue
        for image in images:
            settings = reading.record() | {"time": image.time, "series": image.series}
            wanted = common | {"image_sha256": image_hash, "settings": settings}
            record = read_record(output / f"{image.name}{RECORD}")
            why = describe_change(record, wanted)
            if record and not why:
                why = find_lost(record, output)
            state = TO_DO if why or force else UP_TO_DATE
            tasks.append(Task(image, state, why or FORCED * force, wanted, record if record and not why else {}))
    check_names([task.source for task in tasks])
    return tasks


def find_lost(record: dict[str, Any], output: Path) -> str:
    """Say which result of a finished record is not as it was written; nothing if all are."""
    for file in record["files"]:
        if not (output / file).is_file():
            return "results are missing"
        # Records of an earlier version hold no hashes.
        if record.get("sha256", {}).get(file, ANY) not in (ANY, file_hash(output / file)):
            return f"{file} is damaged or was changed"
    return ""


def hash_weights(run: Run) -> str:
    """Return a hash of all that a run segments with: settings, thresholds, networks, boosters, trained size.

    Those of members as well. Raises UserError naming what is missing.
    """
    config = load_config(run.config)
    required = list_required(run, config)
    check_files(run, required)
    settings = [one.config for one in (run, *(Run(name, run.folder.parent) for name in config.members))]
    files = [path for path in (*settings, *required, run.novelty, run.nuclei) if path.is_file()]
    lines = (f"{path.relative_to(run.folder.parent).as_posix()} {file_hash(path)}\n" for path in files)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def check_results(names: Sequence[str], output: Path, force: bool) -> None:
    """Raise UserError if a file that results would overwrite was not made by this command, unless `force`."""
    others = [
        output / file
        for name in names
        if read_record(output / f"{name}{RECORD}") is None
        for file in (*list_results(name), f"{name}{RECORD}")
    ]
    for path, mark in ((output / PAGE, GENERATOR), (output / SUMMARY, ",".join(FIRST_COLUMNS))):
        if path.is_file() and mark not in path.read_text(errors="replace"):
            others.append(path)
    existing = [path for path in others if path.exists()]
    if existing and not force:
        more = f" and {len(existing) - 1} more files" if len(existing) > 1 else ""
        raise UserError(
            f"{existing[0]}{more} would be overwritten, and {MADE_BY} has no record of making it: name another folder "
            "by --output, or overwrite it by --force"
        )


def segment_one(
    predictor: tuple[Path, tuple[int, ...]],
    output: Path,
    reading: Reading,
    name: str,  # noqa: ARG001 (of the progress bar's work: the task knows its name)
    task: Task,
) -> tuple[dict[str, Any], str]:
    """Segment one image by load_predictor(*predictor) and write its results: (record, why it failed)."""
    source = task.source
    known = read_record(output / f"{source.name}{RECORD}")
    if known and task.why != FORCED and not (describe_change(known, task.made_from) or find_lost(known, output)):
        return known, ""  # by a worker that died before it could say so
    try:
        picture, image, rule = source.read(reading)
    except (ValueError, OSError) as error:
        return {}, in_utf8(str(error))
    loaded = load_predictor(*predictor)  # takes seconds once, which are no image's
    started = time.perf_counter()
    results = list_results(source.name)
    record: dict[str, Any] = {"made_by": MADE_BY, "finished": False, "files": [*results], "made_from": task.made_from}
    write_json(output / f"{source.name}{RECORD}", record)
    try:
        labels, measures, diameter = find_nuclei(
            loaded, image, picture.pixels, picture.pixel_size_um, reading.diameter, source.archive is not None
        )
    except UserError as error:
        return {}, f"{source.file}: {error}"
    novelty = loaded.novelty(image) if loaded.novelty else None
    segmented = Segmented(image, labels, measures)
    hashes = {}
    for file, encode in results.items():
        content = encode(segmented)
        write_bytes(output / file, content)
        hashes[file] = hashlib.sha256(content).hexdigest()
    record |= {
        "sha256": hashes,
        "finished": True,
        "image": source.name,
        "file": source.file,
        "weights": str(predictor[0].name),
        "novelty": None if novelty is None else round(novelty, 3),
        "known": loaded.novelty.describe(novelty) if loaded.novelty and novelty is not None else "",
        "height": image.shape[0],
        "width": image.shape[1],
        "axes": picture.axes,
        "channel": picture.channel,
        "plane": picture.plane,
        "pixel_size_um": picture.pixel_size_um,
        "diameter_px": diameter and round(diameter, 2),
        "values": f"{picture.pixels.dtype} {picture.pixels.min():g}..{picture.pixels.max():g}",
        "normalisation": rule,
        "notes": "; ".join(picture.notes),
        "nuclei": len(measures),
        "scored": "predicted_iou" in measures,
        "seconds": round(time.perf_counter() - started, 2),
    }
    write_json(output / f"{source.name}{RECORD}", record)
    return record, ""


def submit(names: Sequence[str], output: Path, submission: Path) -> None:
    """Write the label images of `output` as a submission; raise UserError if it breaks the competition's rules."""
    labels = {name: tifffile.imread(output / f"{name}{LABELS}") for name in names}
    with atomic(submission) as temporary:
        with temporary.open("w", newline="") as file:
            write_submission(file, labels.items())
        shapes = {name: (array.shape[0], array.shape[1]) for name, array in labels.items()}
        if violations := validate_submission(temporary, shapes):
            raise UserError(f"{submission} would break the rules:\n  " + "\n  ".join(violations[:20]))
