"""Time measures, outlines and every export of a synthetic label image, per nucleus, beside what none can do without.

    PYTHONPATH=src python benchmarks/exports.py --nuclei 72900

Nuclei of a drawn image of 256 x 256, repeated. "floor" is one pass of OpenCV that visits every nucleus by itself,
finding its box and its contour; "regionprops" measures the same by scikit-image. Microseconds of processor time a
nucleus, and their ratio to the floor.
"""

import argparse
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.measure import regionprops_table

from nuclei.data.synthetic import make_image
from nuclei.inference.exports import FORMATS, Segmented
from nuclei.inference.measures import measure_nuclei

PROPERTIES = [
    *("area", "axis_major_length", "axis_minor_length", "bbox", "centroid", "eccentricity", "orientation"),
    *("equivalent_diameter_area", "intensity_mean", "intensity_std", "perimeter", "solidity"),
]


def draw(n: int) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
    """Return an image, uint8 [H, W, 3], of at least n nuclei and their labels, int32 [H, W]."""
    image, labels = make_image("dark_fluorescence_small", (256, 256), np.random.default_rng(0))
    k = int(labels.max())
    side = int(np.ceil(np.sqrt(n / k)))
    rows = [[np.where(labels > 0, labels + (i * side + j) * k, 0) for j in range(side)] for i in range(side)]
    return np.tile(image, (side, side, 1)), np.block(rows).astype(np.int32)


def find_contours(labels: NDArray[np.int32]) -> None:
    """Find the contour of each nucleus by OpenCV."""
    for number, window in enumerate(ndimage.find_objects(labels), start=1):
        cv2.findContours((labels[window] == number).view(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nuclei", type=int, default=10_000)
    image, labels = draw(parser.parse_args().nuclei)
    gray, n = image[..., 0], int(labels.max())

    def timed(work: Callable[[], Any]) -> Any:
        start = time.process_time()
        result = work()
        return result, 1e6 * (time.process_time() - start) / n

    took = {}
    _, floor = timed(lambda: find_contours(labels))
    _, took["regionprops, for comparison"] = timed(lambda: regionprops_table(labels, np.dstack([gray] * 4), PROPERTIES))
    measures, took["measures"] = timed(lambda: measure_nuclei(labels, gray))
    segmented = Segmented(image, labels, measures)
    _, took["outlines"] = timed(lambda: segmented.outlines)
    for name, encode in FORMATS.items():
        _, took[name] = timed(partial(encode, segmented))
    print(f"{n} nuclei, {labels.shape[0]} x {labels.shape[1]} pixels; floor {floor:.0f} µs a nucleus")
    for name, micros in took.items():
        print(f"{name}: {micros:.0f} µs a nucleus, {micros / floor:.1f} times the floor")
    total = sum(took.values()) - took["regionprops, for comparison"]
    print(f"measures, outlines and all exports: {total:.0f} µs a nucleus, {total / floor:.1f} times the floor")


if __name__ == "__main__":
    main()
