"""An image in a few numbers: brightness, colour, grain and scale, by which acquisitions are told apart."""

from itertools import pairwise

import cv2
import numpy as np
from numpy.typing import NDArray

from nuclei.data.image_types import image_statistics

PERCENTILES = (1, 10, 25, 50, 75, 90, 99)
SIGMAS_PX = (0.0, 1.0, 2.0, 4.0, 8.0, 16.0)  # between each and the next lies one band of detail
LONGEST_SIDE_PX = 512  # of the middle part that is measured: tiles of one kind have one cost
BRIGHTNESS = tuple(f"brightness_p{p}" for p in PERCENTILES)
COLOUR = ("a_dark", "b_dark", "a_bright", "b_bright", "chroma")
DETAIL = tuple(f"detail_{low:g}_{high:g}px" for low, high in pairwise(SIGMAS_PX))
STATISTICS = (*BRIGHTNESS, *COLOUR, "contrast", *DETAIL, "radius")


def describe_image(image: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Measure an image, uint8 RGB [H, W, 3] -> float64 [len(STATISTICS)], finite.

    Brightness is the square root of percentiles of the luminance (0..16), so that dark images are told apart as well as
    bright ones; colours are a and b of CIE Lab, means over the darker and the brighter half; contrast is the logarithm
    of the luminance's standard deviation; detail that of each band's share of it, from noise to whole nuclei; radius
    that of the typical nucleus in px. None depends on how large the image is, or on how it is turned.
    """
    middle = crop_middle(image)
    luminance = middle.astype(np.float32).mean(2)
    lab = cv2.cvtColor(middle.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
    is_dark = luminance <= np.median(luminance)
    dark = lab[is_dark].mean(0)
    bright = lab[~is_dark].mean(0) if not is_dark.all() else dark
    levels = [luminance, *(cv2.GaussianBlur(luminance, (0, 0), sigma) for sigma in SIGMAS_PX[1:])]
    bands = np.array([(fine - coarse).std() for fine, coarse in pairwise(levels)])
    spread = float(luminance.std())
    measured = image_statistics(middle)
    described: NDArray[np.float64] = np.concatenate(
        [
            np.sqrt(np.percentile(luminance, PERCENTILES)),
            [dark[1], dark[2], bright[1], bright[2], measured["mean_chroma"]],
            [np.log(spread + 0.5)],
            np.log((bands + 0.05) / (spread + 0.5)),
            [np.log(measured["nucleus_radius_px"] + 1)],
        ]
    ).astype(np.float64)
    return described


def crop_middle(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the middle of an image, at most LONGEST_SIDE_PX in each direction."""
    return np.ascontiguousarray(image[find_middle(image.shape)])


def find_middle(shape: tuple[int, ...], side_px: int = LONGEST_SIDE_PX) -> tuple[slice, slice]:
    """Return the rows and columns of the middle of an image [H, W, …], at most `side_px` in each direction."""
    top, left = (max(0, (n - side_px) // 2) for n in shape[:2])
    return slice(top, min(top + side_px, shape[0])), slice(left, min(left + side_px, shape[1]))
