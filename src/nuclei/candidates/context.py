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
from scipy.sparse import coo_array, csr_array

from nuclei.candidates import geometry, relations
from nuclei.candidates.table import Candidates, Maps

PEAK_WINDOW = np.ones((5, 5), np.uint8)
PEAK_PROBABILITY = 0.2  # lower maxima of the center map are background ripples
MASK_STEPS = (0.3, 0.5, 0.7, 0.9)  # where the distribution of the mask map inside a candidate is read
NEIGHBOUR_RADII_PX = (50, 100, 150, 200)
FOREGROUND_PROBABILITY = 0.5  # mask map above which a pixel belongs to the image's foreground


def as_it_is(picture: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the picture itself."""
    return picture


def above(picture: NDArray[np.float32], level: float) -> NDArray[np.float32]:
    """Return 1 where the picture exceeds a level and 0 elsewhere."""
    return np.asarray(cv2.threshold(picture, level, 1, cv2.THRESH_BINARY)[1], np.float32)


def gradient_magnitude(picture: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the Sobel gradient magnitude of a picture [H, W], in units of the picture per pixel."""
    along_x, along_y = (cv2.Sobel(picture, cv2.CV_32F, dx, dy, scale=1 / 8) for dx, dy in ((1, 0), (0, 1)))
    # cv2.magnitude would differ in its last digit with the place in memory, and equal runs must be equal.
    along_x, along_y = np.square(along_x, out=along_x), np.square(along_y, out=along_y)
    magnitude: NDArray[np.float32] = np.sqrt(np.add(along_x, along_y, out=along_x), out=along_x)
    return magnitude


def keep_peaks(picture: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the picture at its local maxima above PEAK_PROBABILITY and 0 elsewhere."""
    is_peak = (picture >= cv2.dilate(picture, PEAK_WINDOW)) & (picture > PEAK_PROBABILITY)
    return picture * is_peak


def colour(image: NDArray[np.uint8], index: int) -> NDArray[np.float32]:
    """Return red (0), green (1) or blue (2) of an RGB image, [H, W] in 0..1."""
    return np.asarray(cv2.extractChannel(image, index) / np.float32(255), np.float32)


def gray(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the luma of an RGB image, [H, W] in 0..1."""
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) / np.float32(255), np.float32)


