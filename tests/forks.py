"""Processes that are forked from one that has imported what takes seconds: once for all that a test process starts.

That one has computed nothing and has no threads, which a fork would lack. What the import itself may do, or a start by
`python -m nuclei`, is for processes that are started anew: tests/processes.py, tests/test_cli.py.
"""

import multiprocessing
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import cache
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from nuclei.runs.stage_table import STAGES

# What is not installed is left out.
IMPORTED = [f"nuclei.stages.{name}" for name in STAGES]
IMPORTED += ["nuclei.inference.segment_files", "uvicorn", "nuclei.inference.serve_app", "distributed", "small_project"]


@cache
def open_forks() -> ForkServerContext:
    """Return the context of multiprocessing whose processes are forked, with the one that they are forked from."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(IMPORTED)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(map(os.path.abspath, sys.path)))
        patch.setenv("OMP_NUM_THREADS", "1")
        forkserver.ensure_running()
    return context


def start_fork(main: Callable[[], int | None], words: Sequence[object], folder: Path, **variables: str) -> BaseProcess:
    """Start `main()` in a forked process, as a program that is called by some words.

    folder: gets what it says, as stdout.txt and stderr.txt. variables: of its environment, beside this process's own.
    """
    environment = os.environ | {"OMP_NUM_THREADS": "1"} | variables
    folder.mkdir(parents=True, exist_ok=True)
    arguments = (main, list(map(str, words)), folder, dict(environment))
    process: BaseProcess = open_forks().Process(target=_run, args=arguments)
    process.start()
    return process


def _run(main: Callable[[], int | None], words: list[str], folder: Path, environment: dict[str, str]) -> None:
    if hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # below nohup all ignore it
    os.environ.clear()
    os.environ.update(environment)
    tempfile.tempdir = None  # which an import may have asked of another environment
    sys.argv = words
    for number, name in ((1, "stdout"), (2, "stderr")):
        with (folder / f"{name}.txt").open("w") as file:
            os.dup2(file.fileno(), number)
        setattr(sys, name, open(number, "w", buffering=1, closefd=False))  # noqa: SIM115 (which stays open)
    sys.exit(main())
