"""The plain decodings of maps: components of the mask, and a watershed from thresholded energy."""

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.segmentation import watershed

from nuclei.data.labels import drop_small


def decode_components(mask: NDArray[np.float32], threshold: float, min_area_px: int) -> NDArray[np.int32]:
    """Return the 4-connected components of mask > threshold, int32 [H, W], without those below `min_area_px`."""
    return drop_small(ndimage.label(mask > threshold)[0], min_area_px)


def flood_seeds(energy: NDArray[np.float32], seed_level: float, region: NDArray[np.bool_]) -> NDArray[np.int32]:
    """Return the basins of the components of energy > seed_level within `region`, int32 [H, W]."""
    seeds = ndimage.label((energy > seed_level) & region)[0]
    basins: NDArray[np.int32] = watershed(-energy, seeds, mask=region)
    return basins


def cut_basins(
    basins: NDArray[np.int32], mask: NDArray[np.float32], threshold: float, min_area_px: int
) -> NDArray[np.int32]:
    """Return basins where mask > threshold, int32 [H, W], without those below `min_area_px`."""
    return drop_small(np.where(mask > threshold, basins, 0), min_area_px)
