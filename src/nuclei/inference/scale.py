"""The size of nuclei: that of the training images, and images of larger or smaller ones brought to it and back.

The trained size is the median equivalent diameter (that of the disk of a nucleus's area) of all training nuclei. It is
measured on the prepared data of a run; publishing a run writes it beside the run's config, as nuclei.json.
"""

import math
from collections.abc import Callable, Iterable
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from nuclei.config.schema import Config
from nuclei.data.labels import renumber
from nuclei.data.size import equivalent_diameters
from nuclei.data.statistics import find_middle
from nuclei.errors import UserError
from nuclei.limits import MAX_PIXELS
from nuclei.runs.files import read_json, read_labels
from nuclei.runs.layout import Dataset, Run

Image = NDArray[np.uint8]
Found = tuple[NDArray[np.int32], NDArray[np.float32] | None]  # labels, [H, W], and the predicted IoU of each, or None
FACTORS = (0.25, 0.5, 1.0, 2.0)  # sizes at which an unknown diameter is looked for
SAMPLE_PX = 512  # side of the middle of a large image, in which it is looked for


def describe_trained(labels_of: Iterable[NDArray[Any]]) -> dict[str, Any]:
    """Return what nuclei.json holds of the labels of training images, int [H, W] each."""
    diameters = np.concatenate([np.zeros(0), *map(equivalent_diameters, labels_of)])
    if not len(diameters):
        raise UserError("the training images have no nuclei, so there is no diameter of them")
    return {"nuclei": len(diameters), "median_diameter_px": round(float(np.median(diameters)), 2)}


def measure_trained(run: Run, config: Config) -> dict[str, Any] | None:
    """Return describe_trained of the prepared data of a run; None where they are not there."""
    dataset = Dataset(config.data, run.folder.parent)
    if not dataset.manifest.is_file():
        return None
    manifest = dataset.read_manifest()
    ids = manifest.loc[manifest["split"] == "train", "image_id"]
    return describe_trained(read_labels(dataset.labels(image_id)) for image_id in ids)


def trained_diameter(run: Run, config: Config) -> float:
    """Return the diameter in px of the nuclei that a run was trained on; raise UserError if nothing says it."""
    found = read_json(run.nuclei) if run.nuclei.is_file() else measure_trained(run, config)
    if found is None:
        raise UserError(
            f"{run.folder} does not say how large the nuclei are that it was trained on, so --diameter has nothing to "
            "bring yours to: run its stage prepare, or publish it anew"
        )
    return float(found["median_diameter_px"])


def segment_at(segment: Callable[[Image], Found], image: Image, factor: float) -> Found:
    """Segment an image, uint8 [H, W, 3], at `factor` times its size and bring the labels back to its own.

    Labels that have no pixel at the image's own size are dropped, the others numbered anew. Raises UserError where the
    resized image would have more than MAX_PIXELS.
    """
    if factor == 1:
        return segment(image)
    height, width = image.shape[:2]
    # cv2 resizes about pixel centres, so going there and back shifts nothing.
    labels, iou = segment(resize(image, factor))
    n = int(labels.max(initial=0))
    back = cv2.resize(labels.astype(np.int32), (width, height), interpolation=cv2.INTER_NEAREST_EXACT)
    left = np.bincount(back.ravel(), minlength=n + 1) > 0
    return renumber(back, left), None if iou is None else iou[left[1:]]


def resize(image: Image, factor: float) -> Image:
    """Return an image, uint8 [H, W, 3], at `factor` times its size; raise UserError beyond MAX_PIXELS."""
    height, width = image.shape[:2]
    size = max(1, round(width * factor)), max(1, round(height * factor))
    if size[0] * size[1] > MAX_PIXELS:
        raise UserError(
            f"it would be enlarged {factor:.3g} times, to {size[0]:,} x {size[1]:,} pixels, more than {MAX_PIXELS:,}: "
            "give a larger --diameter, or smaller tiles by --tile"
        )
    method = cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR
    return image if factor == 1 else np.asarray(cv2.resize(image, size, interpolation=method), np.uint8)


def measure_cover(found: Found) -> float:
    """Return the pixels that nuclei cover, each counted by its predicted IoU."""
    labels, iou = found
    areas = np.bincount(labels.ravel())[1:].astype(np.float64)
    return float((areas * (1.0 if iou is None else iou.astype(np.float64))).sum())


def estimate_diameter(segment: Callable[[Image], Found], image: Image) -> float | None:
    """Return the typical diameter in px of the nuclei of an image, uint8 [H, W, 3]; None where none are found.

    The image, of a large one its middle, is segmented at FACTORS of its size. What is found is best at the size at
    which nuclei cover most of it, each counted by its predicted IoU: nuclei too large for the networks fall to pieces
    or are missed, small ones merge. The diameter is the median there, each nucleus weighed by its area, so that specks
    do not count. Small sizes, which are cheap, come first, and none is tried after one that covers less.
    """
    sample = np.ascontiguousarray(image[find_middle(image.shape, SAMPLE_PX)])
    best, diameter = 0.0, None
    for factor in FACTORS:
        found = segment_at(segment, sample, factor)
        areas, covered = np.bincount(found[0].ravel())[1:].astype(np.float64), measure_cover(found)
        if covered < best:
            break
        if covered > best:
            order = np.argsort(areas)
            middle = order[np.searchsorted(np.cumsum(areas[order]), areas.sum() / 2)]
            best, diameter = covered, math.sqrt(4 / math.pi * areas[middle])
    return diameter
