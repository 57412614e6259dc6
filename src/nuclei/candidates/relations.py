"""Each candidate among the others: its place in the tree and its neighbours."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from nuclei.candidates.table import Candidates


def find_leaves(parent: NDArray[np.int32]) -> NDArray[np.bool_]:
    """Return whether each node has no child, bool [M]."""
    is_leaf = np.ones(len(parent), bool)
    is_leaf[parent[parent >= 0]] = False
    return is_leaf


def pair_ancestors(parent: NDArray[np.int32]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return all (ancestor, descendant) pairs of nodes, each node paired with itself too."""
    descendant = np.arange(len(parent))
    ancestor = descendant
    ancestors, descendants = [], []
    while len(ancestor):
        ancestors.append(ancestor)
        descendants.append(descendant)
        up = parent[ancestor]
        ancestor, descendant = up[up >= 0], descendant[up >= 0]
    return np.concatenate([np.zeros(0, int), *ancestors]), np.concatenate([np.zeros(0, int), *descendants])


def choose_representatives(candidates: Candidates) -> NDArray[np.int64]:
    """Return the candidate of each node at the middle of its thresholds, int64 [M], -1 if it has none."""
    order = np.lexsort((candidates.threshold, candidates.node))
    count = np.bincount(candidates.node, minlength=len(candidates.parent))
    middle = np.cumsum(count) - count + (count - 1) // 2
    representative = np.full(len(count), -1)
    representative[count > 0] = order[middle[count > 0]]
    return representative


def measure_tree(candidates: Candidates) -> dict[str, NDArray[np.float64]]:
    """Return each candidate's place in the tree, float64 [N] each.

    depth (0 at a root), leaves_below (1 at a leaf), siblings, is_leaf, is_root, level, peak;
    parent_area_px and children_area_px (sum) at the candidate's own threshold; lower_area_px and
    higher_area_px of the same node at its next lower and next higher threshold; NaN where there is none.
    """
    node, parent, n_nodes = candidates.node, candidates.parent, len(candidates.parent)
    area = candidates.area_px().astype(np.float64)
    is_leaf = find_leaves(parent)
    ancestor, descendant = pair_ancestors(parent)
    is_root = parent < 0
    n_children = np.bincount(parent[~is_root], minlength=n_nodes)
    per_node = {
        "depth": np.bincount(descendant, minlength=n_nodes) - 1,
        "leaves_below": np.bincount(ancestor, is_leaf[descendant], minlength=n_nodes),
        "siblings": np.where(is_root, 0, n_children[parent] - 1),
        "is_leaf": is_leaf,
        "is_root": is_root,
        "level": candidates.level,
        "peak": candidates.peak,
    }

    thresholds, step = np.unique(candidates.threshold, return_inverse=True)
    area_at = np.full((n_nodes + 1, len(thresholds)), np.nan)  # the last row answers parent -1
    area_at[node, step] = area
    children_at = np.zeros((n_nodes + 1, len(thresholds)))
    np.add.at(children_at, (parent[node], step), area)
    children = children_at[node, step]

    order = np.lexsort((candidates.threshold, node))
    same_node = node[order[1:]] == node[order[:-1]]
    lower, higher = np.full((2, len(candidates)), np.nan)
    lower[order[1:]] = np.where(same_node, area[order[:-1]], np.nan)
    higher[order[:-1]] = np.where(same_node, area[order[1:]], np.nan)
    return {name: values[node].astype(np.float64) for name, values in per_node.items()} | {
        "parent_area_px": area_at[parent[node], step],
        "children_area_px": np.where(children > 0, children, np.nan),
        "lower_area_px": lower,
        "higher_area_px": higher,
    }


def measure_neighbours(
    candidates: Candidates, centroid: NDArray[np.float64], radii_px: Sequence[float]
) -> dict[float, tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """Return for each radius the count and median area (px, NaN if none) of the leaves nearby, float64 [N].

    A location counts once: a leaf stands for it with its candidate at the middle threshold. Leaves of the
    candidate's own subtree are no neighbours. Distances start from the centroid of the middle candidate
    of the node, so all thresholds of a node have the same neighbours. ``centroid`` is (y, x) in px, [N, 2].
    """
    area = candidates.area_px()
    representative = choose_representatives(candidates)
    is_leaf = find_leaves(candidates.parent) & (representative >= 0)
    leaf = np.flatnonzero(is_leaf)
    # In the order of their areas, the median of any set of leaves is its middle index.
    leaf = leaf[np.argsort(area[representative[leaf]], kind="stable")]
    leaf_area = area[representative[leaf]]
    node = np.flatnonzero(representative >= 0)
    near = cKDTree(centroid[representative[node]].reshape(-1, 2)).sparse_distance_matrix(
        cKDTree(centroid[representative[leaf]].reshape(-1, 2)), max(radii_px), output_type="ndarray"
    )
    key = node[near["i"]] * len(leaf) + near["j"]
    rank = np.full(len(candidates.parent), -1)
    rank[leaf] = np.arange(len(leaf))
    ancestor, descendant = pair_ancestors(candidates.parent)
    below = is_leaf[descendant]
    other = np.flatnonzero(~np.isin(key, ancestor[below] * len(leaf) + rank[descendant[below]]))
    other = other.take(np.argsort(key.take(other)))
    key, distance = key.take(other), near["v"].take(other)

    neighbours = {}
    for radius in radii_px:
        of_node, j = np.divmod(key[distance <= radius], max(len(leaf), 1))
        count = np.bincount(of_node, minlength=len(candidates.parent))
        start = np.cumsum(count) - count
        some = count > 0
        median = np.full(len(count), np.nan)
        low, high = (j[start[some] + k] for k in ((count[some] - 1) // 2, count[some] // 2))
        median[some] = (leaf_area[low] + leaf_area[high]) / 2
        neighbours[radius] = count[candidates.node].astype(np.float64), median[candidates.node]
    return neighbours
