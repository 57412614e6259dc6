"""The size of an image whose nuclei are brought to a diameter: for training, where it is known, and for prediction."""

import numpy as np
from numpy.typing import NDArray

from nuclei.data.images import enlargement

# Of the size that images are enlarged to: beyond these, nothing is left of nuclei, or they are of what was not there.
SMALLEST, LARGEST = 0.3, 1.4


def choose_factor(labels: NDArray[np.integer], min_side_px: int, diameter_px: float, near: float = 1.0) -> float:
    """Return the factor, beyond images.enlargement, that brings an image's nuclei to a median diameter.

    labels: int [H, W], of the image as it is. The factor is 1 without nuclei and where they are that diameter but for
    less than a factor `near`, and from SMALLEST to LARGEST.
    """
    areas_px = np.bincount(labels.ravel())[1:]
    if not areas_px.any():
        return 1.0
    median_px = float(np.median(np.sqrt(4 / np.pi * areas_px[areas_px > 0])))
    factor = diameter_px / (median_px * enlargement(labels.shape, min_side_px))
    return 1.0 if 1 / near < factor < near else min(max(factor, SMALLEST), LARGEST)
