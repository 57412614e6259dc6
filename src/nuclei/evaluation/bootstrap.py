"""Uncertainty of mean scores: bootstrap over groups of images that are not independent of each other."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

_PERCENTILES = (2.5, 97.5)
_DRAWS_PER_CHUNK = 2_000_000


def bootstrap_mean(
    values: NDArray[Any], groups: NDArray[Any], n: int = 10_000, seed: int = 0
) -> tuple[float, float, float]:
    """Return the mean of N image values and the ends of its 95 % percentile bootstrap interval.

    ``groups`` [N] names the group (mosaic) of each image. Each of the n resamples draws whole groups with
    replacement, since tiles of one mosaic resemble each other, and takes the mean over the drawn images
    (cluster bootstrap; Davison and Hinkley 1997, chapter 3.8). Raises ValueError for empty, non-finite or
    unequally long input.
    """
    values = np.asarray(values, dtype=np.float64)
    return bootstrap_ratio(values, np.ones(values.shape), groups, n, seed)


def bootstrap_ratio(
    parts: NDArray[Any], wholes: NDArray[Any], groups: NDArray[Any], n: int = 10_000, seed: int = 0
) -> tuple[float, float, float]:
    """Return the sum of ``parts`` over that of ``wholes``, of N images each, and the ends of its 95 % interval.

    Such as the nuclei that are found over all nuclei. Resamples are drawn as ``bootstrap_mean`` draws them; one that
    has none of the whole is left out. Raises ValueError as that does, and where the wholes add up to 0.
    """
    parts, wholes = np.asarray(parts, dtype=np.float64), np.asarray(wholes, dtype=np.float64)
    if parts.ndim != 1 or not parts.shape == wholes.shape == np.shape(groups):
        raise ValueError(f"values {parts.shape} and groups {np.shape(groups)} must be equally long lists")
    if not len(parts) or not np.isfinite(parts).all() or not wholes.sum() > 0:
        raise ValueError("values must be finite and not empty; leave out images without a score")
    group = np.unique(groups, return_inverse=True)[1]
    part_of_group, whole_of_group = np.bincount(group, weights=parts), np.bincount(group, weights=wholes)
    n_groups = len(part_of_group)

    rng = np.random.default_rng(seed)
    ratios = np.empty(n)
    chunk = max(1, _DRAWS_PER_CHUNK // n_groups)
    for first in range(0, n, chunk):
        drawn = rng.integers(n_groups, size=(min(chunk, n - first), n_groups))
        part, whole = part_of_group[drawn].sum(axis=1), whole_of_group[drawn].sum(axis=1)
        ratios[first : first + chunk] = np.divide(part, whole, out=np.full(len(whole), np.nan), where=whole > 0)
    low, high = np.percentile(ratios[np.isfinite(ratios)], _PERCENTILES)
    return float(parts.sum() / wholes.sum()), float(low), float(high)


def paired_difference(
    a: NDArray[Any], b: NDArray[Any], groups: NDArray[Any], n: int = 10_000, seed: int = 0
) -> tuple[float, float, float]:
    """Return the mean of a − b over N images scored by both, and the ends of its 95 % bootstrap interval.

    Pairing removes what makes an image easy or hard for both. Takes and raises what ``bootstrap_mean`` does.
    """
    if np.shape(a) != np.shape(b):
        raise ValueError(f"a {np.shape(a)} and b {np.shape(b)} must hold the same images in the same order")
    return bootstrap_mean(np.asarray(a, dtype=np.float64) - np.asarray(b), groups, n, seed)
