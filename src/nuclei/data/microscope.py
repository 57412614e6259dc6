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

import importlib
import io
import math
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any, TypeVar

import cv2
import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image
from PIL.BmpImagePlugin import BmpImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.WebPImagePlugin import WebPImageFile
from tifffile import PHOTOMETRIC, TiffFile, TiffPageSeries

from nuclei.data.images import PNG_SIGNATURE
from nuclei.errors import UserError
from nuclei.limits import MAX_PIXELS, MAX_SLIDE_PIXELS, MAX_VALUES, check_file

VENDOR_SUFFIXES = (".czi", ".nd2", ".lif")
SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff", ".btf", ".tf2", ".tf8", ".lsm"),
    *VENDOR_SUFFIXES,
)
READER_EXTRA = "microscopes"
ZARR, ZARR_EXTRA = ".zarr", "zarr"
# Little and big endian, of classic and of BigTIFF.
TIFF_SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
MAX_PLANES = 1 << 20  # of an image: what OME-XML claims beyond it is damage
SHOWN_CHANNELS = 20
# By the first bytes: what Pillow reads here.
OPENERS: dict[bytes, Callable[[IO[bytes]], Image.Image]] = {
    b"\xff\xd8": JpegImageFile,
    b"BM": BmpImageFile,
    b"RIFF": WebPImageFile,
}
PROJECTION = "max"
AXES = {"T": "time points", "C": "channels", "Z": "planes", "Y": "height", "X": "width", "S": "colours"}
COLOURS = ("red", "green", "blue")
# TIFF says how a picture is to be printed, too: 300 dpi are 85 µm, which is no pixel of a microscope.
MAX_PIXEL_UM = 10.0
UM_OF_UNIT = {
    # Both letters µ occur.
    **dict.fromkeys(("µm", "μm", "um", "micron", "microns", "micrometer", "micrometre", "\\u00B5m"), 1.0),
    **{"nm": 1e-3, "mm": 1e3, "cm": 1e4, "m": 1e6, "inch": 25400.0},
}


@dataclass(frozen=True)
class View:
    """Say which picture is wanted of a file with several channels or planes."""

    channel: str | None = None  # its name, or its number from 0
    plane: str | None = None  # its number from 0, or PROJECTION, which a z-stack gets by default
    series: int | None = None  # number from 0 of the one image that is wanted of a file with several; None: all


@dataclass(frozen=True)
class Picture:
    """Hold one picture of a file, gray [H, W] or RGB [H, W, 3], in the values of the file, and where it comes from."""

    pixels: NDArray[Any]
    axes: str  # of the whole file, such as "CYX 3 x 128 x 128"
    channel: str = ""  # number and name; empty where there is only one
    plane: str = ""
    pixel_size_um: float | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Layout:
    """Hold the axes of a file, keys of AXES or unknown letters, with their sizes, and what is known of them."""

    axes: str
    shape: tuple[int, ...]
    channels: tuple[str, ...] = ()  # names, as many as there are channels, or none
    pixel_size_um: float | None = None

    @property
    def sizes(self) -> dict[str, int]:
        """The size of each axis."""
        return dict(zip(self.axes, self.shape, strict=True))

    def __str__(self) -> str:
        return f"{self.axes} {' x '.join(map(str, self.shape))}"


Result = TypeVar("Result")
# From the numbers chosen along the axes T, C and Z to the array and its axes, in which T and C are gone.
Read = Callable[[Mapping[str, list[int]]], tuple[NDArray[Any], str]]


def list_series(path: Path, view: View) -> list[int]:
    """Return the numbers of the images of a file that are wanted: all, or view.series; [0] of a file with one.

    Only headers are read. Raises UserError naming the file and how many it has where there is no such one, and where
    a TIFF has several that its metadata do not tell apart.
    """
    count = guard(path, lambda: _count_series(path, view)) if has_axes(path) else 1
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
    if not has_axes(path):
        return 1
    return guard(path, lambda: _count_times(path, view, series))


