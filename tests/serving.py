"""`nuclei serve` as a process of its own, with a run that needs no network, and requests to it."""

import http.client
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import pytest
from processes import heed_hangups

ROOT = Path(__file__).parents[1]


@dataclass
class Served:
    address: str
    weights: Path
    held: Path  # where it makes its temporary folder
    process: Any

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

    def end(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(60)


def write_run(folder: Path) -> Path:
    """Write a run that segments by thresholds alone, and return its folder."""
    run = folder / "thresholds"
    run.mkdir()
    (run / "config.yaml").write_text("selection: {method: classical}\nclassical: {recipe: otsu}\n")
    return run


@contextmanager
def serving(folder: Path, *options: str) -> Iterator[Served]:
    """Serve the run of `write_run` below a folder; skip the test where the extra `serve` is not installed."""
    for package in ("fastapi", "uvicorn"):
        pytest.importorskip(package, reason="no fastapi and uvicorn: pip install '.[serve]'")
    run, held = write_run(folder), folder / "held"
    held.mkdir()
    command = [sys.executable, "-m", "nuclei", "serve", "--port", "0", "--no-open", "--weights", str(run), *options]
    path = os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"TMPDIR": str(held), "PYTHONPATH": path}
    with (folder / "errors.txt").open("w") as errors:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment, preexec_fn=heed_hangups
        )
    assert process.stdout
    found = None
    for line in process.stdout:
        if found := re.search(r"http://127\.0\.0\.1:\d+/", line):
            break
    try:
        assert found, (folder / "errors.txt").read_text()
        yield Served(found[0], run, held, process)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
