"""Segmentation losses: logits and targets [B, C, H, W] in, one loss per channel [C] out."""

import functools
from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nuclei.config.schema import ModelConfig, TrainConfig
from nuclei.errors import UserError

LossOf = Callable[[nn.Module, Tensor, Tensor], Tensor]  # network, images and targets of a batch -> a scalar
SPATIAL = (0, 2, 3)


def bce(logits: Tensor, target: Tensor) -> Tensor:
    """Return the binary cross-entropy, which also takes soft targets in 0..1."""
    return F.binary_cross_entropy_with_logits(logits, target, reduction="none").mean(SPATIAL)


def dice(logits: Tensor, target: Tensor) -> Tensor:
    """Return 1 − the soft Dice coefficient over the batch (Milletari et al. 2016)."""
    probability = logits.sigmoid()
    overlap = (probability * target).sum(SPATIAL)
    return 1 - (2 * overlap + 1) / (probability.square().sum(SPATIAL) + target.square().sum(SPATIAL) + 1)


def jaccard(logits: Tensor, target: Tensor) -> Tensor:
    """Return 1 − the soft Jaccard index over the batch."""
    probability = logits.sigmoid()
    overlap = (probability * target).sum(SPATIAL)
    return 1 - (overlap + 1) / (probability.square().sum(SPATIAL) + target.square().sum(SPATIAL) - overlap + 1)


def focal(logits: Tensor, target: Tensor, gamma: float = 2.0) -> Tensor:
    """Return the focal loss (Lin et al. 2017); a soft target is its own focus point, |target − p|^gamma."""
    weight = (target - logits.sigmoid()).abs().pow(gamma)
    return (weight * F.binary_cross_entropy_with_logits(logits, target, reduction="none")).mean(SPATIAL)


def mse(logits: Tensor, target: Tensor) -> Tensor:
    """Return the mean squared error of the probabilities."""
    return (logits.sigmoid() - target).square().mean(SPATIAL)


def lovasz(logits: Tensor, target: Tensor) -> Tensor:
    """Return the Lovász hinge over the batch (Berman et al. 2018); targets are cut at 0.5."""
    losses = []
    for channel in range(logits.shape[1]):
        truth = (target[:, channel].flatten() > 0.5).float()
        errors = 1 - logits[:, channel].flatten() * (2 * truth - 1)
        errors, order = errors.sort(descending=True)
        truth = truth[order]
        intersection = truth.sum() - truth.cumsum(0)
        union = truth.sum() + (1 - truth).cumsum(0)
        index = 1 - intersection / union
        gradient = torch.cat([index[:1], index[1:] - index[:-1]])
        losses.append((F.relu(errors) * gradient).sum())
    return torch.stack(losses)


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "bce": bce,
    "dice": dice,
    "jaccard": jaccard,
    "focal": focal,
    "mse": mse,
    "lovasz": lovasz,
}


def check_losses(names: Iterable[str]) -> None:
    """Raise UserError listing the losses on an unknown name."""
    if unknown := set(names) - LOSSES.keys():
        raise UserError(f"unknown loss {', '.join(sorted(unknown))}; valid: {', '.join(LOSSES)}")


def combined_loss(logits: Tensor, target: Tensor, weights: dict[str, float], channel_weights: Tensor) -> Tensor:
    """Return the weighted sum of losses, averaged over channels by `channel_weights` [C], as a scalar.

    Computed in float32 whatever the precision of `logits`. Raises UserError as `check_losses` does.
    """
    check_losses(weights)
    logits, target = logits.float(), target.float()
    per_channel = functools.reduce(torch.add, [weights[name] * LOSSES[name](logits, target) for name in weights])
    return (per_channel * channel_weights).sum() / channel_weights.sum()


def map_loss(model: ModelConfig, train: TrainConfig) -> LossOf:
    """Return the function that gives the combined_loss of a network's maps, channels weighted by name."""
    channel_weights = [train.channel_weights.get(channel, 1.0) for channel in model.channels]

    @functools.cache  # a step that is recorded for a GPU may not send it anything
    def weights_on(device: torch.device) -> Tensor:
        return torch.tensor(channel_weights, device=device)

    def loss_of(network: nn.Module, image: Tensor, target: Tensor) -> Tensor:
        return combined_loss(network(image), target, train.loss, weights_on(target.device))

    return loss_of
