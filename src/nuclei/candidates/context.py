"""What the features of one image share: its pictures summarised over candidates, rims and rings, and their geometry.

To let features see a new picture, add an entry to CHANNELS.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np
from scipy.sparse import csr_array

from nuclei.candidates import geometry, relations
from nuclei.candidates.table import Candidates

PEAK_WINDOW = np.ones((5, 5), np.uint8)
PEAK_PROBABILITY = 0.2  # lower maxima of the center map are background ripples
MASK_STEPS = (0.3, 0.5, 0.7, 0.9)  # where the distribution of the mask map inside a candidate is read


@dataclass(frozen=True)
class Regions:
    """Hold where to average: matrices [N, H·W] that are 1 at the pixels of each candidate's region."""

    inside: csr_array
    rim: csr_array
    ring: csr_array
    foreground: np.ndarray  # float64 [H·W]: 1 on the foreground of the image, else 0


@dataclass(frozen=True)
class Summary:
    """Hold means of a picture over the regions, NaN where a region is empty or the picture is missing."""

    inside: np.ndarray  # float64 [N]
    inside_std: np.ndarray  # float64 [N]
    rim: np.ndarray  # float64 [N]
    ring: np.ndarray  # float64 [N]
    foreground: float
    image: float
    image_std: float


def gradient_magnitude(picture: np.ndarray) -> np.ndarray:
    """Return the Sobel gradient magnitude of a float32 picture [H, W], in units of the picture per pixel."""
    along_x, along_y = (cv2.Sobel(picture, cv2.CV_32F, *order, scale=1 / 8) for order in ((1, 0), (0, 1)))
    # cv2.magnitude would differ in its last digit with the place in memory, and equal runs must be equal.
    return np.sqrt(along_x**2 + along_y**2)


def keep_peaks(picture: np.ndarray) -> np.ndarray:
    """Return the picture at its local maxima above PEAK_PROBABILITY and 0 elsewhere."""
    return picture * ((picture >= cv2.dilate(picture, PEAK_WINDOW)) & (picture > PEAK_PROBABILITY))


def gray(image: np.ndarray) -> np.ndarray:
    """Return the luma of an RGB image as float32 [H, W] in 0..1."""
    return cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) / np.float32(255)


# Name -> what it is made of (a map's name, or "image"), and how. A channel of a missing map is missing.
CHANNELS: dict[str, tuple[str, Callable[[np.ndarray], np.ndarray]]] = {
    **{name: (name, lambda picture: picture) for name in ("mask", "border", "center", "disagreement")},
    "mask_gradient": ("mask", gradient_magnitude),
    **{f"mask_above_{step}": ("mask", lambda mask, step=step: mask > step) for step in MASK_STEPS},
    "center_peak": ("center", keep_peaks),
    "red": ("image", lambda rgb: rgb[..., 0] / np.float32(255)),
    "green": ("image", lambda rgb: rgb[..., 1] / np.float32(255)),
    "blue": ("image", lambda rgb: rgb[..., 2] / np.float32(255)),
    "gray": ("image", gray),
    "saturation": ("image", lambda rgb: cv2.cvtColor(rgb, cv2.COLOR_RGB2HSV)[..., 1] / np.float32(255)),
    "gray_gradient": ("image", lambda rgb: gradient_magnitude(gray(rgb))),
}


def average(region: csr_array, picture: np.ndarray) -> np.ndarray:
    """Return the mean of a flat picture [H·W] over each row's pixels of a region, NaN where there is none."""
    n_pixels = np.diff(region.indptr)
    return np.divide(region @ picture, n_pixels, where=n_pixels > 0, out=np.full(len(n_pixels), np.nan))


def summarise_channel(name: str, sources: Mapping[str, np.ndarray], regions: Regions) -> Summary:
    """Return the means of a channel of CHANNELS over the regions; ``sources`` are the maps and "image"."""
    source, derive = CHANNELS[name]
    if source not in sources:
        missing = np.full(regions.inside.shape[0], np.nan)
        return Summary(missing, missing, missing, missing, np.nan, np.nan, np.nan)
    picture = derive(sources[source]).reshape(-1).astype(np.float64)
    squares = picture**2
    inside, image = average(regions.inside, picture), float(picture.mean())
    n_foreground = regions.foreground.sum()
    return Summary(
        inside=inside,
        inside_std=np.sqrt(np.maximum(average(regions.inside, squares) - inside**2, 0)),
        rim=average(regions.rim, picture),
        ring=average(regions.ring, picture),
        foreground=float(picture @ regions.foreground / n_foreground) if n_foreground else np.nan,
        image=image,
        image_std=float(np.sqrt(max(squares.mean() - image**2, 0))),
    )


NEIGHBOUR_RADII_PX = (50, 100, 150, 200)
FOREGROUND_PROBABILITY = 0.5  # mask map above which a pixel belongs to the image's foreground


class Context:
    """Hold the candidates, maps and image that features are computed from, and what they have in common."""

    def __init__(self, candidates: Candidates, maps: Mapping[str, np.ndarray], image: np.ndarray):
        self.candidates, self.image = candidates, image
        self.sources = {**maps, "image": image}
        self.summaries: dict[str, Summary] = {}

    @cached_property
    def area_px(self) -> np.ndarray:
        return self.candidates.area_px().astype(np.float64)

    @cached_property
    def boxes(self) -> geometry.Boxes:
        return geometry.bound_candidates(self.candidates)

    @cached_property
    def canvas(self) -> geometry.Canvas:
        return geometry.draw_canvas(self.candidates, self.boxes)

    @cached_property
    def ellipses(self) -> dict[str, np.ndarray]:
        return geometry.measure_ellipses(self.candidates, self.boxes)

    @cached_property
    def hulls(self) -> dict[str, np.ndarray]:
        return geometry.measure_hulls(self.candidates)

    @cached_property
    def outlines(self) -> dict[str, np.ndarray]:
        return geometry.measure_outlines(self.candidates, self.canvas)

    @cached_property
    def tree(self) -> dict[str, np.ndarray]:
        return relations.measure_tree(self.candidates)

    @cached_property
    def neighbours(self) -> dict[float, tuple[np.ndarray, np.ndarray]]:
        centroid = np.stack([self.ellipses["centroid_y"], self.ellipses["centroid_x"]], axis=1)
        return relations.measure_neighbours(self.candidates, centroid, NEIGHBOUR_RADII_PX)

    @cached_property
    def leaf_area_px(self) -> np.ndarray:
        """Areas of the leaves, each at its middle threshold."""
        is_leaf = relations.find_leaves(self.candidates.parent)
        representative = relations.choose_representatives(self.candidates)[is_leaf]
        return self.area_px[representative[representative >= 0]]

    @cached_property
    def regions(self) -> Regions:
        size = self.image.shape[0] * self.image.shape[1]
        mask = self.sources.get("mask", np.zeros(size)).reshape(-1)
        return Regions(
            inside=geometry.membership(self.candidates),
            rim=geometry.find_rims(self.candidates, self.canvas),
            ring=geometry.find_rings(self.candidates, self.canvas),
            foreground=(mask > FOREGROUND_PROBABILITY).astype(np.float64),
        )

    def channel(self, name: str) -> Summary:
        """Return the summary of one of CHANNELS, computed when first asked for."""
        if name not in self.summaries:
            self.summaries[name] = summarise_channel(name, self.sources, self.regions)
        return self.summaries[name]
