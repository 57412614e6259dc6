"""Nested candidate nuclei of one image: the table that the watershed fills and that scoring and selection read."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

# What a network predicts of one image: float32 [H, W] in 0..1 by channel name ("mask", "border", "center" …).
Maps = Mapping[str, NDArray[np.float32]]


@dataclass(frozen=True)
class Candidates:
    """Hold N candidate masks cut from a forest of M tree nodes in an image of H × W pixels.

    A node is a set of watershed basins; its children split it into disjoint parts. Each node carries one
    candidate per mask threshold, so two candidates overlap only if they belong to one node or if one
    node is an ancestor of the other. Children come before their parent: ``node < parent[node]``.
    """

    shape: tuple[int, int]  # (H, W)
    indptr: NDArray[np.int64]  # [N + 1]: candidate i owns pixels[indptr[i]:indptr[i + 1]]
    pixels: NDArray[np.int32]  # [P]: flat row-major pixel indices, ascending within a candidate
    node: NDArray[np.int32]  # [N]: tree node of each candidate
    threshold: NDArray[np.float32]  # [N]: mask threshold the candidate was cut at, 0..1
    parent: NDArray[np.int32]  # [M]: parent of each node, -1 for a root
    level: NDArray[np.float32]  # [M]: energy at which the node merges into its parent (0 for a root), 0..1
    peak: NDArray[np.float32]  # [M]: highest energy inside the node, 0..1

    def __len__(self) -> int:
        return len(self.indptr) - 1

    def area_px(self) -> NDArray[np.int64]:
        """Return the pixel count of each candidate, [N]."""
        return np.diff(self.indptr)

    def owner(self) -> NDArray[np.int32]:
        """Return the candidate that each entry of ``pixels`` belongs to, [P]."""
        return np.repeat(np.arange(len(self), dtype=np.int32), self.area_px())

    def pack(self) -> dict[str, NDArray[Any]]:
        """Return all fields as arrays that compress well: pixels as steps, most of which are 1."""
        arrays = {field.name: np.asarray(getattr(self, field.name)) for field in fields(self)}
        return arrays | {"pixels": np.diff(self.pixels, prepend=np.int32(0))}

    @classmethod
    def unpack(cls, arrays: Mapping[str, NDArray[Any]]) -> "Candidates":
        """Return what `pack` packed; other arrays are ignored."""
        height, width = arrays["shape"].tolist()
        pixels = np.cumsum(arrays["pixels"], dtype=np.int32)
        rest = {field.name: arrays[field.name] for field in fields(cls) if field.name not in ("shape", "pixels")}
        return cls(shape=(height, width), pixels=pixels, **rest)
