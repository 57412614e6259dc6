"""Where a result comes from: commit, versions and machine; and the time it took the processor."""

import os
import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = (
    "torch",
    "timm",
    "segmentation-models-pytorch",
    "lightgbm",
    "albumentations",
    "numpy",
    "opencv-python-headless",
)


def provenance() -> dict:
    """Return the commit, its dirty flag, versions and machine that a result was made with."""

    def git(*words):
        done = subprocess.run(["git", *words], capture_output=True, text=True)
        return done.stdout.strip() if done.returncode == 0 else None

    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = None
    return {
        "commit": git("rev-parse", "HEAD"),
        "dirty": bool(git("status", "--porcelain")),
        "python": platform.python_version(),
        "cpus": os.cpu_count(),
        "processor": name_processor(),
        "versions": versions,
    }


def name_processor() -> str:
    """Return the GPU's name if the process has started one, else the CPU's."""
    torch = sys.modules.get("torch")
    if torch and torch.cuda.is_available() and torch.cuda.is_initialized():
        return torch.cuda.get_device_name()
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def cpu_seconds() -> float:
    """Return the processor time of this process and of its children that have ended; other work lengthens it little."""
    return sum(os.times()[:4])
