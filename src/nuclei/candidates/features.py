"""Named features of candidate nuclei, from which the scorer predicts how well each candidate fits a nucleus.

To add a feature, add an entry to a group of FEATURES: its name and a function of the image's `Context`.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from nuclei.candidates.context import MASK_STEPS, NEIGHBOUR_RADII_PX, Context
from nuclei.candidates.table import Candidates


def touches_frame(c: Context) -> np.ndarray:
    """Return 1 where a candidate reaches the image's frame, else 0."""
    height, width = c.candidates.shape
    b = c.boxes
    return (b.top == 0) | (b.left == 0) | (b.top + b.height == height) | (b.left + b.width == width)


def ellipse_fill(c: Context) -> np.ndarray:
    """Return the area over that of the ellipse with equal second moments, 1 for an ellipse."""
    # A pixel is a square, whose own variance of 1 / 12 adds 16 / 12 to the square of an axis.
    major, minor = (np.sqrt(c.ellipses[name] ** 2 + 4 / 3) for name in ("major_axis_px", "minor_axis_px"))
    return c.area_px / (np.pi / 4 * major * minor)


def lowest_mask(c: Context) -> np.ndarray:
    """Return the smallest value of the mask map over each candidate's pixels, NaN without a mask map."""
    if "mask" not in c.sources:
        return np.full(len(c.candidates), np.nan)
    values = c.sources["mask"].reshape(-1)[c.candidates.pixels]
    return np.minimum.reduceat(values, c.candidates.indptr[:-1])


def contrast(c: Context, name: str) -> np.ndarray:
    """Return the mean of a channel inside each candidate minus its mean in the ring outside."""
    return c.channel(name).inside - c.channel(name).ring


def per_image(value: Callable[[Context], float], c: Context) -> np.ndarray:
    """Return one value of the image for each of its candidates."""
    return np.full(len(c.candidates), value(c), np.float64)


def median_or_nan(values: np.ndarray) -> float:
    """Return the median, NaN of no values."""
    return float(np.median(values)) if len(values) else np.nan


MAPS = ("mask", "border", "center")
COLOURS = ("red", "green", "blue", "gray", "saturation")
# Hulls run through pixel centres, outlines half a pixel outside, which adds 2π · 1/2 (Steiner's formula).
HULL_EDGE_PX = np.pi
FEATURES: dict[str, dict[str, Callable[[Context], np.ndarray]]] = {
    "shape": {
        "area_px": lambda c: c.area_px,
        "equivalent_diameter_px": lambda c: np.sqrt(4 / np.pi * c.area_px),
        "box_long_px": lambda c: np.maximum(c.boxes.height, c.boxes.width),
        "box_short_px": lambda c: np.minimum(c.boxes.height, c.boxes.width),
        "box_aspect": lambda c: np.minimum(c.boxes.height, c.boxes.width) / np.maximum(c.boxes.height, c.boxes.width),
        "extent": lambda c: c.area_px / (c.boxes.height * c.boxes.width),
        "major_axis_px": lambda c: c.ellipses["major_axis_px"],
        "minor_axis_px": lambda c: c.ellipses["minor_axis_px"],
        "eccentricity": lambda c: (
            np.sqrt(1 - (c.ellipses["minor_axis_px"] / np.maximum(c.ellipses["major_axis_px"], 1e-9)) ** 2)
            * (c.ellipses["major_axis_px"] > 0)
        ),
        "ellipse_fill": ellipse_fill,
        "perimeter_px": lambda c: c.outlines["perimeter_px"],
        "circularity": lambda c: 4 * np.pi * c.area_px / c.outlines["perimeter_px"] ** 2,
        "convex_area_px": lambda c: c.hulls["convex_area_px"],
        "solidity": lambda c: c.area_px / c.hulls["convex_area_px"],
        "hull_deficit_px": lambda c: c.hulls["convex_area_px"] - c.area_px,
        "convexity": lambda c: (c.hulls["hull_perimeter_px"] + HULL_EDGE_PX) / c.outlines["perimeter_px"],
        "euler_number": lambda c: c.outlines["euler_number"],
        "inscribed_radius_px": lambda c: c.outlines["inscribed_radius_px"],
        "inscribed_share": lambda c: c.outlines["inscribed_radius_px"] / np.sqrt(c.area_px / np.pi),
        "touches_frame": touches_frame,
    },
    "neighbours": {
        **{f"neighbours_{r}px": lambda c, r=r: c.neighbours[r][0] for r in NEIGHBOUR_RADII_PX},
        **{f"neighbour_area_{r}px": lambda c, r=r: c.neighbours[r][1] for r in NEIGHBOUR_RADII_PX},
        **{f"area_over_neighbours_{r}px": lambda c, r=r: c.area_px / c.neighbours[r][1] for r in NEIGHBOUR_RADII_PX},
    },
    "probability": {
        **{f"{name}_mean": lambda c, name=name: c.channel(name).inside for name in MAPS},
        **{f"{name}_std": lambda c, name=name: c.channel(name).inside_std for name in MAPS},
        **{f"{name}_rim": lambda c, name=name: c.channel(name).rim for name in MAPS},
        **{f"{name}_ring": lambda c, name=name: c.channel(name).ring for name in MAPS},
        **{
            f"mask_share_above_{step}": lambda c, step=step: c.channel(f"mask_above_{step}").inside
            for step in MASK_STEPS
        },
        "mask_min": lowest_mask,
        "mask_contrast": partial(contrast, name="mask"),
        "mask_rim_contrast": lambda c: c.channel("mask").rim - c.channel("mask").ring,
        "mask_gradient_rim": lambda c: c.channel("mask_gradient").rim,
        "center_peak_sum": lambda c: c.channel("center_peak").inside * c.area_px,
    },
    "disagreement": {
        "disagreement_mean": lambda c: c.channel("disagreement").inside,
        "disagreement_rim": lambda c: c.channel("disagreement").rim,
        "disagreement_ring": lambda c: c.channel("disagreement").ring,
    },
    "colour": {
        **{f"{name}_mean": lambda c, name=name: c.channel(name).inside for name in COLOURS},
        **{f"{name}_std": lambda c, name=name: c.channel(name).inside_std for name in COLOURS},
        **{f"{name}_contrast": partial(contrast, name=name) for name in COLOURS},
        **{
            f"{name}_over_foreground": lambda c, n=name: c.channel(n).inside - c.channel(n).foreground
            for name in COLOURS
        },
        "gray_gradient_mean": lambda c: c.channel("gray_gradient").inside,
        "gray_gradient_rim": lambda c: c.channel("gray_gradient").rim,
        "gray_gradient_contrast": partial(contrast, name="gray_gradient"),
        "gray_gradient_rim_over_image": lambda c: (
            c.channel("gray_gradient").rim / np.maximum(c.channel("gray_gradient").image, 1e-6)
        ),
    },
    "tree": {
        "threshold": lambda c: c.candidates.threshold,
        "level": lambda c: c.tree["level"],
        "peak": lambda c: c.tree["peak"],
        "persistence": lambda c: c.tree["peak"] - c.tree["level"],
        "depth": lambda c: c.tree["depth"],
        "leaves_below": lambda c: c.tree["leaves_below"],
        "siblings": lambda c: c.tree["siblings"],
        "is_leaf": lambda c: c.tree["is_leaf"],
        "is_root": lambda c: c.tree["is_root"],
        "area_over_parent": lambda c: c.area_px / c.tree["parent_area_px"],
        "area_over_children": lambda c: c.area_px / c.tree["children_area_px"],
        "area_over_lower": lambda c: c.area_px / c.tree["lower_area_px"],
        "area_over_higher": lambda c: c.area_px / c.tree["higher_area_px"],
    },
    "image": {
        **{
            f"image_{name}": partial(per_image, lambda c, name=name: c.channel(name).image)
            for name in (*MAPS, "disagreement", *COLOURS)
        },
        "image_gray_std": partial(per_image, lambda c: c.channel("gray").image_std),
        "image_foreground_share": partial(per_image, lambda c: c.channel("mask_above_0.5").image),
        "image_leaves": partial(per_image, lambda c: len(c.leaf_area_px)),
        "image_leaf_area_px": partial(per_image, lambda c: median_or_nan(c.leaf_area_px)),
        "area_over_image": lambda c: c.area_px / median_or_nan(c.leaf_area_px),
    },
}


