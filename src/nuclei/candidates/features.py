"""Named features of candidate nuclei, from which the scorer predicts how well each candidate fits a nucleus.

To add a feature, add an entry to a group of FEATURES: its name and a function of the image's `Context`.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from nuclei.candidates.context import MASK_STEPS, NEIGHBOUR_RADII_PX, Context, Whole
from nuclei.candidates.table import Candidates, Maps
from nuclei.errors import UserError


def touches_frame(c: Context) -> NDArray[np.bool_]:
    """Return where a candidate reaches the image's frame."""
    height, width = c.candidates.shape
    b = c.boxes
    touches: NDArray[np.bool_] = (
        (b.top == 0) | (b.left == 0) | (b.top + b.height == height) | (b.left + b.width == width)
    )
    return touches


def eccentricity(c: Context) -> NDArray[np.float64]:
    """Return the eccentricity of the ellipse with equal second moments, as in regionprops; 0 for a single pixel."""
    major, minor = c.ellipses["major_axis_px"], c.ellipses["minor_axis_px"]
    share: NDArray[np.float64] = minor / np.maximum(major, 1e-9)
    return np.where(major > 0, np.sqrt(1 - share**2), 0)


def ellipse_fill(c: Context) -> NDArray[np.float64]:
    """Return the area over that of the ellipse with equal second moments, 1 for an ellipse."""
    # A pixel is a square, whose own variance of 1 / 12 adds 16 / 12 to the square of an axis.
    major, minor = (np.sqrt(c.ellipses[name] ** 2 + 4 / 3) for name in ("major_axis_px", "minor_axis_px"))
    area_px: NDArray[np.float64] = np.pi / 4 * major * minor
    return c.area_px / area_px


def count_neighbours(c: Context, radius_px: int) -> NDArray[np.float64]:
    """Return how many leaves lie within a radius of each candidate, as `relations.measure_neighbours` counts them."""
    return c.neighbours[radius_px][0]


def neighbour_area(c: Context, radius_px: int) -> NDArray[np.float64]:
    """Return the median area of the leaves within a radius of each candidate, in pixels, NaN where there are none."""
    return c.neighbours[radius_px][1]


def area_over_neighbours(c: Context, radius_px: int) -> NDArray[np.float64]:
    """Return the area of each candidate over the median area of the leaves within a radius."""
    return c.area_px / neighbour_area(c, radius_px)


def inside(c: Context, name: str) -> NDArray[np.float64]:
    """Return the mean of a channel inside each candidate."""
    return c.channel(name).inside


def inside_std(c: Context, name: str) -> NDArray[np.float64]:
    """Return the standard deviation of a channel inside each candidate."""
    return c.channel(name).inside_std


def rim(c: Context, name: str) -> NDArray[np.float64]:
    """Return the mean of a channel over the outermost pixels of each candidate."""
    return c.channel(name).rim


def ring(c: Context, name: str) -> NDArray[np.float64]:
    """Return the mean of a channel in the ring outside each candidate."""
    return c.channel(name).ring


def contrast(c: Context, name: str) -> NDArray[np.float64]:
    """Return the mean of a channel inside each candidate minus its mean in the ring outside."""
    return c.channel(name).inside - c.channel(name).ring


def over_foreground(c: Context, name: str) -> NDArray[np.float64]:
    """Return the mean of a channel inside each candidate minus its mean over the image's foreground."""
    return c.channel(name).inside - c.channel(name).foreground


def lowest_mask(c: Context) -> NDArray[np.float64] | NDArray[np.float32]:
    """Return the smallest value of the mask map over each candidate's pixels, NaN without a mask map."""
    if "mask" not in c.sources:
        return np.full(len(c.candidates), np.nan)
    values: NDArray[np.float32] = c.sources["mask"].take(c.candidates.pixels)
    return np.minimum.reduceat(values, c.candidates.indptr[:-1])


def per_image(value: Callable[[Context], float], c: Context) -> NDArray[np.float64]:
    """Return one value of the image for each of its candidates."""
    return np.full(len(c.candidates), value(c), np.float64)


def image_mean(c: Context, name: str) -> NDArray[np.float64]:
    """Return the mean of a channel over the image for each of its candidates."""
    return per_image(lambda c: c.channel(name).image, c)


