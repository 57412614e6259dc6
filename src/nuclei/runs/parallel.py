"""Work that fans out over workers: submitted, done again where one died, given up where it is interrupted."""

import multiprocessing
import os
import pickle
import socket
import traceback
from collections import deque
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from math import isqrt
from pathlib import Path
from typing import Any, TypeVar

from tqdm import tqdm

from nuclei.errors import UserError
from nuclei.limits import LIMITS
from nuclei.runs.backends import Engine, Loky, Needs, Sequential, active_engine
from nuclei.runs.cores import count_jobs, use_threads
from nuclei.runs.memory import keep_freed
from nuclei.runs.provenance import note_done

Result = TypeVar("Result")
Outcome = tuple[int, Any, Exception | None]  # the number of a call, what it returned, or what it raised
OURS = "NUCLEI_"  # what the names of our environment variables begin with


def each_image(
    image_ids: Sequence[str],
    work: Callable[..., Result],
    title: str,
    jobs: int,
    *more: Sequence[Any],
    networks: bool = False,
) -> list[Result]:
    """Call `work(image_id, *values)` for every image, side by side, under a progress bar called `title`.

    more: further arguments of `work`, each a sequence with one value per image. jobs: processes of this machine, as
    cores.count_jobs takes it, -1 for one per core; in a block of backends.fan_out its workers are taken instead.
    networks: whether `work` applies networks, so that a cluster's GPUs serve it. Where there are several processes,
    each computes with one thread. The images are done in any order, so that the bar moves whenever one is; the results
    come in the order of `image_ids`. `work` must pickle: a function of a module, or a functools.partial of one. If
    results of a killed process are to be kept, `work` itself skips what exists. Raises what `work` raises, and
    UserError as `spread` yields it.
    """
    calls = list(zip(image_ids, *more, strict=True))
    return _each_call(calls, image_ids, [1] * len(calls), work, title, jobs, networks)


def each_group(
    groups: Sequence[Sequence[str]],
    work: Callable[..., Result],
    title: str,
    jobs: int,
    *more: Sequence[Any],
    networks: bool = False,
) -> list[Result]:
    """Call `work(image_ids, *values)` for every group of images: arguments, results and errors as of each_image."""
    calls = list(zip(groups, *more, strict=True))
    names = [group[0] if len(group) == 1 else f"{group[0]} and {len(group) - 1} more" for group in groups]
    return _each_call(calls, names, list(map(len, groups)), work, title, jobs, networks)


def _each_call(
    calls: Sequence[Sequence[Any]],
    names: Sequence[str],
    counts: Sequence[int],
    work: Callable[..., Result],
    title: str,
    jobs: int,
    networks: bool,
) -> list[Result]:
    """Make calls, each of `counts` images, and return what they returned."""
    engine = active_engine() or engine_of(max(1, min(count_jobs(jobs), len(calls))))
    results: dict[int, Result] = {}
    with (
        tqdm(desc=title, total=sum(counts), unit="image", mininterval=2) as bar,
        closing(spread(work, calls, names, title, engine, Needs(networks=networks))) as outcomes,
    ):
        for number, result, error in outcomes:
            if error:
                raise error
            results[number] = result
            bar.update(counts[number])
    note_done("images", sum(counts))
    return [results[number] for number in range(len(calls))]


def engine_of(workers: int) -> Engine:
    """Return the engine of some processes of this machine; this process alone where it may not start any."""
    if workers == 1 or multiprocessing.current_process().daemon:
        return Sequential()
    return Loky(workers)


@dataclass(frozen=True)
class Chunk:
    """Hold the calls, by their numbers, that make one task, and how often its worker died."""

    numbers: Sequence[int]
    deaths: int = 0


def spread(
    work: Callable[..., Any],
    calls: Sequence[Sequence[Any]],
    names: Sequence[str],
    title: str,
    engine: Engine,
    needs: Needs = Needs(),  # noqa: B008 (which cannot change)
    prepare: Callable[[int], object] | None = None,
    alone: bool = False,
) -> Generator[Outcome, None, None]:
    """Yield the outcome of `work(*values)` for each of the calls, in the order in which they end.

    names: of the calls, for errors. prepare: is given the number of a call before that is submitted. alone: whether
    each call is a task of its own, so that one which fails keeps no other from being made. What a worker was doing that
    died is done again, in smaller and smaller parts, so that a call which ends every worker is told from those beside
    it: of that the error is a UserError that names it. A caller that stops early closes the iterator, which gives up
    what is submitted.
    """
    origin, size = describe_origin(needs.threads), 1 if alone else engine.chunk(len(calls))
    waiting = deque(Chunk(range(first, min(first + size, len(calls)))) for first in range(0, len(calls), size))
    pending: dict[Any, Chunk] = {}
    try:
        while waiting or pending:
            while ready := take(waiting, list(pending.values()), engine, 1 if prepare else engine.room):
                for number in (number for chunk in ready for number in chunk.numbers if prepare):
                    assert prepare is not None, "there are none otherwise"
                    prepare(number)
                tasks = [(origin, work, [(i, calls[i]) for i in chunk.numbers]) for chunk in ready]
                pending |= zip(engine.submit(perform, tasks, needs), ready, strict=True)
            for future in engine.wait(pending):
                chunk = pending.pop(future)
                try:
                    outcomes = engine.collect(future)
                except engine.lost as error:
                    if chunk.deaths == engine.retries:
                        text = say_lost(title, [names[i] for i in chunk.numbers], chunk.deaths + 1, error)
                        outcomes = [(i, None, UserError(text)) for i in chunk.numbers]
                    else:
                        waiting.extendleft(split(chunk, last=chunk.deaths + 1 == engine.retries))
                        outcomes = []
                yield from outcomes
    finally:
        if pending:
            engine.cancel(list(pending))


