"""Nested candidate nuclei of one image: the table that the watershed fills and scoring and selection read."""

from dataclasses import dataclass, fields

import numpy as np


@dataclass(frozen=True)
class Candidates:
    """Hold N candidate masks cut from a forest of M tree nodes in an image of H × W pixels.

    A node is a set of watershed basins; its children split it into disjoint parts. Each node carries one
    candidate per mask threshold, so two candidates overlap only if they belong to one node or if one
    node is an ancestor of the other. Children come before their parent: ``node < parent[node]``.
    """

    shape: tuple[int, int]  # (H, W)
    indptr: np.ndarray  # int64 [N + 1]: candidate i owns pixels[indptr[i]:indptr[i + 1]]
    pixels: np.ndarray  # int32 [P]: flat row-major pixel indices, ascending within a candidate
    node: np.ndarray  # int32 [N]: tree node of each candidate
    threshold: np.ndarray  # float32 [N]: mask threshold the candidate was cut at, 0..1
    parent: np.ndarray  # int32 [M]: parent of each node, -1 for a root
    level: np.ndarray  # float32 [M]: energy at which the node merges into its parent (0 for a root), 0..1
    peak: np.ndarray  # float32 [M]: highest energy inside the node, 0..1

    def __len__(self) -> int:
        return len(self.indptr) - 1

    def area_px(self) -> np.ndarray:
        """Return the pixel count of each candidate, int64 [N]."""
        return np.diff(self.indptr)

    def owner(self) -> np.ndarray:
        """Return the candidate that each entry of ``pixels`` belongs to, int32 [P]."""
        return np.repeat(np.arange(len(self), dtype=np.int32), self.area_px())

    def pack(self) -> dict[str, np.ndarray]:
        """Return all fields as arrays that compress well: pixels as steps, most of which are 1."""
        arrays = {field.name: np.asarray(getattr(self, field.name)) for field in fields(self)}
        return arrays | {"pixels": np.diff(self.pixels, prepend=np.int32(0))}

    @classmethod
    def unpack(cls, arrays: dict[str, np.ndarray]) -> "Candidates":
        """Return what `pack` packed; other arrays are passed over."""
        values = {field.name: arrays[field.name] for field in fields(cls)}
        values["shape"] = tuple(values["shape"].tolist())
        return cls(**values | {"pixels": np.cumsum(arrays["pixels"], dtype=np.int32)})
