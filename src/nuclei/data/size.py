"""How large nuclei are, and the size of an image that brings them to a diameter, for training and for prediction."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from nuclei.data.images import enlargement

# Of the size that images are enlarged to: beyond these, nothing is left of nuclei, or they are of what was not there.
SMALLEST, LARGEST = 0.3, 1.4


def equivalent_diameters(labels: NDArray[Any]) -> NDArray[np.float64]:
    """Return the diameter of the disk of each label's area, int [H, W] -> [N] in px, labels ascending."""
    areas = np.bincount(labels.ravel())[1:]
    diameters: NDArray[np.float64] = np.sqrt(4 / np.pi * areas[areas > 0])
    return diameters


def choose_factor(labels: NDArray[Any], min_side_px: int, diameter_px: float, near: float = 1.0) -> float:
    """Return the factor, beyond images.enlargement, that brings an image's nuclei to a median diameter.

    labels: int [H, W], of the image as it is. The factor is 1 without nuclei and where they are that diameter but for
    less than a factor `near`, and from SMALLEST to LARGEST.
    """
    diameters = equivalent_diameters(labels)
    if not len(diameters):
        return 1.0
    factor = diameter_px / (float(np.median(diameters)) * enlargement(labels.shape, min_side_px))
    return 1.0 if 1 / near < factor < near else min(max(factor, SMALLEST), LARGEST)
