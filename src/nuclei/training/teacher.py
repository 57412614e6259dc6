"""Distillation: the maps that a teacher gives the crops of a batch, mixed into their targets."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nuclei.config.schema import PredictConfig
from nuclei.networks.encoder_decoder import STRIDE
from nuclei.networks.losses import LossOf
from nuclei.networks.tiling import VIEWS, Forward, View


@dataclass(frozen=True)
class Voice:
    """Hold networks that are applied alike, uint8 [B, 3, H, W] -> probabilities, and their weight in the teacher."""

    forwards: Sequence[Forward]
    predict: PredictConfig
    weight: float


def turn_batch(batch: Tensor, view: View) -> Tensor:
    """Transform the last two axes of a batch by a symmetry of the square, as tiling.apply_view does the first two."""
    turned, rows, columns = view
    batch = batch.transpose(2, 3) if turned else batch
    return batch.flip([axis for axis, flipped in ((2, rows), (3, columns)) if flipped])


def turn_back(batch: Tensor, view: View) -> Tensor:
    """Invert turn_batch."""
    turned, rows, columns = view
    batch = batch.flip([axis for axis, flipped in ((2, rows), (3, columns)) if flipped])
    return batch.transpose(2, 3) if turned else batch


def resize_batch(batch: Tensor, side: int) -> Tensor:
    """Resize square images, uint8 or float [B, C, S, S] -> [B, C, side, side], without aliasing."""
    if batch.shape[-1] == side:
        return batch
    resized = F.interpolate(batch.float(), size=(side, side), mode="bilinear", antialias=True)
    return resized if batch.is_floating_point() else resized.round().to(batch.dtype)


def teach(voices: Sequence[Voice], image: Tensor, scale: float) -> Tensor:
    """Return the maps of a teacher for crops, uint8 [B, 3, S, S] -> float32 [B, C, S, S] in 0..1.

    Each voice sees the crops in its views and at its sizes; they were cut at `scale` of the size that its scales are
    relative to. Sizes are rounded to multiples of STRIDE.
    """
    total, weight = torch.zeros(()), 0.0
    for voice in voices:
        for own_scale in voice.predict.scales:
            side = max(1, round(image.shape[-1] * own_scale / scale / STRIDE)) * STRIDE
            resized = resize_batch(image, side)
            for view in VIEWS[voice.predict.tta]:
                for forward in voice.forwards:
                    maps = turn_back(forward(turn_batch(resized, view).contiguous()).float(), view)
                    share = voice.weight / len(voice.forwards) / len(voice.predict.scales)
                    share /= len(VIEWS[voice.predict.tta])
                    total = total.to(maps.device) + share * resize_batch(maps, image.shape[-1])
        weight += voice.weight
    return total / weight


def mix(target: Tensor, taught: Tensor, share: float) -> Tensor:
    """Return targets of which the teacher has `share`, and all where there is no truth (NaN)."""
    target = target.float()
    return torch.where(target.isnan(), taught, (1 - share) * target + share * taught)


def taught_loss(loss_of: LossOf, voices: Sequence[Voice], scale: float, share: float) -> LossOf:
    """Return a loss like `loss_of` whose targets are mixed with what the teacher gives the same images."""

    def loss(network: nn.Module, image: Tensor, target: Tensor) -> Tensor:
        return loss_of(network, image, mix(target, teach(voices, image, scale), share))

    return loss
