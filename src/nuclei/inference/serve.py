"""`nuclei serve`: a page of this machine on which images are dropped and their nuclei appear.

One process, which listens on 127.0.0.1 alone. An image is written into a temporary folder, segmented there by what
predict-images calls, and removed; its results stay until the page clears them or the process ends. The page is that of
gallery.py, with a place to drop images.
"""

import contextlib
import os
import secrets
import shutil
import signal
import socket
import tempfile
import time
import traceback
import webbrowser
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from types import FrameType
from typing import Any

import pandas as pd

from nuclei.data.axes import View
from nuclei.errors import UserError, explain_os_error
from nuclei.inference.bundle import find_run
from nuclei.inference.exports import FORMATS
from nuclei.inference.gallery import describe_image
from nuclei.inference.image_files import RECORD, Reading, Source, find_images, name_files, read_record
from nuclei.inference.predictor import load_predictor, stamp
from nuclei.inference.segment_files import segment_files
from nuclei.inference.up_to_date import FAILED
from nuclei.runs.files import atomic

HOST = "127.0.0.1"
NAME_BYTES = 255  # what file systems take
WAITING, WORKING, DONE = "waiting", "working", "done"
FAULT = "is a fault of the program, not of the image: the terminal in which nuclei serve runs has more"
Segment = Callable[[list[Source], Path, Reading], pd.DataFrame]  # images, folder of the results, settings -> summary


@dataclass
class Job:
    """Hold one file that was dropped, how far it is, and what the page holds of its images, several of a series."""

    file: str
    reading: Reading
    key: str = field(default_factory=lambda: secrets.token_hex(8))  # of its addresses: not to be guessed
    state: str = WAITING
    started: float = 0.0
    images: list[dict[str, Any]] = field(default_factory=list)
    results: list[str] = field(default_factory=list)  # files relative to its folder, all that may be asked for

    def describe(self) -> dict[str, Any]:
        """Return what the page is told."""
        seconds = round(time.monotonic() - self.started) if self.state == WORKING else 0
        return {"key": self.key, "file": self.file, "state": self.state, "seconds": seconds, "images": self.images}


