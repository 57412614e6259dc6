"""OME-Zarr: a folder, whose blocks are read when they are asked for."""

import importlib
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nuclei.data.axes import UM_OF_UNIT, Layout, Read, View, check_size, check_slide
from nuclei.errors import UserError

ZARR, ZARR_EXTRA = ".zarr", "zarr"


def is_zarr(path: Path) -> bool:
    """Return whether a folder is called an OME-Zarr."""
    return path.is_dir() and path.suffix.lower() == ZARR


def count_zarr(path: Path, view: View) -> int:  # noqa: ARG001 (what counts the images of any format takes)
    """Return 1: a group of several images is none of them."""
    return 1


@contextmanager
def open_zarr_image(path: Path, view: View, series: int) -> Iterator[tuple[Layout, Read]]:  # noqa: ARG001 (as above)
    """Yield the layout of an OME-Zarr, and the function that reads it."""
    layout, array = open_zarr(path)
    whole = slice(0, layout.sizes["Y"]), slice(0, layout.sizes["X"])
    yield layout, lambda chosen: _read_whole(layout, array, chosen, whole)


def open_zarr(path: Path) -> tuple[Layout, Any]:
    """Return the layout of an OME-Zarr (0.4 or 0.5) and its array of full size, whose blocks are read when asked for.

    Raises UserError naming the extra if zarr is not installed.
    """
    try:
        zarr = importlib.import_module("zarr")
    except ImportError:
        raise UserError(f"{path}: OME-Zarr needs zarr: pip install 'nuclei[{ZARR_EXTRA}]'") from None
    group = zarr.open_group(path, mode="r")
    attributes = group.attrs.asdict()
    described = attributes.get("ome", attributes)
    scales = described.get("multiscales") or [{}]
    if "datasets" not in scales[0] or "axes" not in scales[0]:
        raise UserError("it has no multiscales with axes and datasets: save it as OME-Zarr 0.4 or 0.5")
    level = scales[0]["datasets"][0]
    axes = [axis if isinstance(axis, str) else str(axis["name"]) for axis in scales[0]["axes"]]
    array = group[level["path"]]
    channels = described.get("omero", {}).get("channels", [])
    names = tuple(str(channel.get("label", "")) for channel in channels)
    layout = Layout("".join(axes).upper(), tuple(map(int, array.shape)), names, _read_zarr_size(scales[0], level, axes))
    check_slide(layout.sizes["Y"], layout.sizes["X"])
    check_size(1, math.prod(array.shards or array.chunks))
    return layout, array


def _read_zarr_size(scale: Mapping[str, Any], level: Mapping[str, Any], axes: list[str]) -> float | None:
    """Return the side of a pixel in µm; None if unknown or not square."""
    units = {axis["name"]: axis.get("unit") for axis in scale["axes"] if not isinstance(axis, str)}
    sizes = np.ones(len(axes))
    for step in (*level.get("coordinateTransformations", []), *scale.get("coordinateTransformations", [])):
        sizes = sizes * np.array(step["scale"], float) if step.get("type") == "scale" else sizes
    x, y = (float(sizes[axes.index(axis)]) * UM_OF_UNIT.get(str(units.get(axis)), math.nan) for axis in "xy")
    return x if x > 0 and math.isclose(x, y, rel_tol=0.01) else None


def read_zarr(layout: Layout, array: Any, chosen: Mapping[str, list[int]], window: tuple[slice, slice]) -> NDArray[Any]:
    """Return a window of what is chosen of an OME-Zarr, [h, w]: of several planes the maximum."""
    places: dict[str, Any] = {axis: numbers[0] for axis, numbers in chosen.items()} | dict(
        zip("YX", window, strict=True)
    )
    planes = [{"Z": number} for number in chosen.get("Z", [0])]
    blocks = [np.asarray(array[tuple((places | plane)[axis] for axis in layout.axes)]) for plane in planes]
    # Of numbers and NaN, fmax takes the number.
    block = np.fmax.reduce(blocks) if len(blocks) > 1 else blocks[0]
    return block if layout.axes.index("Y") < layout.axes.index("X") else block.T


def _read_whole(
    layout: Layout, array: Any, chosen: Mapping[str, list[int]], whole: tuple[slice, slice]
) -> tuple[NDArray[Any], str]:
    check_size(layout.sizes["Y"], layout.sizes["X"])
    return read_zarr(layout, array, chosen, whole), "YX"
