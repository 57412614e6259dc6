"""What users give, checked before anything is imported that takes time."""

import math
from collections.abc import Iterable
from numbers import Integral, Real
from pathlib import Path
from typing import Literal

from nuclei.errors import UserError

MIN_TILE_PX = 256
# Of the nuclei of an image, in its pixels; None: the image is taken as it is. The words: slide.choose_diameter.
Diameter = float | Literal["auto", "unlike"] | None


def check_paths(paths: Iterable[Path], what: str = "image or folder") -> None:
    """Raise UserError naming the first path that does not exist, and what was to be there."""
    for path in paths:
        if not path.exists():
            raise UserError(f"no {what} {path}")


def parse_diameter(text: str | float | None) -> Diameter:
    """Return a diameter that a user gave: a positive number of pixels, 'auto', 'unlike', or None for 'none'.

    Raises UserError otherwise.
    """
    match text:
        case None | "none":
            return None
        case "auto" | "unlike":
            return text
    try:
        value = float(text)
    except (ValueError, TypeError):
        value = math.nan
    if not (math.isfinite(value) and value > 0):
        raise UserError(
            f"a diameter of {str(text)[:80]!r} is none: give the nuclei's typical diameter in pixels, auto or none"
        )
    return value


def check_tile(tile_px: int | None) -> int | None:
    """Return the side of tiles that a user gave, 0 for none, or None; raise UserError if it is no such side."""
    if tile_px is not None and not (isinstance(tile_px, Integral) and (tile_px == 0 or tile_px >= MIN_TILE_PX)):
        raise UserError(
            f"a tile of {str(tile_px)[:80]} pixels is none: give a side of {MIN_TILE_PX} or more, or 0 for no tiles"
        )
    return tile_px


def check_pixel_size(pixel_size_um: float | None) -> float | None:
    """Return the side of a pixel in µm that a user gave, or None; raise UserError if it is no positive number."""
    if pixel_size_um is not None and not (
        isinstance(pixel_size_um, Real) and math.isfinite(pixel_size_um) and pixel_size_um > 0
    ):
        raise UserError(f"a pixel of {str(pixel_size_um)[:80]} µm is none: give its side, above 0, or leave it out")
    return pixel_size_um
