"""Where a result comes from: commit, versions and machine; the time it took the processor, and how much was done."""

import os
import platform
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from nuclei.runs.cores import count_cores

PACKAGES = (
    "torch",
    "timm",
    "segmentation-models-pytorch",
    "lightgbm",
    "albumentations",
    "numpy",
    "opencv-python-headless",
)

GIT_S = 60  # on some shared disks git would look for changes for as long as a stage takes

# What this process has had done, by unit: images, crops.
_DONE: Counter[str] = Counter()


def note_done(unit: str, n: int) -> None:
    """Note that n more images, or whatever the unit is, have been worked on."""
    _DONE[unit] += n


def count_done() -> Counter[str]:
    """Return how much has been noted so far, by unit."""
    return _DONE.copy()


def rates(done: Mapping[str, int], seconds: float) -> dict[str, float]:
    """Return what a stage is to say of what it did: how many of each unit, and how many a second."""
    per_second = {f"{unit}_per_second": round(n / seconds, 2) for unit, n in done.items() if seconds > 0}
    return {**done, **per_second}


def provenance() -> dict[str, Any]:
    """Return the commit, its dirty flag, versions and machine that a result was made with; None for what is unknown.

    cpus: of the machine; cores: those that this process may use; threads: those of one operation of torch, if this
    process has loaded it.
    """
    status, torch = ask_git("status", "--porcelain"), sys.modules.get("torch")
    return {
        "commit": ask_git("rev-parse", "HEAD"),
        "dirty": None if status is None else bool(status),
        "python": platform.python_version(),
        "cpus": os.cpu_count(),
        "cores": count_cores(),
        "threads": torch.get_num_threads() if torch else None,
        "processor": name_processor(),
        "versions": {package: find_version(package) for package in PACKAGES},
    }


def ask_git(*words: str) -> str | None:
    """Return what git answers in the current folder; None outside a repository, without git, or after GIT_S."""
    try:
        done = subprocess.run(["git", *words], capture_output=True, text=True, errors="replace", timeout=GIT_S)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def find_version(package: str) -> str | None:
    """Return the version of a package, None if it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def name_processor() -> str:
    """Return the GPU's name if the process has started one, else the CPU's."""
    torch = sys.modules.get("torch")
    if torch and torch.cuda.is_available() and torch.cuda.is_initialized():
        return str(torch.cuda.get_device_name())
    info = Path("/proc/cpuinfo")
    lines = info.read_text(errors="replace").splitlines() if info.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def cpu_seconds() -> float:
    """Return the processor time of this process and of its children that have ended; other work lengthens it little."""
    return sum(os.times()[:4])
