"""An image cut into tiles that overlap, and the nuclei that were found in each put together as if it had been one.

Each tile is a core and a margin around it. Cores cover the image without overlap; tiles are segmented with their
margins, each by itself. A nucleus belongs to the tile whose core holds its centre. Where the margin is wider than what
a segmentation looks at around a pixel, plus the largest nucleus, neighbouring tiles find the same nuclei along their
seam, so each of them is kept once and whole. Where two tiles disagree nevertheless:

* the earlier tile, in reading order, keeps its pixels; of a later nucleus what is left over is kept, its largest part,
  if that is more than half of it;
* a nucleus that each of two tiles places in the other one's core is kept by the earlier, if more than half is free.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from nuclei.data.labels import largest_part

# Of a core. With its margins it is 2400, two of the networks' own tiles, and a process needs some 1 GB for it.
TILE_PX = 2080
# The 128 that the networks' own tiles overlap by, and half of a nucleus of 64, three times the typical one.
MARGIN_PX = 160
# Windows begin at its multiples. A network may see an image resized, by 0.9, say: then these are whole pixels of its
# own as well, and it sees the same nucleus in two windows alike.
ALIGN_PX = 80
TILED_ABOVE_PX = 4096 * 4096  # images of more pixels are tiled unasked

Window = tuple[slice, slice]


class Plane(Protocol):
    """Stand for an array, [H, W] or [H, W, 3], of which windows alone are read, and written where it is of labels."""

    def __getitem__(self, window: Window, /) -> NDArray[Any]: ...

    def __setitem__(self, window: Window, values: NDArray[Any], /) -> None: ...


@dataclass(frozen=True)
class Tile:
    """Hold the rows and columns of a tile, without (`core`) and with (`window`) its margins."""

    core: Window
    window: Window
    cut: tuple[bool, bool, bool, bool]  # whether the image goes on above, to the left, below and to the right

    @property
    def origin(self) -> tuple[int, int]:
        """The y and x of the window's first pixel."""
        return self.window[0].start, self.window[1].start

    @property
    def shape(self) -> tuple[int, int]:
        """The height and width of the window."""
        rows, columns = self.window
        return rows.stop - rows.start, columns.stop - columns.start


class Nuclei(NamedTuple):
    """Hold the N nuclei that reach into the core of a tile, in pixels of its window."""

    indptr: NDArray[np.int64]  # [N + 1]: nucleus i has pixels[indptr[i]:indptr[i + 1]]
    pixels: NDArray[np.int32]  # [P]: flat, row by row, ascending within a nucleus
    iou: NDArray[np.float32]  # [N, 1]: predicted; [N, 0] where nothing is scored
    owned: NDArray[np.bool_]  # [N]: whether the core holds the centre
    cut: NDArray[np.bool_]  # [N]: whether the window may hold a part of it only


class Placed(NamedTuple):
    """Say which labels a tile's nuclei have got, from `first` on, and their predicted IoU, as in Nuclei."""

    tile: int
    first: int
    n: int
    iou: NDArray[np.float32]


def cut_tiles(shape: tuple[int, ...], tile_px: int, margin_px: int, align_px: int = 1) -> list[Tile]:
    """Return the tiles of an image, [H, W, …], in reading order: cores of at most `tile_px`, as equal as can be.

    Cores begin at multiples of `align_px`, which is not more than `tile_px`.
    """
    rows, columns = (_cut_axis(length, tile_px, margin_px, align_px) for length in shape[:2])
    return [
        Tile((row, column), (tall, wide), (above, left, below, right))
        for row, tall, above, below in rows
        for column, wide, left, right in columns
    ]


