"""Apply networks to whole images: padding, blended tiles, test-time augmentation over flips, turns and scales.

Images of one size, and tiles of one image, go through a network together where that is faster: `count_together`.
"""

import warnings
from collections.abc import Callable, Iterator, Sequence
from itertools import product
from typing import Any, cast

import cv2
import numpy as np
import torch
from lightning_fabric import Fabric
from numpy.typing import NDArray
from torch import Tensor, nn

from nuclei.config.schema import ModelConfig, PredictConfig
from nuclei.data.images import enlargement
from nuclei.networks.encoder_decoder import STRIDE
from nuclei.networks.maps import Maps

View = tuple[bool, bool, bool]  # transpose first?, flip rows?, flip columns?
Forward = Callable[[Tensor], Tensor]  # uint8 [B, 3, H, W] -> probabilities [B, C, H, W]

# Each list begins with the identity.
VIEWS: dict[str, list[View]] = {
    "none": [(False, False, False)],
    "turn": [(False, False, False), (False, True, True)],
    "flips": [(False, rows, columns) for rows in (False, True) for columns in (False, True)],
    "dihedral": [
        (turned, rows, columns) for turned in (False, True) for rows in (False, True) for columns in (False, True)
    ],
}


def apply_view(array: NDArray[Any], view: View) -> NDArray[Any]:
    """Transform the first two axes of `array` by one of the eight symmetries of the square."""
    turned, rows, columns = view
    array = array.swapaxes(0, 1) if turned else array
    return array[:: -1 if rows else 1, :: -1 if columns else 1]


def undo_view(array: NDArray[Any], view: View) -> NDArray[Any]:
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


def tile_axis(length: int, tile: int, overlap: int) -> list[tuple[slice, NDArray[np.float32]]]:
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