class Bench:
    """Segment the files that are dropped, one after the other in a thread, in a folder of its own."""

    def __init__(self, folder: Path, segment: Segment):
        self.folder, self.segment = folder, segment
        self.jobs: dict[str, Job] = {}
        self.queue: SimpleQueue[Job] = SimpleQueue()
        Thread(target=self._work, daemon=True, name="segmentation").start()

    def place(self, name: str) -> tuple[str, Path]:
        """Return what a dropped file is called, and a path to write it to; raise UserError on a name that is none."""
        plain = Path(name.replace("\\", "/")).name
        if not plain or "\0" in plain or plain in (".", ".."):
            raise UserError(f"{name!r} is no name of a file: rename it")
        if (length_bytes := len(plain.encode())) > NAME_BYTES:
            raise UserError(f"{plain}: its name has {length_bytes} bytes, more than {NAME_BYTES}: shorten it")
        folder = self.folder / "dropped" / secrets.token_hex(8)
        folder.mkdir(parents=True)
        return plain, folder / plain

    def add(self, path: Path, reading: Reading) -> Job:
        """Queue a file that was written to a path of `place`."""
        job = Job(path.name, reading)
        self.jobs[job.key] = job
        path.parent.rename(self.folder / "dropped" / job.key)
        self.queue.put(job)
        return job

    def output(self, job: Job) -> Path:
        """Return the folder of a job's results."""
        return self.folder / "results" / job.key

    def clear(self) -> None:
        """Forget all files, and remove their results; the one that is being segmented follows when it is done."""
        for job in list(self.jobs.values()):
            del self.jobs[job.key]
            if job.state != WORKING:
                self._remove(job)

    def is_busy(self) -> bool:
        """Return whether a file is being segmented."""
        return any(job.state == WORKING for job in self.jobs.values())

    def _remove(self, job: Job) -> None:
        for folder in (self.folder / "dropped" / job.key, self.output(job)):
            shutil.rmtree(folder, ignore_errors=True)

    def _work(self) -> None:
        while True:
            job = self.queue.get()
            if job.key not in self.jobs:
                continue
            job.started, job.state = time.monotonic(), WORKING
            job.images, job.results = self._segment(job)
            job.state = DONE
            shutil.rmtree(self.folder / "dropped" / job.key, ignore_errors=True)
            if job.key not in self.jobs:
                self._remove(job)

    def _segment(self, job: Job) -> tuple[list[dict[str, Any]], list[str]]:
        """Return what the page holds of each image of a file, and the files of their results."""
        output = self.output(job)
        try:
            # From within its folder messages and records name the file as the command line does there.
            with contextlib.chdir(self.folder / "dropped" / job.key):
                summary = self.segment(find_images([Path(job.file)]), output, job.reading)
        except (UserError, OSError) as error:
            return [failed(job, explain_os_error(error) if isinstance(error, OSError) else str(error))], []
        except Exception as error:  # the thread has to live on
            traceback.print_exc()
            return [failed(job, f"{job.file}: {type(error).__name__} {FAULT}")], []
        images, results = [], []
        known = ("image", "file", "state", "why")
        for values in zip(*(summary[key] for key in known), strict=True):
            row = dict(zip(known, values, strict=True))
            record = read_record(output / f"{row['image']}{RECORD}") or {}
            image = describe_image(record | row, list(FORMATS), f"results/{job.key}/")
            images.append(image | ({"archive": f"results/{job.key}.zip"} if image["results"] else {}))
            results += record.get("files", [])
        return images, results

    def pack(self, jobs: Sequence[Job], path: Path) -> Path:
        """Write the results of jobs as a zip, each a folder that index.html opens; return its path."""
        names = name_files([Path(job.key) / job.file for job in jobs])
        with atomic(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, job in zip(names, jobs, strict=True):
                for file in sorted(self.output(job).rglob("*")):
                    if file.is_file():
                        archive.write(file, f"{name}/{file.relative_to(self.output(job)).as_posix()}")
        return path


def failed(job: Job, why: str) -> dict[str, Any]:
    """Return what the page holds of a file that could not be segmented."""
    return describe_image({"image": Path(job.file).stem, "file": job.file, "state": FAILED, "why": why}, [])


def read_settings(channel: str, plane: str, pixel_size: str, normalise: bool) -> Reading:
    """Return how an image is to be read, from what was typed into the page; raise UserError on no size of a pixel."""
    try:
        size = float(pixel_size.replace(",", ".")) if pixel_size.strip() else None
    except ValueError:
        size = 0.0
    if size is not None and not 1e-6 <= size < float("inf"):
        raise UserError(f"the pixel size {pixel_size!r} is no side of a pixel in µm: give a number such as 0.325")
    return Reading(View(channel.strip() or None, plane.strip() or None), normalise, size)


@contextlib.contextmanager
def listen(port: int) -> Iterator[socket.socket]:
    """Yield a socket of this machine alone; port 0: any that is free. Raises UserError if the port is taken."""
    try:
        opened = socket.create_server((HOST, port))
    except (OSError, OverflowError) as error:
        raise UserError(f"port {port} cannot be had ({error}): name another by --port; 0 takes a free one") from None
    with opened:
        yield opened


def serve(weights: Path, port: int, max_mb: int, show: bool, tell: Callable[[str], None]) -> None:
    """Serve the page until the process is interrupted or terminated; what was written is removed then.

    weights: folder of a run or bundle. show: open the page in the user's browser. tell: is called with lines for the
    terminal. Raises UserError where fastapi or uvicorn are not installed, and as Predictor does.
    """
    try:
        import uvicorn

        from nuclei.inference.serve_app import make_app
    except ModuleNotFoundError as error:
        raise UserError(f"nuclei serve needs {error.name}, which is not installed: pip install '.[serve]'") from None
    with listen(port) as opened, tempfile.TemporaryDirectory(prefix="nuclei_serve_") as temporary:
        run = find_run(weights)
        load_predictor(run.folder, stamp(run.folder.parent))  # reports what it lacks before anybody waits for it
        bench = Bench(Path(os.path.realpath(temporary)), partial(_segment, Path(os.path.realpath(weights))))
        config = uvicorn.Config(
            make_app(bench, max_mb), log_level="warning", access_log=False, timeout_graceful_shutdown=1
        )
        address = f"http://{HOST}:{opened.getsockname()[1]}/"
        tell(f"{address} is ready; Ctrl-C ends it, and removes what it holds")
        if show:
            Thread(target=webbrowser.open, args=(address,), daemon=True).start()
        server = uvicorn.Server(config)
        try:
            with _ending_by_hangup(server):
                server.run(sockets=[opened])
        finally:
            if bench.is_busy():
                _end(Path(temporary))


@contextlib.contextmanager
def _ending_by_hangup(server: Any) -> Iterator[None]:
    """Have a uvicorn server end by SIGHUP as by SIGTERM, after which the signal is heeded as before.

    It heeds no SIGHUP, and an exception that a handler raises may be lost in a callback of its loop.
    """
    number = getattr(signal, "SIGHUP", None)
    if number is None or signal.getsignal(number) == signal.SIG_IGN:
        yield
        return
    received = []

    def end(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 (what a handler of signals takes)
        received.append(number)
        server.should_exit = True

    before = signal.signal(number, end)
    try:
        yield
    finally:
        signal.signal(number, before)
    if received:
        signal.raise_signal(number)


def _segment(weights: Path, sources: list[Source], output: Path, reading: Reading) -> pd.DataFrame:
    return segment_files(sources, weights, output, reading, jobs=1)


def _end(folder: Path) -> None:
    """End the process while a thread of it is segmenting, which nothing can interrupt, and leave no file."""
    while folder.exists():
        shutil.rmtree(folder, ignore_errors=True)
    os._exit(0)
