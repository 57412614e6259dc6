"""A trained run applied to a user's images: labels, outlines, measurements, what other tools open, a submission.

Each image gets its files in exports.FORMATS, what the page shows of it, and a record, <name>.json, of what they were
made from. The record is written before them as unfinished and after them as finished: only a finished one of the same
image, weights and settings means that there is nothing to do (up_to_date.py).

Images are done in batches of BATCH, each planned, made and written down before the next, so that the first is begun at
once and memory does not grow with their number; each batch has a page of its own.
"""

import hashlib
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import tifffile

from nuclei.config.load import load_config
from nuclei.data.image_ids import FORMULA_STARTS, find_id_fault
from nuclei.errors import UserError
from nuclei.evaluation.submission import HEADER, validate_submission, write_submission
from nuclei.inference.bundle import find_run
from nuclei.inference.contents import check_files, list_required
from nuclei.inference.exports import FORMATS, LABELS, Segmented
from nuclei.inference.gallery import GENERATOR, VIEW_FORMATS, VIEWS
from nuclei.inference.image_files import (
    MADE_BY,
    RECORD,
    Reading,
    Source,
    check_folder,
    check_names,
    in_utf8,
    read_record,
)
from nuclei.inference.pages import PAGE, Pages
from nuclei.inference.predictor import choose_jobs, load_predictor, stamp
from nuclei.inference.records import Made, begin_record, finish_record, list_requested, write_requested
from nuclei.inference.segment_slide import name_folder, remove_folder, segment_slide
from nuclei.inference.segmenter import find_nuclei
from nuclei.inference.slide import choose_tile
from nuclei.inference.up_to_date import (
    FAILED,
    MADE,
    TO_DO,
    Task,
    plan_images,
    stat_settled,
    was_made,
)
from nuclei.runs.files import (
    atomic,
    begins_with,
    check_target,
    file_hash,
    find_partial_files,
    remove,
    remove_partial_files,
    write_bytes,
    write_json,
)
from nuclei.runs.layout import Run
from nuclei.runs.locks import lock
from nuclei.runs.parallel import each_image
from nuclei.runs.provenance import cpu_seconds, provenance, rates

VERSION = 3  # of the results: raised by a change of the code that makes them others
SUMMARY = "summary.csv"
PROVENANCE = f"{VIEWS}/provenance.json"  # of the last call that made something: versions, machine, images a second
CELL_STARTS = (*FORMULA_STARTS, "\t", "\r", "\n")
BATCH = 1000  # images of one page, planned and made together
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
TOLD = ("image", "file", "state", "why", "nuclei")  # of which the command tells when all is done


def segment_files(
    sources: Iterable[Source],
    weights: Path,
    output: Path,
    reading: Reading | None = None,
    *,
    force: bool = False,
    verify: bool = False,
    submission: Path | None = None,
    jobs: int = -1,
    dry_run: bool = False,
    columns: Sequence[str] = COLUMNS,
) -> pd.DataFrame:
    """Segment images by the run or bundle in the folder `weights`, write their results and return the summary.

    The summary has a row per image and, of COLUMNS, the wanted columns; with all of them it is also written as SUMMARY,
    and as PAGE with pictures. An image whose results are up to date is skipped unless `force`; `verify`: each result,
    and each image, is read to see that. One that cannot be read has the state FAILED and the reason, and the others are
    done (`check_failures` raises the error). If asked for, a `submission` whose ids are the images' names is written,
    if all were read. jobs: processes; -1: one per core. dry_run: nothing is written, and what would be made has the
    state TO_DO. Raises what Predictor raises, and UserError where results would overwrite what this command did not
    make, and where a name cannot be an id of the submission.
    """
    run, reading, sources = find_run(weights), reading or Reading(), list(sources)
    if submission:
        check_ids(sources, submission)
    with ExitStack() as stack:
        if not dry_run:
            check_folder(output)
            if submission:
                check_target(submission, ",".join(HEADER))
            stack.enter_context(lock(output / ".predict-images", f"predict-images into {output}"))
        if not run.config.is_file():
            load_predictor(run.folder, stamp(run.folder.parent))  # says what is missing
        call = Call(run, output, reading, force, verify, jobs, dry_run)
        frames = [summary[list(columns)] for summary in call.segment(sources, submission)]
    return pd.concat(frames, ignore_index=True) if frames else make_summary([])[list(columns)]


