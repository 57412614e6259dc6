"""Deep watershed: from predicted maps to nested candidate nuclei.

The maps give an energy that is high at centres and low at borders (Bai & Urtasun 2017). Flooding it from its maxima
cuts the foreground into basins; merging basins in the order of the saddles between them gives a tree whose nodes are
parts, nuclei and clumps. Every node, cut at several mask thresholds, is a candidate.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.morphology import local_maxima
from skimage.segmentation import watershed

from nuclei.candidates.table import Candidates, Maps
from nuclei.config.schema import WatershedConfig
from nuclei.data.labels import fill_holes, largest_parts

# Energies are flooded as whole heights from 1 to 255, so that equal is equal; 0 is outside.
STEPS = 254
# A node while it is being merged: a leaf, by one of its basins, or the merge of that number.
Part = tuple[Literal["leaf", "merge"], int]


@dataclass(frozen=True)
class Forest:
    """Hold M nested nodes, leaves first and children before their parents, in an image of H × W pixels."""

    parent: NDArray[np.int32]  # [M]: -1 for a root
    level: NDArray[np.float32]  # [M]: height at which a node merges into its parent, 0 for a root
    peak: NDArray[np.float64]  # [M]: greatest height inside
    size: NDArray[np.int64]  # [M]: number of leaves
    box: NDArray[np.int64]  # [M, 2, 2]: (top, left) and (bottom, right), which are exclusive
    # With leaves in depth-first order every node is a range of positions, and cropping it takes two comparisons.
    first: NDArray[np.int64]  # [M]: position of the node's first leaf
    position: NDArray[np.int32]  # [H, W]: position of the leaf at each pixel, -1 outside

    def window(self, node: int) -> tuple[slice, slice]:
        """Return the rows and columns of a node's bounding box."""
        (top, left), (bottom, right) = self.box[node].tolist()
        return slice(top, bottom), slice(left, right)

    def inside(self, node: int) -> NDArray[np.bool_]:
        """Return where in its window a node lies."""
        position = self.position[self.window(node)]
        inside: NDArray[np.bool_] = (position >= self.first[node]) & (position < self.first[node] + self.size[node])
        return inside


def make_candidates(maps: Maps, settings: WatershedConfig) -> Candidates:
    """Return the nested candidates of one image from its maps.

    The region mask > `floor`, holes filled, is cut into a tree of basins; a candidate is the largest part of a node
    above a mask threshold, holes filled. Nodes of more than `max_leaves` leaves, candidates below `min_area_px` and
    copies of another candidate of the node or of its child are left out.
    """
    mask = maps["mask"]
    energy = make_energy(maps, settings.center_weight, settings.smooth_px)
    basins, heights = find_basins(energy, fill_holes(mask > settings.floor))
    forest = grow_forest(basins, heights, depth=round(STEPS * settings.depth))
    cuts = list(cut_nodes(forest, mask, settings))
    return Candidates(
        shape=(mask.shape[0], mask.shape[1]),
        indptr=np.cumsum([0, *(len(pixels) for _, _, pixels in cuts)], dtype=np.int64),
        pixels=np.concatenate([np.zeros(0, np.int32), *(pixels for _, _, pixels in cuts)]),
        node=np.array([node for node, _, _ in cuts], np.int32),
        threshold=np.array([threshold for _, threshold, _ in cuts], np.float32),
        parent=forest.parent,
        level=np.where(forest.parent < 0, 0, (forest.level - 1) / STEPS).astype(np.float32),
        peak=((forest.peak - 1) / STEPS).astype(np.float32),
    )


def make_energy(maps: Maps, center_weight: float, smooth_px: float = 0.0) -> NDArray[np.float32]:
    """Return weight·center + (1 − weight)·mask·(1 − border), float32 [H, W] in 0..1, blurred by `smooth_px`.

    Without a border map nothing is subtracted; without a center map the rest has all the weight.
    """
    ridge = maps["mask"] * (1 - maps["border"]) if "border" in maps else maps["mask"]
    mixed = center_weight * maps["center"] + (1 - center_weight) * ridge if "center" in maps else ridge
    energy = np.ascontiguousarray(mixed, dtype=np.float32)
    return np.asarray(cv2.GaussianBlur(energy, (0, 0), smooth_px), np.float32) if smooth_px else energy


