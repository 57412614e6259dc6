"""The browser of images: a row for each, the layers drawn over it, and which of them show every step.

An image of 0.5 megapixel takes some 30 ms and 30 KB for its picture and layers, but 0.7 s and 300 KB for the picture of
every step (benchmarks are in the docstring of choose_cases), which is therefore made of the telling ones alone.
"""

from collections.abc import Mapping
from math import ceil

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from nuclei.data.images import encode_image_png, stretch_contrast
from nuclei.data.labels import find_outlines
from nuclei.evaluation.metric import sort_errors
from nuclei.report.blocks import Browser
from nuclei.report.case import ERROR_COLOURS
from nuclei.report.pictures import PREDICTION_COLOUR, TRUTH_COLOUR, Labels, Pixels, as_bytes
from nuclei.report.tables import WRONG, each_row

FOLDER = "images"  # beside the page
SIDE_PX = 640  # the longer side of a picture
JPEG_QUALITY = 85
FILL_ALPHA = 120  # of 255
N_WORST, N_BEST, N_OF_TYPE = 12, 4, 1
WORST_OF, BEST_OF = 10, 20  # of few images, at most one in so many


def browser_block(images: pd.DataFrame, run: str, command: str) -> Browser:
    """Return the browser of a run's images, rows of per_image; `command` makes its pictures."""
    cases = choose_cases(images)
    rows = [
        {
            "id": row.image_id,
            "type": row.cluster,
            "fold": row.fold,
            "score": round(row.score, 5),
            **{name: int(getattr(row, name)) for name in ("n_true", "n_pred", *WRONG)},
            "steps": row.image_id in cases,
        }
        for row in each_row(images)
    ]
    return Browser(FOLDER, rows, WRONG, LAYERS, command, f"nuclei show {run} {{id}}")


def choose_cases(images: pd.DataFrame) -> set[str]:
    """Choose the images whose every step is drawn: the worst and best of all, and the worst of each type."""
    ranked = images.sort_values(["score", "image_id"])
    n_worst, n_best = min(N_WORST, ceil(len(ranked) / WORST_OF)), min(N_BEST, ceil(len(ranked) / BEST_OF))
    of_types = ranked.groupby("cluster").head(N_OF_TYPE)
    return {*ranked["image_id"].head(n_worst), *ranked["image_id"].tail(n_best), *of_types["image_id"]}


def draw_layers(image: Pixels, truth: Labels, prediction: Labels) -> dict[str, bytes]:
    """Draw an image, uint8 [H, W, 3], and its layers, {end of the file's name: bytes}, at most SIDE_PX long.

    The image is a JPEG, brightened if dark; the layers are transparent PNGs: outlines of truth and of prediction, int
    [H, W], and nuclei by their kind of error. Where truth and prediction agree, the thicker outline of the truth is
    seen within that of the prediction.
    """
    height, width = truth.shape
    scale = min(1.0, SIDE_PX / max(height, width))
    rows, columns = (sample(side, max(1, round(side * scale))) for side in (height, width))
    shown = cv2.resize(stretch_contrast(image), (len(columns), len(rows)), interpolation=cv2.INTER_AREA)
    true, predicted = (labels[rows][:, columns] for labels in (truth, prediction))
    jpeg = cv2.imencode(".jpg", cv2.cvtColor(shown, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1]
    kinds, false = sort_errors(truth, prediction)
    layers = {
        "truth": outline(true, 2, TRUTH_COLOUR),
        "prediction": outline(predicted, 1, PREDICTION_COLOUR),
        "errors": fill_errors(true, predicted, kinds, dict.fromkeys(false, "false")),
    }
    return {".jpg": jpeg.tobytes()} | {f"_{name}.png": encode_image_png(pixels) for name, pixels in layers.items()}


def sample(size: int, wanted: int) -> NDArray[np.intp]:
    """Return the numbers of the rows, or columns, that lie at the middles of `wanted` equal parts."""
    return ((np.arange(wanted) + 0.5) * size / wanted).astype(np.intp)


def outline(labels: Labels, thickness_px: int, colour: tuple[int, int, int]) -> Pixels:
    """Outline labels, int [H, W], in one colour on nothing: uint8 [H, W, 4]."""
    drawn = np.zeros((*labels.shape, 4), np.uint8)
    drawn[find_outlines(labels, thickness_px)] = (*colour, 255)
    return drawn


def fill_errors(truth: Labels, prediction: Labels, kinds: Mapping[int, str], false: Mapping[int, str]) -> Pixels:
    """Fill the nuclei that went wrong by their kind, and false predictions, on nothing: uint8 [H, W, 4]."""
    drawn = np.zeros((*truth.shape, 4), np.uint8)
    for labels, kind_of in ((prediction, false), (truth, kinds)):
        palette = np.zeros((int(labels.max(initial=0)) + 1, 4), np.uint8)
        for label, kind in kind_of.items():
            if kind != "found":
                palette[label] = (*as_bytes(ERROR_COLOURS[kind]), FILL_ALPHA)
        wrong = palette[labels][..., 3] > 0
        drawn[wrong] = palette[labels[wrong]]
        edge = wrong & find_outlines(labels)
        drawn[edge, 3] = 255
    return drawn


def _css(colour: tuple[int, ...]) -> str:
    return "#" + "".join(f"{part:02x}" for part in colour)


LAYERS: dict[str, dict[str, str]] = {
    "truth": {"truth": _css(TRUTH_COLOUR)},
    "prediction": {"prediction": _css(PREDICTION_COLOUR)},
    "errors": {kind: ERROR_COLOURS[kind] for kind in WRONG},
}
