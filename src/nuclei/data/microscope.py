"""Images as microscopes, cameras and their programs store them: the axes of a file, and one picture of it as an array.

The rules, which README tells users as well:

* The content decides the format, not the suffix: PNG, JPEG, BMP, WebP, TIFF in all its forms. CZI, ND2 and LIF are
  read by bioio, OME-Zarr (a folder, `.zarr`) by zarr.
* Of several images in one file (series, scenes) each is a picture of its own, unless `View.series` names one; a TIFF
  whose pages without metadata differ in size is refused, and so is an animation (WebP, PNG).
* Of several channels one is named (`View.channel`); a z-stack is projected to its maximum unless `View.plane` names a
  plane; each time point is a picture of its own. What metadata leave open is refused, never guessed.
* Pixels lie as they are stored: an orientation tag is not applied, as ImageJ and QuPath do not apply it either.
* Transparency is dropped, a palette becomes the colours it stands for, CMYK becomes RGB without its colour profile, one
  bit becomes 0 and 255, and where a TIFF says that 0 is white, values are inverted.
* Values that are no finite number become the least finite one.
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from nuclei.data.axes import Layout, Picture, Read, View, choose, make_finite, name_choice
from nuclei.data.flat_images import measure_flat, read_flat
from nuclei.data.tiff import count_tiff_series, is_tiff, open_tiff_series
from nuclei.data.vendor import VENDOR_SUFFIXES, count_scenes, is_vendor, open_scene
from nuclei.data.zarr_image import count_zarr, is_zarr, open_zarr_image
from nuclei.errors import UserError
from nuclei.limits import check_kind

SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff", ".btf", ".tf2", ".tf8", ".lsm"),
    *VENDOR_SUFFIXES,
)
Result = TypeVar("Result")


@dataclass(frozen=True)
class Reader:
    """Hold how files of a format with axes are told, how many images one holds, and how one of these is opened.

    What opens it yields its layout, and the function that reads it while it is open.
    """

    holds: Callable[[Path], bool]
    count: Callable[[Path, View], int]
    open: Callable[[Path, View, int], AbstractContextManager[tuple[Layout, Read]]]


# The first that holds a file reads it.
READERS = (
    Reader(is_zarr, count_zarr, open_zarr_image),
    Reader(is_vendor, count_scenes, open_scene),
    Reader(is_tiff, count_tiff_series, open_tiff_series),
)


def list_series(path: Path, view: View) -> list[int]:
    """Return the numbers of the images of a file that are wanted: all, or view.series; [0] of a file with one.

    Only headers are read. Raises UserError naming the file and how many it has where there is no such one, and where
    a TIFF has several that its metadata do not tell apart.
    """
    reader = find_reader(path)
    count = guard(path, lambda: reader.count(path, view)) if reader else 1
    if view.series is None:
        return list(range(count))
    if not 0 <= view.series < count:
        images = "1 image" if count == 1 else f"{count} images"
        raise UserError(f"{path}: it holds {images}, and no series {view.series}: choose --series 0..{count - 1}")
    return [view.series]


def count_times(path: Path, view: View, series: int = 0) -> int:
    """Return how many pictures an image of a file holds: its time points, 1 without any.

    Only headers are read. Raises UserError naming the file, its axes and the option that resolves what is ambiguous.
    """
    reader = find_reader(path)
    return guard(path, lambda: _count_times(reader, path, view, series)) if reader else 1


def measure_size(path: Path, view: View, series: int = 0) -> tuple[int, int]:
    """Return the height and width of an image of a file, by its headers; raise UserError as count_times does."""
    reader = find_reader(path)

    def measure() -> tuple[int, int]:
        if not reader:
            return measure_flat(path)
        with reader.open(path, view, series) as (layout, _):
            return layout.sizes["Y"], layout.sizes["X"]

    return guard(path, measure)


def read_picture(path: Path, view: View, time: int = 0, series: int = 0) -> Picture:
    """Read one picture of a file by the rules of this module: a time point of one of its images.

    Raises UserError naming the file, the fault and the fix.
    """
    reader = find_reader(path)
    return guard(path, lambda: _read_stack(reader, path, view, time, series) if reader else _read_flat(path, view))


def guard(path: Path, work: Callable[[], Result]) -> Result:
    """Call `work`; whatever goes wrong in a damaged file becomes a UserError that names it."""
    try:
        return work()
    except FileNotFoundError:
        raise
    except Exception as error:  # readers of damaged files raise anything
        text = str(error).strip("'\"") or type(error).__name__
        if not isinstance(error, (ValueError, OSError, MemoryError)):  # of a reader, whose words say little
            text = f"it is damaged, or of a kind that is not known ({type(error).__name__}: {text})"
        if "imagecodecs" in text:
            text = f"{text}: pip install imagecodecs, or save it uncompressed"
        raise UserError(text if text.startswith(str(path)) else f"{path} cannot be read: {text}") from error


def find_reader(path: Path) -> Reader | None:
    """Return the reader of a file that has axes of its own; None of a picture without any.

    Raises UserError as check_kind does.
    """
    check_kind(path)
    return next((reader for reader in READERS if reader.holds(path)), None)


def _read_flat(path: Path, view: View) -> Picture:
    pixels = read_flat(path)
    layout = Layout("YXS"[: pixels.ndim], pixels.shape)
    choose(layout, replace(view, channel=None) if pixels.ndim == 3 else view, 0)
    return _finish(pixels, layout, view)


def _count_times(reader: Reader, path: Path, view: View, series: int) -> int:
    with reader.open(path, view, series) as (layout, _):
        choose(layout, view, 0)
        return layout.sizes.get("T", 1)


def _read_stack(reader: Reader, path: Path, view: View, time: int, series: int) -> Picture:
    with reader.open(path, view, series) as (layout, read):
        return _project(layout, read, view, time)


def _project(layout: Layout, read: Read, view: View, time: int) -> Picture:
    """Read what is chosen of the axes T, C and Z, and bring it to a picture."""
    chosen = choose(layout, view, time)
    array, axes = read(chosen)
    if "Z" in axes:
        # Of numbers and NaN, fmax takes the number.
        array, axes = np.fmax.reduce(array, axis=axes.index("Z")), axes.replace("Z", "")
    pixels = np.moveaxis(array, [axes.index(axis) for axis in "YXS" if axis in axes], range(array.ndim))
    return _finish(pixels, layout, view, chosen)


def _finish(pixels: NDArray[Any], layout: Layout, view: View, chosen: Mapping[str, list[int]] | None = None) -> Picture:
    """Make a Picture of pixels [H, W] or [H, W, 3]: of its colours one where a channel is wanted, and finite values."""
    colour, channel, plane = name_choice(layout, view, chosen or {}, pixels.ndim == 3)
    pixels, notes = make_finite(pixels if colour is None else pixels[..., colour])
    return Picture(np.ascontiguousarray(pixels), str(layout), channel, plane, layout.pixel_size_um, notes)
