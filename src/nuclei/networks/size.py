"""The size at which networks are given an image whose nuclei are far from the size of those that they learned.

A first look at half of the size that networks would be given finds nuclei that are too large for them, too, which at
the full size fall to pieces, and still most of the small ones.
"""

import numpy as np
from numpy.typing import NDArray

from nuclei.config.schema import PredictConfig
from nuclei.data.images import enlargement

LOOK = PredictConfig(tta="none", scales=(0.45,))
LOOK_SETTING = {"seed_level": 0.5, "mask_threshold": 0.45}  # of a plain watershed
# Of the size that images are enlarged to: what the first look measures is no more exact, and networks learn a range.
NEAR = 1.35
SMALLEST, LARGEST = 0.3, 1.4


def choose_factor(labels: NDArray[np.int32], min_side_px: int, diameter_px: float) -> float:
    """Return the factor, beyond images.enlargement, that brings an image's nuclei to a median diameter.

    labels: int32 [H, W], of the image as it is. The factor is 1 without nuclei and where they are NEAR that diameter,
    and from SMALLEST to LARGEST.
    """
    areas_px = np.bincount(labels.ravel())[1:]
    if not areas_px.any():
        return 1.0
    median_px = float(np.median(np.sqrt(4 / np.pi * areas_px[areas_px > 0])))
    factor = diameter_px / (median_px * enlargement(labels.shape, min_side_px))
    return 1.0 if 1 / NEAR < factor < NEAR else min(max(factor, SMALLEST), LARGEST)
