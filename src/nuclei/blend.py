"""Averages of maps: over the folds of one run, and over the members of an ensemble."""

import numpy as np


def average_folds(folds: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Average the maps that each fold's network gave one image; `disagreement` by its square.

    With several folds `fold_disagreement` is added, the standard deviation of `mask` between them. It stays apart
    from `disagreement`, which out-of-fold maps, made by one network each, have too and which so means the same.
    """
    averaged = {name: np.mean([maps[name] for maps in folds], axis=0) for name in folds[0] if name != "disagreement"}
    averaged["disagreement"] = np.sqrt(np.mean([maps["disagreement"] ** 2 for maps in folds], axis=0))
    if len(folds) > 1:
        averaged["fold_disagreement"] = np.std([maps["mask"] for maps in folds], axis=0)
    return averaged
