"""Segmentation losses: logits and targets [B, C, H, W] in, one loss per channel [C] out."""

import functools
from collections.abc import Callable

import torch
import torch.nn.functional as F

SPATIAL = (0, 2, 3)


def bce(logits, target):
    """Return the binary cross-entropy, which also takes soft targets in 0..1."""
    return F.binary_cross_entropy_with_logits(logits, target, reduction="none").mean(SPATIAL)


def dice(logits, target):
    """Return 1 − the soft Dice coefficient over the batch (Milletari et al. 2016)."""
    probability = logits.sigmoid()
    overlap = (probability * target).sum(SPATIAL)
    return 1 - (2 * overlap + 1) / (probability.square().sum(SPATIAL) + target.square().sum(SPATIAL) + 1)


def jaccard(logits, target):
    """Return 1 − the soft Jaccard index over the batch."""
    probability = logits.sigmoid()
    overlap = (probability * target).sum(SPATIAL)
    return 1 - (overlap + 1) / (probability.square().sum(SPATIAL) + target.square().sum(SPATIAL) - overlap + 1)


def focal(logits, target, gamma: float = 2.0):
    """Return the focal loss (Lin et al. 2017); a soft target is its own focus point, |target − p|^gamma."""
    weight = (target - logits.sigmoid()).abs().pow(gamma)
    return (weight * F.binary_cross_entropy_with_logits(logits, target, reduction="none")).mean(SPATIAL)


def mse(logits, target):
    """Return the mean squared error of the probabilities."""
    return (logits.sigmoid() - target).square().mean(SPATIAL)


def lovasz(logits, target):
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


LOSSES = {"bce": bce, "dice": dice, "jaccard": jaccard, "focal": focal, "mse": mse, "lovasz": lovasz}


def combined_loss(logits, target, weights: dict[str, float], channel_weights) -> torch.Tensor:
    """Return the weighted sum of losses, averaged over channels by `channel_weights` [C], as a scalar.

    Computed in float32 whatever the precision of `logits`. Raises ValueError listing the losses on an unknown name.
    """
    unknown = weights.keys() - LOSSES.keys()
    if unknown:
        raise ValueError(f"unknown loss {', '.join(sorted(unknown))}; valid: {', '.join(LOSSES)}")
    logits, target = logits.float(), target.float()
    per_channel = sum(weight * LOSSES[name](logits, target) for name, weight in weights.items())
    return (per_channel * channel_weights).sum() / channel_weights.sum()


def map_loss(weights: dict[str, float], channel_weights: list[float]) -> Callable:
    """Return the function network, images, targets -> combined_loss of the network's maps."""

    @functools.cache  # a step that is recorded for a GPU may not send it anything
    def weights_on(device: torch.device) -> torch.Tensor:
        return torch.tensor(channel_weights, device=device)

    def loss_of(network, image, target) -> torch.Tensor:
        return combined_loss(network(image), target, weights, weights_on(target.device))

    return loss_of
