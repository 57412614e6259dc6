"""TIFF in all its forms: BigTIFF, OME-TIFF, ImageJ hyperstacks, compressed, tiled, palettes and CMYK."""

import logging
import math
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image
from tifffile import PHOTOMETRIC, TiffFile, TiffPageSeries

from nuclei.data.axes import AXES, UM_OF_UNIT, Layout, Read, View, check_size, check_slide, check_values
from nuclei.errors import UserError

# Little and big endian, of classic and of BigTIFF.
TIFF_SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
MAX_PLANES = 1 << 20  # of an image: what OME-XML claims beyond it is damage
# TIFF says how a picture is to be printed, too: 300 dpi are 85 µm, which is no pixel of a microscope.
MAX_PIXEL_UM = 10.0
# What tifffile logs, and then reads on with fewer planes or without their meaning: pages, the tags of a picture, and
# ImageJ's, that lie beyond the file's end; planes that the metadata promise and the file does not hold.
DAMAGE = re.compile(
    r"invalid page offset|TiffTag (2\d\d|3\d\d|5083[89]) .*(invalid value offset|raised)|corrupted|MMStack.*missing"
)


def is_tiff(path: Path) -> bool:
    """Return whether a file is a TIFF, by its first bytes."""
    if path.is_dir():
        return False
    with path.open("rb") as file:
        return file.read(4) in TIFF_SIGNATURES


def count_tiff_series(path: Path, view: View) -> int:
    """Return how many images a TIFF holds; raise UserError if none, or several that nothing tells apart."""
    with open_tiff(path) as tiff:
        count = len(tiff.series)
        if not count:
            raise UserError("it holds no image: it is damaged, or was cut short")
        if count > 1 and not tiff.is_ome and view.series is None:
            shapes = "; ".join(f"{one.axes} {' x '.join(map(str, one.shape))}" for one in tiff.series)
            raise UserError(f"it holds {count} images ({shapes}): choose one by --series 0..{count - 1}")
        return count


@contextmanager
def open_tiff_series(path: Path, view: View, series: int) -> Iterator[tuple[Layout, Read]]:
    """Yield the layout of an image of a TIFF, and the function that reads it while the file is open."""
    with open_tiff(path) as tiff:
        yield layout_of_tiff(tiff, view, series)


@contextmanager
def open_tiff(path: Path) -> Iterator[TiffFile]:
    """Open a TIFF; raise UserError if its metadata claim more planes than any file has, of which lists would be made.

    Raises what tifffile raises of damage, which may be anything.
    """
    with _collect_complaints() as complaints, TiffFile(path) as tiff:
        text = tiff.pages.first.description if len(tiff.pages) else ""
        for pixels in re.findall(r"<(?:\w+:)?Pixels\b[^>]*", text):
            sizes = re.findall(r"\bSize[CZT]\s*=\s*[\"']\s*\+?([0-9]+)", pixels)
            if max(map(len, sizes), default=0) > 9 or math.prod(map(int, sizes)) > MAX_PLANES:
                raise UserError(f"its OME-XML claims {' x '.join(one[:20] for one in sizes)} planes: save it again")
        _check_other_files(path, text)
        tiff.series  # noqa: B018 (looks at all pages)
        if damage := [complaint for complaint in complaints if DAMAGE.search(complaint)]:
            fault = re.sub(r"^(<.*?>|raised|[^\w<]+)+", "", damage[0])
            raise UserError(f"it is damaged or cut short ({fault[:80]}): copy or export it again")
        yield tiff


@contextmanager
def _collect_complaints() -> Iterator[list[str]]:
    """Collect what tifffile logs in this thread while the block lasts, instead of having it printed."""
    logger, complaints, thread = tifffile.logger(), list[str](), threading.get_ident()

    def keep(record: logging.LogRecord) -> bool:
        if record.thread == thread:
            complaints.append(record.getMessage())
        return record.thread != thread

    logger.addFilter(keep)
    try:
        yield complaints
    finally:
        logger.removeFilter(keep)


