"""Classical segmentation, nothing learned: thresholds, morphology and watershed lead from an image to its nuclei.

`otsu` is the vanilla recipe, `strong` what an experienced user of the same tools would build. To add a recipe, add an
entry to RECIPES.
"""

from collections.abc import Callable

import cv2
import numpy as np
from scipy import ndimage
from skimage.filters import threshold_li, threshold_otsu
from skimage.morphology import local_maxima, reconstruction
from skimage.segmentation import watershed

from nuclei.data.image_types import image_type
from nuclei.data.labels import drop_small, largest_part


def segment(image: np.ndarray, recipe: str, **settings) -> np.ndarray:
    """Segment an image, uint8 RGB [H, W, 3], by one of RECIPES: labels int32 [H, W] from 1, 0 is background.

    `settings` are the keyword arguments of the recipe. Raises ValueError listing the recipes on an unknown one.
    """
    if recipe not in RECIPES:
        raise ValueError(f"unknown recipe {recipe!r}; choose from {', '.join(RECIPES)}")
    return RECIPES[recipe](image, **settings)


def segment_otsu(image: np.ndarray, min_area_px: int = 30, opening_px: int = 1) -> np.ndarray:
    """Segment by Otsu's threshold (1979) on the gray image; the majority is background.

    An opening by a disk of radius `opening_px` cuts thin bridges (0 leaves it out); what is left of the foreground
    falls into 4-connected components, and those below `min_area_px` are dropped.
    """
    gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    foreground = cv2.threshold(gray, 0, 1, cv2.THRESH_OTSU)[1]
    if foreground.mean() > 0.5:
        foreground = 1 - foreground
    return drop_small(cv2.connectedComponents(open_disk(foreground, opening_px), connectivity=4)[1], min_area_px)


def segment_strong(
    image: np.ndarray,
    level: float = 1.2,
    window_px: int = 49,
    opening_px: int = 2,
    smooth_px: float = 1.0,
    depth_px: float = 1.0,
    edge: float = 0.5,
    min_area_px: int = 30,
) -> np.ndarray:
    """Segment by a threshold that suits the image type, split by the distance transform, and outline each nucleus.

    level: height of the threshold over the background, in units of the automatic threshold's own height.
    window_px: width of the neighbourhood, about three nuclei, that a nucleus in stained tissue must stand out from.
    opening_px: radius of the disk that smooths the foreground and cuts its bridges.
    smooth_px, depth_px: a maximum of the distance to the background, blurred by `smooth_px`, is a nucleus of its own
    if it rises by `depth_px` above the pass to a higher one.
    edge: where the outline lies between the background (0) and the median of the nucleus (1).
    min_area_px: smaller nuclei are dropped.
    """
    kind = image_type(image)
    signal = nuclear_signal(image, kind, window_px)
    foreground, background = find_foreground(signal, kind, level, window_px)
    foreground = open_disk(ndimage.binary_fill_holes(foreground).astype(np.uint8), opening_px)
    nuclei = split_by_distance(foreground, smooth_px, depth_px)
    return drop_small(trim_edges(nuclei, signal, background, edge), min_area_px)


RECIPES: dict[str, Callable[..., np.ndarray]] = {"otsu": segment_otsu, "strong": segment_strong}


def nuclear_signal(image: np.ndarray, kind: str, window_px: int) -> np.ndarray:
    """Return a gray picture of an image of type `kind` on which nuclei are bright, float32 [H, W] in 0..255."""
    if kind.startswith("dark"):
        return image.max(axis=2).astype(np.float32)
    # Haematoxylin alone shows best in green; but eosin absorbs green as well, and lets red pass.
    signal = 255 - image[..., 0 if kind == "pink_and_purple" else 1].astype(np.float32)
    if kind == "black_on_white":
        # Cytoplasm is gray: only what is narrower than half a window can be a nucleus.
        signal = cv2.morphologyEx(cv2.GaussianBlur(signal, (0, 0), 1), cv2.MORPH_TOPHAT, disk(window_px // 4))
    return signal


def find_foreground(signal: np.ndarray, kind: str, level: float, window_px: int) -> tuple[np.ndarray, float]:
    """Return where the signal of an image of type `kind` is nucleus, bool [H, W], and the background's median.

    Li's threshold (1993, minimum cross entropy) keeps dim nuclei that Otsu's gives up for the bright ones, but takes
    residues of cytoplasm for nuclei. In stained tissue the signal must exceed its mean over a window, too.
    """
    threshold = threshold_otsu(signal) if kind == "black_on_white" else threshold_li(signal)
    background = float(np.median(signal[signal <= threshold]))
    foreground = signal > background + level * (threshold - background)
    if kind.startswith(("purple", "pink")):
        foreground &= signal > cv2.blur(signal, (window_px, window_px))
    return foreground, background


def split_by_distance(foreground: np.ndarray, smooth_px: float, depth_px: float) -> np.ndarray:
    """Cut a foreground, uint8 [H, W] of 0 and 1, at the necks between its bulges: labels int32 [H, W].

    Objects that are nowhere deeper than `depth_px` are lost. See `segment_strong` for the settings.
    """
    # Nuclei go on beyond the frame: the frame is no edge of theirs.
    framed = cv2.copyMakeBorder(foreground, 1, 1, 1, 1, cv2.BORDER_REPLICATE)
    distance = cv2.distanceTransform(framed, cv2.DIST_L2, 5)[1:-1, 1:-1]
    distance = cv2.GaussianBlur(distance, (0, 0), smooth_px) * foreground
    # Not `h_maxima`: it keeps two maxima of equal height apart, however shallow the pass between them.
    lowered = reconstruction(distance - depth_px, distance)
    # Without the frame of zeros a maximum that touches the image's edge would not count as one.
    seeds = ndimage.label(local_maxima(np.pad(lowered * foreground, 1))[1:-1, 1:-1], np.ones((3, 3)))[0]
    return watershed(-distance, seeds, mask=foreground > 0)


def trim_edges(labels: np.ndarray, signal: np.ndarray, background: float, edge: float) -> np.ndarray:
    """Cut each label back to its largest part where the signal is above its own threshold, holes filled.

    The threshold lies at `edge` of the way from the background to the label's median: the halo of a bright nucleus is
    brighter than a dim nucleus, so that no threshold outlines both.
    """
    trimmed = np.zeros_like(labels)
    for label, window in enumerate(ndimage.find_objects(labels), start=1):
        own, inside = signal[window], labels[window] == label
        cut = background + edge * (np.median(own[inside]) - background)
        trimmed[window][largest_part(inside & (own > cut), inside)] = label
    return trimmed


def open_disk(foreground: np.ndarray, radius_px: int) -> np.ndarray:
    """Open a mask, uint8 [H, W], by a disk; radius 0 leaves it as it is."""
    return cv2.morphologyEx(foreground, cv2.MORPH_OPEN, disk(radius_px))


def disk(radius_px: int) -> np.ndarray:
    return cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius_px + 1, 2 * radius_px + 1))
