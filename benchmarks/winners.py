"""The code with which the winners of 2018 measured their nuclei, to time it beside ours; `all.py --winners` runs it.

None of it is in this project. Take victor/train_classifier.py from github.com/selimsef/dsb2018_topcoders (MIT License,
Copyright 2019 Selim Seferbekov, Alexander Buslaev, Victor Durnov). Its function `get_inputs` reads what networks
predicted, an image of mask, border and center, cuts it into nuclei and their parts, and measures some forty features
of each. It is run as it is, but for what today's libraries call otherwise.
"""

import ast
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from skimage import measure as skimage_measure
from skimage.morphology import dilation, footprint_rectangle
from skimage.segmentation import watershed

GetInputs = Callable[..., Any]
SETTINGS = ("pixels_threshold", "extend_threshold", "sep_count", "sep_thresholds")
# What the libraries of 2018 took, and what those of today do.
RENAMED = {
    "neighbors=8": "connectivity=2",
    "neighbors=4": "connectivity=1",
    "dtype=np.int)": "dtype=int)",
    "contours[1]": "contours[0]",
    "background=False": "background=0",
    ".convex_area": ".area_convex",
    ".major_axis_length": ".axis_major_length",
    ".minor_axis_length": ".axis_minor_length",
    ".equivalent_diameter)": ".equivalent_diameter_area)",
}


class KDTree:
    """Answer as scikit-learn's KDTree does, by scipy's."""

    def __init__(self, points: list[Any]) -> None:
        self.tree = cKDTree(np.asarray(points))

    def query_radius(self, points: list[Any], r: float) -> list[NDArray[np.int64]]:
        return [np.asarray(found) for found in self.tree.query_ball_point(np.asarray(points), r)]


def load(path: Path) -> GetInputs:
    """Return the function get_inputs of the winners' file, without running the rest of it."""
    source = path.read_text()
    for old, new in RENAMED.items():
        source = source.replace(old, new)
    chosen: list[ast.stmt] = [
        node
        for node in ast.parse(source).body
        if (isinstance(node, ast.FunctionDef) and node.name == "get_inputs")
        or (isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id in SETTINGS)
    ]
    names: dict[str, Any] = {
        "cv2": cv2, "np": np, "math": math, "path": os.path, "measure": skimage_measure,
        "KDTree": KDTree, "watershed": watershed, "dilation": dilation,
        "square": lambda n: footprint_rectangle((n, n)),
    }  # fmt: skip
    exec(compile(ast.Module(chosen, []), str(path), "exec"), names)
    function: GetInputs = names["get_inputs"]
    return function


def draw(maps: Mapping[str, NDArray[np.float32]], path: Path) -> None:
    """Write our maps as the picture that get_inputs reads: its first channel is the mask, its second the border."""
    picture = np.stack([np.rint(255 * maps[name]).astype(np.uint8) for name in ("mask", "border", "center")], axis=-1)
    cv2.imwrite(str(path), picture)


def measure(get_inputs: GetInputs, path: Path) -> Any:
    """Return what get_inputs gives for a picture that `draw` wrote.

    Their networks predict nuclei in two forms, and nuclei cut from the first grow into the second; it stands for both.
    """
    return get_inputs(path.name, str(path.parent), None, None, str(path.parent))
