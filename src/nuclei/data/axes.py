"""The axes of a file, which picture is wanted of it, and what is chosen along each axis."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nuclei.errors import UserError
from nuclei.limits import MAX_PIXELS, MAX_SLIDE_PIXELS, MAX_VALUES

SHOWN_CHANNELS = 20
PROJECTION = "max"
AXES = {"T": "time points", "C": "channels", "Z": "planes", "Y": "height", "X": "width", "S": "colours"}
COLOURS = ("red", "green", "blue")
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


# From the numbers chosen along the axes T, C and Z to the array and its axes, in which T and C are gone.
Read = Callable[[Mapping[str, list[int]]], tuple[NDArray[Any], str]]


def check_size(height: int, width: int) -> None:
    """Raise UserError if an image has more pixels than may be decoded in one piece."""
    fix = "save it as a tiled TIFF, which is read piece by piece, or raise NUCLEI_MAX_PIXELS"
    _check_pixels(height, width, MAX_PIXELS, fix)


def check_slide(height: int, width: int) -> None:
    """Raise UserError if an image that is read piece by piece has more pixels than may be segmented."""
    _check_pixels(height, width, MAX_SLIDE_PIXELS, "raise NUCLEI_MAX_SLIDE_PIXELS, or cut it")


def _check_pixels(height: int, width: int, most: int, fix: str) -> None:
    if height * width > most:
        raise UserError(f"{width:,} x {height:,} pixels, more than {most:,}: {fix}")


def check_values(count: int) -> None:
    """Raise UserError if a stack that is read whole to be projected does not fit into memory."""
    if count > MAX_VALUES:
        raise UserError(f"{count:,} values are to be read, more than {MAX_VALUES:,}: choose a plane by --plane")


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
