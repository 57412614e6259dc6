"""Outlines as a decision of their own: nuclei grown or shrunk by fractions of a pixel, without overlap.

A grid of pixels has no outline between two of its rows, so what is asked for in fractions is met in area: a nucleus
of area A and perimeter P that grows by g px has A + P·g + π·g² (Steiner's formula), and takes that many pixels, the
nearest first and of equally near ones those of the highest mask value.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.measure import regionprops

MARGIN_PX = 2  # beyond the growth, so that the pixels to choose from are more than are taken


@dataclass(frozen=True)
class Growth:
    """Say by how much the outline of each nucleus moves outwards: `px`, and a share of its equivalent radius."""

    px: float = 0.0
    share: float = 0.0

    @classmethod
    def parse(cls, text: str) -> "Growth":
        """Return what a setting such as '1.5px' or '15%' says; it has been checked by the schema."""
        return cls(share=float(text[:-1]) / 100) if text.endswith("%") else cls(px=float(text.removesuffix("px")))

    def __bool__(self) -> bool:
        return bool(self.px or self.share)

    def of(self, area_px: float) -> float:
        """Return by how many pixels the outline of a nucleus of an area moves outwards."""
        return float(self.px + self.share * np.sqrt(area_px / np.pi))


def grow_labels(labels: NDArray[Any], mask: NDArray[np.float32], growth: Growth) -> NDArray[np.int32]:
    """Return a label image, int [H, W], whose nuclei are grown, or shrunk where `growth` is negative: int32 [H, W].

    mask: the map of all nuclei, [H, W] in 0..1, which decides between equally near pixels. A grown nucleus takes no
    pixel of another one, and of two that grow into a pixel the nearer has it; nothing is grown beyond the frame. A
    nucleus that is shrunk keeps a pixel at least. Raises ValueError on pictures of two shapes.
    """
    if labels.shape != mask.shape:
        raise ValueError(f"labels are {labels.shape} px, the mask {mask.shape}")
    grown = labels.astype(np.int32)
    if not growth or not grown.any():
        return grown
    nearest = _nearest_label(grown)
    result = grown.copy()
    for region in regionprops(grown):
        amount = growth.of(region.area)
        n = round(abs(region.perimeter_crofton * amount + np.pi * amount**2))
        window = _widen(region.slice, int(np.ceil(max(amount, 0))) + MARGIN_PX, grown.shape)
        own = grown[window] == region.label
        if amount > 0:
            # The shape is grown as if alone; what is another's by then, or nearer to another, is not taken.
            chosen = _nearest_pixels(~own, -mask[window], n) & (nearest[window] == region.label)
            result[window][chosen & (grown[window] == 0)] = region.label
        else:
            # Beyond the frame a nucleus goes on, so it does not shrink there.
            chosen = _nearest_pixels(own, mask[window], min(n, int(region.area) - 1))
            result[window][chosen] = 0
    return result


def _nearest_label(labels: NDArray[np.int32]) -> NDArray[np.int32]:
    """Return the label of the nucleus nearest to each pixel."""
    rows, columns = ndimage.distance_transform_edt(labels == 0, return_distances=False, return_indices=True)
    nearest: NDArray[np.int32] = labels[rows, columns]
    return nearest


def _widen(box: tuple[slice, ...], margin: int, shape: tuple[int, ...]) -> tuple[slice, ...]:
    """Return a box that is wider by a margin on each side, inside an image."""
    return tuple(slice(max(s.start - margin, 0), min(s.stop + margin, n)) for s, n in zip(box, shape, strict=True))


def _nearest_pixels(region: NDArray[np.bool_], rank: NDArray[np.float32], n: int) -> NDArray[np.bool_]:
    """Return the n pixels of a region that are nearest to its outside, of equally near ones those of the least rank."""
    distance = ndimage.distance_transform_edt(region)[region]
    first = np.lexsort((rank[region], distance))[:n]
    chosen = np.zeros(region.shape, bool)
    chosen.reshape(-1)[np.flatnonzero(region)[first]] = True
    return chosen
