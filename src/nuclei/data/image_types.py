"""The types of images, told apart by what can be measured in an image."""

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

IMAGE_TYPES = (
    "dark_fluorescence_small",
    "dark_fluorescence_large",
    "black_on_white",
    "purple_on_white",
    "purple_on_purple",
    "pink_and_purple",
)


def image_statistics(image: NDArray[np.uint8]) -> dict[str, float]:
    """Measure what decides the type of a uint8 RGB image [H, W, 3].

    Luminance and chroma (largest minus smallest channel) are in 0..255; `background_chroma` is that of the
    brightest fifth; the colour differences compare medians over pixels of chroma above 30, 0 if none;
    `nucleus_radius_px` is the typical radius of circles inscribed in the foreground, 0 if there is none.
    """
    step = max(1, max(image.shape[:2]) // 128)
    # Colour by colour: numpy reduces an axis of three slowly.
    colours = [np.ascontiguousarray(image[::step, ::step, i], np.int16).ravel() for i in range(3)]
    luminance = (colours[0] + colours[1] + colours[2]).astype(np.int64) / 3
    chroma = np.maximum(np.maximum(*colours[:2]), colours[2]) - np.minimum(np.minimum(*colours[:2]), colours[2])
    is_coloured = chroma > 30
    red, green, blue = (np.median(c[is_coloured]) for c in colours) if is_coloured.any() else (0, 0, 0)
    median_luminance = float(np.median(luminance))
    first, second, third = cv2.split(image if median_luminance < 128 else 255 - image)
    return {
        "median_luminance": median_luminance,
        "mean_chroma": float(chroma.mean()),
        "background_chroma": float(np.median(chroma[luminance >= np.percentile(luminance, 80)])),
        "red_minus_green": float(red - green),
        "red_minus_blue": float(red - blue),
        "nucleus_radius_px": _typical_radius_px(cv2.max(cv2.max(first, second), third)),
    }


def _typical_radius_px(signal: NDArray[Any]) -> float:
    smooth = cv2.GaussianBlur(signal, (0, 0), 1)
    foreground = cv2.threshold(smooth, 0, 255, cv2.THRESH_OTSU)[1]
    # Above the local mean as well: otherwise dense tissue is one object.
    foreground[smooth <= cv2.blur(smooth, (65, 65))] = 0
    foreground = cv2.morphologyEx(foreground, cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
    framed = cv2.copyMakeBorder(foreground, 1, 1, 1, 1, cv2.BORDER_CONSTANT)
    distance = cv2.distanceTransform(framed, cv2.DIST_L2, 5)
    # Inscribed circles, not areas: nuclei that touch keep their size. The median is weighted by area.
    is_peak = (distance >= cv2.dilate(distance, np.ones((7, 7), np.uint8))) & (distance > 2)
    radius_px = np.sort(distance[is_peak])
    area = np.cumsum(np.square(radius_px))
    return float(radius_px[np.searchsorted(area, area[-1] / 2)]) if len(radius_px) else 0.0


def image_type(image: NDArray[np.uint8]) -> str:
    """Name the image type of a uint8 RGB image [H, W, 3], one of IMAGE_TYPES.

    Each limit lies in a gap between the types of stage1_train and stage1_test (values there in the comments).
    """
    s = image_statistics(image)
    if s["median_luminance"] < 90:  # fluorescence at most 52, the others at least 130
        # true median area below 900 px or above it: 400 of 408 stage1_train images agree
        return "dark_fluorescence_large" if s["nucleus_radius_px"] > 13.5 else "dark_fluorescence_small"
    if s["mean_chroma"] < 4:  # gray at most 0.1, stained at least 11
        return "black_on_white"
    if s["red_minus_green"] > 35 and s["red_minus_blue"] > -10:  # pink 56, 5; purple -4..56, below -20
        return "pink_and_purple"
    return "purple_on_white" if s["background_chroma"] < 28 else "purple_on_purple"  # at most 22; at least 38