def find_basins(energy: NDArray[np.float32], region: NDArray[np.bool_]) -> tuple[NDArray[np.int32], NDArray[np.uint8]]:
    """Flood `region` from every maximum of the energy: basins int32 [H, W] from 1 and heights uint8 [H, W], 0 outside.

    Heights are the energy in STEPS steps from 1, on which the flooding runs.
    """
    heights = np.where(region, 1 + np.rint(STEPS * np.clip(energy, 0, 1)), 0).astype(np.uint8)
    # Without the frame of zeros a maximum that touches the image's edge would not count as one.
    peaks = local_maxima(np.pad(heights, 1), connectivity=1)[1:-1, 1:-1]
    _, seeds = cv2.connectedComponents(peaks.astype(np.uint8), connectivity=4)
    return watershed(255 - heights, seeds, mask=region), heights


def measure_peaks(heights: NDArray[np.uint8], basins: NDArray[np.integer[Any]]) -> NDArray[np.uint8]:
    """Return the greatest height in each of B basins: uint8 [H, W], int [H, W] -> uint8 [B + 1], entry 0 unused.

    ndimage.maximum sorts all pixels for it.
    """
    peaks = np.zeros(int(basins.max()) + 1, np.uint8)
    inside = np.flatnonzero(basins)
    np.maximum.at(peaks, basins.take(inside), heights.take(inside))
    return peaks


def grow_forest(basins: NDArray[np.int32], heights: NDArray[np.uint8], depth: int) -> Forest:
    """Merge the basins of an image, as of `find_basins`, into nested nodes; `depth` as in `merge_basins`."""
    peaks = measure_peaks(heights, basins)
    leaf, parent, level = merge_basins(peaks, *find_saddles(basins, heights), depth)
    leaves = leaf.astype(np.int32)[basins]  # -1 outside
    leaf_peaks = np.zeros(int(leaf.max(initial=-1)) + 1, np.uint8)
    np.maximum.at(leaf_peaks, leaf[1:], peaks[1:])
    box, size, peak = gather_nodes(leaves, parent, leaf_peaks)
    first, position = order_leaves(parent, size, len(leaf_peaks))
    return Forest(parent, level, peak, size, box, first, np.append(position, -1).astype(np.int32)[leaves])


def find_saddles(
    basins: NDArray[np.integer[Any]], heights: NDArray[np.uint8]
) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
    """Return the K pairs of basins that touch, int64 [K, 2], and the highest pass between them, uint8 [K].

    Passes descend; basins are labels, int [H, W] with 0 outside, and touch along the edge of a pixel.
    """
    first, second, met = [], [], []
    for a, b in ((np.s_[:, :-1], np.s_[:, 1:]), (np.s_[:-1], np.s_[1:])):
        meet = (basins[a] != basins[b]) & (basins[a] > 0) & (basins[b] > 0)
        first.append(np.minimum(basins[a][meet], basins[b][meet]))
        second.append(np.maximum(basins[a][meet], basins[b][meet]))
        met.append(np.minimum(heights[a][meet], heights[b][meet]))
    pairs = np.stack([np.concatenate(first), np.concatenate(second)], axis=1).astype(np.int64)
    passes = np.concatenate(met)
    order = np.argsort(255 - passes, kind="stable")
    pairs, passes = pairs[order], passes[order]
    _, highest = np.unique(pairs[:, 0] * (int(basins.max()) + 1) + pairs[:, 1], return_index=True)
    highest.sort()
    return pairs[highest], passes[highest]


def merge_basins(
    peaks: NDArray[Any], pairs: NDArray[np.int64], passes: NDArray[np.uint8], depth: int
) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.float32]]:
    """Merge basins over descending passes into a forest; a basin that rises less than `depth` is no leaf of its own.

    peaks: highest height in each basin, [B + 1], entry 0 unused. pairs, passes: as of `find_saddles`. Returns
    (leaf, parent, level) as `number_nodes` does. A shallow basin joins the leaf that its highest pass leads to
    (Najman & Schmitt 1996: the dynamics of a minimum).
    """
    peak = [int(p) for p in peaks]
    leaf_of, tree_of = list(range(len(peak))), list(range(len(peak)))  # basin -> one nearer to the root of its set
    merges: list[tuple[Part, Part, int]] = []
    part_of: dict[int, Part] = {}  # root of tree_of -> its last merge, where it is more than a single leaf
    for (a, b), height in zip(pairs.tolist(), passes.tolist(), strict=True):
        high, low = find_root(tree_of, a), find_root(tree_of, b)
        if high == low:
            continue
        if peak[high] < peak[low]:
            a, b, high, low = b, a, low, high
        if peak[low] - height < depth:
            # A tree of several leaves has proven to rise by `depth` above a higher pass: `low` is one leaf.
            leaf_of[find_root(leaf_of, b)] = find_root(leaf_of, a)
        else:
            merges.append((part_of.get(high, ("leaf", a)), part_of.get(low, ("leaf", b)), height))
            part_of[high] = ("merge", len(merges) - 1)
        tree_of[low] = high
    return number_nodes([find_root(leaf_of, i) for i in range(len(peak))], merges)


