"""Maps as they are stored, and their averages: over the folds of one run, and over the members of an ensemble."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Maps = dict[str, NDArray[np.float32]]  # channel name, or `disagreement` -> [H, W] in 0..1
Stored = dict[str, NDArray[np.uint8]]  # the same in steps of 1/255


def quantise(maps: Mapping[str, NDArray[np.float32]]) -> Stored:
    """Round maps in 0..1 to uint8 steps of 1/255, the form in which they are stored."""
    return {name: np.rint(np.clip(value, 0, 1) * 255).astype(np.uint8) for name, value in maps.items()}


def dequantise(maps: Stored) -> Maps:
    """Turn stored uint8 maps back to float32 in 0..1."""
    return {name: value.astype(np.float32) / np.float32(255) for name, value in maps.items()}


def average_folds(folds: list[Maps]) -> Maps:
    """Average the maps that each fold's network gave one image; `disagreement` by its square.

    With several folds `fold_disagreement` is added, the standard deviation of `mask` between them. It is kept
    apart from `disagreement`, so that this means the same for out-of-fold maps, made by one network each.
    """
    averaged: dict[str, NDArray[Any]] = {
        name: np.mean([maps[name] for maps in folds], axis=0) for name in folds[0] if name != "disagreement"
    }
    averaged["disagreement"] = np.sqrt(np.mean([maps["disagreement"] ** 2 for maps in folds], axis=0))
    if len(folds) > 1:
        averaged["fold_disagreement"] = np.std([maps["mask"] for maps in folds], axis=0)
    return averaged


def blend(members: Sequence[Mapping[str, NDArray[np.float32]]], weights: Sequence[float]) -> Maps:
    """Average maps over members, channel by channel over those that have it.

    disagreement: root of the members' mean variance plus the variance of `mask` between members, so that it means
    the same for one member and for many.
    """
    names = dict.fromkeys(name for maps in members for name in maps)
    blended: Maps = {}
    for name in names:
        having = [(maps[name], weight) for maps, weight in zip(members, weights, strict=True) if name in maps]
        values, shares = [value for value, _ in having], [weight for _, weight in having]
        if name == "disagreement":
            variance = np.average([v**2 for v in values], axis=0, weights=shares)
            masks = np.stack([maps["mask"] for maps in members])
            center = np.average(masks, axis=0, weights=weights)
            blended[name] = np.sqrt(variance + np.average((masks - center) ** 2, axis=0, weights=weights)).astype(
                np.float32
            )
        else:
            blended[name] = np.average(values, axis=0, weights=shares).astype(np.float32)
    return blended
