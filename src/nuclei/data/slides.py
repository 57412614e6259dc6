"""Images that are too large for memory: brought to a plain file on the disk, of which windows are read.

A TIFF, or level 0 of a pyramid, is unpacked segment by segment (its tiles or strips), an OME-Zarr block by block, so
that memory does not grow with the image; pictures of other files are decoded in one piece, below limits.MAX_PIXELS.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
from numpy.lib.format import open_memmap
from numpy.typing import NDArray
from tifffile import PLANARCONFIG, TiffPageSeries

from nuclei.data.axes import Layout, Picture, View, check_size, choose, name_choice
from nuclei.data.microscope import guard, read_picture
from nuclei.data.tiff import is_tiff, layout_of_tiff, open_tiff, to_colours
from nuclei.data.vendor import is_vendor
from nuclei.data.zarr_image import open_zarr, read_zarr
from nuclei.errors import UserError

BLOCK_PX = 1 << 22  # of an image that is looked through from top to bottom
Window = tuple[slice, slice]


@dataclass(frozen=True)
class Plane:
    """Hold an array of a .npy file, [H, W] or [H, W, 3]: what is read or written of it alone takes memory."""

    path: Path

    @classmethod
    def create(cls, path: Path, shape: tuple[int, ...], dtype: Any) -> "Plane":
        """Make a file of zeros, which takes no space on a disk until it is written to."""
        open_memmap(path, mode="w+", dtype=np.dtype(dtype), shape=shape)
        return cls(path)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the whole array."""
        return tuple(self._open().shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of its values."""
        return self._open().dtype

    def __getitem__(self, window: Window) -> NDArray[Any]:
        return np.array(self._open()[window])

    def __setitem__(self, window: Window, values: NDArray[Any]) -> None:
        # Opened each time: what stays mapped counts as memory of the process.
        self._open("r+")[window] = values

    def _open(self, mode: Any = "r") -> NDArray[Any]:
        array: NDArray[Any] = np.load(self.path, mmap_mode=mode)
        return array

    def bands(self) -> Iterator[slice]:
        """Yield rows, from top to bottom, that have some BLOCK_PX pixels together."""
        height, width = self.shape[:2]
        step = max(1, BLOCK_PX // width)
        for top in range(0, height, step):
            yield slice(top, min(top + step, height))

    def blocks(self) -> Iterator[NDArray[Any]]:
        """Yield the values of all bands."""
        for rows in self.bands():
            yield self[rows, slice(None)]


def unpack(path: Path, view: View, target: Path, time: int = 0, series: int = 0) -> Picture:
    """Write one picture of a file, as read_picture reads it, to a .npy file, and return it; its pixels are empty.

    Raises UserError as read_picture does, and where a segment of it is larger than may be decoded in one piece.
    """
    if path.is_dir():
        return guard(path, lambda: _unpack_zarr(path, view, target, time))
    if is_tiff(path) and not is_vendor(path):
        found = guard(path, lambda: _unpack_tiff(path, view, target, time, series))
        if found is not None:
            return found
    picture = read_picture(path, view, time, series)
    Plane.create(target, picture.pixels.shape, picture.pixels.dtype)[:, :] = picture.pixels
    return replace(picture, pixels=np.empty(0, picture.pixels.dtype))


def _unpack_tiff(path: Path, view: View, target: Path, time: int, number: int) -> Picture | None:
    """Unpack a TIFF segment by segment; None where its segments are no parts of the picture, such as single colours."""
    with open_tiff(path) as tiff:
        layout, _ = layout_of_tiff(tiff, view, number)
        series = tiff.series[number]
        chosen = choose(layout, view, time)
        pages = _list_pages(series, layout, chosen)
        if pages is None:
            return None
        check_size(1, math.prod(series.keyframe.chunks))
        height, width = layout.sizes["Y"], layout.sizes["X"]
        first, *others = pages
        colour, channel, plane = name_choice(layout, view, chosen, "S" in layout.axes)
        pixels: Plane | None = None
        for page in (first, *others):
            for window, block in _list_segments(series, page):
                block = block if colour is None else block[..., colour]
                if pixels is None:
                    shape = (height, width, *block.shape[2:])
                    pixels = Plane.create(target, shape, check_type(block.dtype))
                # Of numbers and NaN, fmax takes the number.
                pixels[window] = block if page is first else np.fmax(pixels[window], block)
        assert pixels is not None, "a page has segments"
        notes = _make_finite(pixels)
        empty = np.empty(0, pixels.dtype)
        return Picture(empty, str(layout), channel, plane, layout.pixel_size_um, notes)


def _unpack_zarr(path: Path, view: View, target: Path, time: int) -> Picture:
    """Unpack an OME-Zarr chunk by chunk."""
    layout, array = open_zarr(path)
    chosen = choose(layout, view, time)
    _, channel, plane = name_choice(layout, view, chosen, False)
    height, width = layout.sizes["Y"], layout.sizes["X"]
    tall, wide = (dict(zip(layout.axes, array.chunks, strict=True))[axis] for axis in "YX")
    pixels = Plane.create(target, (height, width), check_type(array.dtype))
    for top in range(0, height, tall):
        for left in range(0, width, wide):
            window = slice(top, min(top + tall, height)), slice(left, min(left + wide, width))
            pixels[window] = read_zarr(layout, array, chosen, window)
    return Picture(np.empty(0, pixels.dtype), str(layout), channel, plane, layout.pixel_size_um, _make_finite(pixels))


def check_type(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return the type that values are held in; raise UserError on values that are no real numbers."""
    if dtype.kind not in "uif":
        raise UserError(f"its values are of type {dtype}: save it with real numbers")
    return np.dtype(np.float32) if dtype == np.float16 else dtype.newbyteorder("=")


def _list_pages(series: TiffPageSeries, layout: Layout, chosen: dict[str, list[int]]) -> list[Any] | None:
    """Return the pages of what is chosen; None where a page is not one plane, colours of a pixel side by side."""
    page = series.keyframe
    leading = layout.axes[: layout.axes.index("Y")]
    is_plane = layout.axes[len(leading) :] in ("YX", "YXS") and page.axes in ("YX", "YXS")
    sizes = [layout.sizes[axis] for axis in leading]
    if not is_plane or (page.planarconfig == PLANARCONFIG.SEPARATE and page.samplesperpixel > 1):
        return None
    if len(series.pages) != math.prod(sizes) or any(one is None for one in series.pages):
        return None
    numbers = np.ravel_multi_index(np.ix_(*(chosen[axis] for axis in leading)), sizes).ravel() if leading else [0]
    return [series.pages[int(number)] for number in numbers]


def _list_segments(series: TiffPageSeries, page: Any) -> Iterator[tuple[Window, NDArray[Any]]]:
    """Yield the tiles or strips of a page, [h, w] gray or [h, w, 3] RGB, and where they lie."""
    first = series.keyframe  # the others hold no more than where their segments lie
    has_samples = first.axes == "YXS"
    for data, (_, _, top, left, _), shape in page.segments(maxworkers=1):
        # Tiles go on beyond the frame.
        height, width = min(shape[1], first.imagelength - top), min(shape[2], first.imagewidth - left)
        window = slice(top, top + height), slice(left, left + width)
        if data is None:  # one that was not written is empty
            data = np.full((1, height, width, first.samplesperpixel), first.nodata, first.dtype)
        block = data[0, :height, :width] if has_samples else data[0, :height, :width, 0]
        block, _ = to_colours(series, block, "YXS"[: block.ndim])
        yield window, block


def _make_finite(pixels: Plane) -> tuple[str, ...]:
    """Do what microscope.make_finite does, band by band."""
    if pixels.dtype.kind != "f":
        return ()
    least, count, size = math.inf, 0, 0
    for block in pixels.blocks():
        finite = np.isfinite(block)
        least = min(least, float(block[finite].min(initial=np.inf)))
        count, size = count + int(block.size - finite.sum()), size + block.size
    if count == size:
        raise UserError("none of its values is a finite number: export it again")
    if not count:
        return ()
    for rows in pixels.bands():
        block = pixels[rows, slice(None)]
        pixels[rows, slice(None)] = np.where(np.isfinite(block), block, block.dtype.type(least))
    return (f"{count} values that are no finite number",)


class Windows(Protocol):
    """Stand for an image of which windows alone are read, [H, W] or [H, W, 3]."""

    def __getitem__(self, window: Window, /) -> NDArray[Any]: ...


def shrink_plane(
    pixels: Windows, shape: tuple[int, ...], longer_px: int, convert: Callable[[NDArray[Any]], NDArray[np.uint8]]
) -> NDArray[np.uint8]:
    """Return an overview of an image of this shape, uint8 [h, w, 3], its longer side `longer_px` at most.

    Its pixels are the means of whole squares. convert: brings pixels to uint8 [H, W, 3].
    """
    height, width = shape[:2]
    step = max(1, -(-max(height, width) // longer_px))
    rows = []
    tall = step * max(1, BLOCK_PX // width // step)
    for top in range(0, height, tall):
        band = convert(pixels[slice(top, min(top + tall, height)), slice(None)])
        size = -(-width // step), -(-band.shape[0] // step)
        rows.append(np.asarray(cv2.resize(band, size, interpolation=cv2.INTER_AREA), np.uint8))
    return np.concatenate(rows)


def sample_plane(labels: Plane, step: int) -> NDArray[Any]:
    """Return every `step`-th pixel of every `step`-th row."""
    return np.concatenate([block[::step, ::step] for block in _bands_of(labels, step)])


def _bands_of(plane: Plane, step: int) -> Iterable[NDArray[Any]]:
    height, width = plane.shape[:2]
    tall = step * max(1, BLOCK_PX // width // step)
    for top in range(0, height, tall):
        yield plane[slice(top, min(top + tall, height)), slice(None)]
