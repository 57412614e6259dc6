"""How many cores this process may use: chosen here, for every process and thread that is started.

The cores are the least of the machine's, of those that the process is bound to (affinity), and of the quota of its
container (cgroups 1 and 2), as joblib's loky counts them. NUCLEI_THREADS says otherwise.
"""

import os
import re
import sys

import cv2

from nuclei.errors import UserError

VARIABLE = "NUCLEI_THREADS"
LARGEST = 4096  # more is a slip, which torch answers with an error of its own or with no memory left
_COUNT = re.compile(r"[0-9]{1,9}")


def count_cores() -> int:
    """Return how many cores may be used; raise UserError if NUCLEI_THREADS is no whole number from 1."""
    wanted = os.environ.get(VARIABLE, "").strip()
    if not wanted:
        from joblib.externals.loky import cpu_count  # which is not needed to say what a command does

        return int(cpu_count())
    if not (number := _parse_count(wanted)):
        raise UserError(f"{VARIABLE} is {wanted[:80]!r}: set it to a whole number from 1 to {LARGEST}, or unset it")
    return number


def _parse_count(text: str) -> int:
    """Return the number of cores or threads that a text says, 0 if it says none from 1 to LARGEST."""
    number = int(text) if _COUNT.fullmatch(text) else 0
    return number if number <= LARGEST else 0


def say_cores() -> str:
    """Say how many cores may be used: '2 cores'."""
    n = count_cores()
    return f"{n} core{'s' if n > 1 else ''}"


def count_threads() -> int:
    """Return with how many threads one operation may compute: all cores, fewer where OMP_NUM_THREADS says so.

    A cluster sets that variable, and joblib in its workers.
    """
    of_openmp = _parse_count(os.environ.get("OMP_NUM_THREADS", ""))
    return count_cores() if VARIABLE in os.environ or not of_openmp else min(count_cores(), of_openmp)


def count_jobs(jobs: int) -> int:
    """Return how many processes `--jobs` asks for: -1 means one per core, -2 one fewer, and so on, but one at least.

    Raises UserError on 0.
    """
    if jobs == 0:
        raise UserError("--jobs 0: give a number of processes from 1, or -1 for one per core")
    return jobs if jobs > 0 else max(1, count_cores() + 1 + jobs)


def use_threads(wanted: int = 0) -> None:
    """Have OpenCV and torch, if it is loaded, compute with `wanted` threads; 0: with no more than `count_threads`.

    Their own choice is not raised unasked: torch's leaves out the second threads of a core, which gain nothing.
    """
    n, asked = wanted or count_threads(), wanted > 0 or VARIABLE in os.environ
    cv2.setNumThreads(n if asked else min(n, cv2.getNumThreads()))
    if torch := sys.modules.get("torch"):
        own = torch.get_num_threads()
        if n != own and (asked or n < own):
            torch.set_num_threads(n)
