"""Choices made out of fold: what an image is decoded with was chosen on the folds it is not in."""

import numpy as np


def choose_per_fold(grid: np.ndarray, fold: np.ndarray) -> tuple[dict[int, int], int]:
    """Choose the best option for each fold on the images of the other folds, and one on all images.

    grid: score of N images under K options, [N, K]; fold: [N]. Returns ({fold: option}, option for new images);
    of equal options the first is taken. With a single fold there are no others, which is a ValueError.
    """
    folds = np.unique(fold)
    if len(folds) < 2:
        raise ValueError("a threshold is chosen on the other folds: at least two folds are needed")
    chosen = {int(k): int(grid[fold != k].mean(axis=0).argmax()) for k in folds}
    return chosen, int(grid.mean(axis=0).argmax())


def find_setting(tuned: dict, fold: int | None) -> dict:
    """Return the thresholds that the images of a fold are decoded with, those of new images for None."""
    return tuned["test"] if fold is None else tuned["fold"][str(fold)]
