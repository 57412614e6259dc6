"""Files of microscopes' makers, CZI, ND2 and LIF, read by bioio where the user has installed it."""

import importlib
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nuclei.data.axes import Layout, Read, View, check_size, check_values
from nuclei.errors import UserError

VENDOR_SUFFIXES = (".czi", ".nd2", ".lif")
READER_EXTRA = "microscopes"


def is_vendor(path: Path) -> bool:
    """Return whether a file is one of a microscope's maker, by its suffix."""
    return path.suffix.lower() in VENDOR_SUFFIXES and path.is_file()


def count_scenes(path: Path, view: View) -> int:  # noqa: ARG001 (what counts the images of any format takes)
    """Return how many images a file holds."""
    return len(_load_vendor(path).scenes)


@contextmanager
def open_scene(path: Path, view: View, series: int) -> Iterator[tuple[Layout, Read]]:  # noqa: ARG001 (as above)
    """Yield the layout of an image of a file, and the function that reads it."""
    yield open_vendor(path, series)


def _load_vendor(path: Path) -> Any:
    """Return the bioio.BioImage of a CZI, ND2 or LIF file; raise UserError naming the extra if it is not installed."""
    try:
        bioio = importlib.import_module("bioio")
        return bioio.BioImage(path)
    except Exception as error:
        if not (isinstance(error, ImportError) or type(error).__name__ == "UnsupportedFileFormatError"):
            raise
        suffix = path.suffix.lower()
        raise UserError(
            f"{path}: {suffix} files need a reader that is not installed (or this one is damaged): "
            f"pip install 'nuclei[{READER_EXTRA}]', or save it as OME-TIFF"
        ) from None


def open_vendor(path: Path, number: int) -> tuple[Layout, Read]:
    """Return the layout of an image of a CZI, ND2 or LIF file, and the function that reads it."""
    image = _load_vendor(path)
    if len(image.scenes) > 1:
        image.set_scene(number)
    axes = str(image.dims.order)
    kept = [i for i, axis in enumerate(axes) if axis in "YX" or image.shape[i] > 1]
    side_x, side_y = image.physical_pixel_sizes.X, image.physical_pixel_sizes.Y
    square = side_x and side_y and math.isclose(side_x, side_y, rel_tol=0.01)
    layout = Layout(
        "".join(axes[i] for i in kept),
        tuple(int(image.shape[i]) for i in kept),
        tuple(map(str, image.channel_names or ())),
        float(side_x) if square else None,
    )
    check_size(layout.sizes["Y"], layout.sizes["X"])

    def read(chosen: Mapping[str, list[int]]) -> tuple[NDArray[Any], str]:
        rest = "".join(axis for axis in layout.axes if axis not in "TC")
        picked: dict[str, Any] = {axis: numbers[0] for axis, numbers in chosen.items() if axis in "TC"}
        picked |= {"Z": chosen["Z"]} if "Z" in chosen else {}
        check_values(math.prod(layout.sizes[axis] for axis in rest if axis != "Z") * len(chosen.get("Z", [0])))
        return np.asarray(image.get_image_data(rest, **picked)), rest

    return layout, read