def check_ids(sources: Sequence[Source], submission: Path) -> None:
    """Raise UserError naming an image whose name cannot be its id in a submission, before the hours of segmenting."""
    for source in sources:
        stem = source.name if source.archive else source.path.stem  # in which control codes are still what they are
        if fault := find_id_fault(source.name) or find_id_fault(stem):
            raise UserError(
                f"{source.file!r}: its name {fault}, and would be its id in {submission}: rename it, or ask for no "
                "submission"
            )


class Call:
    """Hold what all batches of images of one call have in common."""

    def __init__(
        self, run: Run, output: Path, reading: Reading, force: bool, verify: bool, jobs: int, dry_run: bool
    ) -> None:
        self.output, self.reading, self.jobs = output, reading, jobs
        self.force, self.verify, self.dry_run = force, verify, dry_run
        self.predictor = run.folder, stamp(run.folder.parent)
        self.common = {"weights_sha256": hash_weights(run), "version": VERSION}
        self.seen: dict[str, Source] = {}

    def segment(self, sources: Sequence[Source], submission: Path | None) -> Iterator[pd.DataFrame]:
        """Segment images batch by batch, yield the summary of each, and write SUMMARY, pages and the submission."""
        batches = [sources[start : start + BATCH] for start in range(0, len(sources), BATCH)]
        if self.dry_run:
            yield from (make_summary(self.plan(batch)) for batch in batches)
            return
        check_pages(self.output, self.force)
        left = find_partial_files([self.output, self.output / VIEWS])
        for path in (path for name in (SUMMARY, PAGE) for path in left.get(self.output / name, [])):
            remove(path)
        remove_partial_files(filter(None, [submission]))
        pages = Pages(self.output, len(batches))
        names: list[str] = []
        n_failed = n_made = 0
        started, cpu_started = time.perf_counter(), cpu_seconds()
        with atomic(self.output / SUMMARY) as temporary:
            for number, batch in enumerate(batches or [[]]):
                tasks = self.plan(batch)
                own = (f for task in tasks for f in list_own(task.source.name, self.reading.formats))
                for path in (path for file in own for path in left.get(self.output / file, [])):
                    remove(path)
                self.make([task for task in tasks if task.state == TO_DO])
                summary = make_summary(tasks)
                append_table(temporary, summary, number == 0)
                pages.write(number, [task.record | make_row(task) for task in tasks])
                names += [task.source.name for task in tasks] if submission else []
                n_failed += int(summary["state"].eq(FAILED).sum())
                n_made += int(summary["state"].eq(MADE).sum())
                yield summary
        pages.finish()
        if n_made:
            seconds = time.perf_counter() - started
            took = {"seconds": seconds, "cpu_seconds": cpu_seconds() - cpu_started}
            write_json(self.output / PROVENANCE, provenance() | took | rates({"images": n_made}, seconds))
        if submission and not n_failed:
            submit(names, self.output, submission)

    def plan(self, batch: Sequence[Source]) -> list[Task]:
        """Return the tasks of a batch; raise UserError where names, or files of others, are in the way."""
        tasks = plan_images(batch, self.common, self.output, self.reading, self.force, self.verify, self.dry_run)
        check_names([task.source for task in tasks], self.seen)
        names = [task.source.name for task in tasks if task.state == TO_DO]
        check_results(names, self.reading.formats, self.output, self.force)
        return tasks

    def make(self, tasks: Sequence[Task]) -> None:
        """Segment images, large ones tile by tile after all others, and note in each task what came of it."""
        if not tasks:
            return
        load_predictor(*self.predictor)  # reports what it lacks once, before every process does
        work = partial(segment_one, self.predictor, self.output, self.reading)
        names, jobs = [task.source.name for task in tasks], choose_jobs(self.jobs)
        done = each_image(names, work, "segment", jobs, tasks, networks=True)
        for task, (record, fault) in zip(tasks, done, strict=True):
            if fault is None:
                record, fault = segment_slide(self.predictor, self.output, self.reading, task, self.jobs)
            task.record = record
            task.state, task.why = (FAILED, fault) if fault else (MADE, task.why)


def make_row(task: Task) -> dict[str, Any]:
    """Return an image's row of the summary."""
    known = {key: task.record[key] for key in COLUMNS if key in task.record}
    own = {"image": task.source.name, "file": task.source.file, "state": task.state, "why": task.why}
    return known | own


