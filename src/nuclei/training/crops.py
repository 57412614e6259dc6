"""Training crops: which image each crop comes from, and the crop itself, as functions of the seed and its number."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch.utils.data import Dataset

from nuclei.config.schema import Config
from nuclei.training.augment import augment, leave_out, turn
from nuclei.training.targets import make_targets


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
    at crop i sees what an uninterrupted one would have seen. folds [K]: a mosaic's other images are of its own fold;
    without them they may be any.
    """

    def __init__(
        self, images: list, labels: list, weights, n: int, channels, preset, crop_px: int, seed: int, folds=None
    ):
        self.images, self.labels = images, labels
        self.channels, self.preset, self.crop_px, self.seed = channels, preset, crop_px, seed
        weights = np.asarray(weights, float)
        self.order = draw_images(weights, n, seed)
        folds = np.zeros(len(weights), int) if folds is None else np.asarray(folds)
        self.fold_of = folds[self.order]
        of_fold = {fold: weights * (folds == fold) for fold in np.unique(folds)}
        self.shares = {fold: part / part.sum() for fold, part in of_fold.items()}

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, i: int):
        rng = np.random.default_rng([self.seed, 1, i])
        source = self.order[i]

        def partner():
            other = rng.choice(len(self.images), p=self.shares[self.fold_of[i]])
            return self.images[other], self.labels[other]

        image, labels = augment(self.images[source], self.labels[source], self.preset, self.crop_px, rng, partner)
        targets = make_targets(labels, self.channels).astype(np.float16) if self.channels else np.int32(labels)[None]
        return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))), torch.from_numpy(targets)


class Pool(Dataset):
    """Give n crops of those that lie in a folder (the stage crops) and are not of `fold`, each time turned anew.

    All are seen before any is seen again. Crop i depends on the seed and i alone; it has the form that Crops gives.
    turned: probability of one of the eight views.
    """

    def __init__(self, folder: Path, fold: int, n: int, turned: float, seed: int):
        self.images, self.targets = (np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("images", "targets"))
        self.turned, self.seed = turned, seed
        rows = np.flatnonzero(np.load(folder / "folds.npy") != fold)
        self.order = rows[draw_images(np.ones(len(rows)), n, seed, block=len(rows))]

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, i: int):
        rng = np.random.default_rng([self.seed, 2, i])
        arrays = [array[self.order[i]].transpose(1, 2, 0) for array in (self.images, self.targets)]
        if rng.random() < self.turned:
            arrays = turn(*arrays, int(rng.integers(8)))
        image, targets = (torch.from_numpy(np.array(array.transpose(2, 0, 1), order="C")) for array in arrays)
        return image, targets.half() / 255


def make_crops(
    pairs: Iterable[tuple[np.ndarray, np.ndarray]],
    config: Config,
    table: pd.DataFrame,
    n: int,
    seed: int,
    by_fold: bool = False,
) -> Crops:
    """Return n crops of the images of a fold table; by_fold: no crop has content of two folds.

    pairs: the table's images, uint8 [H, W, 3], and labels, uint16 [H, W], enlarged as the config asks, in its order.
    """
    t = config.train
    images, labels = zip(*pairs, strict=True)
    weights = table["weight"].to_numpy() if t.sampling == "balanced" else np.ones(len(table))
    return Crops(
        images,
        labels,
        weights,
        n,
        config.model.channels,
        leave_out(t.augment, t.leave_out),
        t.crop_px,
        seed,
        table["fold"].to_numpy() if by_fold else None,
    )


def pool_settings(config: Config) -> dict:
    """Return the settings that decide the crops of a pool."""
    settings = {
        key: getattr(config.train, key) for key in ("pool", "crop_px", "augment", "leave_out", "sampling", "seed")
    }
    return settings | {"channels": config.model.channels, "min_side_px": config.model.min_side_px}
