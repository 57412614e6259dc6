"""The small project, finished: copied, run again in processes of its own, and compared file by file."""

import json
import os
import resource
import shutil
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from small_project import WRITES, few_steps, finish, hash_files, list_tasks

from nuclei.cli import main
from nuclei.runs.files import link
from nuclei.runs.memory import measure_peak_bytes

PARTIAL = ".partial."
HANGS_SECONDS = 1800  # on a machine that is busy, too
CRASHED = 70  # status of a child that an error left without a word of its own


@dataclass(frozen=True)
class Outcome:
    """Hold how a command ended: its exit status, negative for a signal, and all that it printed."""

    status: int
    text: str

    def find_fault(self, *names: str) -> str | None:
        """Return what is wrong with the way in which it failed: it must be an error that has one of the names."""
        if self.status == 0:
            return "it did not fail"
        end = self.text.strip()[-300:]
        if self.status < 0 or "Traceback (most recent call last)" in self.text or "error: " not in self.text:
            return f"status {self.status} and no error message, but {end!r}"
        said = self.text[self.text.rindex("error: ") :]
        return None if any(name in said for name in names) else f"an error that names none of {names}: {said!r}"


@dataclass
class Project:
    """Hold the folder of a finished project, its archives, and the hash of every file of its results."""

    folder: Path
    data: Path
    hashes: dict[str, str]
    writes: dict[tuple[str, str], int]  # (run, stage) -> files that the stage wrote

    @property
    def tasks(self) -> list[tuple[Path, str]]:
        """The stages of all runs, in order: config, relative to the project, and name of the stage."""
        found = list_tasks(self.folder / "ensembles/pair.yaml")
        return [(path.relative_to(self.folder), name) for path, name in found]

    def copy(self, to: Path, copy: Callable[..., object] = link) -> Path:
        """Copy the project by links, which no stage writes through, or else by `copy`; return its folder."""
        # Locks apart: held by their links, two attacks on one project would wait for each other.
        shutil.copytree(
            self.folder, to, ignore=shutil.ignore_patterns("*.lock"), copy_function=copy, dirs_exist_ok=True
        )
        return to

    def forget(self, folder: Path, run: str, stage: str) -> None:
        """Have a copy of the project no longer know that it has finished a stage."""
        if stage == "folds":
            for file in ("folds.csv", "fold_tables.json"):
                (folder / "runs/data/demo" / file).unlink()
        home = folder / ("runs/data/demo" if stage == "prepare" else f"runs/{run}")
        for meta in home.glob(f"meta/{stage}*.json"):
            if meta.stem.split("_")[0] == stage:
                meta.unlink()

    def compare(self, folder: Path) -> list[str]:
        """Return the files of results that a copy lacks, has besides, or has with other bytes; left-overs too.

        Tables that compare runs, which only commands and no stages write, are left out.
        """
        found = hash_files(folder / "runs")
        names = {name for name in found.keys() | self.hashes.keys() if not name.startswith("comparisons/")}
        return sorted(name for name in names if found.get(name) != self.hashes.get(name)) + list_partial(folder)

    def find_spoilt(self, folder: Path, but: Sequence[str] = ()) -> list[str]:
        """Return the files that a copy has with other bytes, half-written ones, and left-overs of unfinished writes."""
        found = hash_files(folder / "runs")
        names = (found.keys() & self.hashes.keys()) - set(but)
        return sorted(name for name in names if found[name] != self.hashes[name]) + list_partial(folder)


def list_partial(folder: Path) -> list[str]:
    """Return what unfinished writes have left among the results.

    Not counted is what a kill leaves beside metas and configs: hidden, named by its process, and read by nobody.
    """
    left = (path.relative_to(folder) for path in (folder / "runs").rglob(f"*{PARTIAL}*"))
    return sorted(str(path) for path in left if path.parent.name != "meta" and not path.name.endswith("config.yaml"))


def open_project(folder: Path) -> Project:
    """Return the finished project of a folder, made there if there is none."""
    if not (folder / WRITES).is_file():
        finish(folder)
    writes = {(run, stage): n for run, stage, n in json.loads((folder / WRITES).read_text())}
    return Project(folder / "project", folder / "data", hash_files(folder / "project/runs"), writes)


@dataclass(frozen=True)
class Command:
    """Hold a command that a forked process is running."""

    pid: int
    log: Path

    def wait(self) -> Outcome:
        """Wait for its end."""
        status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        text = self.log.read_text(errors="replace")
        self.log.unlink()
        return Outcome(status, text)


def start(arguments: Sequence[object], folder: Path, prepare: Callable[[], object] = lambda: None) -> Command:
    """Start the command line with some arguments in a forked process, in `folder`, after `prepare()`.

    Like small_project.run_forked it needs a process that has computed nothing. One that hangs is ended by a signal.
    """
    handle, name = tempfile.mkstemp(prefix="attack", suffix=".log")
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        os.close(handle)
        return Command(pid, Path(name))
    status = CRASHED
    try:
        os.dup2(handle, 1)
        os.dup2(handle, 2)
        os.chdir(folder)
        signal.alarm(HANGS_SECONDS)
        prepare()
        sys.argv = ["nuclei", *map(str, arguments)]
        try:
            with few_steps():
                main()
            status = 0
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else int(end.code is not None)
            if isinstance(end.code, str):
                print(end.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def nuclei(arguments: Sequence[object], folder: Path, prepare: Callable[[], object] = lambda: None) -> Outcome:
    """Run the command line with some arguments in a forked process, and return how it ended."""
    return start(arguments, folder, prepare).wait()


def measure_peak_mb() -> float:
    """Return the most memory that this process or one of its children has held, in MB."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    return max(measure_peak_bytes(), children) / 1e6
