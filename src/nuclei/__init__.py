"""Find every nucleus of a microscope image as its own mask (2018 Data Science Bowl).

from nuclei import Segmenter

labels, table = Segmenter().segment(image)  # uint8, uint16 or float, [H, W] or [H, W, 3]
"""

import os
from typing import TYPE_CHECKING, Any

from nuclei import lifeline

if TYPE_CHECKING:
    from nuclei.inference.segmenter import Segmenter

__all__ = ["Segmenter"]

# Threads that wait are to sleep: beside other work, spinning ones slow LightGBM and torch many times over
# (benchmarks/waiting.py). The libraries read it when they are loaded, so it is set before any import.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# albumentations would ask the network for a newer version when it is imported.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
# What is wrong with a file is said once, by us, with its name.
os.environ.setdefault("OPENCV_LOG_LEVEL", "ERROR")
if lifeline.VARIABLE in os.environ:
    lifeline.end_with(os.environ[lifeline.VARIABLE])


def __getattr__(name: str) -> Any:
    """Import Segmenter when it is first asked for: it brings torch, which takes seconds."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from nuclei.inference.segmenter import Segmenter

    return Segmenter


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
