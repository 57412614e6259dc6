"""What the features of one image share: its pictures summarised over candidates, rims and rings, and their geometry.

To let features see a new picture, add an entry to CHANNELS.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from nuclei.candidates import geometry, relations
from nuclei.candidates.table import Candidates, Maps

PEAK_WINDOW = np.ones((5, 5), np.uint8)
PEAK_PROBABILITY = 0.2  # lower maxima of the center map are background ripples
MASK_STEPS = (0.3, 0.5, 0.7, 0.9)  # where the distribution of the mask map inside a candidate is read
NEIGHBOUR_RADII_PX = (50, 100, 150, 200)
BLOCK = 4096  # pixels whose values of all channels fit a processor's cache
FOREGROUND_PROBABILITY = 0.5  # mask map above which a pixel belongs to the image's foreground


def as_it_is(picture: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the picture itself."""
    return picture


def above(picture: NDArray[np.float32], level: float) -> NDArray[np.bool_]:
    """Return where the picture exceeds a level."""
    return picture > level


def gradient_magnitude(picture: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the Sobel gradient magnitude of a picture [H, W], in units of the picture per pixel."""
    along_x, along_y = (cv2.Sobel(picture, cv2.CV_32F, dx, dy, scale=1 / 8) for dx, dy in ((1, 0), (0, 1)))
    # cv2.magnitude would differ in its last digit with the place in memory, and equal runs must be equal.
    magnitude: NDArray[np.float32] = np.sqrt(along_x**2 + along_y**2)
    return magnitude


def keep_peaks(picture: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the picture at its local maxima above PEAK_PROBABILITY and 0 elsewhere."""
    is_peak = (picture >= cv2.dilate(picture, PEAK_WINDOW)) & (picture > PEAK_PROBABILITY)
    return np.where(is_peak, picture, np.float32(0))


def colour(image: NDArray[np.uint8], index: int) -> NDArray[np.float32]:
    """Return red (0), green (1) or blue (2) of an RGB image, [H, W] in 0..1."""
    return np.asarray(image[..., index] / np.float32(255), np.float32)


def gray(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the luma of an RGB image, [H, W] in 0..1."""
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) / np.float32(255), np.float32)


def gray_gradient(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the gradient magnitude of the luma of an RGB image, [H, W] per pixel."""
    return gradient_magnitude(gray(image))


def saturation(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the saturation (HSV) of an RGB image, [H, W] in 0..1."""
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2HSV)[..., 1] / np.float32(255), np.float32)


# Name -> what it is made of (a map's name, or "image"), and how. A channel of a missing map is missing.
CHANNELS: dict[str, tuple[str, Callable[[NDArray[Any]], NDArray[Any]]]] = {
    **{name: (name, as_it_is) for name in ("mask", "border", "center", "disagreement")},
    "mask_gradient": ("mask", gradient_magnitude),
    **{f"mask_above_{step}": ("mask", partial(above, level=step)) for step in MASK_STEPS},
    "center_peak": ("center", keep_peaks),
    **{name: ("image", partial(colour, index=index)) for index, name in enumerate(("red", "green", "blue"))},
    "gray": ("image", gray),
    "saturation": ("image", saturation),
    "gray_gradient": ("image", gray_gradient),
}


@dataclass(frozen=True)
class Regions:
    """Hold where to average: matrices [N, U] that are 1 at the pixels of each candidate's region, and those pixels."""

    inside: csr_array
    rim: csr_array
    ring: csr_array
    pixels: NDArray[np.int64]  # [U]: flat indices of the pixels that any of them has, ascending


@dataclass(frozen=True)
class Summary:
    """Hold means of a picture over the regions, NaN where a region is empty or the picture is missing."""

    inside: NDArray[np.float64]  # [N]
    inside_std: NDArray[np.float64]  # [N]
    rim: NDArray[np.float64]  # [N]
    ring: NDArray[np.float64]  # [N]
    picture: NDArray[Any] | None  # [H·W]
    is_foreground: NDArray[np.float64]  # [H·W]: 1 on the foreground of the image, else 0
    whole: tuple[float, float, float] | None = None  # of Whole.pictures, if the picture is a part of a larger one

    @property
    def foreground(self) -> float:
        """Return the mean of the whole picture over the foreground of the image."""
        if self.whole:
            return self.whole[0]
        n = self.is_foreground.sum()
        return np.nan if self.picture is None or not n else float(self._exact @ self.is_foreground / n)

    @property
    def image(self) -> float:
        """Return the mean of the whole picture."""
        if self.whole:
            return self.whole[1]
        return np.nan if self.picture is None else float(self._exact.mean())

    @property
    def image_std(self) -> float:
        """Return the standard deviation of the whole picture."""
        if self.whole:
            return self.whole[2]
        return np.nan if self.picture is None else float(np.sqrt(max((self._exact**2).mean() - self.image**2, 0)))

    @cached_property
    def _exact(self) -> NDArray[np.float64]:
        return np.asarray(self.picture, np.float64)


def find_regions(candidates: Candidates, canvas: geometry.Canvas) -> Regions:
    """Return the regions of all candidates: their pixels, the outermost of these, and the ring outside."""
    rim, (ring_owner, ring) = geometry.find_rims(canvas), geometry.find_rings(candidates, canvas)
    is_used = np.zeros(candidates.shape[0] * candidates.shape[1], bool)
    is_used[candidates.pixels] = is_used[ring] = True
    pixels = np.flatnonzero(is_used)
    number = np.zeros(len(is_used), np.int32)
    number[pixels] = np.arange(len(pixels))
    shape, inside = (len(candidates), len(pixels)), number[candidates.pixels]
    return Regions(
        inside=csr_array((np.ones(len(inside)), inside, candidates.indptr), shape=shape),
        rim=csr_array((np.ones(len(rim)), inside[rim], np.searchsorted(rim, candidates.indptr)), shape=shape),
        ring=csr_array((np.ones(len(ring)), (ring_owner, number[ring])), shape=shape),
        pixels=pixels,
    )


def average(region: csr_array, pictures: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the means of C pictures [U, C] over each row's pixels of a region, [C, N], NaN where there is none."""
    n_pixels = np.diff(region.indptr)
    means = np.full((pictures.shape[1], len(n_pixels)), np.nan)
    # All pictures at once: the pixels of a region are gone through once.
    np.divide((region @ pictures).T, n_pixels, where=n_pixels > 0, out=means)
    return means


@dataclass(frozen=True)
class Whole:
    """Hold what features say of the whole image, for candidates that are cut from a part of it."""

    pictures: Mapping[str, tuple[float, float, float]]  # channel: mean over the foreground, mean, standard deviation
    n_leaves: float
    leaf_area_px: float  # the median


class Context:
    """Hold the candidates, maps and image that features are computed from, and what they have in common.

    whole: of the image that this one is a part of; None: it is the whole.
    """

    def __init__(
        self, candidates: Candidates, maps: Maps, image: NDArray[np.uint8], whole: Whole | None = None
    ) -> None:
        self.candidates, self.image, self.whole = candidates, image, whole
        self.sources: dict[str, NDArray[Any]] = {**maps, "image": image}

    @cached_property
    def area_px(self) -> NDArray[np.float64]:
        return self.candidates.area_px().astype(np.float64)

    @cached_property
    def runs(self) -> geometry.Runs:
        return geometry.find_runs(self.candidates)

    @cached_property
    def boxes(self) -> geometry.Boxes:
        return geometry.bound_candidates(self.runs)

    @cached_property
    def canvas(self) -> geometry.Canvas:
        return geometry.draw_canvas(self.candidates, self.runs, self.boxes)

    @cached_property
    def ellipses(self) -> dict[str, NDArray[np.float64]]:
        return geometry.measure_ellipses(self.runs, self.boxes)

    @cached_property
    def hulls(self) -> dict[str, NDArray[np.float64]]:
        return geometry.measure_hulls(self.runs)

    @cached_property
    def outlines(self) -> dict[str, NDArray[np.float64]]:
        return geometry.measure_outlines(self.candidates, self.canvas)

    @cached_property
    def tree(self) -> dict[str, NDArray[np.float64]]:
        return relations.measure_tree(self.candidates)

    @cached_property
    def neighbours(self) -> dict[float, tuple[NDArray[np.float64], NDArray[np.float64]]]:
        centroid = np.stack([self.ellipses["centroid_y"], self.ellipses["centroid_x"]], axis=1)
        return relations.measure_neighbours(self.candidates, centroid, NEIGHBOUR_RADII_PX)

    @cached_property
    def leaf_area_px(self) -> NDArray[np.float64]:
        """Return the areas of the leaves, each at its middle threshold."""
        is_leaf = relations.find_leaves(self.candidates.parent)
        representative = relations.choose_representatives(self.candidates)[is_leaf]
        return self.area_px[representative[representative >= 0]]

    @property
    def n_leaves(self) -> float:
        """Return how many leaves the whole image has."""
        return self.whole.n_leaves if self.whole else len(self.leaf_area_px)

    @property
    def typical_leaf_px(self) -> float:
        """Return the median area of the leaves of the whole image, NaN where there are none."""
        return self.whole.leaf_area_px if self.whole else median_or_nan(self.leaf_area_px)

    @cached_property
    def is_foreground(self) -> NDArray[np.float64]:
        """Return 1 on the foreground of the image and 0 elsewhere, [H·W]."""
        mask = self.sources.get("mask", np.zeros(self.image.shape[:2]))
        return (mask.reshape(-1) > FOREGROUND_PROBABILITY).astype(np.float64)

    @cached_property
    def summaries(self) -> dict[str, Summary]:
        """Return the summary of each of CHANNELS."""
        regions = find_regions(self.candidates, self.canvas)
        pictures = {
            name: derive(self.sources[source]).reshape(-1)
            for name, (source, derive) in CHANNELS.items()
            if source in self.sources
        }
        values = np.empty((len(regions.pixels), len(pictures)))
        for start in range(0, len(values), BLOCK):
            block = slice(start, start + BLOCK)
            for column, picture in enumerate(pictures.values()):
                values[block, column] = picture[regions.pixels[block]]
        inside, rim, ring = (average(region, values) for region in (regions.inside, regions.rim, regions.ring))
        inside_std = np.sqrt(np.maximum(average(regions.inside, values**2) - inside**2, 0))
        columns = zip(pictures.items(), inside, inside_std, rim, ring, strict=True)
        missing = np.full(len(self.candidates), np.nan)
        nothing = Summary(missing, missing, missing, missing, None, self.is_foreground)
        wholes = self.whole.pictures if self.whole else {}
        return dict.fromkeys(CHANNELS, nothing) | {
            name: Summary(own_inside, own_std, own_rim, own_ring, picture, self.is_foreground, wholes.get(name))
            for (name, picture), own_inside, own_std, own_rim, own_ring in columns
        }

    def channel(self, name: str) -> Summary:
        """Return the summary of one of CHANNELS."""
        return self.summaries[name]


def describe_whole(parts: Sequence[Context], n_pixels: int) -> Whole:
    """Return what features say of an image of `n_pixels` from a sample of its parts, whose pixels are pooled.

    The number of leaves is that of the parts, times the image's area over theirs. A sample of one part, which is the
    whole image, gives what its features say.
    """
    areas = [part.image.shape[0] * part.image.shape[1] for part in parts]
    foregrounds = [float(part.is_foreground.sum()) for part in parts]
    pictures = {name: pool([part.channel(name) for part in parts], areas, foregrounds) for name in CHANNELS}
    leaves = np.concatenate([part.leaf_area_px for part in parts])
    return Whole(pictures, len(leaves) * n_pixels / sum(areas), median_or_nan(leaves))


def pool(parts: Sequence[Summary], areas: Sequence[float], foregrounds: Sequence[float]) -> tuple[float, float, float]:
    """Return the mean over the foreground, the mean and the standard deviation of a channel over all parts together."""
    bright = [(part.foreground, area) for part, area in zip(parts, foregrounds, strict=True) if area]
    foreground = sum(mean * area for mean, area in bright) / sum(area for _, area in bright) if bright else np.nan
    image = float(np.average([part.image for part in parts], weights=areas))
    squares = np.average([part.image_std**2 + part.image**2 for part in parts], weights=areas)
    return float(foreground), image, float(np.sqrt(max(squares - image**2, 0)))


def median_or_nan(values: NDArray[np.float64]) -> float:
    """Return the median, NaN of no values."""
    return float(np.median(values)) if len(values) else np.nan