def take(waiting: deque[Chunk], pending: list[Chunk], engine: Engine, most: int) -> list[Chunk]:
    """Take from what waits what may be submitted now, no more than `most`.

    Where all tasks are lost with one worker, those that were are run alone: which of them ended it shows when it does
    so again.
    """
    ready: list[Chunk] = []
    while waiting and len(pending) + len(ready) < engine.room and len(ready) < most:
        suspects = engine.shares_fate and any(chunk.deaths for chunk in [waiting[0], *pending, *ready])
        if suspects and (pending or ready):
            break
        ready.append(waiting.popleft())
    return ready


def split(chunk: Chunk, last: bool) -> list[Chunk]:
    """Return what a chunk whose worker died is divided into: its calls one by one for the last try."""
    size = 1 if last else isqrt(len(chunk.numbers))
    parts = (chunk.numbers[first : first + size] for first in range(0, len(chunk.numbers), size))
    return [Chunk(part, chunk.deaths + 1) for part in parts]


def say_lost(title: str, names: Sequence[str], deaths: int, error: BaseException) -> str:
    """Say what a worker died of again and again, and how to resume."""
    which = names[0] if len(names) == 1 else f"one of {names[0]} to {names[-1]}"
    lines = [line.strip() for line in str(error).splitlines() if line.strip(" -")]
    said = next((line for line in reversed(lines) if "Error" in line), lines[-1] if lines else "")
    cause = f"{type(error).__name__}: {said[:200]}"
    times = "each time" if deaths > 1 else "again and again"
    return (
        f"{title}: {which}: the process that worked on it died {times} ({cause}), most likely for lack of memory or "
        "time: use fewer processes by --jobs, or ask for more, then repeat the command, which resumes"
    )


@dataclass(frozen=True)
class Origin:
    """Describe the process that submits work, for the workers that are to compute as it would.

    environment: variables that they are to have; limits: as they were read here.
    """

    host: str
    pid: int
    folder: str
    threads: int
    environment: tuple[tuple[str, str], ...]
    limits: tuple[tuple[str, int], ...]


def describe_origin(threads: int) -> Origin:
    """Return what workers are to know of this process, and with how many threads each is to compute."""
    variables = {key: value for key, value in os.environ.items() if key.startswith(OURS)}
    variables["OMP_NUM_THREADS"] = str(threads)
    limits = tuple(LIMITS.items())
    return Origin(socket.gethostname(), os.getpid(), str(Path.cwd()), threads, tuple(variables.items()), limits)


def perform(origin: Origin, work: Callable[..., Any], calls: Sequence[tuple[int, Sequence[Any]]]) -> list[Outcome]:
    """Make calls in a worker and return their outcomes, up to the first that fails."""
    outcomes: list[Outcome] = []
    here = is_origin(origin)
    for number, values in calls:
        try:
            if not here:
                settle(origin)
            outcomes.append((number, work(*values), None))
        except Exception as error:
            outcomes.append((number, None, error if here else as_sent(error)))
            break
    return outcomes


def is_origin(origin: Origin) -> bool:
    return (origin.host, origin.pid) == (socket.gethostname(), os.getpid())


def as_sent(error: Exception) -> Exception:
    """Return an error with its traceback as a note, as something else if it does not survive the way back."""
    if not isinstance(error, UserError):
        error.add_note(f"in a worker on {socket.gethostname()}:\n{traceback.format_exc()}")
    try:
        return error if isinstance(pickle.loads(pickle.dumps(error)), type(error)) else RuntimeError(str(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}\n{traceback.format_exc()}")


def settle(origin: Origin) -> None:
    """Make this worker compute as its origin does: folder, variables, threads.

    Raises UserError if this machine does not see the folder, or the worker was started with other limits.
    """
    ours = dict(origin.environment)
    for key in [key for key in os.environ if key.startswith(OURS) and key not in ours]:
        del os.environ[key]
    os.environ.update(ours)
    try:
        os.chdir(origin.folder)
    except OSError as error:
        raise UserError(
            f"the worker on {socket.gethostname()} does not see {origin.folder}: all machines need one shared folder, "
            "such as an NFS mount, under the same path"
        ) from error
    use_threads(origin.threads)
    keep_freed()
    if changed := [key for key, value in origin.limits if LIMITS[key] != value]:
        raise UserError(
            f"the worker on {socket.gethostname()} was started with another {changed[0]}: start it anew, with that "
            "variable as it is here"
        )
