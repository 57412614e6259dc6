"""The lock that a process holds on a stage while it decides about it and makes it."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from nuclei.runs.files import read_json


@contextmanager
def lock(meta: Path, name: str) -> Iterator[None]:
    """Hold a stage for this process; while another has it, say which, and wait.

    The operating system releases the lock of a process that dies. Between machines it holds as far as their shared
    folder passes flock on: NFS does unless it is mounted with nolock or local_lock, and then two machines can still
    make the same stage twice, each file whole and the same.
    """
    meta.parent.mkdir(parents=True, exist_ok=True)
    file = FileLock(_path(meta))
    try:
        file.acquire(blocking=False)
    except Timeout:
        print(f"{name}: waiting for {_describe_holder(meta)}", flush=True)
        file.acquire()
    try:
        yield
    finally:
        file.release()


@contextmanager
def publishing(root: Path) -> Iterator[None]:
    """Hold what is published of the runs below `root`: the README files are read, changed and written."""
    with lock(root / "comparisons" / "publish", "publishing"):
        yield


def find_holder(meta: Path) -> str | None:
    """Say which process holds a stage, None if none does; writes nothing."""
    if not _path(meta).is_file():
        return None
    file = FileLock(_path(meta))
    try:
        file.acquire(blocking=False)
    except Timeout:
        return _describe_holder(meta)
    except OSError:  # a folder that is not ours to write to
        return None
    file.release()
    return None


def describe_process() -> dict[str, Any]:
    """Return who this process is and what time it is, for those who will wait for it."""
    return {"pid": os.getpid(), "host": socket.gethostname(), "since": datetime.now().isoformat(" ", "seconds")}


def _path(meta: Path) -> Path:
    return meta.with_suffix(".lock")


def _describe_holder(meta: Path) -> str:
    try:
        by = read_json(meta.with_suffix(".begun"))["by"]
        return f"process {by['pid']} on {by['host']}, which has been making it since {by['since']}"
    except (OSError, ValueError, TypeError, KeyError):  # it has only just come, or has just finished
        return "another process"
