"""The training crops that a config asks for, of images on disk: made anew, or drawn from a run's pool."""

import numpy as np
import pandas as pd

from nuclei import runs
from nuclei.augment import leave_out
from nuclei.config import Config
from nuclei.dataset import Crops, Pool
from nuclei.images import enlarge


def read_pair(dataset: runs.Dataset, image_id: str, min_side_px: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Read an image, uint8 [H, W, 3], and its labels, uint16 [H, W], enlarged as images.enlarge does."""
    labels = runs.read_labels(dataset.labels(image_id)).astype(np.uint16)
    return enlarge(runs.read_image(dataset.image(image_id)), labels, min_side_px)


def make_crops(dataset: runs.Dataset, config: Config, table: pd.DataFrame, n: int, seed: int, by_fold: bool = False) -> Crops:
    """Return n crops of the images of a fold table; by_fold: no crop has content of two folds."""
    t = config.train
    images, labels = zip(*(read_pair(dataset, i, config.model.min_side_px) for i in table["image_id"]), strict=True)
    weights = table["weight"].to_numpy() if t.sampling == "balanced" else np.ones(len(table))
    return Crops(images, labels, weights, n, config.model.channels, leave_out(t.augment, t.leave_out), t.crop_px, seed,
                 table["fold"].to_numpy() if by_fold else None)


def pool_settings(config: Config) -> dict:
    """Return the settings that decide the crops of a pool."""
    settings = {key: getattr(config.train, key) for key in ("pool", "crop_px", "augment", "leave_out", "sampling", "seed")}
    return settings | {"channels": config.model.channels, "min_side_px": config.model.min_side_px}


def find_crops(run: runs.Run, config: Config, dataset: runs.Dataset, table: pd.DataFrame, fold: int, seed: int):
    """Return the crops that the network of `fold` learns from, of the other folds of a fold table."""
    n = config.train.steps * config.train.batch_size
    if config.train.pool:
        runs.fingerprint(run.meta("crops"))  # which says so where there are none
        turned = leave_out(config.train.augment, config.train.leave_out)["dihedral"]
        return Pool(run.crops, fold, n, turned, seed)
    return make_crops(dataset, config, table[table["fold"] != fold], n, seed)
