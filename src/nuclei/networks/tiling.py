"""Apply networks to whole images: padding, blended tiles, test-time augmentation over flips, turns and scales."""

import warnings
from collections.abc import Callable

import cv2
import numpy as np
import torch

from nuclei.data.images import enlargement
from nuclei.networks.encoder_decoder import STRIDE

# One view = (transpose first?, flip rows?, flip columns?); each list begins with the identity.
VIEWS = {
    "none": [(False, False, False)],
    "flips": [(False, rows, columns) for rows in (False, True) for columns in (False, True)],
    "dihedral": [
        (turned, rows, columns) for turned in (False, True) for rows in (False, True) for columns in (False, True)
    ],
}


def apply_view(array: np.ndarray, view: tuple[bool, bool, bool]) -> np.ndarray:
    """Transform the first two axes of `array` by one of the eight symmetries of the square."""
    turned, rows, columns = view
    array = array.swapaxes(0, 1) if turned else array
    return array[:: -1 if rows else 1, :: -1 if columns else 1]


def undo_view(array: np.ndarray, view: tuple[bool, bool, bool]) -> np.ndarray:
    """Invert apply_view."""
    turned, rows, columns = view
    array = array[:: -1 if rows else 1, :: -1 if columns else 1]
    return array.swapaxes(0, 1) if turned else array


def tile_starts(length: int, tile: int, overlap: int) -> list[int]:
    """Return the starts of the fewest equal tiles that cover `length` and overlap by at least `overlap`.

    Raises ValueError unless 0 <= overlap < tile.
    """
    if not 0 <= overlap < tile:
        raise ValueError(f"tiles of {tile} px cannot overlap by {overlap} px: set overlap_px below tile_px")
    if length <= tile:
        return [0]
    n = -(-(length - overlap) // (tile - overlap))
    return [round(i * (length - tile) / (n - 1)) for i in range(n)]


def tile_axis(length: int, tile: int, overlap: int) -> list[tuple[slice, np.ndarray]]:
    """Return the tiles of one axis, each with its weights float32 [n] > 0, which add up to 1 over the tiles.

    Weights rise from a tile's ends over `overlap` pixels, where its maps lack context.
    """
    n = min(length, tile)
    ramp = np.minimum(np.minimum(np.arange(n), np.arange(n)[::-1]) + 1, overlap + 1)
    spans = [slice(start, start + n) for start in tile_starts(length, tile, overlap)]
    total = np.zeros(length)
    for span in spans:
        total[span] += ramp
    return [(span, (ramp / total[span]).astype(np.float32)) for span in spans]


def forward_views(forward: Callable, image: np.ndarray, views: list) -> np.ndarray:
    """Return the maps of each view turned back: uint8 [H, W, 3] -> float32 [V, C, H, W].

    forward: uint8 [B, 3, H, W] -> probabilities [B, C, H, W], H and W multiples of STRIDE.
    """
    height, width = image.shape[:2]
    padded = cv2.copyMakeBorder(image, 0, -height % STRIDE, 0, -width % STRIDE, cv2.BORDER_REFLECT)
    parts = {}
    for turned in sorted({view[0] for view in views}):
        indices = [i for i, view in enumerate(views) if view[0] == turned]
        batch = np.stack([apply_view(padded, views[i]) for i in indices]).transpose(0, 3, 1, 2)
        maps = forward(torch.from_numpy(np.ascontiguousarray(batch))).float().cpu().numpy().transpose(0, 2, 3, 1)
        parts |= {i: undo_view(maps[j], views[i])[:height, :width].transpose(2, 0, 1) for j, i in enumerate(indices)}
    return np.stack([parts[i] for i in range(len(views))])


def predict_moments(forward: Callable, image: np.ndarray, views: list, n_channels: int, tile: int, overlap: int):
    """Return the mean maps over views and, last, the variance of the first channel over them: float32 [C + 1, H, W].

    Images beyond `tile` are predicted in tiles of that side whose `overlap` pixels are blended, so the network's
    memory does not grow with the image.
    """
    height, width = image.shape[:2]
    moments = np.zeros((n_channels + 1, height, width), np.float32)
    for rows, row_weight in tile_axis(height, tile, overlap):
        for columns, column_weight in tile_axis(width, tile, overlap):
            maps = forward_views(forward, image[rows, columns], views)
            weight = row_weight[:, None] * column_weight
            moments[:-1, rows, columns] += weight * maps.mean(0)
            moments[-1, rows, columns] += weight * maps[:, 0].var(0)
    return moments


def predict_maps(
    forward: Callable,
    image: np.ndarray,
    channels: tuple[str, ...],
    tta: str = "flips",
    scales: tuple[float, ...] = (1.0,),
    tile: int = 1280,
    overlap: int = 128,
    min_side_px: int = 0,
) -> dict[str, np.ndarray]:
    """Predict an image: uint8 [H, W, 3] -> channel name -> float32 [H, W] in 0..1, and their `disagreement`.

    scales are relative to the size that images.enlargement gives the image; disagreement: standard deviation of the
    first channel over all views and scales, 0..0.5.
    Raises ValueError listing the options on an unknown `tta`, and on an overlap that is no part of a tile.
    """
    if tta not in VIEWS:
        raise ValueError(f"unknown tta {tta}; valid: {', '.join(VIEWS)}")
    height, width = image.shape[:2]
    factor = enlargement(image.shape, min_side_px)
    for n, scale in enumerate((factor * scale for scale in scales), start=1):
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        # cv2 resizes about pixel centres, so going there and back shifts nothing.
        scaled = (
            image
            if scale == 1
            else cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
        )
        moments = predict_moments(forward, scaled, VIEWS[tta], len(channels), tile, overlap)
        if scale != 1:
            moments = np.stack([cv2.resize(m, (width, height), interpolation=cv2.INTER_LINEAR) for m in moments])
        if n == 1:
            total = moments
            continue
        # Running means; the variance also takes what the scales' means differ (Welford 1962).
        moments -= total
        total += moments / n
        total[-1] += moments[0] ** 2 * ((n - 1) / n**2)
    np.sqrt(total[-1], out=total[-1])
    return dict(zip((*channels, "disagreement"), total, strict=True))


def network_forward(fabric, network) -> Callable:
    """Return a function from uint8 [B, 3, H, W] to probabilities, run by `fabric`'s device and precision."""

    def forward(batch: torch.Tensor) -> torch.Tensor:
        # One image at a time fits a processor's cache (benchmarks/inference.py); a GPU wants them all at once.
        parts = batch.split(1 if fabric.device.type == "cpu" else len(batch))
        with torch.inference_mode(), fabric.autocast():
            return torch.cat([network(fabric.to_device(part)) for part in parts]).float().sigmoid()

    return forward


def freeze(network: torch.nn.Module) -> Callable:
    """Return a network in evaluation mode on a CPU as a function of the same values, its batch norms folded into its weights.

    A network whose traced form does not take images of any size is returned as it is.
    """
    small, other = (torch.randint(0, 256, (1, 3, *size), dtype=torch.uint8) for size in ((64, 64), (96, 160)))
    with torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit's advice to its users
        try:
            frozen = torch.jit.freeze(torch.jit.trace(network, small, check_trace=False))
            same = torch.allclose(frozen(other), network(other), atol=1e-3)
        except RuntimeError:
            same = False
    return frozen if same else network
