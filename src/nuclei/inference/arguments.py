"""What users give, checked before anything is imported that takes time."""

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from nuclei.errors import UserError

MIN_TILE_PX = 256
Diameter = float | Literal["auto"] | None  # of the nuclei of an image, in its pixels; None: as large as the trained


def check_paths(paths: Iterable[Path], what: str = "image or folder") -> None:
    """Raise UserError naming the first path that does not exist, and what was to be there."""
    for path in paths:
        if not path.exists():
            raise UserError(f"no {what} {path}")


def parse_diameter(text: str | float | None) -> Diameter:
    """Return a diameter that a user gave: a positive number of pixels, 'auto' or None; raise UserError otherwise."""
    if text is None or text == "auto":
        return None if text is None else "auto"
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value > 0):
        raise UserError(
            f"a diameter of {str(text)[:80]!r} is none: give the nuclei's typical diameter in pixels, or auto"
        )
    return value


def check_tile(tile_px: int | None) -> int | None:
    """Return the side of tiles that a user gave, 0 for none, or None; raise UserError if it is no such side."""
    if tile_px is not None and tile_px != 0 and tile_px < MIN_TILE_PX:
        raise UserError(f"a tile of {tile_px} pixels is none: give a side of {MIN_TILE_PX} or more, or 0 for no tiles")
    return tile_px
