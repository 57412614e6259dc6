"""`nuclei serve` as a process of its own, with a run that needs no network, and requests to it."""

import http.client
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import pytest
from forks import start_fork
from processes import heed_hangups

from nuclei.cli import main

ROOT = Path(__file__).parents[1]
Process = subprocess.Popen | BaseProcess
Start = Callable[[list[str], Path, Path], Process]


@dataclass
class Served:
    address: str
    weights: Path
    held: Path  # where it makes its temporary folder
    process: Process

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, bytes]:
        """Return the status and the body of an answer."""
        parts = urlsplit(self.address)
        connection = http.client.HTTPConnection(str(parts.hostname), int(parts.port or 0), timeout=120)
        connection.request(method, path, body, {name.replace("_", "-"): text for name, text in headers.items()})
        answer = connection.getresponse()
        status, content = answer.status, answer.read()
        connection.close()
        return status, content

    def drop(self, name: str, content: bytes, query: str = "") -> dict:
        status, body = self.ask("PUT", f"/images/{quote(name)}{query}", content)
        assert status == 200, body
        return json.loads(body)

    def jobs(self) -> dict[str, dict]:
        return {job["key"]: job for job in json.loads(self.ask("GET", "/images")[1])}

    def end(self, number: int = signal.SIGTERM) -> int | None:
        os.kill(self.process.pid or 0, number)
        return wait(self.process)


def write_run(folder: Path) -> Path:
    """Write a run that segments by thresholds alone, and return its folder."""
    run = folder / "thresholds"
    run.mkdir()
    (run / "config.yaml").write_text("selection: {method: classical}\nclassical: {recipe: otsu}\n")
    return run


def start_anew(words: list[str], folder: Path, held: Path) -> subprocess.Popen:
    """Start the command line as a user does."""
    path = os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"TMPDIR": str(held), "PYTHONPATH": path}
    with (folder / "stdout.txt").open("w") as said, (folder / "stderr.txt").open("w") as errors:
        command = [sys.executable, "-m", *words]
        return subprocess.Popen(command, stdout=said, stderr=errors, env=environment, preexec_fn=heed_hangups)


def start_forked(words: list[str], folder: Path, held: Path) -> BaseProcess:
    """Start the command line without its imports."""
    return start_fork(main, words, folder, TMPDIR=str(held))


@contextmanager
def serving(folder: Path, *options: str, start: Start = start_anew) -> Iterator[Served]:
    """Serve the run of `write_run` below a folder; skip the test where the extra `serve` is not installed."""
    for package in ("fastapi", "uvicorn"):
        pytest.importorskip(package, reason="no fastapi and uvicorn: pip install '.[serve]'")
    run, held = write_run(folder), folder / "held"
    held.mkdir()
    process = start(["nuclei", "serve", "--port", "0", "--no-open", "--weights", str(run), *options], folder, held)
    try:
        yield Served(wait_for_address(process, folder), run, held, process)
    finally:
        process.kill()
        wait(process)


def wait_for_address(process: Process, folder: Path) -> str:
    """Return the address that it says it serves at."""
    said = folder / "stdout.txt"
    while not (found := re.search(r"http://127\.0\.0\.1:\d+/", said.read_text() if said.exists() else "")):
        assert is_running(process), (folder / "stderr.txt").read_text()
        time.sleep(0.05)
    return found[0]


def is_running(process: Process) -> bool:
    return process.poll() is None if isinstance(process, subprocess.Popen) else process.is_alive()


def wait(process: Process) -> int | None:
    """Wait for the end of a process, a minute at most, and return its status."""
    if isinstance(process, subprocess.Popen):
        return process.wait(60)
    process.join(60)
    return process.exitcode
