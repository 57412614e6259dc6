"""The nuclei of an image that is segmented tile by tile: what all tiles have in common, and what each of them gives.

What depends on the whole image is found once, before the first tile, and is the same for all: the rule that brings its
values to 8 bits, from all of them; novelty and estimated diameter, from its middle, as of any image; what features, or
a recipe without networks, say of the whole, from SAMPLES_PER_AXIS² windows that are spread evenly over it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from nuclei.data.normalisation import Rule
from nuclei.data.novelty import UNLIKE
from nuclei.data.statistics import find_middle
from nuclei.errors import UserError
from nuclei.inference.arguments import Diameter
from nuclei.inference.measures import measure_nuclei
from nuclei.inference.predictor import Predictor, Survey
from nuclei.inference.scale import SAMPLE_PX, estimate_diameter, measure_cover, resize, segment_at
from nuclei.inference.tiles import (
    ALIGN_PX,
    MARGIN_PX,
    TILE_PX,
    TILED_ABOVE_PX,
    Nuclei,
    Placed,
    Plane,
    Tile,
    Window,
    cut_tiles,
    pick_nuclei,
    spread_windows,
    stitch,
)

SAMPLES_PER_AXIS, WINDOW_PX = 3, 1024
# Diameters, in trained ones, between which networks do as well on an image as it is: they learn a range of sizes.
KNOWN = 0.5, 4.0
MORE = 1.2  # times what nuclei cover of an image as it is, each counted by its predicted IoU


@dataclass(frozen=True)
class Slide:
    """Hold an image of which windows alone are looked at, and what is the same for all of them."""

    pixels: Plane  # [H, W] or [H, W, 3], values of the file
    shape: tuple[int, int]
    rule: Rule
    diameter: float | None  # of its nuclei, in its pixels; None: the image is taken as it is
    factor: float  # by which it is resized to the networks' size
    novelty: float | None
    survey: Survey

    def look(self, window: Window) -> NDArray[np.uint8]:
        """Return what the networks see of a window, uint8 [h, w, 3]."""
        return self.rule(self.pixels[window])

    def tiles(self, tile_px: int) -> list[Tile]:
        """Return its tiles; their side, and their margin, are of the resized image."""
        side, align, margin = (max(1, round(n / self.factor)) for n in (tile_px, ALIGN_PX, MARGIN_PX))
        return cut_tiles(self.shape, side, margin, align if align <= side else 1)


class Measured(NamedTuple):
    """Hold the nuclei of a tile that are its own, and a table of them."""

    tile: Tile
    first: int  # label in the image of that which is 1 in the tile
    labels: NDArray[np.int32]  # [h, w] of its window, from 1; 0 elsewhere
    table: pd.DataFrame


def choose_tile(shape: tuple[int, ...], tile_px: int | None) -> int:
    """Return the side of the tiles that an image, [H, W, …], is cut into; 0: it is segmented in one piece.

    tile_px: what was asked for: a side, 0 for no tiles, or None for tiles of TILE_PX above TILED_ABOVE_PX.
    """
    if tile_px is None:
        return TILE_PX if shape[0] * shape[1] > TILED_ABOVE_PX else 0
    return tile_px if max(shape[:2]) > tile_px else 0


def examine(
    predictor: Predictor, pixels: Plane, shape: tuple[int, ...], rule: Rule, diameter: Diameter = None
) -> Slide:
    """Find what is the same for all tiles of an image, pixels [H, W] or [H, W, 3] of this shape."""
    height, width = shape[:2]
    middle = rule(pixels[find_middle(shape)])
    novelty = predictor.novelty(middle) if predictor.novelty else None
    diameter = choose_diameter(predictor, diameter, rule(pixels[find_middle(shape, SAMPLE_PX)]), shape, novelty)
    factor = 1.0 if diameter is None else predictor.trained_diameter / diameter
    windows = spread_windows(shape, round(WINDOW_PX / factor), SAMPLES_PER_AXIS)
    parts = [resize(rule(pixels[window]), factor) for window in windows]
    survey = predictor.survey(parts, middle, round(height * width * factor**2))
    return Slide(pixels, (height, width), rule, diameter, factor, novelty, survey)


def choose_diameter(
    predictor: Predictor, wanted: Diameter, sample: NDArray[np.uint8], shape: tuple[int, ...], novelty: float | None
) -> float | None:
    """Return the diameter in px of the nuclei of an image of this shape, by which it is resized; None: it is not.

    wanted: that diameter; 'auto', estimated on `sample`, uint8 [h, w, 3], the image or its middle; or 'unlike', the
    same if the image is unlike training by its novelty and its nuclei are of a size beyond KNOWN, unless enlarging
    would give it more pixels than TILED_ABOVE_PX, or resizing finds hardly more (MORE).
    """
    if not isinstance(wanted, str):
        return wanted
    if wanted == "auto":
        return estimate_diameter(predictor.segment, sample)
    if novelty is None or novelty <= UNLIKE or not predictor.has_networks:
        return None
    try:
        trained = predictor.trained_diameter
    except UserError:  # of a run that does not say it, which only those who ask for a size need
        return None
    found = estimate_diameter(predictor.segment, sample)
    if found is None or KNOWN[0] * trained <= found <= KNOWN[1] * trained:
        return None
    factor = trained / found
    if factor > 1 and shape[0] * shape[1] * factor**2 > TILED_ABOVE_PX:
        return None
    middle = np.ascontiguousarray(sample[find_middle(sample.shape, SAMPLE_PX)])
    resized, own = segment_at(predictor.segment, middle, factor), predictor.segment(middle)
    return found if measure_cover(resized) > MORE * measure_cover(own) else None


def segment_tile(predictor: Predictor, slide: Slide, tile: Tile) -> Nuclei:
    """Return the nuclei of a tile."""
    segment = partial(predictor.segment, survey=slide.survey)
    labels, iou = segment_at(segment, slide.look(tile.window), slide.factor)
    return pick_nuclei(labels, iou, tile)


def measure_placed(
    slide: Slide, labels: Plane, tiles: Sequence[Tile], placed: Placed, pixel_size_um: float | None
) -> Measured:
    """Measure the nuclei that a tile has painted into labels, [H, W], once all tiles have: places are in the image."""
    tile = tiles[placed.tile]
    own = np.asarray(labels[tile.window], np.int32)
    # From 1 within the tile: looking for each label takes as long as the largest is large.
    own = np.where((own >= placed.first) & (own < placed.first + placed.n), own - placed.first + 1, 0)
    table = measure_nuclei(own, slide.pixels[tile.window], pixel_size_um, tile.origin, slide.shape)
    table["label"] += placed.first - 1
    if placed.iou.shape[1]:
        table["predicted_iou"] = placed.iou[table["label"].to_numpy() - placed.first, 0]
    return Measured(tile, placed.first, own, table)


def find_in_tiles(
    predictor: Predictor,
    pixels: NDArray[Any],
    rule: Rule,
    tile_px: int,
    pixel_size_um: float | None = None,
    diameter: Diameter = None,
) -> tuple[NDArray[np.int32], pd.DataFrame]:
    """Return the labels, int32 [H, W], and the table of an image in memory, as segmenter.find_nuclei has them."""
    slide = examine(predictor, pixels, pixels.shape, rule, diameter)
    tiles = slide.tiles(tile_px)
    found = [segment_tile(predictor, slide, tile) for tile in tiles]
    labels = np.zeros(slide.shape, np.int32)
    placed = list(stitch(tiles, found.__getitem__, labels))
    tables = [measure_placed(slide, labels, tiles, one, pixel_size_um).table for one in placed]
    return labels, pd.concat(tables[:1] + [table for table in tables[1:] if len(table)], ignore_index=True)
