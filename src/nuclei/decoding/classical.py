"""Classical segmentation, nothing learned: thresholds, morphology and watershed lead from an image to its nuclei.

`otsu` is the vanilla recipe, `strong` what an experienced user of the same tools would build. To add a recipe, add an
entry to RECIPES.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.filters import threshold_li, threshold_otsu
from skimage.morphology import local_maxima, reconstruction
from skimage.segmentation import watershed

from nuclei.config.schema import ClassicalConfig
from nuclei.data.image_types import image_type
from nuclei.data.labels import drop_small, largest_part
from nuclei.errors import UserError

Image = NDArray[np.uint8]
Labels = NDArray[np.int32]
Signal = NDArray[np.float32]


@dataclass(frozen=True)
class Otsu:
    """Hold the settings of the vanilla recipe."""

    min_area_px: int = 30  # smaller components are dropped
    opening_px: int = 1  # radius of the disk whose opening cuts thin bridges; 0: no opening


@dataclass(frozen=True)
class Strong:
    """Hold the settings of the strong recipe."""

    level: float = 1.2  # height of the threshold over the background, in units of the automatic threshold's own height
    window_px: int = (
        49  # about three nuclei wide: the neighbourhood that a nucleus in stained tissue must stand out from
    )
    opening_px: int = 2  # radius of the disk that smooths the foreground and cuts its bridges
    smooth_px: float = 1.0  # sigma of the blur of the distance to the background
    depth_px: float = 1.0  # a maximum of that distance is a nucleus if it rises this far above the pass to a higher one
    edge: float = 0.5  # where the outline lies between the background (0) and the median of the nucleus (1)
    min_area_px: int = 30  # smaller nuclei are dropped


def segment_by_recipe(image: Image, config: ClassicalConfig, sample: Image | None = None) -> Labels:
    """Segment an image, uint8 RGB [H, W, 3], by one of RECIPES: labels int32 [H, W] from 1, 0 is background.

    sample: of the whole image, if this is a part of it: what thresholds are chosen on, uint8 [h, w, 3]. Raises
    UserError as `check_recipe` does.
    """
    check_recipe(config)
    settings, recipe = RECIPES[config.recipe]
    # YAML gives 2 as well as 2.0: pixels are whole.
    given = {name: int(value) if name in whole_numbers(settings) else value for name, value in config.settings.items()}
    return recipe(image, settings(**given), sample)


def whole_numbers(settings: type) -> set[str]:
    """Return the names of the settings of a recipe that are whole numbers."""
    return {field.name for field in fields(settings) if isinstance(field.default, int)}


def check_recipe(config: ClassicalConfig) -> None:
    """Raise UserError listing the recipes, or a recipe's settings, on an unknown one."""
    if config.recipe not in RECIPES:
        raise UserError(f"classical.recipe: unknown recipe {config.recipe!r}; valid: {', '.join(RECIPES)}")
    valid = [field.name for field in fields(RECIPES[config.recipe][0])]
    if unknown := sorted(config.settings.keys() - set(valid)):
        raise UserError(
            f"classical.settings: {config.recipe} has no setting {', '.join(unknown)}; valid: {', '.join(valid)}"
        )


def segment_otsu(image: Image, settings: Otsu, sample: Image | None = None) -> Labels:
    """Segment by Otsu's threshold (1979) on the gray image; the majority of the sample is background.

    What an opening leaves of the foreground falls into 4-connected components.
    """
    gray, known = (
        cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY) for picture in (image, image if sample is None else sample)
    )
    threshold, bright = cv2.threshold(known, 0, 1, cv2.THRESH_OTSU)
    foreground = (gray > threshold).astype(np.uint8)
    if bright.mean() > 0.5:
        foreground = 1 - foreground
    return drop_small(
        cv2.connectedComponents(open_disk(foreground, settings.opening_px), connectivity=4)[1], settings.min_area_px
    )