def saturation(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the saturation (HSV) of an RGB image, [H, W] in 0..1."""
    return colour(np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2HSV), np.uint8), 1)


@dataclass(frozen=True)
class Channel:
    """Say what a picture is made of, how, and where candidates measure it beside their inside.

    source: a map's name, "image", or a channel that is listed earlier; a channel without its source is missing.
    around: on the rim and in the ring, too. spread: not only its mean inside, but also its standard deviation.
    when_gray: the channel, listed earlier and measured at the same places, that it equals in images without colour.
    """

    source: str
    derive: Callable[[NDArray[Any]], NDArray[Any]]
    around: bool = True
    spread: bool = False
    when_gray: str | None = None


CHANNELS: dict[str, Channel] = {
    **{name: Channel(name, as_it_is, spread=True) for name in ("mask", "border", "center")},
    "disagreement": Channel("disagreement", as_it_is),
    "mask_gradient": Channel("mask", gradient_magnitude),
    **{f"mask_above_{step}": Channel("mask", partial(above, level=step), around=False) for step in MASK_STEPS},
    "center_peak": Channel("center", keep_peaks, around=False),
    "red": Channel("image", partial(colour, index=0), spread=True),
    "green": Channel("image", partial(colour, index=1), spread=True, when_gray="red"),
    "blue": Channel("image", partial(colour, index=2), spread=True, when_gray="red"),
    "gray": Channel("image", gray, spread=True, when_gray="red"),
    "saturation": Channel("image", saturation, spread=True),
    "gray_gradient": Channel("gray", gradient_magnitude),
}


@dataclass(frozen=True)
class Region:
    """Hold where to average: a matrix [N, U] that is 1 at the pixels of each candidate's region, and their number."""

    matrix: csr_array | coo_array
    n_pixels: NDArray[np.int64]  # [N]


@dataclass(frozen=True)
class Regions:
    """Hold the regions of all candidates: their pixels, the outermost of these, and the ring outside."""

    inside: Region
    rim: Region
    ring: Region
    pixels: NDArray[np.int64]  # [U]: flat indices of the pixels that any of them has, ascending


@dataclass(frozen=True)
class Summary:
    """Hold means of a picture over the regions, NaN where a region is empty or the picture is missing.

    KeyError is raised for what its Channel does not say that it measures.
    """

    measured: Mapping[str, NDArray[np.float64]]  # inside, rim, ring, inside_std: [N]
    picture: NDArray[Any] | None  # [H·W]
    on_foreground: NDArray[np.int64]  # flat indices of the image's foreground
    whole: tuple[float, float, float] | None = None  # of Whole.pictures, if the picture is a part of a larger one

    @property
    def inside(self) -> NDArray[np.float64]:
        """Return the means over the candidates' pixels, [N]."""
        return self.measured["inside"]

    @property
    def inside_std(self) -> NDArray[np.float64]:
        """Return the standard deviations over the candidates' pixels, [N]."""
        return self.measured["inside_std"]

    @property
    def rim(self) -> NDArray[np.float64]:
        """Return the means over the candidates' outermost pixels, [N]."""
        return self.measured["rim"]

    @property
    def ring(self) -> NDArray[np.float64]:
        """Return the means over the rings outside the candidates, [N]."""
        return self.measured["ring"]

    @cached_property
    def foreground(self) -> float:
        """Return the mean of the whole picture over the foreground of the image."""
        if self.whole:
            return self.whole[0]
        if self.picture is None or not len(self.on_foreground):
            return np.nan
        return float(self.picture.take(self.on_foreground).mean(dtype=np.float64))

    @cached_property
    def image(self) -> float:
        """Return the mean of the whole picture."""
        if self.whole:
            return self.whole[1]
        return np.nan if self.picture is None else float(np.ravel(cv2.mean(self.picture))[0])  # in float64

    @cached_property
    def image_std(self) -> float:
        """Return the standard deviation of the whole picture."""
        if self.whole:
            return self.whole[2]
        if self.picture is None:
            return np.nan
        return float(np.sqrt(max(np.square(self.picture, dtype=np.float64).mean() - self.image**2, 0)))


def find_regions(candidates: Candidates, canvas: geometry.Canvas) -> Regions:
    """Return the regions of all candidates: their pixels, the outermost of these, and the ring outside."""
    rim, rings = geometry.find_rims(canvas), geometry.find_rings(candidates, canvas)
    is_inside = np.zeros(candidates.shape, np.uint8)
    own = candidates.pixels.astype(np.int64)  # which numpy would do at each use
    is_inside.reshape(-1)[own] = 1
    pixels = np.flatnonzero(cv2.dilate(is_inside, geometry.RING_KERNEL).view(bool))
    number = np.zeros(is_inside.size, np.int32)
    number[pixels] = np.arange(len(pixels))
    # Of one type with the column numbers, else scipy makes these anew.
    bounds = candidates.indptr.astype(np.int32)
    n, inside, rims = len(candidates), number.take(own), np.searchsorted(rim, bounds).astype(np.int32)
    ring_owner, ring = np.repeat(rings.owner, rings.n_pixels), geometry.expand(number.take(rings.start), rings.n_pixels)
    in_rings = np.bincount(rings.owner, rings.n_pixels, minlength=n).astype(np.int64)
    shape = n, len(pixels)
    return Regions(
        Region(csr_array((np.ones(len(inside)), inside, bounds), shape), candidates.area_px()),
        Region(csr_array((np.ones(len(rim)), inside.take(rim), rims), shape), np.diff(rims)),
        # Not sorted by candidate: to sort them takes longer than to add them as they come.
        Region(coo_array((np.ones(len(ring)), (ring_owner, ring)), shape), in_rings),
        pixels,
    )


def average(region: Region, pictures: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the means of C pictures [U, C] over the pixels of each candidate's region, [C, N], NaN where it has none.

    Pixels are added in the order of the image.
    """
    means = np.full((pictures.shape[1], len(region.n_pixels)), np.nan)
    # All pictures at once: the pixels of a region are gone through once.
    np.divide((region.matrix @ pictures).T, region.n_pixels, where=region.n_pixels > 0, out=means)
    return means


def gather(pictures: Sequence[NDArray[Any]], pixels: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the values of C pictures [H·W] at U pixels, [U, C]."""
    values = np.empty((len(pictures), len(pixels)), np.float32)
    for row, picture in zip(values, pictures, strict=True):
        picture.take(pixels, out=row, mode="clip")  # no pixel needs it, but to raise instead numpy would fill a copy
    return values.T.astype(np.float64, order="C")


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

    @cached_property
    def typical_leaf_px(self) -> float:
        """Return the median area of the leaves of the whole image, NaN where there are none."""
        return self.whole.leaf_area_px if self.whole else median_or_nan(self.leaf_area_px)

    @cached_property
    def on_foreground(self) -> NDArray[np.int64]:
        """Return the flat indices of the image's foreground."""
        return (
            np.flatnonzero(self.sources["mask"] > FOREGROUND_PROBABILITY)
            if "mask" in self.sources
            else np.zeros(0, np.int64)
        )

    @cached_property
    def alike(self) -> dict[str, str]:
        """Return which channels equal which other: most images of fluorescence are gray."""
        red, green, blue = cv2.split(self.image)
        if not (np.array_equal(red, green) and np.array_equal(red, blue)):
            return {}
        return {name: channel.when_gray for name, channel in CHANNELS.items() if channel.when_gray}

    @cached_property
    def pictures(self) -> dict[str, NDArray[Any]]:
        """Return each of CHANNELS whose source there is, [H·W]."""
        made = dict(self.sources)
        for name, channel in CHANNELS.items():
            if name in self.alike:
                made[name] = made[self.alike[name]]
            elif channel.source in made:
                made[name] = channel.derive(made[channel.source])
        return {name: made[name].reshape(-1) for name in CHANNELS if name in made}

    @cached_property
    def summaries(self) -> dict[str, Summary]:
        """Return the summary of each of CHANNELS."""
        regions = find_regions(self.candidates, self.canvas)
        distinct = [name for name in self.pictures if name not in self.alike]
        spread = [name for name in distinct if CHANNELS[name].spread]
        around = spread + [name for name in distinct if CHANNELS[name].around and name not in spread]
        alone = [name for name in distinct if name not in around]
        values = gather([self.pictures[name] for name in around], regions.pixels)
        measured: dict[str, dict[str, NDArray[np.float64]]] = {name: {} for name in distinct}
        for key, region, names, columns in (
            ("inside", regions.inside, around, values),
            ("rim", regions.rim, around, values),
            ("ring", regions.ring, around, values),
            ("inside", regions.inside, alone, gather([self.pictures[name] for name in alone], regions.pixels)),
            ("square", regions.inside, spread, np.square(values[:, : len(spread)])),
        ):
            for name, means in zip(names, average(region, columns), strict=True):
                measured[name][key] = means
        for name in spread:
            variance = measured[name].pop("square") - measured[name]["inside"] ** 2
            measured[name]["inside_std"] = np.sqrt(np.maximum(variance, 0))
        missing = dict.fromkeys(("inside", "inside_std", "rim", "ring"), np.full(len(self.candidates), np.nan))
        nothing = Summary(missing, None, self.on_foreground)
        wholes = self.whole.pictures if self.whole else {}
        return dict.fromkeys(CHANNELS, nothing) | {
            name: Summary(measured[self.alike.get(name, name)], picture, self.on_foreground, wholes.get(name))
            for name, picture in self.pictures.items()
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
    foregrounds = [len(part.on_foreground) for part in parts]
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
