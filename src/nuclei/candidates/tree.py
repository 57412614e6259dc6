"""Deep watershed: from predicted maps to nested candidate nuclei, and the two plain decodings beside it.

The maps give an energy that is high at centres and low at borders (Bai & Urtasun 2017). Flooding it from its maxima
cuts the foreground into basins; merging basins in the order of the saddles between them gives a tree whose nodes are
parts, nuclei and clumps. Every node, cut at several mask thresholds, is a candidate.
"""

from collections.abc import Mapping

import cv2
import numpy as np
from scipy import ndimage
from skimage.morphology import local_maxima
from skimage.segmentation import watershed

from nuclei.candidates.table import Candidates
from nuclei.data.labels import largest_part


def make_energy(maps: Mapping[str, np.ndarray], center_weight: float, smooth_px: float = 0.0) -> np.ndarray:
    """Return weight·center + (1 − weight)·mask·(1 − border), float32 [H, W] in 0..1, blurred by `smooth_px`.

    Without a border map nothing is subtracted; without a center map the rest has all the weight.
    """
    ridge = maps["mask"] * (1 - maps["border"]) if "border" in maps else maps["mask"]
    energy = center_weight * maps["center"] + (1 - center_weight) * ridge if "center" in maps else ridge
    energy = np.ascontiguousarray(energy, dtype=np.float32)
    return cv2.GaussianBlur(energy, (0, 0), smooth_px) if smooth_px else energy


