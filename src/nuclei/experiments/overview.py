"""All runs of a folder at a glance: which stages are finished, which is being made, the score, the size."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

from nuclei.config.schema import Config
from nuclei.errors import UserError
from nuclei.evaluation.summary import format_score
from nuclei.pipeline import list_stages, load_run
from nuclei.report.blocks import Table
from nuclei.runs.cache import check_whole
from nuclei.runs.files import read_json
from nuclei.runs.layout import Dataset, Run
from nuclei.runs.locks import find_holder
from nuclei.runs.stage_table import STAGES, stage_of

FINISHED, RUNNING, STOPPED, NOT_RUN = "finished", "running", "stopped", "not run"
LAST = datetime(9999, 1, 1)  # some disks hold later times, and datetime none
UNITS = ("B", "kB", "MB", "GB", "TB")


@dataclass(frozen=True)
class Overview:
    """Say how far a run has come.

    state: in words; stages: name -> FINISHED, RUNNING (a process holds it), STOPPED (begun and neither) or NOT_RUN, in
    their order, the folds of a training apart, without those of the data, which runs share; score: [mean, low, high]
    out of fold, if there is one; bytes: of its files; changed: when a stage last began or finished.
    """

    run: str
    state: str
    stages: dict[str, str]
    score: list[float] | None
    images: int | None
    bytes: int
    changed: str


def list_overviews(runs: Path, names: Sequence[str] = ()) -> list[Overview]:
    """Return the overviews of the runs in a folder, or of those called `names`, the last changed first.

    Raises UserError naming a run that is not there.
    """
    found = sorted(path.parent.name for path in runs.glob("*/config.yaml"))
    if missing := [name for name in names if name not in found]:
        raise UserError(f"no run {missing[0]} in {runs}; it has {', '.join(found) or 'none'}")
    overviews = [describe_run(Run(name, runs)) for name in names or found]
    return sorted(overviews, key=lambda overview: overview.changed, reverse=True)


def describe_run(run: Run) -> Overview:
    """Return the overview of a run; of a damaged one, its state says what is damaged."""
    stages: dict[str, str] = {}
    score, images = None, None
    try:
        config = load_run(run.config)
        stages = {meta.stem: find_state(meta) for meta in list_metas(run, config)}
        state = say_state(stages)
        if run.metrics.is_file():
            if run.meta("evaluate").is_file():
                check_whole(run.meta("evaluate"))
            scored = read_json(run.metrics)["oof"]
            score, images = [float(value) for value in scored["score"]], int(scored["n_images"])
    except (UserError, OSError, KeyError, TypeError, ValueError) as error:
        state = f"damaged: {str(error).splitlines()[0].rstrip(':')}"
    return Overview(run.name, state, stages, score, images, count_bytes(run.folder), find_change(run))


def list_metas(run: Run, config: Config) -> Iterator[Path]:
    """Yield the metas that the stages of a run leave in it, in order, those that are not asked of every run last."""
    there = {
        path.with_suffix(".json") for ending in ("json", "begun") for path in run.meta("x").parent.glob(f"*.{ending}")
    }
    for stage in list_stages(config):
        own = sorted(meta for meta in there if stage_of(meta.stem) == stage)
        if stage == "train":
            yield from sorted({*own, *(run.meta(f"train_fold{fold}") for fold in list_folds(run, config))})
        # Crops are not made where the networks are there already.
        elif own or not (STAGES[stage].time == "data" or stage == "crops"):
            yield run.meta(stage)
    yield from sorted(meta for meta in there if STAGES[stage_of(meta.stem)].on_demand)


def list_folds(run: Run, config: Config) -> list[int]:
    """Return the folds that a run trains a network for; as many as are asked for where the fold table is missing."""
    try:
        return Dataset(config.data, run.folder.parent).list_folds()
    except (UserError, OSError):
        return list(range(config.data.n_folds))


def find_state(meta: Path) -> str:
    """Return whether a stage is FINISHED, RUNNING, STOPPED or NOT_RUN."""
    if find_holder(meta):
        return RUNNING
    if meta.with_suffix(".begun").is_file():
        return STOPPED
    return FINISHED if meta.is_file() else NOT_RUN


def say_state(stages: dict[str, str]) -> str:
    """Say the state of a run by those of its stages: 'finished', 'running: score', 'stopped: score', 'next: score'."""
    for state in (RUNNING, STOPPED):
        if some := [name for name, one in stages.items() if one == state]:
            return f"{state}: {', '.join(some)}"
    left = [name for name, state in stages.items() if state != FINISHED]
    return f"next: {left[0]}" if left else FINISHED


def count_bytes(folder: Path) -> int:
    """Return the bytes of all files below a folder, each counted once; files that other runs share count too."""
    sizes: dict[tuple[int, int], int] = {}
    for path, _, files in os.walk(folder):
        for file in files:
            try:
                stat = Path(path, file).lstat()
            except OSError:  # which has gone meanwhile
                continue
            sizes[stat.st_dev, stat.st_ino] = stat.st_size
    return sum(sizes.values())


def find_change(run: Run) -> str:
    """Return when a stage last began or finished, or the config was written, as ISO 8601."""
    files = [run.config, *run.meta("x").parent.glob("*.json"), *run.meta("x").parent.glob("*.begun")]
    changed = max((path.stat().st_mtime for path in files if path.exists()), default=0.0)
    return datetime.fromtimestamp(min(changed, LAST.timestamp())).isoformat(" ", "seconds")


def overview_table(overviews: Sequence[Overview]) -> Table:
    """Return the overviews as a table to print."""
    rows = [
        (
            one.run,
            one.state,
            f"{list(one.stages.values()).count(FINISHED)} of {len(one.stages)}",
            format_score(one.score) if one.score else "–",
            format_bytes(one.bytes),
            one.changed[:10],
        )
        for one in overviews
    ]
    return Table(("run", "state", "stages", "score (95 % interval)", "size", "changed"), rows, n_text=2)


def format_bytes(count: int) -> str:
    """Return a number of bytes in decimal units: '1.2 GB'."""
    value, units = float(count), list(UNITS)
    while value >= 1000 and len(units) > 1:
        value, units = value / 1000, units[1:]
    return f"{value:.0f} {units[0]}" if units[0] == "B" or value >= 100 else f"{value:.1f} {units[0]}"


def as_records(overviews: Sequence[Overview]) -> list[dict[str, object]]:
    """Return the overviews as JSON holds them."""
    return [asdict(one) for one in overviews]
