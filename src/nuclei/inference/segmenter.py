"""Nuclei of an image in memory, arrays in and arrays out: what `from nuclei import Segmenter` gives.

`predict-images` finds and measures the nuclei of each of its images by the same `find_nuclei`.
"""

from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from nuclei.data.axes import make_finite
from nuclei.data.normalisation import choose_rule, normalise
from nuclei.errors import UserError
from nuclei.inference.arguments import Diameter, check_pixel_size, check_tile, parse_diameter
from nuclei.inference.bundle import find_default, find_run
from nuclei.inference.measures import measure_nuclei
from nuclei.inference.predictor import Predictor, load_predictor, stamp
from nuclei.inference.scale import segment_at
from nuclei.inference.slide import choose_diameter, choose_tile, find_in_tiles


class Segmentation(NamedTuple):
    """Hold the nuclei of an image.

    labels: int32 [H, W], 0 is background, nuclei are numbered from 1 without gaps. table: a row per nucleus, ascending
    by `label`, with the columns of `predict-images`' CSV: measures.measure_nuclei and, of a run that scores its nuclei,
    `predicted_iou` in 0..1.
    """

    labels: NDArray[np.int32]
    table: pd.DataFrame


class Segmenter:
    """Segment images by the published networks, or by a run of your own; the networks are loaded once.

    weights: folder of a published ensemble, or of a finished run in runs/; None: the published ensemble. fast: the
    published single network instead, many times faster and a little less exact; not together with weights.
    normalise: spread values that are not of 8 bits between their percentiles 1 and 99.8 (microscope.normalise); without
    it integers keep their upper 8 bits, and real numbers must be 0..1.
    diameter: typical diameter of the nuclei in pixels of the image, by which it is brought to the size of the nuclei
    that the networks learned; 'auto': estimated of each image; 'unlike': of those alone that are unlike any training
    image, and used where nuclei are far larger or smaller; None: images are taken as they are. tile: side in pixels
    of the tiles that larger images are cut into, so that memory does not grow with them; 0: none is; None: of
    tiles.TILE_PX, images of more than tiles.TILED_ABOVE_PX pixels.

    Raises UserError naming what is missing of the weights, and on an impossible diameter or tile.
    """

    def __init__(
        self,
        weights: str | Path | None = None,
        *,
        fast: bool = False,
        normalise: bool = True,
        diameter: float | str | None = "unlike",
        tile: int | None = None,
    ):
        if fast and weights is not None:
            raise UserError("fast chooses the networks, and so do weights: give one of them")
        run = find_run(find_default(fast) if weights is None else Path(weights))
        self.normalise, self.diameter, self.tile = normalise, parse_diameter(diameter), check_tile(tile)
        self.predictor = load_predictor(run.folder, stamp(run.folder.parent))

    def segment(self, image: NDArray[Any], pixel_size_um: float | None = None) -> Segmentation:
        """Find and measure the nuclei of an image: gray [H, W] or RGB [H, W, 3] of any real type, or bool.

        It gives the labels that `predict-images` gives a file with these values; no file is written. pixel_size_um:
        side of a pixel, which adds columns in µm. Raises UserError on another shape or type, on values that are not
        finite anywhere, on no positive size, and as microscope.normalise does.
        """
        pixels, pixel_size_um = as_pixels(image), check_pixel_size(pixel_size_um)
        if tile_px := choose_tile(pixels.shape, self.tile):
            rule = choose_rule(lambda: [pixels], self.normalise)
            return Segmentation(*find_in_tiles(self.predictor, pixels, rule, tile_px, pixel_size_um, self.diameter))
        rgb, _ = normalise(pixels, self.normalise)
        labels, table, _ = find_nuclei(self.predictor, rgb, pixels, pixel_size_um, self.diameter)
        return Segmentation(labels, table)


def as_pixels(image: NDArray[Any]) -> NDArray[Any]:
    """Return an image as a file with its values is read: False and True as 0 and 255, no number as the least one.

    Raises UserError unless it is gray, [H, W], or RGB, [H, W, 3], of real numbers, not empty, and none is masked.
    """
    if np.ma.is_masked(image):
        raise UserError("values of it are masked, and would count: fill them")
    try:
        image = np.asarray(image)
    except (ValueError, TypeError) as error:  # such as lists of different lengths
        raise UserError(f"it is no array ({str(error)[:200]}): give one, [H, W] or [H, W, 3]") from None
    if image.size == 0 or not (image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 3)):
        raise UserError(
            f"an image of shape {image.shape} is neither gray, [H, W], nor RGB, [H, W, 3]: choose a channel, or a plane"
        )
    if image.dtype == bool:
        image = image.astype(np.uint8) * np.uint8(255)
    pixels, _ = make_finite(image)
    return np.ascontiguousarray(pixels)


def find_nuclei(
    predictor: Predictor,
    image: NDArray[np.uint8],
    pixels: NDArray[Any],
    pixel_size_um: float | None = None,
    diameter: Diameter = None,
    of_competition: bool = False,
) -> tuple[NDArray[np.int32], pd.DataFrame, float | None]:
    """Segment an image as the networks see it, uint8 [H, W, 3], and measure its nuclei on its own pixels.

    pixels: gray [H, W] or RGB [H, W, 3]. of_competition: as Predictor.segment takes it. Returns labels, int32 [H, W];
    the table of Segmentation; and the diameter in px that the image was resized by, None where it was not. Raises
    UserError as scale.segment_at does.
    """
    segment = partial(predictor.segment, of_competition=True) if of_competition else predictor.segment
    if of_competition and diameter == "unlike":  # what was tuned on such images was tuned on them as they are
        diameter = None
    novelty = predictor.novelty(image) if diameter == "unlike" and predictor.novelty else None
    used = choose_diameter(predictor, diameter, image, image.shape, novelty)
    factor = 1.0 if used is None else predictor.trained_diameter / used
    labels, iou = segment_at(segment, image, factor)
    table = measure_nuclei(labels, pixels, pixel_size_um)
    if iou is not None:
        table["predicted_iou"] = iou[table["label"].to_numpy() - 1]
    return labels, table, used
