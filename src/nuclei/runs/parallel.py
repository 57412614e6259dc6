"""Work that goes image by image, spread over processes, which end when the process that started them does."""

import os
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from threading import Thread
from typing import Any, TypeVar

from joblib import Parallel, delayed, parallel_config
from joblib.externals.loky import get_reusable_executor
from joblib.externals.loky.process_executor import TerminatedWorkerError
from joblib.parallel import get_active_backend
from tqdm import tqdm

from nuclei.errors import UserError
from nuclei.runs.cores import count_jobs, use_threads
from nuclei.runs.memory import keep_freed

Result = TypeVar("Result")
WATCH_S = 1.0  # how often a worker looks whether its parent still lives


def each_image(
    image_ids: Sequence[str], work: Callable[..., Result], title: str, jobs: int, *more: Sequence[Any]
) -> list[Result]:
    """Call `work(image_id, *values)` for every image, in `jobs` processes, under a progress bar called `title`.

    more: further arguments of `work`, each a sequence with one value per image. jobs: as cores.count_jobs takes it; -1
    for one process per core. Where there are several, each computes with one thread. The images are done in any order,
    so that the bar moves whenever one is; the results come in the order of `image_ids`. `work` must pickle: a function
    of a module, or a functools.partial of one. If results of a killed process are to be kept, `work` itself skips what
    exists. Raises what `work` raises, and UserError if a process was killed.
    """
    tasks = (
        delayed(follow)(os.getpid(), _numbered, number, work, *values)
        for number, values in enumerate(zip(image_ids, *more, strict=True))
    )
    try:
        with _one_thread_each():
            done = Parallel(max(1, min(count_jobs(jobs), len(image_ids))), return_as="generator_unordered")(tasks)
            results = dict(tqdm(done, title, len(image_ids), unit="image", mininterval=2))
    except TerminatedWorkerError as error:
        raise UserError(
            f"{title}: one of its processes was killed, most likely for lack of memory: use fewer by --jobs, then "
            "repeat the command, which resumes"
        ) from error
    return [results[number] for number in range(len(image_ids))]


def follow(parent: int, work: Callable[..., Result], *values: Any) -> Result:
    """Return `work(*values)`; if this is a child of the process `parent`, it ends from now on when that does."""
    _settle(parent)
    return work(*values)


def end_with(parent: int) -> None:
    """Have this process, a child of `parent`, end when that does, whatever it is doing then."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(WATCH_S)
        os._exit(1)

    Thread(target=watch, daemon=True, name="watch of the parent").start()


def stop_workers() -> None:
    """End the processes that joblib has started, whatever they are doing."""
    get_reusable_executor(reuse=True).shutdown(kill_workers=True)


def _numbered(number: int, work: Callable[..., Result], *values: Any) -> tuple[int, Result]:
    return number, work(*values)


def _one_thread_each() -> AbstractContextManager[object]:
    """Have the processes that joblib starts in this block compute with one thread each.

    Its own choice lets them share all cores, or have as many threads each as OMP_NUM_THREADS says.
    """
    starts_processes = get_active_backend()[0].supports_inner_max_num_threads
    return parallel_config("loky", inner_max_num_threads=1) if starts_processes else nullcontext()


@cache
def _settle(parent: int) -> None:
    """End with the process `parent`, if this is a child of it: a killed one cannot end its children.

    And compute with one thread: the others of a machine have processes of their own.
    """
    if os.getppid() == parent:
        use_threads(1)
        keep_freed()
        end_with(parent)
