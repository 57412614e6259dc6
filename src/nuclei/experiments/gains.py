"""What a run gains over its base: paired by image, with an interval over mosaic groups and a spread over seeds."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from nuclei.errors import UserError
from nuclei.evaluation.bootstrap import bootstrap_mean, paired_difference


def compare(own: Sequence[pd.DataFrame], base: Sequence[pd.DataFrame] | None) -> dict[str, Any]:
    """Compare the scores of a run with those of its base: tables of per-image scores, one per seed of each.

    Returns the columns n_images to seed_spread of comparisons.ABLATION_COLUMNS. The score is the mean over images and
    seeds with its 95 % interval over groups of images, the gain the paired difference to the base with its interval,
    both of the images' means over seeds. seed_spread: standard deviation over seeds of the gain (of the score, without
    a base), which the interval does not contain. Raises UserError if the tables are not of the same images.
    """
    groups, scores = stack_scores(own)
    mean, low, high = bootstrap_mean(scores.mean(axis=0), groups.to_numpy())
    row: dict[str, Any] = {
        "n_images": len(groups),
        "score": mean,
        "score_low": low,
        "score_high": high,
        "seeds": len(own),
    }
    per_seed = scores.mean(axis=1)
    if base is not None:
        base_groups, base_scores = stack_scores(base)
        if base_groups.index.tolist() != groups.index.tolist():
            raise UserError("the two have scores of different images")
        gain = paired_difference(scores.mean(axis=0), base_scores.mean(axis=0), groups.to_numpy())
        row |= dict(zip(("gain", "gain_low", "gain_high"), gain, strict=True))
        n = min(len(own), len(base))
        per_seed = per_seed[:n] - base_scores.mean(axis=1)[:n]
    return row | {"seed_spread": float(np.std(per_seed, ddof=1)) if len(per_seed) > 1 else None}


def stack_scores(tables: Sequence[pd.DataFrame]) -> tuple[pd.Series, NDArray[np.float64]]:
    """Return the group of each image, a series by image id, and the scores of each table, [S, N]."""
    tables = [table.set_index("image_id").sort_index() for table in tables]
    if any(table.index.tolist() != tables[0].index.tolist() for table in tables):
        raise UserError("the seeds have scores of different images")
    return tables[0]["group"], np.stack([table["score"].to_numpy(float) for table in tables])
