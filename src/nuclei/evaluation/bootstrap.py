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
    if values.ndim != 1 or values.shape != np.shape(groups):
        raise ValueError(f"values {values.shape} and groups {np.shape(groups)} must be equally long lists")
    if not len(values) or not np.isfinite(values).all():
        raise ValueError("values must be finite and not empty; leave out images without a score")
    group = np.unique(groups, return_inverse=True)[1]
    group_size = np.bincount(group)
    group_sum = np.bincount(group, weights=values)
    n_groups = len(group_size)

    rng = np.random.default_rng(seed)
    means = np.empty(n)
    chunk = max(1, _DRAWS_PER_CHUNK // n_groups)
    for first in range(0, n, chunk):
        drawn = rng.integers(n_groups, size=(min(chunk, n - first), n_groups))
        means[first : first + chunk] = group_sum[drawn].sum(axis=1) / group_size[drawn].sum(axis=1)
    low, high = np.percentile(means, _PERCENTILES)
    return float(values.mean()), float(low), float(high)


def paired_difference(
    a: NDArray[Any], b: NDArray[Any], groups: NDArray[Any], n: int = 10_000, seed: int = 0
) -> tuple[float, float, float]:
    """Return the mean of a − b over N images scored by both, and the ends of its 95 % bootstrap interval.

    Pairing removes what makes an image easy or hard for both. Takes and raises what ``bootstrap_mean`` does.
    """
    if np.shape(a) != np.shape(b):
        raise ValueError(f"a {np.shape(a)} and b {np.shape(b)} must hold the same images in the same order")
    return bootstrap_mean(np.asarray(a, dtype=np.float64) - np.asarray(b), groups, n, seed)