def feature_group(name: str) -> str:
    """Return the group of FEATURES that a feature belongs to; raise KeyError for an unknown feature."""
    for group, features in FEATURES.items():
        if name in features:
            return group
    raise KeyError(f"unknown feature {name!r}; known: {', '.join(n for f in FEATURES.values() for n in f)}")


def feature_names(leave_out: Iterable[str] = ()) -> list[str]:
    """Return the names of the features outside some groups; raise ValueError listing the groups on an unknown one."""
    left_out = set(leave_out)
    if unknown := left_out - FEATURES.keys():
        raise ValueError(f"unknown feature group {', '.join(sorted(unknown))}; valid: {', '.join(FEATURES)}")
    return [name for group, features in FEATURES.items() if group not in left_out for name in features]


def features_table(values: NDArray[np.float32], names: Sequence[str]) -> pd.DataFrame:
    """Return features as they are stored, float32 [N, F], as a table; raise ValueError unless there are F names."""
    if values.ndim != 2 or values.shape[1] != len(names):
        raise ValueError(f"features of shape {values.shape} are not the {len(names)} named: cut the candidates anew")
    return pd.DataFrame(values, columns=list(names))


def compute_features(
    candidates: Candidates,
    maps: Mapping[str, np.ndarray],
    image: np.ndarray,
    groups: Iterable[str] = tuple(FEATURES),
) -> pd.DataFrame:
    """Return the features of one image's candidates, float32 [N, F], columns in the order of FEATURES.

    ``maps``: float32 [H, W] in 0..1 by channel name ('mask', 'border', 'center', 'disagreement'); a channel
    that is missing gives NaN columns. ``image``: uint8 [H, W, 3], RGB. ``groups`` selects groups of FEATURES.
    Raise ValueError for an unknown group or for pictures of another shape than the candidates'.
    """
    groups = tuple(groups)
    if unknown := set(groups) - set(FEATURES):
        raise ValueError(f"unknown feature groups {sorted(unknown)}; known: {', '.join(FEATURES)}")
    for name, picture in {"image": image, **maps}.items():
        if picture.shape[:2] != tuple(candidates.shape):
            raise ValueError(f"{name} is {picture.shape[:2]} px, the candidates' image {candidates.shape}")
    context = Context(candidates, maps, image)
    columns = {
        name: np.asarray(feature(context), np.float32)
        for group, features in FEATURES.items()
        if group in groups
        for name, feature in features.items()
    }
    return pd.DataFrame(columns, index=pd.RangeIndex(len(candidates)))
