"""Folds that do not leak: tiles of one field stay together, image types are spread evenly."""

from collections import defaultdict
from collections.abc import Iterable, Mapping

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse.csgraph import connected_components

from nuclei.data.fold_table import COLUMNS, check_folds
from nuclei.errors import UserError

# Added to difference and variation alike, so that borders without content (black frames) prove nothing.
NOISE = 0.001
# Squared difference and variation of borders, [n, n] each: border i of one side against border j of the other.
_Comparison = tuple[NDArray[np.float64], NDArray[np.float64]]


def mosaic_groups(images: Mapping[str, NDArray[np.uint8]] | Iterable[tuple[str, NDArray[np.uint8]]]) -> dict[str, str]:
    """Group the images that are tiles of one larger field, recognised by borders that continue one another.

    `images`: image_id -> uint8 [H, W, 3], or an iterator of such pairs (only border strips are kept).
    Two tiles are joined when their borders continue each other far better than any other pair does, or when
    they belong to a 2 x 2 square whose four inner borders all continue. Only tiles of one size are compared.
    Returns image_id -> group, named by its smallest image_id, cut to 8 characters (more where ambiguous).
    Raises UserError on a repeated image_id.
    """
    by_shape: dict[tuple[int, ...], dict[str, dict[str, NDArray[np.float64]]]] = defaultdict(dict)
    ids = []
    for image_id, image in images.items() if isinstance(images, Mapping) else images:
        ids.append(image_id)
        borders = {"left": image[:, 0], "right": image[:, -1], "top": image[0], "bottom": image[-1]}
        # On a logarithmic scale a change of the dark background counts as much as a bright nucleus.
        by_shape[image.shape[:2]][image_id] = {k: np.log1p(v.mean(1)) for k, v in borders.items()}
    if len(set(ids)) < len(ids):
        raise UserError(f"image_id given twice: {next(i for i in ids if ids.count(i) > 1)}")
    length = 8
    while len({i[:length] for i in ids}) < len(ids):
        length += 1
    groups = {}
    for strips in by_shape.values():
        members = sorted(strips)
        sides = {k: np.stack([strips[i][k] for i in members]) for k in ("left", "right", "top", "bottom")}
        component = connected_components(_joined_tiles(sides), directed=False)[1]
        _, first = np.unique(component, return_index=True)
        groups.update({i: members[first[k]][:length] for i, k in zip(members, component, strict=True)})
    return groups


def _joined_tiles(sides: dict[str, NDArray[np.float64]]) -> NDArray[np.bool_]:
    """Return which tiles lie beside each other in one field, bool [n, n], from their borders [n, length] by side."""
    across = _compare_borders(sides["right"], sides["left"])
    down = _compare_borders(sides["bottom"], sides["top"])
    joined = np.zeros((len(sides["left"]),) * 2, bool)
    for mismatch, variation in (across, down):
        links = _certain_links(mismatch / variation)
        # A tile whose neighbour is certain can have no other neighbour on that side.
        taken = np.logical_or(links.any(1, keepdims=True), links.any(0))
        mismatch[taken & ~links] = np.inf
        joined |= links
    for a, b, c, d in _find_squares(across, down):
        joined[a, [b, c, d]] = True
    return joined


def _compare_borders(first: NDArray[np.float64], second: NDArray[np.float64]) -> _Comparison:
    """Return the squared difference [n, n] of border i of `first` and j of `second`, and their variation."""
    mismatch = np.square(first).sum(1)[:, None] + np.square(second).sum(1) - 2 * first @ second.T
    variation = (first.var(1)[:, None] + second.var(1)) * first.shape[1]
    noise = NOISE * first.shape[1]
    mismatch = np.maximum(mismatch, 0) + noise
    np.fill_diagonal(mismatch, np.inf)
    return mismatch, variation + noise


def _certain_links(
    ratio: NDArray[np.float64], max_ratio: float = 0.2, max_share_of_second: float = 0.25
) -> NDArray[np.bool_]:
    """Return the pairs that continue each other far better than any other pair of either border does, bool [n, n]."""
    if len(ratio) < 2:
        return np.zeros(ratio.shape, bool)
    by_row, by_column = np.partition(ratio, 1, axis=1), np.partition(ratio, 1, axis=0)
    best = np.minimum(by_row[:, :1], by_column[:1])
    second = np.minimum(by_row[:, 1:2], by_column[1:2])
    certain: NDArray[np.bool_] = (ratio == best) & (ratio < max_ratio) & (ratio < max_share_of_second * second)
    return certain


def _find_squares(
    across: _Comparison, down: _Comparison, max_ratio: float = 0.2, n_neighbours: int = 10
) -> list[list[int]]:
    """Return disjoint tiles (a b / c d), the best first, whose four inner borders continue one another."""
    n = len(across[0])
    near = [np.argsort(m / v, axis=1)[:, : min(n_neighbours, n - 1)] for m, v in (across, down)]
    found = []
    for a in range(n if n >= 4 else 0):
        b, c = (x.ravel() for x in np.meshgrid(near[0][a], near[1][a]))
        b, c = b[b != c], c[b != c]
        # d, any tile, is right of c and below b; the four borders are judged as one long border.
        mismatch, variation = ((across[k][a, b] + down[k][a, c])[:, None] + across[k][c] + down[k][b] for k in (0, 1))
        ratio = mismatch / variation
        rows = np.arange(len(b))
        ratio[:, a] = ratio[rows, b] = ratio[rows, c] = np.inf
        d = ratio.argmin(1)
        found += [(ratio[i, d[i]], a, b[i], c[i], d[i]) for i in np.flatnonzero(ratio[rows, d] < max_ratio)]
    squares: list[list[int]] = []
    used: set[int] = set()
    for _, *square in sorted(found):
        if used.isdisjoint(square):
            squares.append(square)
            used.update(square)
    return squares


