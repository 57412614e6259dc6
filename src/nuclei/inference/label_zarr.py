"""Labels as OME-Zarr 0.4, a pyramid of blocks that viewers read where they look, written block by block.

The layout is that of https://ngff.openmicroscopy.org/0.4: Zarr 2, blocks named by "/", metadata `multiscales` and
`image-label`, by which napari-ome-zarr and others take it for labels. Each level holds every other pixel of the one
before in both directions, so that labels stay labels. `image-label` lists no colours: there would be as many as nuclei,
and viewers choose their own.
"""

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nuclei.data.slides import Windows
from nuclei.data.zarr_image import ZARR_EXTRA
from nuclei.errors import UserError
from nuclei.inference.exports import label_type
from nuclei.runs.files import atomic

VERSION = "0.4"
BLOCK_PX = 1024  # side of the blocks, each a file; the last level is one of them


def check_zarr() -> None:
    """Raise UserError naming the extra if zarr is not installed."""
    try:
        importlib.import_module("zarr")
    except ImportError:
        raise UserError(f"labels as OME-Zarr need zarr: pip install 'nuclei[{ZARR_EXTRA}]'") from None


def write_label_zarr(
    path: Path, labels: Windows, shape: tuple[int, int], n_nuclei: int, pixel_size_um: float | None
) -> None:
    """Write labels 0..n_nuclei, [H, W] of this shape, as a folder of 16-bit, or beyond 65,535 nuclei 32-bit, levels.

    No more than four blocks are in memory at a time. pixel_size_um: side of a pixel; without it lengths have no unit.
    """
    import zarr

    with atomic(path) as temporary:
        group = zarr.open_group(temporary, mode="w", zarr_format=2)
        above: Any = labels
        shapes = list_levels(shape)
        for number, level_shape in enumerate(shapes):
            level = group.create_array(
                str(number),
                shape=level_shape,
                chunks=(BLOCK_PX, BLOCK_PX),
                dtype=label_type(n_nuclei),
                compressors=[{"id": "zlib", "level": 6}],
                chunk_key_encoding={"name": "v2", "separator": "/"},
            )
            step = 1 if number == 0 else 2
            for rows, columns in cut_blocks(level_shape):
                wide = (slice(step * one.start, step * one.stop) for one in (rows, columns))
                level[rows, columns] = above[tuple(wide)][::step, ::step]
            above = level
        group.attrs.update(describe_levels(len(shapes), pixel_size_um))


def list_levels(shape: tuple[int, int]) -> list[tuple[int, int]]:
    """Return the shapes of all levels: each of every other pixel of the one before, the last of one block."""
    shapes = [shape]
    while max(shapes[-1]) > BLOCK_PX:
        height, width = shapes[-1]
        shapes.append((-(-height // 2), -(-width // 2)))
    return shapes


def cut_blocks(shape: tuple[int, int]) -> Iterator[tuple[slice, slice]]:
    """Yield the rows and columns of all blocks of a level."""
    for top in range(0, shape[0], BLOCK_PX):
        for left in range(0, shape[1], BLOCK_PX):
            yield slice(top, min(top + BLOCK_PX, shape[0])), slice(left, min(left + BLOCK_PX, shape[1]))


def describe_levels(n_levels: int, pixel_size_um: float | None) -> dict[str, Any]:
    """Return the metadata of labels in n levels."""
    unit = {} if pixel_size_um is None else {"unit": "micrometer"}
    side = 1.0 if pixel_size_um is None else pixel_size_um
    scales = ([side * 2**level] * 2 for level in range(n_levels))
    return {
        "multiscales": [
            {
                "version": VERSION,
                "name": "nuclei",
                "axes": [{"name": name, "type": "space", **unit} for name in "yx"],
                "datasets": [
                    {"path": str(level), "coordinateTransformations": [{"type": "scale", "scale": scale}]}
                    for level, scale in enumerate(scales)
                ],
                "type": "nearest",
                "metadata": {"description": "every other pixel of the level before, from the first on"},
            }
        ],
        "image-label": {"version": VERSION},
    }