def find_basins(energy: np.ndarray, region: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Flood `region` from every maximum of the energy: basins int32 [H, W] from 1 and heights uint8 [H, W], 0 outside.

    Heights are the energy in 254 steps from 1, on which the flooding runs, so that equal is equal.
    """
    heights = np.where(region, 1 + np.rint(254 * np.clip(energy, 0, 1)), 0).astype(np.uint8)
    # Without the frame of zeros a maximum that touches the image's edge would not count as one.
    peaks = local_maxima(np.pad(heights, 1), connectivity=1)[1:-1, 1:-1]
    return watershed(255 - heights, ndimage.label(peaks)[0], mask=region), heights


def find_saddles(basins: np.ndarray, heights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the K pairs of basins that touch, int64 [K, 2], and the highest pass between them, uint8 [K], descending."""
    first, second, passes = [], [], []
    for a, b in ((np.s_[:, :-1], np.s_[:, 1:]), (np.s_[:-1], np.s_[1:])):
        meet = (basins[a] != basins[b]) & (basins[a] > 0) & (basins[b] > 0)
        first.append(np.minimum(basins[a][meet], basins[b][meet]))
        second.append(np.maximum(basins[a][meet], basins[b][meet]))
        passes.append(np.minimum(heights[a][meet], heights[b][meet]))
    pairs = np.stack([np.concatenate(first), np.concatenate(second)], axis=1).astype(np.int64)
    passes = np.concatenate(passes)
    order = np.argsort(255 - passes, kind="stable")
    pairs, passes = pairs[order], passes[order]
    _, highest = np.unique(pairs[:, 0] * (int(basins.max()) + 1) + pairs[:, 1], return_index=True)
    highest.sort()
    return pairs[highest], passes[highest]


def merge_basins(peaks: np.ndarray, pairs: np.ndarray, passes: np.ndarray, depth: int):
    """Merge basins over descending passes into a forest; a basin that rises less than `depth` is no leaf of its own.

    peaks: highest height in each basin, [B + 1], entry 0 unused. Returns (leaf, parent, level): the leaf, 0-based, of
    each basin, int64 [B + 1]; and for each of the M nodes, leaves first and children before parents, its parent (−1
    for a root) and the height at which it merges into it (0 for a root). A shallow basin joins the leaf that its
    highest pass leads to (Najman & Schmitt 1996: the dynamics of a minimum).
    """
    n = len(peaks)
    leaf_of, tree_of = list(range(n)), list(range(n))

    def find(links, i):
        while links[i] != i:
            links[i] = links[links[i]]
            i = links[i]
        return i

    peak = [int(p) for p in peaks]
    merges = []
    node_of = {}  # root of tree_of -> index into merges, where it is no single leaf
    for (a, b), height in zip(pairs.tolist(), passes.tolist(), strict=True):
        high, low, basin_of_high, basin_of_low = find(tree_of, a), find(tree_of, b), a, b
        if high == low:
            continue
        if peak[high] < peak[low]:
            high, low, basin_of_high, basin_of_low = low, high, basin_of_low, basin_of_high
        if peak[low] - height < depth:
            # A tree of several leaves has proven to rise by `depth` above a higher pass: `low` is one leaf.
            leaf_of[find(leaf_of, basin_of_low)] = find(leaf_of, basin_of_high)
        else:
            merges.append(
                (node_of.get(high, ("leaf", basin_of_high)), node_of.get(low, ("leaf", basin_of_low)), height)
            )
            node_of[high] = ("merge", len(merges) - 1)
        tree_of[low] = high
    roots = sorted({find(leaf_of, i) for i in range(1, n)})
    number = {root: i for i, root in enumerate(roots)}
    leaf = np.array([-1] + [number[find(leaf_of, i)] for i in range(1, n)], np.int64)
    parent = np.full(len(roots) + len(merges), -1, np.int32)
    level = np.zeros(len(parent), np.float32)
    for i, (*children, height) in enumerate(merges):
        for kind, child in children:
            index = leaf[child] if kind == "leaf" else len(roots) + child
            parent[index], level[index] = len(roots) + i, height
    return leaf, parent, level


def make_candidates(
    maps: Mapping[str, np.ndarray],
    mask_thresholds: tuple[float, ...],
    floor: float,
    center_weight: float,
    smooth_px: float,
    depth: float,
    max_leaves: int,
    min_area_px: int,
) -> Candidates:
    """Return the nested candidates of one image from its maps, float32 [H, W] in 0..1 by channel name.

    The region mask > floor, holes filled, is cut into a tree of basins; a candidate is the largest part of a node
    above a mask threshold, holes filled. Nodes of more than `max_leaves` leaves, candidates below `min_area_px` and
    copies of another candidate of the node or of its child are left out.
    """
    mask = maps["mask"]
    region = ndimage.binary_fill_holes(mask > floor)
    basins, heights = find_basins(make_energy(maps, center_weight, smooth_px), region)
    peaks = ndimage.maximum(heights, basins, np.arange(basins.max() + 1))
    leaf, parent, level = merge_basins(peaks, *find_saddles(basins, heights), depth=round(254 * depth))
    leaves = leaf[basins]  # -1 outside
    boxes, size, peak = gather_nodes(leaves, parent, heights)
    # Leaves in depth-first order make every node a range of positions, so that a crop is two comparisons.
    first, position = order_leaves(parent, size, int(leaf.max(initial=-1)) + 1)
    positions = np.append(position, -1)[leaves]
    pieces, node, cut_at = [], [], []
    seen: dict[int, set] = {}
    for i in range(len(parent)):
        own = seen.pop(i, set())
        if size[i] <= max_leaves:
            (top, left), (bottom, right) = boxes[i]
            window = np.s_[top:bottom, left:right]
            inside = (positions[window] >= first[i]) & (positions[window] < first[i] + size[i])
            for threshold in mask_thresholds:
                part = largest_part(inside & (mask[window] > threshold), inside)
                y, x = np.nonzero(part)
                if len(y) < min_area_px:
                    continue
                pixels = ((y + top) * mask.shape[1] + x + left).astype(np.int32)
                key = pixels.tobytes()
                if key not in own:
                    own.add(key)
                    pieces.append(pixels)
                    node.append(i)
                    cut_at.append(threshold)
        if parent[i] >= 0:
            seen.setdefault(parent[i], set()).update(own)
    return Candidates(
        shape=mask.shape,
        indptr=np.concatenate([[0], np.cumsum([len(p) for p in pieces], dtype=np.int64)]).astype(np.int64),
        pixels=np.concatenate(pieces) if pieces else np.zeros(0, np.int32),
        node=np.array(node, np.int32),
        threshold=np.array(cut_at, np.float32),
        parent=parent,
        level=np.where(parent < 0, 0, (level - 1) / 254).astype(np.float32),
        peak=((peak - 1) / 254).astype(np.float32),
    )


def gather_nodes(leaves: np.ndarray, parent: np.ndarray, heights: np.ndarray):
    """Return the boxes ((top, left), (bottom, right)) of all nodes, their leaf counts and their peaks."""
    n_leaves = int(leaves.max(initial=-1)) + 1
    size = np.zeros(len(parent), np.int64)
    size[:n_leaves] = 1
    peak = np.zeros(len(parent))
    peak[:n_leaves] = ndimage.maximum(heights, leaves, np.arange(n_leaves)) if n_leaves else 0
    low, high = np.full((len(parent), 2), 2**31), np.zeros((len(parent), 2), np.int64)
    for i, box in enumerate(ndimage.find_objects(leaves + 1)):
        low[i], high[i] = [s.start for s in box], [s.stop for s in box]
    for i, above in enumerate(parent):
        if above >= 0:
            size[above] += size[i]
            peak[above] = max(peak[above], peak[i])
            low[above], high[above] = np.minimum(low[above], low[i]), np.maximum(high[above], high[i])
    return np.stack([low, high], axis=1), size, peak


def order_leaves(parent: np.ndarray, size: np.ndarray, n_leaves: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the first position of each node's leaves in depth-first order, and the position of each leaf."""
    first = np.zeros(len(parent), np.int64)
    free = 0
    taken = np.zeros(len(parent), np.int64)
    for i in range(len(parent) - 1, -1, -1):  # parents before children
        if parent[i] < 0:
            first[i], free = free, free + size[i]
        else:
            first[i] = first[parent[i]] + taken[parent[i]]
            taken[parent[i]] += size[i]
    return first, first[:n_leaves]