def _check_other_files(path: Path, text: str) -> None:
    """Raise UserError if OME-XML has planes in another file that does not lie beside this one.

    tifffile opens whatever path it names, and takes a file that is missing for planes of zeros.
    """
    root = re.search(r"<(?:\w+:)?OME\b[^>]*?\bUUID\s*=\s*[\"']([^\"']*)", text)
    own = root[1] if root else None
    for name, uuid in re.findall(r"<(?:\w+:)?UUID\b[^>]*?FileName\s*=\s*[\"']([^\"']*)[\"'][^>]*>([^<]*)", text):
        is_own = uuid == own if own is not None else name.lower() == path.name.lower()
        if not is_own and (re.search(r"[/\\]", name) or not (path.parent / name).is_file()):
            raise UserError(
                f"its OME-XML has planes in {name[:80]!r}, no file beside it: put it there, or save one file"
            )


def layout_of_tiff(tiff: TiffFile, view: View, number: int) -> tuple[Layout, Read]:
    """Return the layout of an image of a TIFF, and the function that reads it while the file is open."""
    series = tiff.series[number]
    if tiff.is_ome and (lacking := sum(page is None for page in series)):
        raise UserError(f"it lacks {lacking} of the {len(series)} planes that its OME-XML claims: export it again")
    axes = _name_axes(series, view)
    sizes = dict(zip(axes, series.shape, strict=True))
    check_slide(sizes["Y"], sizes["X"])
    ome = _read_ome(tiff, number)
    names = tuple(str(channel.get("Name", "")) for channel in _as_list(ome.get("Channel", [])))
    names = names if len(names) == sizes.get("C", 1) else ()
    shown = [i for i, axis in enumerate(axes) if not (axis == "S" and _is_gray(series))]
    layout = Layout(
        "".join(axes[i] for i in shown),
        tuple(series.shape[i] for i in shown),
        names,
        _read_pixel_size(tiff, series, ome),
    )
    return layout, lambda chosen: _read_series(tiff, number, axes, chosen)


def _is_gray(series: TiffPageSeries) -> bool:
    """Return whether samples of a pixel are a gray value and its transparency."""
    page = series.keyframe
    alpha = page.samplesperpixel == 2 and len(page.extrasamples) == 1 and page.extrasamples[0] != 0
    return bool(alpha and page.photometric in (PHOTOMETRIC.MINISBLACK, PHOTOMETRIC.MINISWHITE))


def _name_axes(series: TiffPageSeries, view: View) -> str:
    """Return the axes of a series, S only for colours, and an axis without a name as what the view says that it is."""
    axes, page = series.axes, series.keyframe
    colour = page.photometric in (PHOTOMETRIC.RGB, PHOTOMETRIC.YCBCR, PHOTOMETRIC.SEPARATED)
    if "S" in axes and not (colour and page.samplesperpixel in (3, 4)) and not _is_gray(series) and "C" not in axes:
        axes = axes.replace("S", "C")
    unknown = [axis for axis in axes if axis not in AXES]
    if len(unknown) == 1 and unknown[0] in "IQ":
        if view.plane is not None and "Z" not in axes:
            return axes.replace(unknown[0], "Z")
        if view.channel is not None and "C" not in axes:
            return axes.replace(unknown[0], "C")
    return axes


def _read_series(tiff: TiffFile, number: int, axes: str, chosen: Mapping[str, list[int]]) -> tuple[NDArray[Any], str]:
    """Read what is chosen of a series, of many pages only those that are needed, and drop T and C."""
    series = tiff.series[number]
    check_size(*(series.shape[axes.index(axis)] for axis in "YX"))
    page_shape = tuple(series.keyframe.shape)
    n_leading = len(axes) - len(page_shape)
    leading = tuple(series.shape[:n_leading])
    whole = [list(range(size)) for size in series.shape]
    wanted = [chosen.get(axis, everything) for axis, everything in zip(axes, whole, strict=True)]
    if n_leading > 0 and series.shape[n_leading:] == page_shape and len(series.pages) == math.prod(leading):
        check_values(math.prod(map(len, wanted[:n_leading])) * math.prod(page_shape))
        pages = np.ravel_multi_index(np.ix_(*wanted[:n_leading]), leading).ravel().tolist()
        array = tiff.asarray(key=pages, series=number).reshape(*map(len, wanted[:n_leading]), *page_shape)
        wanted[:n_leading] = [list(range(len(one))) for one in wanted[:n_leading]]
    else:
        check_values(math.prod(series.shape))
        array = series.asarray()
    for i, numbers in enumerate(wanted):
        if len(numbers) < array.shape[i]:
            array = array.take(numbers, axis=i)
    for axis in "TC":
        if axis in axes:
            array, axes = array.take(0, axis=axes.index(axis)), axes.replace(axis, "")
    return to_colours(series, array, axes)