def measure_size(path: Path, view: View, series: int = 0) -> tuple[int, int]:
    """Return the height and width of an image of a file, by its headers; raise UserError as count_times does."""

    def measure() -> tuple[int, int]:
        if not has_axes(path):
            return _measure_flat(path)
        with _open(path, view, series) as (layout, _):
            return layout.sizes["Y"], layout.sizes["X"]

    return guard(path, measure)


def read_picture(path: Path, view: View, time: int = 0, series: int = 0) -> Picture:
    """Read one picture of a file by the rules of this module: a time point of one of its images.

    Raises UserError naming the file, the fault and the fix.
    """
    return guard(path, lambda: _read_stack(path, view, time, series) if has_axes(path) else _read_flat(path, view))


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


def has_axes(path: Path) -> bool:
    """Return whether a file has axes of its own: a TIFF, an OME-Zarr, or a file of a vendor."""
    if path.is_dir():
        return path.suffix.lower() == ZARR
    with path.open("rb") as file:
        return file.read(4) in TIFF_SIGNATURES or path.suffix.lower() in VENDOR_SUFFIXES


def check_size(height: int, width: int, most: int | None = None) -> None:
    """Raise UserError if an image has more pixels than `most`; None: than may be decoded in one piece."""
    fix = "raise NUCLEI_MAX_SLIDE_PIXELS, or cut it"
    if most is None:
        most, fix = MAX_PIXELS, "save it as a tiled TIFF, which is read piece by piece, or raise NUCLEI_MAX_PIXELS"
    if height * width > most:
        raise UserError(f"{width:,} x {height:,} pixels, more than {most:,}: {fix}")


def _check_values(count: int) -> None:
    """Refuse a stack that is read whole to be projected, and does not fit into memory."""
    if count > MAX_VALUES:
        raise UserError(f"{count:,} values are to be read, more than {MAX_VALUES:,}: choose a plane by --plane")


# ---- Pictures without axes ----


def _read_flat(path: Path, view: View) -> Picture:
    check_file(path)
    data = path.read_bytes()
    pixels = _decode_png(data) if data.startswith(PNG_SIGNATURE) else _decode_by_pillow(data)
    layout = Layout("YXS"[: pixels.ndim], pixels.shape)
    choose(layout, replace(view, channel=None) if pixels.ndim == 3 else view, 0)
    return _finish(pixels, layout, view)


def _measure_flat(path: Path) -> tuple[int, int]:
    with path.open("rb") as file:
        head = file.read(24)
        if head.startswith(PNG_SIGNATURE):
            return int.from_bytes(head[20:24], "big"), int.from_bytes(head[16:20], "big")
        file.seek(0)
        image = _open_by_pillow(file)
        return image.height, image.width


def _decode_png(data: bytes) -> NDArray[Any]:
    """Decode by OpenCV, as Pillow has no colours of 16 bits."""
    check_size(*(int.from_bytes(data[start : start + 4], "big") for start in (20, 16)))
    control = data.find(b"acTL", 0, data.find(b"IDAT"))  # which has the number of frames
    if control > 0 and int.from_bytes(data[control + 4 : control + 8], "big") > 1:
        raise UserError("it is an animation: save the picture that is wanted by itself")
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None:
        raise UserError("it is a broken PNG (cut short or damaged): copy or export it again")
    if pixels.ndim == 2:
        return pixels
    return pixels[..., 2::-1]  # BGR, and perhaps transparency, to RGB


