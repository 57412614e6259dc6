"""What the hardware at hand computes, and with how many threads."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Literal

import torch

from nuclei.lifeline import end_with, name_process

Precision = Literal["32-true", "bf16-mixed", "16-mixed"]

# Of Fabric, on every login node of SLURM: jobs are submitted there, not run by srun.
warnings.filterwarnings("ignore", "The `srun` command is available on your system but is not used")


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch compute with one thread in this block: how many threads share a sum decides its last digit.

    Images are predicted by several processes instead, which small networks gain more from.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def choose_precision(wanted: Precision | Literal["auto"]) -> Precision:
    """Return Fabric's name of a precision; 'auto' becomes one that this machine computes in hardware.

    A CPU without bf16 instructions takes bf16 too, but some thirty times slower than fp32.
    """
    if wanted != "auto":
        return wanted
    if torch.cuda.is_available():
        return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "16-mixed"
    fast = torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
    return "bf16-mixed" if fast and not torch.backends.mps.is_available() else "32-true"


def data_worker() -> Callable[[int], None]:
    """Return the worker_init_fn of data workers: they end with this process."""
    return partial(_begin_worker, name_process())


def _begin_worker(origin: str, worker: int) -> None:  # noqa: ARG001 (the form of a worker_init_fn)
    """Keep OpenCV from starting a thread pool in every data worker."""
    import cv2

    end_with(origin)
    cv2.setNumThreads(0)
