"""Calibration: how predicted values compare with the true ones, as sums over bins that add up image by image."""

import numpy as np

SUMS = ("count", "predicted", "true", "true_squared", "squared_error")


def bin_predictions(predicted: np.ndarray, true: np.ndarray, n_bins: int = 20) -> np.ndarray:
    """Sum N pairs in 0..1 by equal bins of the predicted value: float64 [5, n_bins], rows as SUMS.

    The last bin holds 1. Sums of parts add up to the sums of the whole. Raises ValueError on unequal lengths and on
    values outside 0..1.
    """
    predicted, true = np.asarray(predicted, np.float64), np.asarray(true, np.float64)
    if predicted.ndim != 1 or predicted.shape != true.shape:
        raise ValueError(f"predicted {predicted.shape} and true {true.shape} must be equally long lists")
    if not all(((0 <= v) & (v <= 1)).all() for v in (predicted, true)):
        raise ValueError("predicted and true values must lie in 0..1")
    index = np.minimum((predicted * n_bins).astype(int), n_bins - 1)
    weights = (None, predicted, true, true**2, (predicted - true) ** 2)
    return np.stack([np.bincount(index, w, n_bins).astype(np.float64) for w in weights])


def summarise_bins(sums: np.ndarray) -> dict[str, np.ndarray]:
    """Return count, mean predicted, mean and standard deviation of the true value of each bin, [n_bins] each.

    Empty bins have NaN means. `sums` are those of bin_predictions.
    """
    named = dict(zip(SUMS, sums, strict=True))
    count = np.where(named["count"] > 0, named["count"], np.nan)
    mean = named["true"] / count
    spread = np.sqrt(np.maximum(named["true_squared"] / count - mean**2, 0))
    return {"count": named["count"], "predicted": named["predicted"] / count, "true": mean, "spread": spread}