def find_root(links: list[int], i: int) -> int:
    """Return the root that the links from `i` lead to, and shorten them on the way (union-find)."""
    while links[i] != i:
        links[i] = links[links[i]]
        i = links[i]
    return i


def number_nodes(
    root: list[int], merges: list[tuple[Part, Part, int]]
) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.float32]]:
    """Number leaves, then merges, as the M nodes of a forest.

    root: for each basin, [B + 1], the one that its leaf is named by, entry 0 unused. merges: two parts and the height
    of the pass between them. Returns the leaf of each basin, int64 [B + 1], −1 for entry 0; and for each node its
    parent (−1 for a root) and the height at which it merges into it (0 for a root), both [M].
    """
    roots, leaf = np.unique(np.array(root[1:], np.int64), return_inverse=True)
    leaf = np.append(-1, leaf)
    parent = np.full(len(roots) + len(merges), -1, np.int32)
    level = np.zeros(len(parent), np.float32)
    for merged, (*parts, height) in enumerate(merges, start=len(roots)):
        for kind, i in parts:
            node = leaf[i] if kind == "leaf" else len(roots) + i
            parent[node], level[node] = merged, height
    return leaf, parent, level


def gather_nodes(
    leaves: NDArray[np.int32], parent: NDArray[np.int32], leaf_peaks: NDArray[np.uint8]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Return the boxes, leaf counts and peaks of all nodes, as in `Forest`.

    leaves: the leaf at each pixel, -1 outside; leaf_peaks: the greatest height in each leaf.
    """
    n_leaves = len(leaf_peaks)
    size, peak = np.zeros(len(parent), np.int64), np.zeros(len(parent))
    size[:n_leaves], peak[:n_leaves] = 1, leaf_peaks
    # Of the lower right corners the negative, so that one minimum widens a box.
    corners = np.full((len(parent), 4), 2**31)
    for i, (rows, columns) in enumerate(ndimage.find_objects(leaves + 1)):
        corners[i] = rows.start, columns.start, -rows.stop, -columns.stop
    for i, above in enumerate(parent.tolist()):
        if above >= 0:
            size[above] += size[i]
            peak[above] = max(peak[above], peak[i])
            np.minimum(corners[above], corners[i], out=corners[above])
    return np.stack([corners[:, :2], -corners[:, 2:]], axis=1), size, peak


def order_leaves(
    parent: NDArray[np.int32], size: NDArray[np.int64], n_leaves: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
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


def cut_nodes(
    forest: Forest, mask: NDArray[np.float32], settings: WatershedConfig
) -> Iterator[tuple[int, float, NDArray[np.int32]]]:
    """Yield the node, the threshold and the pixels of each candidate, as `make_candidates` describes them."""
    known: dict[int, set[bytes]] = {}  # node -> the candidates of its children
    for node, parent in enumerate(forest.parent.tolist()):
        copies = known.pop(node, set())
        if forest.size[node] <= settings.max_leaves:
            for threshold, pixels in cut_node(forest, node, mask, settings.mask_thresholds):
                if len(pixels) >= settings.min_area_px and (key := pixels.tobytes()) not in copies:
                    copies.add(key)
                    yield node, threshold, pixels
        if parent >= 0:
            known.setdefault(parent, set()).update(copies)


def cut_node(
    forest: Forest, node: int, mask: NDArray[np.float32], thresholds: tuple[float, ...]
) -> Iterator[tuple[float, NDArray[np.int32]]]:
    """Yield each threshold and the flat pixels, ascending, of the node's largest part above it, holes filled."""
    window, inside = forest.window(node), forest.inside(node)
    rows, columns = (np.arange(part.start, part.stop, dtype=np.int32) for part in window)
    pixels, values = rows[:, None] * mask.shape[1] + columns, mask[window]
    # As float32, of which the values are: in float64 a threshold lies beside the value that is equal to it.
    above = values > np.array(thresholds, values.dtype)[:, None, None]
    for threshold, part in zip(thresholds, largest_parts(inside & above, inside), strict=True):
        yield threshold, pixels[part]