def _decode_by_pillow(data: bytes) -> NDArray[Any]:
    """Decode by Pillow, which refuses what is cut short, where OpenCV fills it with gray."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        image = _open_by_pillow(io.BytesIO(data))
        check_size(image.height, image.width)
        if getattr(image, "n_frames", 1) > 1:
            raise UserError("it is an animation: save the picture that is wanted by itself")
        return np.asarray(image.convert("L" if image.mode in ("1", "L") else "RGB"))


def _open_by_pillow(file: IO[bytes]) -> Image.Image:
    """Return an image of which the header alone has been read."""
    start = file.read(4)
    file.seek(0)
    # Image.open has a limit of its own, below ours.
    opener = next((opener for mark, opener in OPENERS.items() if start.startswith(mark)), None)
    try:
        if opener is None:
            raise SyntaxError
        return opener(file)
    except SyntaxError:  # of which Pillow's readers make that bytes are none of theirs
        raise UserError("it is no image of a known format: save it as TIFF or PNG") from None


# ---- Files with axes ----


def _count_series(path: Path, view: View) -> int:
    if path.suffix.lower() in VENDOR_SUFFIXES:
        return len(_load_vendor(path).scenes)
    if path.is_dir():
        return 1
    with open_tiff(path) as tiff:
        count = len(tiff.series)
        if not count:
            raise UserError("it holds no image: it is damaged, or was cut short")
        if count > 1 and not tiff.is_ome and view.series is None:
            shapes = "; ".join(f"{one.axes} {' x '.join(map(str, one.shape))}" for one in tiff.series)
            raise UserError(f"it holds {count} images ({shapes}): choose one by --series 0..{count - 1}")
        return count


def _count_times(path: Path, view: View, series: int) -> int:
    with _open(path, view, series) as (layout, _):
        choose(layout, view, 0)
        return layout.sizes.get("T", 1)


def _read_stack(path: Path, view: View, time: int, series: int) -> Picture:
    with _open(path, view, series) as (layout, read):
        return _project(layout, read, view, time)


@contextmanager
def _open(path: Path, view: View, series: int) -> Iterator[tuple[Layout, Read]]:
    """Yield the layout of an image of a file, and the function that reads it while the file is open."""
    if path.suffix.lower() in VENDOR_SUFFIXES:
        yield open_vendor(path, series)
    elif path.is_dir():
        layout, array = open_zarr(path)
        whole = slice(0, layout.sizes["Y"]), slice(0, layout.sizes["X"])
        yield layout, lambda chosen: _read_whole(layout, array, chosen, whole)
    else:
        with open_tiff(path) as tiff:
            yield layout_of_tiff(tiff, view, series)


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


def name_choice(
    layout: Layout, view: View, chosen: Mapping[str, list[int]], has_colours: bool
) -> tuple[int | None, str, str]:
    """Return the number of the one colour that is wanted, None of all, and the names of channel and plane."""
    colour, channel, plane = None, "", ""
    if has_colours and view.channel is not None:
        colour = _find_channel(view.channel, COLOURS, 3)
        channel = f"{colour} {COLOURS[colour]}"
    elif "C" in chosen:
        number = chosen["C"][0]
        channel = " ".join([str(number), *layout.channels[number : number + 1]]).strip()
    if "Z" in chosen:
        plane = str(chosen["Z"][0]) if len(chosen["Z"]) == 1 else f"{PROJECTION} of {len(chosen['Z'])}"
    return colour, channel, plane


def make_finite(pixels: NDArray[Any]) -> tuple[NDArray[Any], tuple[str, ...]]:
    """Replace values that are no finite number by the least finite one, and note how many they were.

    Raises UserError if none is finite, and on values that are no real numbers.
    """
    if pixels.dtype.kind not in "uif":
        raise UserError(f"its values are of type {pixels.dtype}: save it with real numbers")
    if pixels.dtype.kind == "f":  # of types that not all of what follows computes with, the nearest that it does
        pixels = pixels.astype(np.float32 if pixels.dtype.itemsize < 8 else np.float64, copy=False)
    else:
        pixels = pixels.astype(pixels.dtype.newbyteorder("="), copy=False)
    finite = np.isfinite(pixels)
    if finite.all():
        return pixels, ()
    if not finite.any():
        raise UserError("none of its values is a finite number: export it again")
    count = int(pixels.size - finite.sum())
    return np.where(finite, pixels, pixels[finite].min()), (f"{count} values that are no finite number",)


def choose(layout: Layout, view: View, time: int) -> dict[str, list[int]]:
    """Return the numbers wanted along T, C and Z, those of them that a file has; refuse what is ambiguous."""
    sizes = layout.sizes
    unknown = [axis for axis in layout.axes if axis not in AXES]
    if unknown:
        raise UserError(
            f"it has axes {layout}, and does not say what {', '.join(unknown)} is: give --plane {PROJECTION} (or a "
            "number) if it is a z-stack, --channel if these are channels, or save it as OME-TIFF"
        )
    if not ("C" in sizes or "S" in sizes) and view.channel is not None:
        _find_channel(view.channel, layout.channels, 1)
    chosen = {"T": [time]} if "T" in sizes else {}
    if "C" in sizes:
        if view.channel is None and sizes["C"] > 1:
            raise UserError(
                f"it has axes {layout}, {sizes['C']} channels: choose the one with the nuclei by --channel, "
                f"one of {_list_channels(layout.channels, sizes['C'])}"
            )
        chosen["C"] = [0 if view.channel is None else _find_channel(view.channel, layout.channels, sizes["C"])]
    n_planes = sizes.get("Z", 1)
    if view.plane in (None, PROJECTION):
        planes = list(range(n_planes))
    elif (number := _parse_number(view.plane or "")) is not None and number < n_planes:
        planes = [number]
    else:
        wanted = str(view.plane)[:80]
        raise UserError(
            f"it has axes {layout}, and no plane {wanted}: choose --plane {PROJECTION} or 0..{n_planes - 1}"
        )
    return chosen | ({"Z": planes} if "Z" in sizes else {})


def _parse_number(text: str) -> int | None:
    """Return the whole number from 0 that a text is, None if it is none, or longer than any number of planes."""
    return int(text) if re.fullmatch("[0-9]{1,9}", text) else None


def _find_channel(wanted: str, names: tuple[str, ...], count: int) -> int:
    """Return the number of a channel that is given by its name, in any case, or by its number from 0."""
    numbers = [number for number, name in enumerate(names) if name.casefold() == wanted.strip().casefold()]
    if len(numbers) == 1:
        return numbers[0]
    if not numbers and (number := _parse_number(wanted.strip())) is not None and number < count:
        return number
    problem = "several channels are" if numbers else "no channel is"
    raise UserError(f"{problem} called {wanted[:80]!r}: choose one of {_list_channels(names, count)} by --channel")


def _list_channels(names: tuple[str, ...], count: int) -> str:
    first = range(min(count, SHOWN_CHANNELS))
    shown = [f"{i} ({names[i]})" if i < len(names) and names[i] else str(i) for i in first]
    return ", ".join(shown) + (f" … {count - 1}" if count > SHOWN_CHANNELS else "")


# ---- TIFF ----


@contextmanager
def open_tiff(path: Path) -> Iterator[TiffFile]:
    """Open a TIFF; raise UserError if its metadata claim more planes than any file has, of which lists would be made.

    Raises what tifffile raises of damage, which may be anything.
    """
    with TiffFile(path) as tiff:
        text = tiff.pages.first.description if len(tiff.pages) else ""
        for pixels in re.findall(r"<(?:\w+:)?Pixels\b[^>]*", text):
            sizes = re.findall(r"\bSize[CZT]\s*=\s*[\"']\s*\+?([0-9]+)", pixels)
            if max(map(len, sizes), default=0) > 9 or math.prod(map(int, sizes)) > MAX_PLANES:
                raise UserError(f"its OME-XML claims {' x '.join(one[:20] for one in sizes)} planes: save it again")
        _check_other_files(path, text)
        yield tiff


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
    check_size(sizes["Y"], sizes["X"], MAX_SLIDE_PIXELS)
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
        _check_values(math.prod(map(len, wanted[:n_leading])) * math.prod(page_shape))
        pages = np.ravel_multi_index(np.ix_(*wanted[:n_leading]), leading).ravel().tolist()
        array = tiff.asarray(key=pages, series=number).reshape(*map(len, wanted[:n_leading]), *page_shape)
        wanted[:n_leading] = [list(range(len(one))) for one in wanted[:n_leading]]
    else:
        _check_values(math.prod(series.shape))
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


# ---- OME-Zarr ----


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
    check_size(layout.sizes["Y"], layout.sizes["X"], MAX_SLIDE_PIXELS)
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


# ---- Files of vendors ----


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
        _check_values(math.prod(layout.sizes[axis] for axis in rest if axis != "Z") * len(chosen.get("Z", [0])))
        return np.asarray(image.get_image_data(rest, **picked)), rest

    return layout, read