MAPS = ("mask", "border", "center")
COLOURS = ("red", "green", "blue", "gray", "saturation")
# Hulls run through pixel centres, outlines half a pixel outside, which adds 2π · 1/2 (Steiner's formula).
HULL_EDGE_PX = np.pi
Feature = Callable[[Context], NDArray[Any]]
FEATURES: dict[str, dict[str, Feature]] = {
    "shape": {
        "area_px": lambda c: c.area_px,
        "equivalent_diameter_px": lambda c: np.sqrt(4 / np.pi * c.area_px),
        "box_long_px": lambda c: np.maximum(c.boxes.height, c.boxes.width),
        "box_short_px": lambda c: np.minimum(c.boxes.height, c.boxes.width),
        "box_aspect": lambda c: np.minimum(c.boxes.height, c.boxes.width) / np.maximum(c.boxes.height, c.boxes.width),
        "extent": lambda c: c.area_px / (c.boxes.height * c.boxes.width),
        "major_axis_px": lambda c: c.ellipses["major_axis_px"],
        "minor_axis_px": lambda c: c.ellipses["minor_axis_px"],
        "eccentricity": eccentricity,
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
        **{f"neighbours_{r}px": partial(count_neighbours, radius_px=r) for r in NEIGHBOUR_RADII_PX},
        **{f"neighbour_area_{r}px": partial(neighbour_area, radius_px=r) for r in NEIGHBOUR_RADII_PX},
        **{f"area_over_neighbours_{r}px": partial(area_over_neighbours, radius_px=r) for r in NEIGHBOUR_RADII_PX},
    },
    "probability": {
        **{f"{name}_mean": partial(inside, name=name) for name in MAPS},
        **{f"{name}_std": partial(inside_std, name=name) for name in MAPS},
        **{f"{name}_rim": partial(rim, name=name) for name in MAPS},
        **{f"{name}_ring": partial(ring, name=name) for name in MAPS},
        **{f"mask_share_above_{step}": partial(inside, name=f"mask_above_{step}") for step in MASK_STEPS},
        "mask_min": lowest_mask,
        "mask_contrast": partial(contrast, name="mask"),
        "mask_rim_contrast": lambda c: c.channel("mask").rim - c.channel("mask").ring,
        "mask_gradient_rim": partial(rim, name="mask_gradient"),
        "center_peak_sum": lambda c: c.channel("center_peak").inside * c.area_px,
    },
    "disagreement": {
        "disagreement_mean": partial(inside, name="disagreement"),
        "disagreement_rim": partial(rim, name="disagreement"),
        "disagreement_ring": partial(ring, name="disagreement"),
    },
    "colour": {
        **{f"{name}_mean": partial(inside, name=name) for name in COLOURS},
        **{f"{name}_std": partial(inside_std, name=name) for name in COLOURS},
        **{f"{name}_contrast": partial(contrast, name=name) for name in COLOURS},
        **{f"{name}_over_foreground": partial(over_foreground, name=name) for name in COLOURS},
        "gray_gradient_mean": partial(inside, name="gray_gradient"),
        "gray_gradient_rim": partial(rim, name="gray_gradient"),
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
        **{f"image_{name}": partial(image_mean, name=name) for name in (*MAPS, "disagreement", *COLOURS)},
        "image_gray_std": partial(per_image, lambda c: c.channel("gray").image_std),
        "image_foreground_share": partial(image_mean, name="mask_above_0.5"),
        "image_leaves": partial(per_image, lambda c: c.n_leaves),
        "image_leaf_area_px": partial(per_image, lambda c: c.typical_leaf_px),
        "area_over_image": lambda c: c.area_px / c.typical_leaf_px,
    },
}


def feature_group(name: str) -> str:
    """Return the group of FEATURES that a feature belongs to; raise KeyError for an unknown feature."""
    for group, features in FEATURES.items():
        if name in features:
            return group
    raise KeyError(f"unknown feature {name!r}; known: {', '.join(n for f in FEATURES.values() for n in f)}")


def feature_names(leave_out: Iterable[str] = ()) -> list[str]:
    """Return the names of the features outside some groups; raise UserError listing the groups on an unknown one."""
    left_out = set(leave_out)
    if unknown := left_out - FEATURES.keys():
        raise UserError(f"unknown feature group {', '.join(sorted(unknown))}; valid: {', '.join(FEATURES)}")
    if left_out == FEATURES.keys():
        raise UserError(
            f"scorer.leave_out: none is left of {', '.join(FEATURES)}: candidates are scored by some feature"
        )
    return [name for group, features in FEATURES.items() if group not in left_out for name in features]


def features_table(values: NDArray[np.float32], names: Sequence[str]) -> pd.DataFrame:
    """Return features as they are stored, float32 [N, F], as a table; raise UserError unless there are F names."""
    if values.ndim != 2 or values.shape[1] != len(names):
        raise UserError(f"features of shape {values.shape} are not the {len(names)} named: cut the candidates anew")
    return pd.DataFrame(values, columns=list(names))


def compute_features(
    candidates: Candidates,
    maps: Maps,
    image: NDArray[np.uint8],
    groups: Iterable[str] = tuple(FEATURES),
    whole: Whole | None = None,
) -> pd.DataFrame:
    """Return the features of one image's candidates, float32 [N, F], columns in the order of FEATURES.

    ``maps``: float32 [H, W] in 0..1 by channel name ('mask', 'border', 'center', 'disagreement'); a channel
    that is missing gives NaN columns. ``image``: uint8 [H, W, 3], RGB. ``groups`` selects groups of FEATURES.
    ``whole``: what is known of the image that this one is a part of. Raise ValueError for an unknown group or for
    pictures of another shape than the candidates'.
    """
    groups = tuple(groups)
    if unknown := set(groups) - set(FEATURES):
        raise ValueError(f"unknown feature groups {sorted(unknown)}; known: {', '.join(FEATURES)}")
    context = Context(candidates, maps, image, whole)
    for name, picture in context.sources.items():
        if picture.shape[:2] != candidates.shape:
            raise ValueError(f"{name} is {picture.shape[:2]} px, the candidates' image {candidates.shape}")
    chosen = {name: feature for group in FEATURES if group in groups for name, feature in FEATURES[group].items()}
    # As one block: a table of single columns takes pandas longer to make than many of the columns take.
    values = np.empty((len(chosen), len(candidates)), np.float32)
    for row, feature in zip(values, chosen.values(), strict=True):
        row[:] = feature(context)
    return pd.DataFrame(values.T, columns=list(chosen), copy=False)
