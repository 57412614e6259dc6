"""How far an image is from all that networks were trained on, in one number."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

from nuclei.data.statistics import describe_image

EDGE_PERCENTILE, LIMIT_PERCENTILE = 90, 99  # of training images, each compared with those of other mosaics
RARE = 0.01  # share of the training images below which an image size is one that training lacks
UNLIKE = 1.0  # the novelty beyond which an image is unlike any training image
SMALLEST_LIMIT = 1e-6  # of training images that are all alike


@dataclass(frozen=True)
class Novelty:
    """Tell how unlike a set of N training images another image is: `novelty(image)`.

    It is the distance to the nearest training image in the statistics of describe_image, each in standard deviations
    over the training images, divided by the LIMIT_PERCENTILE-th percentile of that distance among training images,
    those of one mosaic group left out of the comparison. So 0 is a training image itself, and 1 the limit beyond which
    all but one in a hundred training images do not lie from the others.

    described: float [N, len(STATISTICS)]; groups: mosaic group of each, any values of one type; sizes: [N, 2], height
    and width of each, in pixels, if known.
    """

    described: NDArray[Any]
    groups: NDArray[Any]
    sizes: NDArray[Any] | None = None

    @cached_property
    def _scale(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        described = np.asarray(self.described, np.float64)
        return described.mean(0), np.maximum(described.std(0), 1e-6)

    def _distance(self, described: NDArray[Any]) -> NDArray[np.float64]:
        """Return the distance of each of M descriptions to each training image, [M, N]."""
        center, scale = self._scale
        distance = cdist((described - center) / scale, (self.described - center) / scale)
        return np.asarray(distance / np.sqrt(len(center)), np.float64)

    @cached_property
    def _limits(self) -> tuple[float, float]:
        """The distances at EDGE_PERCENTILE and LIMIT_PERCENTILE."""
        distance = self._distance(self.described)
        distance[self.groups[:, None] == self.groups] = np.inf
        nearest = distance.min(1)
        nearest = nearest[np.isfinite(nearest)] if np.isfinite(nearest).any() else np.zeros(1)  # of a single mosaic
        edge, limit = np.percentile(nearest, (EDGE_PERCENTILE, LIMIT_PERCENTILE))
        return float(edge), max(float(limit), SMALLEST_LIMIT)

    @property
    def edge(self) -> float:
        """The novelty that nine in ten training images do not reach among the others, 0..1."""
        edge, limit = self._limits
        return edge / limit

    def of(self, described: NDArray[Any]) -> NDArray[np.float64]:
        """Return the novelty of M images, ≥ 0, from what describe_image measures: [M, len(STATISTICS)] -> [M]."""
        novelty: NDArray[np.float64] = self._distance(described).min(1) / self._limits[1]
        return novelty

    def __call__(self, image: NDArray[np.uint8]) -> float:
        """Return the novelty of an image, uint8 RGB [H, W, 3]."""
        return float(self.of(describe_image(image)[None])[0])

    def is_other_acquisition(self, image: NDArray[np.uint8], by_size: bool = True) -> bool:
        """Tell whether an image, uint8 RGB [H, W, 3], was acquired as no training image was.

        Its novelty is beyond the limit or, by_size, fewer than RARE of the training images have its size: among the
        competition's images each microscope has a size of its own. Of images from elsewhere the size says nothing.
        """
        sizes = np.zeros((0, 2)) if self.sizes is None else np.sort(self.sizes, axis=1)
        same_size = (sizes == sorted(image.shape[:2])).all(axis=1)
        return bool((by_size and same_size.sum() < RARE * len(sizes)) or self(image) > UNLIKE)

    def describe(self, novelty: float) -> str:
        """Say a novelty in plain words."""
        if novelty > UNLIKE:
            return "unlike any training image"
        return "unlike most training images" if novelty > self.edge else "like training"


@dataclass(frozen=True)
class TrainingImages:
    """Hold what is known of the N training images of a run: description, mosaic group, and the fold held out."""

    described: NDArray[np.float32]  # [N, len(STATISTICS)]
    groups: NDArray[np.int32]  # [N], numbered
    folds: NDArray[np.int32]  # [N]; -1: of no fold, all networks learn from it
    sizes: NDArray[np.int32]  # [N, 2]: height and width in pixels, or [0, 2] if unknown

    def novelty(self, fold: int | None = None) -> Novelty:
        """Return the novelty to what the networks learn from: those without a fold, or, for new images, all of them."""
        learned = np.ones(len(self.folds), bool) if fold is None else self.folds != fold
        return Novelty(self.described[learned], self.groups[learned], self.sizes[learned] if len(self.sizes) else None)


def describe_training(
    described: Sequence[NDArray[np.float64]],
    groups: Sequence[str],
    folds: Sequence[int],
    sizes: Sequence[tuple[int, int]] = (),
) -> TrainingImages:
    """Collect N training images: what describe_image measures, mosaic groups by name, folds (-1: none), sizes in px."""
    numbers = np.unique(np.asarray(groups), return_inverse=True)[1]
    return TrainingImages(
        np.asarray(described, np.float32),
        numbers.astype(np.int32),
        np.asarray(folds).astype(np.int32),
        np.asarray(sizes, np.int32).reshape(-1, 2),
    )
