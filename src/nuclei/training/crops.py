"""Training crops: which image each crop comes from, and the crop itself, as functions of the seed and its number."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from nuclei.config.schema import Config, ModelConfig, TrainConfig, is_changed
from nuclei.data.competition import EXTERNAL_FOLD
from nuclei.training.augment import Image, Labels, Pair, augment, leave_out, turn
from nuclei.training.targets import make_targets

UNLABELLED = -2  # the fold, as it were, of images without masks: no other image is in a mosaic with them


@dataclass(frozen=True)
class Source:
    """The K images that crops are cut from: each with its labels, its weight in the draw, and its fold.

    The other images of a mosaic are of the same fold as its first. External images are of the fold EXTERNAL_FOLD, which
    no network holds out. The last `n_unlabelled` images have no truth: their labels are empty, and they are in mosaics
    of their own alone.
    """

    images: Sequence[Image]
    labels: Sequence[Labels]
    weights: NDArray[np.float64]
    folds: NDArray[np.int64]
    n_unlabelled: int = 0


def make_source(pairs: Iterable[Pair], table: pd.DataFrame, train: TrainConfig, by_fold: bool = False) -> Source:
    """Return the images of a fold table as a Source; by_fold: no crop is to have content of two folds.

    pairs: the table's images, uint8 [H, W, 3], and labels, uint16 [H, W], enlarged as the config asks, in its order.
    The weights of external images count whatever the sampling.
    """
    images, labels = zip(*pairs, strict=True)
    as_given = (table["fold"] == EXTERNAL_FOLD) | (train.sampling == "balanced")
    weights = np.where(as_given, table["weight"], 1.0)
    folds = table["fold"].to_numpy() if by_fold else np.zeros(len(table), int)
    return Source(images, labels, weights, folds)


def add_unlabelled(source: Source, images: Iterable[Image], share: float) -> Source:
    """Return a source with images without masks, uint8 [H, W, 3], beside its own, which get a share of the draws."""
    more = list(images)
    if not more:
        return source
    weight = source.weights.sum() * share / (1 - share) / len(more)
    return Source(
        [*source.images, *more],
        [*source.labels, *(np.zeros(image.shape[:2], np.uint16) for image in more)],
        np.append(source.weights, np.full(len(more), weight)),
        np.append(source.folds, np.full(len(more), UNLABELLED)),
        len(more),
    )


def draw_images(weights: NDArray[np.float64], n: int, seed: int, block: int = 4096) -> NDArray[np.int64]:
    """Draw n image indices in proportion to `weights` [K], int64 [n]; a longer draw begins with the shorter one.

    Systematic sampling per block: over a block each image comes up within one of its expected count.
    """
    drawn = []
    edges = np.cumsum(weights) / np.sum(weights)
    for number in range(-(-n // block)):
        rng = np.random.default_rng([seed, number])
        points = (np.arange(block) + rng.random()) / block
        drawn.append(rng.permutation(np.searchsorted(edges, points).clip(max=len(weights) - 1)))
    order: NDArray[np.int64] = np.concatenate(drawn)[:n]
    return order


class Crops(Dataset[tuple[Tensor, Tensor]]):
    """Give n augmented crops: image uint8 [3, S, S] and targets float16 [C, S, S] or, without channels, labels int32
    [1, S, S]. Targets of images without truth are NaN.

    Crop i depends on the seed and i alone, whatever process makes it and however many follow, so a training resumed
    at crop i sees what an uninterrupted one would have seen. `fold_of` int64 [n]: the fold of each crop. Raises
    UserError on augmentation groups that do not exist.
    """

    def __init__(self, source: Source, model: ModelConfig, train: TrainConfig, n: int, seed: int):
        self.source, self.channels, self.crop_px, self.seed = source, model.channels, train.crop_px, seed
        self.groups = leave_out(train.augment, train.leave_out)
        self.order = draw_images(source.weights, n, seed)
        self.fold_of = source.folds[self.order]
        of_fold = {fold: source.weights * (source.folds == fold) for fold in np.unique(source.folds)}
        self.shares = {fold: part / part.sum() for fold, part in of_fold.items()}

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        rng, (images, labels) = np.random.default_rng([self.seed, 1, i]), (self.source.images, self.source.labels)

        def draw_partner() -> Pair:
            other = rng.choice(len(images), p=self.shares[self.fold_of[i]])
            return images[other], labels[other]

        first = self.order[i]
        image, ids = augment(images[first], labels[first], self.groups, self.crop_px, rng, draw_partner)
        targets = make_targets(ids, self.channels).astype(np.float16) if self.channels else ids[None]
        if first >= len(images) - self.source.n_unlabelled:
            targets = np.full_like(targets, np.nan)
        return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))), torch.from_numpy(targets)


class Pool(Dataset[tuple[Tensor, Tensor]]):
    """Give n crops of those made once (the stage crops), each time turned anew by the augmentation group dihedral.

    images uint8 [K, 3, S, S], targets uint8 [K, C, S, S]; rows: which of the K are to be seen. All are seen before any
    is seen again. Crop i depends on the seed and i alone; it has the form that Crops gives.
    """

    def __init__(
        self,
        images: NDArray[np.uint8],
        targets: NDArray[np.uint8],
        rows: NDArray[np.int64],
        train: TrainConfig,
        n: int,
        seed: int,
    ):
        self.images, self.targets, self.seed = images, targets, seed
        self.turned = leave_out(train.augment, train.leave_out)["dihedral"]
        self.order = rows[draw_images(np.ones(len(rows)), n, seed, block=len(rows))]

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        rng, row = np.random.default_rng([self.seed, 2, i]), self.order[i]
        pair = self.images[row].transpose(1, 2, 0), self.targets[row].transpose(1, 2, 0)
        if rng.random() < self.turned:
            pair = turn(*pair, int(rng.integers(8)))
        image, targets = (torch.from_numpy(np.array(array.transpose(2, 0, 1), order="C")) for array in pair)
        return image, targets.half() / 255


def pool_settings(config: Config) -> dict[str, Any]:
    """Return the settings that decide the crops of a pool."""
    settings = {
        key: getattr(config.train, key) for key in ("pool", "crop_px", "augment", "leave_out", "sampling", "seed")
    }
    settings |= {"channels": config.model.channels, "min_side_px": config.model.min_side_px}
    settings |= {key: getattr(config.train, key) for key in ("scale", "diameter_px") if is_changed(config.train, key)}
    return settings | config.data.record_external()