def _cut_axis(length: int, tile_px: int, margin_px: int, align_px: int) -> list[tuple[slice, slice, bool, bool]]:
    steps = -(-length // align_px)
    n = -(-steps // (tile_px // align_px))
    ends = [min(length, align_px * round(i * steps / n)) for i in range(n + 1)]
    cores = [slice(ends[i], ends[i + 1]) for i in range(n)]
    windows = [slice(max(0, core.start - margin_px), min(length, core.stop + margin_px)) for core in cores]
    return [(core, window, window.start > 0, window.stop < length) for core, window in zip(cores, windows, strict=True)]


def spread_windows(shape: tuple[int, ...], side_px: int, per_axis: int) -> list[Window]:
    """Return windows of at most `side_px`, up to `per_axis` along each axis, spread evenly over an image [H, W, …]."""
    axes = []
    for length in shape[:2]:
        side = min(side_px, length)
        n = min(per_axis, max(1, length // side))
        axes.append(
            [slice(start, start + side) for start in (round((i + 0.5) * length / n - side / 2) for i in range(n))]
        )
    return [(row, column) for row in axes[0] for column in axes[1]]


def pick_nuclei(labels: NDArray[np.int32], iou: NDArray[np.float32] | None, tile: Tile) -> Nuclei:
    """Return the nuclei that reach into a tile's core of the labels of its window, int [h, w], from 1 without gaps."""
    n = int(labels.max(initial=0))
    flat = labels.reshape(-1)
    pixels = np.flatnonzero(flat)
    number = flat[pixels]
    order = np.argsort(number, kind="stable")
    pixels, number = pixels[order], number[order] - 1
    count = np.bincount(number, minlength=n)
    y, x = np.divmod(pixels, labels.shape[1])
    # Whole numbers in pixels of the image, so that two tiles agree on the centre of the same nucleus.
    y, x = y + tile.origin[0], x + tile.origin[1]
    centre = [np.bincount(number, axis, minlength=n).astype(np.int64) // np.maximum(count, 1) for axis in (y, x)]
    inside = [(axis >= core.start) & (axis < core.stop) for axis, core in zip((y, x), tile.core, strict=True)]
    reaches = np.bincount(number, inside[0] & inside[1], minlength=n) > 0
    owned = np.logical_and(*((c >= core.start) & (c < core.stop) for c, core in zip(centre, tile.core, strict=True)))
    kept = (reaches | owned) & (count > 0)
    above, left, below, right = tile.cut
    rows, columns = tile.window
    at_edge = (above & (y == rows.start)) | (below & (y == rows.stop - 1))
    at_edge |= (left & (x == columns.start)) | (right & (x == columns.stop - 1))
    cut = np.bincount(number, at_edge, minlength=n) > 0
    return Nuclei(
        indptr=np.cumsum([0, *count[kept]], dtype=np.int64),
        pixels=pixels[kept[number]].astype(np.int32),
        iou=np.zeros((kept.sum(), 0), np.float32) if iou is None else iou[kept, None].astype(np.float32),
        owned=owned[kept],
        cut=cut[kept],
    )


def stitch(tiles: Sequence[Tile], read: Callable[[int], Nuclei], labels: Plane) -> Iterator[Placed]:
    """Paint the nuclei of all tiles into `labels`, int [H, W] of zeros, and yield which labels those of a tile got.

    read: returns what `pick_nuclei` did of a tile of that number; it is called twice for each. Labels rise from 1
    without gaps. The nuclei of a tile lie within its window, and stay as they are once they are painted. The first tile
    is named even where it has none.
    """
    free = 1
    for strays in (False, True):
        for number, tile in enumerate(tiles):
            nuclei = read(number)
            wanted = nuclei.owned != strays
            painted = _paint(nuclei, wanted, labels, tile, free) if wanted.any() else np.zeros(0, np.int64)
            if len(painted) or (number == 0 and not strays):
                yield Placed(number, free, len(painted), nuclei.iou[painted])
                free += len(painted)


def _paint(nuclei: Nuclei, wanted: NDArray[np.bool_], labels: Plane, tile: Tile, first: int) -> NDArray[np.int64]:
    """Paint the wanted nuclei of a tile where nothing is yet, and return which of them were painted."""
    window = np.array(labels[tile.window])  # of an array in memory it would be a view, which cannot be made flat
    flat = window.reshape(-1)
    size = np.diff(nuclei.indptr)
    number = np.repeat(np.arange(len(size)), size)
    is_free = flat[nuclei.pixels] == 0
    n_free = np.bincount(number, is_free, minlength=len(size))
    kept = np.flatnonzero(wanted & (2 * n_free > size))
    label_of = np.zeros(len(size), flat.dtype)
    label_of[kept] = np.arange(first, first + len(kept))
    mine = is_free & (label_of[number] > 0)
    flat[nuclei.pixels[mine]] = label_of[number[mine]]
    # What has lost pixels may have fallen apart.
    for i in kept[n_free[kept] < size[kept]]:
        box = ndimage.find_objects((window == label_of[i]).astype(np.uint8))[0]
        own = window[box] == label_of[i]
        window[box][own & ~largest_part(own, np.zeros_like(own))] = 0
    labels[tile.window] = window
    return kept