def make_summary(tasks: Sequence[Task]) -> pd.DataFrame:
    """Return the summary of some images: a row each, columns COLUMNS."""
    summary = pd.DataFrame([make_row(task) for task in tasks], columns=list(COLUMNS))
    return summary.astype(dict.fromkeys(("nuclei", "height", "width"), "Int64"))


def append_table(path: Path, summary: pd.DataFrame, is_first: bool) -> None:
    """Append a summary to a CSV, which the first one begins."""
    text = escape_formulas(summary).to_csv(index=False, header=is_first, lineterminator="\n")
    with path.open("a", encoding="utf-8", newline="") as file:
        file.write(text)


def list_results(name: str) -> dict[str, Callable[[Segmented], bytes]]:
    """Return the files of an image's results, relative to their folder -> what encodes each."""
    views = {f"{VIEWS}/{name}{ending}": encode for ending, encode in VIEW_FORMATS.items()}
    return {f"{name}{ending}": encode for ending, encode in FORMATS.items()} | views


def list_own(name: str, formats: Sequence[str]) -> list[str]:
    """Return all that is written of an image, its record and results on request included, relative to their folder."""
    return [*list_results(name), *list_requested(name, formats), f"{name}{RECORD}"]


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


def check_results(names: Sequence[str], formats: Sequence[str], output: Path, force: bool) -> None:
    """Raise UserError if a file that results would overwrite was not made by this command, unless `force`."""
    others = [
        output / file
        for name in names
        if read_record(output / f"{name}{RECORD}") is None
        for file in list_own(name, formats)
    ]
    refuse(others, force)


def check_pages(output: Path, force: bool) -> None:
    """Raise UserError if the page or the summary was not made by this command, unless `force`."""
    marks = {output / PAGE: GENERATOR, output / SUMMARY: ",".join(FIRST_COLUMNS)}
    refuse([path for path, mark in marks.items() if path.is_file() and not begins_with(path, mark)], force)


def refuse(others: Sequence[Path], force: bool) -> None:
    """Raise UserError if one of these files exists, which are others' and would be overwritten, unless `force`."""
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
) -> tuple[dict[str, Any], str | None]:
    """Segment one image by load_predictor(*predictor) and write its results: (record, why it failed).

    A large one is left to segment_slide: then the reason is None.
    """
    source = task.source
    try:
        if was_made(task, output):
            return read_record(output / f"{source.name}{RECORD}") or {}, ""
        if choose_tile(source.size(reading), reading.tile):
            return {}, None
        stat = stat_settled(source)
        if "image_sha256" not in task.made_from:
            task.made_from["image_sha256"] = source.hash()
        picture, image, rule = source.read(reading)
    except (ValueError, OSError) as error:
        return {}, in_utf8(str(error))
    loaded = load_predictor(*predictor)  # takes seconds once, which are no image's
    started = time.perf_counter()
    results = list_results(source.name)
    requested = list_requested(source.name, reading.formats)
    record = begin_record(output, task, [*results, *requested])
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
    shape, n_nuclei, pixels = (image.shape[0], image.shape[1]), len(measures), picture.pixels
    write_requested(output, source.name, reading.formats, labels, shape, n_nuclei, picture.pixel_size_um)
    hashes |= {file: file_hash(output / file) for file in requested}
    values = f"{pixels.dtype} {pixels.min():g}..{pixels.max():g}"
    made = Made(shape, picture, values, rule, novelty, diameter, n_nuclei, "predicted_iou" in measures)
    record = finish_record(output, task, record, hashes, stat, loaded, predictor[0].name, made, started)
    remove_folder(name_folder(output, source.name))  # of a call that was to cut it into tiles
    return record, ""


def submit(names: Sequence[str], output: Path, submission: Path) -> None:
    """Write the label images of `output` as a submission; raise UserError if it breaks the competition's rules."""
    shapes: dict[str, tuple[int, int]] = {}

    def read(name: str) -> tuple[str, Any]:
        labels = tifffile.imread(output / f"{name}{LABELS}")
        shapes[name] = labels.shape[0], labels.shape[1]
        return name, labels

    with atomic(submission) as temporary:
        with temporary.open("w", encoding="utf-8", newline="") as file:
            write_submission(file, map(read, names))
        if violations := validate_submission(temporary, shapes):
            raise UserError(f"{submission} would break the rules:\n  " + "\n  ".join(violations[:20]))
