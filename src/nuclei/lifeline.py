"""Processes that end with the one that started them, whatever they are doing then: a killed one cannot end them.

Each is told of its origin before it imports what takes seconds, by an argument or by a variable of its environment.
"""

import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from threading import Thread

VARIABLE = "_NUCLEI_ORIGIN"
WATCH_S = 1.0  # how often a process looks whether its origin still lives
_PROCESSES = Path("/proc")


def name_process() -> str:
    """Return what tells this process from every other: its number, when it was started, its machine."""
    return f"{os.getpid()} {_read_start(os.getpid())} {socket.gethostname()}"


@contextmanager
def ending_together() -> Iterator[None]:
    """Have the processes that are started in this block, and those that they start, end when this one does."""
    before = os.environ.get(VARIABLE)
    os.environ[VARIABLE] = name_process()
    try:
        yield
    finally:
        if before is None:
            del os.environ[VARIABLE]
        else:
            os.environ[VARIABLE] = before


@cache
def end_with(origin: str) -> None:
    """Have this process end within a second or so of its origin, at once if that has ended; not on another machine.

    Without /proc, as on macOS, it ends with its own parent.
    """
    number, start, host = origin.split(" ", 2)
    if host != socket.gethostname():
        return
    parent = os.getppid()

    def watch() -> None:
        while (_read_start(int(number)) == start) if _PROCESSES.is_dir() else os.getppid() == parent:
            time.sleep(WATCH_S)
        os._exit(1)

    Thread(target=watch, daemon=True, name="watch of the origin").start()


def _read_start(number: int) -> str:
    """Return when a process was started, in ticks of the machine's clock, '-' if it has ended or nothing tells."""
    try:
        state, *fields = (_PROCESSES / f"{number}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return "-"
    return "-" if state in "ZX" else fields[18]  # the 22nd of all, by proc(5)
