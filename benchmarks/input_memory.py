"""Peak memory of reading an image of every kind, and of segmenting one: bytes a pixel, and at the largest allowed size.

    PYTHONPATH=src python benchmarks/input_memory.py --side 4096                    # 16384: the largest, 30 GB
    PYTHONPATH=src python benchmarks/input_memory.py --side 1024 --segment RUN      # RUN: as predict-images --weights

Each image is made and read by a process of its own, whose peak before reading is taken off. What is kept for an image
grows with its pixels, so that the last column is that of limits.MAX_PIXELS.
"""

import argparse
import tempfile
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image

from nuclei.data.axes import View
from nuclei.data.microscope import read_picture
from nuclei.data.normalisation import normalise
from nuclei.limits import MAX_PIXELS
from nuclei.runs.memory import measure_peak_bytes


def draw(side: int) -> NDArray[np.uint8]:
    """Return a gray image [side, side] of blurred noise."""
    noise = np.random.default_rng(0).integers(0, 256, (side, side)).astype(np.uint8)
    return np.asarray(cv2.GaussianBlur(noise, (0, 0), 3), np.uint8)


KINDS: dict[str, tuple[str, Callable[[Path, NDArray[np.uint8]], object]]] = {
    "PNG, RGB": ("a.png", lambda path, gray: cv2.imwrite(str(path), np.dstack([gray] * 3))),
    "PNG, gray of 16 bits": ("a.png", lambda path, gray: cv2.imwrite(str(path), gray.astype(np.uint16) * 200)),
    "JPEG, RGB": ("a.jpg", lambda path, gray: Image.fromarray(np.dstack([gray] * 3)).save(path)),
    "TIFF, RGB": ("a.tif", lambda path, gray: tifffile.imwrite(path, np.dstack([gray] * 3), photometric="rgb")),
    "TIFF, floats": ("a.tif", lambda path, gray: tifffile.imwrite(path, gray.astype(np.float32))),
    "TIFF, 4 planes of 16 bits": (
        "a.tif",
        lambda path, gray: tifffile.imwrite(
            path, np.stack([gray.astype(np.uint16) * 200] * 4), metadata={"axes": "ZYX"}, ome=True
        ),
    ),
}


def make(kind: str, path: Path, side: int) -> None:
    KINDS[kind][1](path, draw(side))


def read(path: Path) -> int:
    """Return by how many bytes the peak rises when an image is read and normalised."""
    before = measure_peak_bytes()
    normalise(read_picture(path, View()).pixels)
    return measure_peak_bytes() - before


def segment(folder: Path, side: int) -> int:
    """Return by how many bytes the peak rises when an image is segmented."""
    from nuclei.inference.predictor import load_predictor, stamp  # torch, whose memory reading does not take

    load = load_predictor(folder, stamp(folder.parent))
    load.segment(np.dstack([draw(64)] * 3))  # so that what is loaded late is not counted
    before, image = measure_peak_bytes(), np.dstack([draw(side)] * 3)
    load.segment(image)
    return measure_peak_bytes() - before


def alone(work: Callable[..., Any], *values: Any) -> Any:
    """Call a function in a process of its own and return what it returns."""
    with get_context("spawn").Pool(1) as pool:
        return pool.apply(work, values)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--side", type=int, default=4096)
    parser.add_argument("--segment", type=Path, help="run whose networks segment an image, instead of reading some")
    options = parser.parse_args()
    found = {}
    if options.segment:
        found["segmented"] = alone(segment, options.segment.resolve(), options.side)
    else:
        with tempfile.TemporaryDirectory() as folder:
            for kind, (name, _) in KINDS.items():
                path = Path(folder) / name
                alone(make, kind, path, options.side)
                found[kind] = alone(read, path)
    pixels = options.side**2
    for kind, size in found.items():
        each = size / pixels
        print(f"{kind}: {size / 1e6:.0f} MB of {pixels / 1e6:.1f} megapixels, {each:.1f} bytes a pixel", end="; ")
        print(f"{each * MAX_PIXELS / 1e9:.1f} GB of {MAX_PIXELS / 1e6:.0f} megapixels, the limit")


if __name__ == "__main__":
    main()