def assign_folds(table: pd.DataFrame, n_folds: int, seed: int) -> pd.DataFrame:
    """Add the columns fold (0 .. n_folds - 1) and weight: no group in two folds, every cluster spread evenly.

    `table` has image_id, group, cluster, n_nuclei; the result is sorted by image_id. Groups are dealt largest
    first, equal ones in an order drawn from `seed`, each to the fold with the fewest images of the group's
    clusters, then the fewest nuclei. The weight of an image is the square root of the size of the largest
    cluster over that of its own, at most 4: the rare types are drawn more often without being worn out.
    """
    table = table.sort_values("image_id", ignore_index=True)
    counts = pd.crosstab(table["group"], table["cluster"])
    nuclei_of = table.groupby("group")["n_nuclei"].sum()
    images = np.zeros((n_folds, counts.shape[1]), int)
    nuclei = np.zeros(n_folds, int)
    fold_of = {}
    shuffled = counts.iloc[np.random.default_rng(seed).permutation(len(counts))]
    for group in shuffled.sum(axis=1).sort_values(ascending=False, kind="stable").index:
        own = counts.loc[group].to_numpy()
        fold = min(range(n_folds), key=lambda k: (images[k][own > 0].sum(), nuclei[k]))
        images[fold] += own
        nuclei[fold] += nuclei_of[group]
        fold_of[group] = fold
    return table.assign(fold=table["group"].map(fold_of), weight=image_weights(table["cluster"]))


def image_weights(clusters: "pd.Series[str]") -> "pd.Series[float]":
    """Return how often each image is drawn for training, by the clusters of N images: float64 [N].

    It is the square root of the size of the largest cluster over that of the image's own, at most 4.
    """
    size = clusters.value_counts()
    weight = pd.Series(np.sqrt(size.max() / size)).clip(upper=4).round(4)
    return clusters.map(weight)


def split_folds(table: pd.DataFrame, n_folds: int, seed: int) -> pd.DataFrame:
    """Split each fold of a fold table evenly, as assign_folds does, so that there are `n_folds`.

    Fold k becomes the m folds k·m … k·m + m − 1. Raises UserError unless the folds of `table` are 0 … n_folds / m − 1.
    """
    coarse = sorted(table["fold"].unique().tolist())
    parts, rest = divmod(n_folds, len(coarse))
    if rest or parts < 2 or coarse != list(range(len(coarse))):
        raise UserError(
            f"folds {coarse} cannot be split evenly into {n_folds}: data.n_folds must be a multiple of their number"
        )
    split = [
        assign_folds(own, parts, seed).assign(weight=own.sort_values("image_id")["weight"].to_numpy())
        for _, own in table.groupby("fold")
    ]
    joined = pd.concat([own.assign(fold=own["fold"] + k * parts) for k, own in enumerate(split)])
    return joined.sort_values("image_id", ignore_index=True)[list(COLUMNS)]


def match_folds(fine: pd.DataFrame, coarse: pd.DataFrame) -> dict[int, int]:
    """Return, for each fold of `fine`, the fold of `coarse` that holds all of its images.

    A network that was trained without the latter has seen nothing of the former. Raises UserError if a fold of
    `fine` reaches into several, or has an image that `coarse` does not have.
    """
    held_by = fine["image_id"].map(coarse.set_index("image_id")["fold"])
    matched = {}
    for fold, holders in held_by.groupby(fine["fold"]):
        found = sorted(holders.dropna().unique().astype(int).tolist())
        if holders.isna().any() or len(found) != 1:
            where = " and ".join(map(str, found)) or "none"
            raise UserError(
                f"fold {fold} must lie in one fold of the coarser table; it has images of {where}"
                + (f" and {holders.isna().sum()} that are missing from it" if holders.isna().any() else "")
            )
        matched[int(fold)] = found[0]
    return matched


def fold_table(
    groups: Mapping[str, str],
    clusters: Mapping[str, str],
    n_nuclei: Mapping[str, int],
    n_folds: int,
    seed: int,
) -> pd.DataFrame:
    """Join what is known of each image_id into the fold table: COLUMNS, sorted by image_id.

    Raises UserError when the three mappings do not name the same images.
    """
    for other in (clusters, n_nuclei):
        if difference := set(groups) ^ set(other):
            raise UserError(f"group, cluster and number of nuclei must all be given for {min(difference)}")
    table = pd.DataFrame({"image_id": sorted(groups)})
    for column, values in (("group", groups), ("cluster", clusters), ("n_nuclei", n_nuclei)):
        table[column] = table["image_id"].map(dict(values))
    table = assign_folds(table, n_folds, seed)[list(COLUMNS)]
    check_folds(table)
    return table
