"""What an ablation is, and what its scores say: the difference to its base, as a config and in the score. Pure."""

from collections.abc import Iterable

import numpy as np
import pandas as pd

from nuclei.statistics import bootstrap_mean, paired_difference

RETRAINING = ("data", "model", "train")  # sections of a config that decide what the networks are
NO_DIFFERENCE = ("hypothesis",)  # keys of a config that change no result


def list_changes(base: dict, own: dict) -> list[str]:
    """List what a config changes of its base, one 'key: old -> new' each; keys that change no result left out."""
    return [line for key in base if key not in NO_DIFFERENCE for line in _differences(base[key], own[key], key)]


def _differences(base, own, where: str) -> list[str]:
    # Members, losses and the like are one value: half of a mapping says nothing.
    if isinstance(base, dict) and isinstance(own, dict) and base.keys() == own.keys():
        return [line for key in base for line in _differences(base[key], own[key], f"{where}.{key}")]
    return [] if base == own else [f"{where}: {_show(base)} -> {_show(own)}"]


def _show(value) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_show(one)}" for key, one in value.items()) or "none"
    if isinstance(value, list | tuple):
        return ", ".join(map(_show, value)) or "none"
    return "none" if value is None else str(value)


def name_kind(changes: Iterable[str]) -> str:
    """Return 'retrain' if a change makes other networks, else 'post-process'."""
    sections = {change.split(":")[0].split(".")[0] for change in changes}
    return "retrain" if sections & set(RETRAINING) else "post-process"


def with_seed(config: dict, number: int) -> dict:
    """Return a config, as a mapping, whose seeds are those of repetition `number`; 0 leaves them as they are."""
    changed = {part: config[part] | {"seed": config[part]["seed"] + number} for part in ("train", "scorer")}
    return config | changed


def compare(own: list[pd.DataFrame], base: list[pd.DataFrame] | None) -> dict:
    """Compare the scores of a run with those of its base: tables of per-image scores, one per seed of each.

    Returns the columns of ablation_tables.COLUMNS from n_images to seed_spread. The score is the mean over images and seeds with its
    95 % interval over groups of images, the gain the paired difference to the base with its interval, both of the
    images' means over seeds. seed_spread: standard deviation over seeds of the gain (of the score, without a base),
    which the interval does not contain. Raises ValueError if the tables are not of the same images.
    """
    groups, scores = _stack(own)
    mean, low, high = bootstrap_mean(scores.mean(axis=0), groups)
    row = {"n_images": len(groups), "score": mean, "score_low": low, "score_high": high, "seeds": len(own)}
    per_seed = scores.mean(axis=1)
    if base is not None:
        base_groups, base_scores = _stack(base)
        if base_groups.index.tolist() != groups.index.tolist():
            raise ValueError("the two have scores of different images")
        gain = paired_difference(scores.mean(axis=0), base_scores.mean(axis=0), groups)
        row |= dict(zip(("gain", "gain_low", "gain_high"), gain, strict=True))
        n = min(len(own), len(base))
        per_seed = per_seed[:n] - base_scores.mean(axis=1)[:n]
    return row | {"seed_spread": float(np.std(per_seed, ddof=1)) if len(per_seed) > 1 else None}


def _stack(tables: list[pd.DataFrame]) -> tuple[pd.Series, np.ndarray]:
    """Return the group of each image, a series by image id, and the scores of each table, [S, N]."""
    tables = [table.set_index("image_id").sort_index() for table in tables]
    if any(table.index.tolist() != tables[0].index.tolist() for table in tables):
        raise ValueError("the seeds have scores of different images")
    return tables[0]["group"], np.stack([table["score"].to_numpy(float) for table in tables])