def count_together(shape: tuple[int, ...], model: ModelConfig, predict: PredictConfig, on_gpu: bool) -> int:
    """Return how many images of a shape, [H, W, …], or tiles of one, go through a network together.

    One on a CPU, whose cache holds no more (benchmarks/inference.py). On a GPU predict.batch_images or, unset, as many
    as have the pixels of one tile of predict.tile_px, so that small images fill it and none needs more memory.
    """
    if not on_gpu:
        return 1
    factor = enlargement(shape, model.min_side_px) * max(predict.scales)
    height, width = (min(predict.tile_px, max(1, round(n * factor))) for n in shape[:2])
    return predict.batch_images or max(1, predict.tile_px**2 // (height * width))


def forward_views(forward: Forward, images: Sequence[NDArray[np.uint8]], views: list[View]) -> NDArray[np.float32]:
    """Return the maps of each view of images of one size, turned back: uint8 N x [H, W, 3] -> float32 [N, V, C, H, W].

    forward is given images whose height and width are multiples of STRIDE, all views of all images that lie alike.
    """
    height, width = images[0].shape[:2]
    padded = [cv2.copyMakeBorder(i, 0, -height % STRIDE, 0, -width % STRIDE, cv2.BORDER_REFLECT) for i in images]
    parts: dict[tuple[int, int], NDArray[np.float32]] = {}
    for turned in sorted({view[0] for view in views}):
        places = [(n, i) for n in range(len(images)) for i, view in enumerate(views) if view[0] == turned]
        batch = np.stack([apply_view(padded[n], views[i]) for n, i in places]).transpose(0, 3, 1, 2)
        maps = forward(torch.from_numpy(np.ascontiguousarray(batch))).float().cpu().numpy().transpose(0, 2, 3, 1)
        for j, (n, i) in enumerate(places):
            parts[n, i] = undo_view(maps[j], views[i])[:height, :width].transpose(2, 0, 1)
    return np.stack([[parts[n, i] for i in range(len(views))] for n in range(len(images))])


def predict_moments(
    forward: Forward, images: Sequence[NDArray[np.uint8]], n_channels: int, predict: PredictConfig, together: int
) -> NDArray[np.float32]:
    """Return the mean maps over views and, last, the variance of the first channel over them: float32 [N, C + 1, H, W].

    Images beyond predict.tile_px are predicted in tiles of that side whose overlap is blended, so the network's
    memory does not grow with the image. together: images of one size, or tiles, that it is given at a time.
    """
    height, width = images[0].shape[:2]
    moments = np.zeros((len(images), n_channels + 1, height, width), np.float32)
    tall, wide = (tile_axis(length, predict.tile_px, predict.overlap_px) for length in (height, width))
    places = [(n, row, column) for row, column in product(tall, wide) for n in range(len(images))]
    for first in range(0, len(places), together):
        some = places[first : first + together]
        crops = [images[n][rows, columns] for n, (rows, _), (columns, _) in some]
        found = forward_views(forward, crops, VIEWS[predict.tta])
        for (n, (rows, row_weight), (columns, column_weight)), maps in zip(some, found, strict=True):
            weight = row_weight[:, None] * column_weight
            moments[n, :-1, rows, columns] += weight * maps.mean(0)
            moments[n, -1, rows, columns] += weight * maps[:, 0].var(0)
    return moments


def predict_scales(
    forward: Forward, images: Sequence[NDArray[np.uint8]], model: ModelConfig, predict: PredictConfig, together: int
) -> Iterator[NDArray[np.float32]]:
    """Yield predict_moments at each of the scales, at the size of the images: float32 [N, C + 1, H, W]."""
    height, width = images[0].shape[:2]
    factor = enlargement(images[0].shape, model.min_side_px)
    for scale in (factor * scale for scale in predict.scales):
        if scale == 1:
            yield predict_moments(forward, images, len(model.channels), predict, together)
            continue
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        # cv2 resizes about pixel centers, so going there and back shifts nothing.
        method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
        scaled = [cast("NDArray[np.uint8]", cv2.resize(image, size, interpolation=method)) for image in images]
        moments = predict_moments(forward, scaled, len(model.channels), predict, together)
        yield np.stack(
            [[cv2.resize(m, (width, height), interpolation=cv2.INTER_LINEAR) for m in own] for own in moments]
        )


def predict_maps(forward: Forward, image: NDArray[np.uint8], model: ModelConfig, predict: PredictConfig) -> Maps:
    """Predict one image, and its tiles one after the other, as predict_alike does."""
    return predict_alike(forward, [image], model, predict)[0]


def predict_alike(
    forward: Forward,
    images: Sequence[NDArray[np.uint8]],
    model: ModelConfig,
    predict: PredictConfig,
    together: int = 1,
) -> list[Maps]:
    """Predict images of one size: uint8 [H, W, 3] -> channel name -> float32 [H, W] in 0..1, and their `disagreement`.

    predict.scales are relative to the size that images.enlargement gives the image; disagreement: standard deviation
    of the first channel over all views and scales, 0..0.5. together: as of count_together. Raises ValueError unless
    0 <= overlap < tile.
    """
    scales = predict_scales(forward, images, model, predict, together)
    total = next(scales)
    for n, moments in enumerate(scales, start=2):
        # Running means; the variance also takes what the scales' means differ (Welford 1962).
        moments -= total
        total += moments / n
        total[:, -1] += moments[:, 0] ** 2 * ((n - 1) / n**2)
    np.sqrt(total[:, -1], out=total[:, -1])
    return [dict(zip((*model.channels, "disagreement"), own, strict=True)) for own in total]


def network_forward(fabric: Fabric, network: Callable[[Tensor], Tensor]) -> Forward:
    """Return a function from uint8 [B, 3, H, W] to probabilities, run by `fabric`'s device and precision."""

    def forward(batch: Tensor) -> Tensor:
        # One image at a time fits a processor's cache (benchmarks/inference.py); a GPU wants them all at once.
        parts = torch.split(batch, 1 if fabric.device.type == "cpu" else len(batch))
        with torch.inference_mode(), fabric.autocast():
            return torch.cat([network(fabric.to_device(part)) for part in parts]).float().sigmoid()

    return forward


def freeze(network: nn.Module) -> Callable[[Tensor], Tensor]:
    """Return a network in evaluation mode on a CPU as a function of the same values, batch norms folded into weights.

    A network whose traced form does not take images of any size is returned as it is.
    """
    small, other = (torch.randint(0, 256, (1, 3, *size), dtype=torch.uint8) for size in ((64, 64), (96, 160)))
    with torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit's advice to its users
        try:
            traced = torch.jit.trace(network, small, check_trace=False)  # type: ignore[no-untyped-call]  # torch's own
            frozen = torch.jit.freeze(traced)
            same = torch.allclose(frozen(other), network(other), atol=1e-3)
        except RuntimeError:
            same = False
    return frozen if same else network
