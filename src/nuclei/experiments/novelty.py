"""Does novelty tell unseen kinds of images from seen ones? Several definitions, compared without training anything.

Seen: each training image, held out by the usual folds, against the images of the other folds. Unseen: the same image,
held out with its whole kind by folds by kind, against the others. External images are unseen as well. The kinds were
found by the same statistics that some definitions measure, which flatters those; external sets flatter none.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.spatial.distance import cdist
from scipy.stats import rankdata
from tqdm import tqdm

from nuclei.config.load import load_config
from nuclei.data.fold_table import read_folds
from nuclei.data.novelty import LIMIT_PERCENTILE, Novelty
from nuclei.data.statistics import describe_image
from nuclei.errors import UserError
from nuclei.inference.bundle import find_run
from nuclei.inference.encodings import load_encoders
from nuclei.inference.image_files import Reading
from nuclei.inference.score_images import find_labelled
from nuclei.runs.files import check_target, read_image, read_table, write_table
from nuclei.runs.layout import Dataset, Run

STATISTICS, TRAINED, INITIAL = "statistics", "trained encoder", "initial encoder"
UNSEEN = "all unseen kinds"
COLUMNS = ("definition", "images_of", "n_images", "auc", "auc_low", "auc_high", "beyond_limit")
DRAWS = 500
Measure = Callable[[NDArray[Any]], NDArray[np.float64]]


def fit_nearest(described: NDArray[Any], groups: NDArray[Any]) -> Measure:
    return Novelty(described, groups).of


def fit_fifth_nearest(described: NDArray[Any], groups: NDArray[Any]) -> Measure:  # noqa: ARG001 (all fits take them)
    """Return the distance to the fifth nearest image, in standard deviations."""
    mean, scale = described.mean(0), np.maximum(described.std(0), 1e-6)
    return lambda new: np.sort(cdist((new - mean) / scale, (described - mean) / scale), axis=1)[:, 4]


def fit_mahalanobis(described: NDArray[Any], groups: NDArray[Any]) -> Measure:  # noqa: ARG001
    """Return the Mahalanobis distance to the mean, the covariance of standardised values regularised by 0.1."""
    mean, scale = described.mean(0), np.maximum(described.std(0), 1e-6)
    values = (described - mean) / scale
    root = np.linalg.cholesky(np.linalg.inv(np.cov(values.T) + 0.1 * np.eye(len(mean))))
    return lambda new: np.asarray(np.linalg.norm((new - mean) / scale @ root, axis=1), np.float64)


# Definition -> the features that it is made of, and how it is fitted to training images: [N, F], groups [N].
DEFINITIONS: dict[str, tuple[str, Callable[[NDArray[Any], NDArray[Any]], Measure]]] = {
    "nearest by statistics": (STATISTICS, fit_nearest),
    "fifth nearest by statistics": (STATISTICS, fit_fifth_nearest),
    "Mahalanobis of statistics": (STATISTICS, fit_mahalanobis),
    "nearest by the trained encoder": (TRAINED, fit_nearest),
    "nearest by the encoder's initial weights": (INITIAL, fit_nearest),
}


def check_novelty(
    dataset: Dataset, kind_folds: Path, external: Path | None, weights: Path | None, output: Path
) -> pd.DataFrame:
    """Compare the DEFINITIONS of novelty, write the table to `output` and return it, columns COLUMNS.

    dataset: prepared images, with the usual folds; kind_folds: a fold table by kind, of the same images; external: a
    folder as find_labelled takes; weights: a run or bundle, the first network of which is the encoder. Without the last
    two there are neither external images nor definitions by an encoder. Raises UserError for other images in the two
    tables.
    """
    check_target(output, ",".join(COLUMNS))
    usual, kinds = (_read_folds(path) for path in (dataset.folds, kind_folds))
    if usual["image_id"].tolist() != kinds["image_id"].tolist() or "kind" not in kinds:
        raise UserError(f"{kind_folds} must be a fold table by kind of the images of {dataset.folds}")
    labelled = find_labelled(external) if external else []
    features = {STATISTICS: describe_image} | (load_encoders(_network_of(weights)) if weights else {})
    paths = [dataset.image(image_id) for image_id in usual["image_id"]]
    readers = [lambda path=path: read_image(path) for path in paths]
    readers += [lambda one=one: one.source.read(Reading())[1] for one in labelled]
    measured = measure_all(features, readers)
    sets = np.array([one.data_set for one in labelled])
    rows = []
    for name, (made_of, fit) in DEFINITIONS.items():
        if made_of in measured:
            training, outside = np.split(measured[made_of], [len(usual)])
            rows += compare_definition(name, fit, training, (usual, kinds), {s: outside[sets == s] for s in set(sets)})
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    write_table(output, table)
    return table


def _read_folds(path: Path) -> pd.DataFrame:
    """Return a fold table with all its columns, by image_id; raise UserError as fold_table.read_folds does."""
    read_folds(path)
    return read_table(path).sort_values("image_id", ignore_index=True)


def measure_all(
    features: Mapping[str, Callable[[NDArray[np.uint8]], NDArray[Any]]],
    readers: Sequence[Callable[[], NDArray[np.uint8]]],
) -> dict[str, NDArray[np.float64]]:
    """Return each kind of features of N images, {name: [N, F]}, under a progress bar."""
    found: dict[str, list[NDArray[Any]]] = {name: [] for name in features}
    for read in tqdm(readers, "novelty", unit="image", mininterval=2):
        image = read()
        for name, measure in features.items():
            found[name].append(measure(image))
    return {name: np.asarray(values, np.float64) for name, values in found.items()}


def compare_definition(
    name: str,
    fit: Callable[[NDArray[Any], NDArray[Any]], Measure],
    training: NDArray[np.float64],
    tables: tuple[pd.DataFrame, pd.DataFrame],
    outside: Mapping[str, NDArray[np.float64]],
) -> list[dict[str, Any]]:
    """Return the rows of one definition: of all unseen kinds, of each, and of each external set.

    training: features of the rows of both fold tables, the usual one and that by kind; outside: of external images. AUC
    is the chance that an unseen image is newer than a seen one, with its 95 % interval over mosaic groups;
    beyond_limit the share of images that are newer than all but one in a hundred seen ones.
    """
    usual, kinds = tables
    groups = np.unique(usual["group"], return_inverse=True)[1]
    seen, unseen = (measure_held_out(fit, training, groups, table["fold"].to_numpy()) for table in tables)
    by_all = fit(training, groups)
    compared = {UNSEEN: (unseen, groups)}
    for kind in kinds["kind"].value_counts().index:
        own = (kinds["kind"] == kind).to_numpy()
        compared[kind] = unseen[own], groups[own]
    compared |= {name: (by_all(values), np.arange(len(values))) for name, values in sorted(outside.items())}
    limit = np.percentile(seen, LIMIT_PERCENTILE)
    rows = []
    for images_of, (new, own) in compared.items():
        auc, low, high = (round(v, 4) for v in area_under_roc(new, own, seen, groups))
        beyond = round(float((new > limit).mean()), 4)
        rows.append(dict(zip(COLUMNS, (name, images_of, len(new), auc, low, high, beyond), strict=True)))
    return rows


def measure_held_out(
    fit: Callable[[NDArray[Any], NDArray[Any]], Measure],
    described: NDArray[np.float64],
    groups: NDArray[Any],
    folds: NDArray[Any],
) -> NDArray[np.float64]:
    """Return the novelty of N training images, each measured against the images of the other folds: [N]."""
    novelty = np.empty(len(described))
    for fold in np.unique(folds):
        held_out = folds == fold
        novelty[held_out] = fit(described[~held_out], groups[~held_out])(described[held_out])
    return novelty


def area_under_roc(
    new: NDArray[Any], new_groups: NDArray[Any], known: NDArray[Any], known_groups: NDArray[Any], seed: int = 0
) -> tuple[float, float, float]:
    """Return the chance that a value of `new` [N] exceeds one of `known` [M], ties counting half, and its interval.

    The 95 % interval is that of DRAWS resamples of the groups of both, whose images are not independent.
    """
    rng = np.random.default_rng(seed)
    rows_of = [_rows_by_group(groups) for groups in (new_groups, known_groups)]
    drawn = []
    for _ in range(DRAWS):
        picked = [np.concatenate([rows[i] for i in rng.integers(len(rows), size=len(rows))]) for rows in rows_of]
        drawn.append(_auc(new[picked[0]], known[picked[1]]))
    low, high = np.percentile(drawn, (2.5, 97.5))
    return _auc(new, known), float(low), float(high)


def _auc(new: NDArray[Any], known: NDArray[Any]) -> float:
    ranks = rankdata(np.concatenate([new, known]))[: len(new)]
    return float((ranks.sum() - len(new) * (len(new) + 1) / 2) / (len(new) * len(known)))


def _rows_by_group(groups: NDArray[Any]) -> list[NDArray[np.intp]]:
    order = np.argsort(groups, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(groups[order])) + 1)


def _network_of(weights: Path) -> Run:
    """Return the run whose networks a run or bundle predicts with, of several members the first."""
    run = find_run(weights)
    members: Iterable[str] = load_config(run.config).members
    return next((Run(name, run.folder.parent) for name in members), run)
