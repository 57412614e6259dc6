"""Choices made out of fold: what an image is decoded with was chosen on the folds that it is not in."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nuclei.errors import UserError

Setting = Mapping[str, Any]  # thresholds by name


@dataclass(frozen=True)
class Tuned:
    """Hold what was chosen, with the curve it was chosen from."""

    options: Sequence[Any]  # what was tried
    curve: Sequence[float]  # the mean score over all images under each option
    fold: Mapping[int, Setting]  # the setting for the images of each fold, chosen on the others
    new: Setting  # the setting for images of no fold, chosen on all

    def setting(self, fold: int | None) -> Setting:
        """Return the setting for the images of a fold, that of new images for None."""
        return self.new if fold is None else self.fold[fold]

    def as_json(self) -> dict[str, Any]:
        """Return what `from_json` reads: options, curve, fold by its number as text, and test, for new images."""
        by_fold = {str(fold): dict(setting) for fold, setting in self.fold.items()}
        return {"options": list(self.options), "curve": list(self.curve), "fold": by_fold, "test": dict(self.new)}

    @classmethod
    def from_json(cls, content: Mapping[str, Any], name: str) -> "Tuned":
        """Return what `as_json` gave; raise UserError naming `name` if it is anything else."""
        try:
            by_fold = {int(fold): dict(setting) for fold, setting in content["fold"].items()}
            return cls(content["options"], content["curve"], by_fold, dict(content["test"]))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UserError(f"{name} is damaged ({error!r}): delete it and run the stage that made it again") from error


def tune(
    options: Sequence[Setting], grid: NDArray[np.float64], fold: NDArray[np.int64]
) -> tuple[Tuned, NDArray[np.float64]]:
    """Choose one of K options for each fold on the images of the other folds, and one for new images on all.

    grid: scores of N images under the options, [N, K]; fold: [N]. Returns what was chosen and the score of each image
    under what was chosen for its fold, [N]. Raises UserError as `choose_per_fold` does.
    """
    chosen, overall = choose_per_fold(grid, fold)
    scores = np.array([row[chosen[int(own)]] for row, own in zip(grid, fold, strict=True)])
    curve = grid.mean(axis=0).round(5).tolist()
    return Tuned(options, curve, {k: options[i] for k, i in chosen.items()}, options[overall]), scores


def choose_per_fold(
    grid: NDArray[np.float64], fold: NDArray[np.int64], tolerance: float = 0.0
) -> tuple[dict[int, int], int]:
    """Choose the best option for each fold on the images of the other folds, and one on all images.

    grid: score of N images under K options, [N, K]; fold: [N]. Returns ({fold: option}, option for new images);
    of the options whose mean score is within `tolerance` of the best the first is taken, of equal ones too. With a
    single fold there are no others, which is a UserError.
    """
    folds = np.unique(fold)
    if len(folds) < 2:
        raise UserError("a threshold is chosen on the other folds: at least two folds are needed")

    def choose(scores: NDArray[np.float64]) -> int:
        mean = scores.mean(axis=0)
        return int((mean >= mean.max() - tolerance).argmax())

    return {int(k): choose(grid[fold != k]) for k in folds}, choose(grid)
