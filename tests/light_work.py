"""What tests have workers do. A worker imports the module of its work, and those of the tests bring torch and more."""

import errno
import os
import signal
import time
from pathlib import Path

from nuclei.errors import UserError
from nuclei.runs.cores import count_threads


def describe_worker(name: str, factor: int) -> tuple[str, int, str, str | None, int]:
    """Return what a call gives, and what the process knows that made it."""
    return name * factor, os.getpid(), str(Path.cwd()), os.environ.get("NUCLEI_TEST"), count_threads()


def die_once(folder: Path, name: str) -> str:
    """Kill the process that makes this call for "b", the first time."""
    mark = folder / "died"
    if name == "b" and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return name.upper()


def always_die(name: str) -> str:
    if name == "b":
        os.kill(os.getpid(), signal.SIGKILL)
    return name


def refuse(name: str) -> str:
    if name == "c":
        raise UserError("c.png is damaged: fetch it anew")
    return name


def fail(name: str) -> None:
    """Raise an error of the system for "full", one that a user can mend for anything else."""
    if name == "full":
        raise OSError(errno.ENOSPC, "No space left on device", "maps/full.npz")
    raise UserError(f"{name}.png is damaged: fetch it anew")


def sleep(folder: Path, name: str) -> None:
    (folder / f"{name}.{os.getpid()}").touch()
    time.sleep(600)