def segment_strong(image: Image, settings: Strong, sample: Image | None = None) -> Labels:
    """Segment by a threshold that suits the image type, split by the distance transform, and outline each nucleus."""
    s, kind = settings, image_type(image if sample is None else sample)
    signal = nuclear_signal(image, kind, s.window_px)
    known = signal if sample is None else nuclear_signal(sample, kind, s.window_px)
    foreground, background = find_foreground(signal, known, kind, s.level, s.window_px)
    opened = open_disk(ndimage.binary_fill_holes(foreground).astype(np.uint8), s.opening_px)
    nuclei = split_by_distance(opened, s.smooth_px, s.depth_px)
    return drop_small(trim_edges(nuclei, signal, background, s.edge), s.min_area_px)


# name -> its settings and what segments an image by them
RECIPES: dict[str, tuple[type, Callable[..., Labels]]] = {
    "otsu": (Otsu, segment_otsu),
    "strong": (Strong, segment_strong),
}


def nuclear_signal(image: Image, kind: str, window_px: int) -> Signal:
    """Return a gray picture of an image of type `kind` on which nuclei are bright, float32 [H, W] in 0..255."""
    if kind.startswith("dark"):
        brightest: Signal = image.max(axis=2).astype(np.float32)
        return brightest
    # Haematoxylin alone shows best in green; but eosin absorbs green as well, and lets red pass.
    signal = 255 - image[..., 0 if kind == "pink_and_purple" else 1].astype(np.float32)
    if kind == "black_on_white":
        # Cytoplasm is gray: only what is narrower than half a window can be a nucleus.
        blurred = cv2.GaussianBlur(signal, (0, 0), 1)
        return np.asarray(cv2.morphologyEx(blurred, cv2.MORPH_TOPHAT, disk(window_px // 4)), np.float32)
    return signal


def find_foreground(
    signal: Signal, sample: Signal, kind: str, level: float, window_px: int
) -> tuple[NDArray[np.bool_], float]:
    """Return where the signal of an image of type `kind` is nucleus, bool [H, W], and the background's median.

    sample: the signal that threshold and median are chosen on: the same, or that of a sample of a larger image.

    Li's threshold (1993, minimum cross entropy) keeps dim nuclei that Otsu's gives up for the bright ones, but takes
    residues of cytoplasm for nuclei. In stained tissue the signal must exceed its mean over a window, too.
    """
    threshold = threshold_otsu(sample) if kind == "black_on_white" else threshold_li(sample)
    background = float(np.median(sample[sample <= threshold]))
    foreground = signal > background + level * (threshold - background)
    if kind.startswith(("purple", "pink")):
        foreground &= signal > cv2.blur(signal, (window_px, window_px))
    return foreground, background


def split_by_distance(foreground: NDArray[np.uint8], smooth_px: float, depth_px: float) -> Labels:
    """Cut a foreground, uint8 [H, W] of 0 and 1, at the necks between its bulges: labels int32 [H, W].

    Objects that are nowhere deeper than `depth_px` are lost. See `segment_strong` for the settings.
    """
    # Nuclei continue beyond the frame: it is no edge of theirs.
    framed = cv2.copyMakeBorder(foreground, 1, 1, 1, 1, cv2.BORDER_REPLICATE)
    distance = cv2.distanceTransform(framed, cv2.DIST_L2, 5)[1:-1, 1:-1]
    distance = cv2.GaussianBlur(distance, (0, 0), smooth_px) * foreground
    # Not `h_maxima`: it keeps two maxima of equal height apart, however shallow the pass between them.
    lowered = reconstruction(distance - depth_px, distance)
    # Without the frame of zeros a maximum that touches the image's edge would not count as one.
    seeds = ndimage.label(local_maxima(np.pad(lowered * foreground, 1))[1:-1, 1:-1], np.ones((3, 3)))[0]
    nuclei: Labels = watershed(-distance, seeds, mask=foreground > 0)
    return nuclei


def trim_edges(labels: Labels, signal: Signal, background: float, edge: float) -> Labels:
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


def open_disk(foreground: NDArray[np.uint8], radius_px: int) -> NDArray[np.uint8]:
    """Open a mask, uint8 [H, W], by a disk; radius 0 leaves it as it is."""
    return np.asarray(cv2.morphologyEx(foreground, cv2.MORPH_OPEN, disk(radius_px)), np.uint8)


def disk(radius_px: int) -> NDArray[np.uint8]:
    side = 2 * radius_px + 1
    return np.asarray(cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side)), np.uint8)
