"""The plain decodings of maps: components of the mask, and a watershed from thresholded energy."""

import numpy as np
from scipy import ndimage
from skimage.segmentation import watershed

from nuclei.data.labels import drop_small


def decode_components(mask: np.ndarray, threshold: float, min_area_px: int) -> np.ndarray:
    """Return the 4-connected components of mask > threshold, int32 [H, W], those below `min_area_px` left out."""
    return drop_small(ndimage.label(mask > threshold)[0], min_area_px)


def flood_seeds(energy: np.ndarray, seed_level: float, region: np.ndarray) -> np.ndarray:
    """Return the basins of the components of energy > seed_level within `region`, int32 [H, W]."""
    seeds = ndimage.label((energy > seed_level) & region)[0]
    return watershed(-energy, seeds, mask=region)


def cut_basins(basins: np.ndarray, mask: np.ndarray, threshold: float, min_area_px: int) -> np.ndarray:
    """Return basins where mask > threshold, int32 [H, W], those below `min_area_px` left out."""
    return drop_small(np.where(mask > threshold, basins, 0), min_area_px)
