"""Training crops: which image each crop comes from, and the crop itself, as functions of the seed and its number."""

import numpy as np
import torch
from torch.utils.data import Dataset

from nuclei.augment import augment
from nuclei.targets import make_targets


def draw_images(weights: np.ndarray, n: int, seed: int, block: int = 4096) -> np.ndarray:
    """Draw n image indices in proportion to `weights` [K], int64 [n]; a longer draw begins with the shorter one.

    Systematic sampling per block: over a block each image comes up within one of its expected count.
    """
    drawn = []
    edges = np.cumsum(weights) / np.sum(weights)
    for number in range(-(-n // block)):
        rng = np.random.default_rng([seed, number])
        points = (np.arange(block) + rng.random()) / block
        drawn.append(rng.permutation(np.searchsorted(edges, points).clip(max=len(weights) - 1)))
    return np.concatenate(drawn)[:n]


class Crops(Dataset):
    """Give n augmented crops: image uint8 [3, S, S] and targets float16 [C, S, S] or, without channels, labels int32
    [1, S, S].

    Crop i depends on the seed and i alone, whatever process makes it and however many follow, so a training resumed
    at crop i sees what an uninterrupted one would have seen.
    """

    def __init__(self, images: list, labels: list, weights, n: int, channels, preset, crop_px: int, seed: int):
        self.images, self.labels = images, labels
        self.channels, self.preset, self.crop_px, self.seed = channels, preset, crop_px, seed
        weights = np.asarray(weights, float)
        self.order, self.shares = draw_images(weights, n, seed), weights / weights.sum()

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, i: int):
        rng = np.random.default_rng([self.seed, 1, i])
        source = self.order[i]

        def partner():
            other = rng.choice(len(self.images), p=self.shares)
            return self.images[other], self.labels[other]

        image, labels = augment(self.images[source], self.labels[source], self.preset, self.crop_px, rng, partner)
        targets = make_targets(labels, self.channels).astype(np.float16) if self.channels else np.int32(labels)[None]
        return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))), torch.from_numpy(targets)