def to_colours(series: TiffPageSeries, array: NDArray[Any], axes: str) -> tuple[NDArray[Any], str]:
    """Bring the values of a TIFF to gray, or to RGB along a last axis S."""
    page = series.keyframe
    if array.dtype == bool:
        array = array.astype(np.uint8) * np.uint8(255)
    if page.photometric == PHOTOMETRIC.PALETTE and page.colormap is not None:
        return (page.colormap >> 8).astype(np.uint8).T[array], axes + "S"
    if page.photometric == PHOTOMETRIC.MINISWHITE and array.dtype.kind == "u":
        array = np.iinfo(array.dtype).max - array
    if "S" not in axes:
        return array, axes
    array, axes = np.moveaxis(array, axes.index("S"), -1), axes.replace("S", "") + "S"
    if _is_gray(series):
        return array[..., 0], axes[:-1]
    if page.photometric != PHOTOMETRIC.SEPARATED:
        return array[..., :3], axes
    if array.dtype != np.uint8 or array.shape[-1] != 4 or array.ndim != 3:
        raise UserError("it is CMYK of another kind than one picture of 8 bits: save it as RGB")
    return np.asarray(Image.fromarray(np.ascontiguousarray(array), "CMYK").convert("RGB")), axes


def _read_ome(tiff: TiffFile, number: int) -> dict[str, Any]:
    """Return what OME-XML says of the pixels of an image; an empty dict without it, or where it lists other images."""
    if not tiff.ome_metadata:
        return {}
    images = _as_list(tifffile.xml2dict(tiff.ome_metadata).get("OME", {}).get("Image", {}))
    if number and len(images) != len(tiff.series):
        return {}
    pixels: dict[str, Any] = images[number].get("Pixels", {})
    return pixels


def _as_list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _read_pixel_size(tiff: TiffFile, series: TiffPageSeries, ome: Mapping[str, Any]) -> float | None:
    """Return the side of a pixel in µm by OME, ImageJ or the resolution; None if unknown or not square."""
    sizes = [_read_ome_size(ome, axis) for axis in "XY"]
    if None in sizes:
        page = series.keyframe
        tags = [page.tags.get(name) for name in ("XResolution", "YResolution")]
        unit_tag = page.tags.get("ResolutionUnit")
        unit = {2: "inch", 3: "cm"}.get(int(unit_tag.value) if unit_tag else 2)
        if tiff.imagej_metadata and tiff.imagej_metadata.get("unit"):
            unit = str(tiff.imagej_metadata["unit"])
        scale = UM_OF_UNIT.get(unit or "")
        if scale is None or None in tags:
            return None
        per_unit = [tag.value[0] / (tag.value[1] or 1) for tag in tags if tag]
        sizes = [scale / value if value else None for value in per_unit]
        if any(size is None or size > MAX_PIXEL_UM for size in sizes):
            return None
    x, y = (float(size or 0) for size in sizes)
    return x if 0 < x < math.inf and math.isclose(x, y, rel_tol=0.01) else None


def _read_ome_size(ome: Mapping[str, Any], axis: str) -> float | None:
    scale = UM_OF_UNIT.get(str(ome.get(f"PhysicalSize{axis}Unit", "µm")))
    size = ome.get(f"PhysicalSize{axis}")
    try:
        return None if size is None or scale is None else float(size) * scale
    except ValueError:  # a word is no size
        return None
