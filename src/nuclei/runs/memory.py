"""Memory of a process: what it frees is kept for its next arrays, as each page asked for anew costs a page fault."""

import ctypes
import re
import sys
from pathlib import Path

from nuclei.errors import UserError

# Of mallopt, glibc's malloc.h: the free memory at the end of the heap from which on it is given back, and the size from
# which on an array is given back as soon as it is freed, which is 32 MiB at most.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
KEPT_BYTES, LARGE_BYTES = 256 * 2**20, 32 * 2**20
LEAST_BYTES = 2**30  # of address space; torch takes several times as much


def keep_freed() -> bool:
    """Have this process keep up to KEPT_BYTES that it frees, arrays below LARGE_BYTES; return whether that is possible.

    It is with glibc.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    return bool(mallopt and mallopt(_MMAP_THRESHOLD, LARGE_BYTES) and mallopt(_TRIM_THRESHOLD, KEPT_BYTES))


def check_address_space() -> None:
    """Raise UserError where a process may have so little memory that OpenBLAS, as scipy loads it, waits for ever."""
    if sys.platform == "win32":
        return
    import resource

    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit != resource.RLIM_INFINITY and limit < LEAST_BYTES:
        raise UserError(
            f"a process may have {limit / 1e9:.1f} GB of memory here, which does not load the libraries: raise the "
            "limit (ulimit -v)"
        )


def measure_peak_bytes() -> int:
    """Return the most memory that this process has held at once, in bytes.

    Linux's ru_maxrss does not tell: a process that a larger one starts begins with the peak of that one.
    """
    if sys.platform == "linux" and (peak := re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())):
        return int(peak[1]) * 1024
    import resource  # Windows has none

    # macOS counts bytes, the others KiB.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
