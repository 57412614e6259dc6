"""Kinds of acquisition: images of one stain, microscope and magnification, and folds that keep each kind together.

A network that was trained on the other folds has then never seen anything like the images that it is scored on.
"""

from collections.abc import Mapping
from itertools import count
from string import ascii_lowercase

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import cdist

from nuclei.data.fold_table import COLUMNS, check_folds
from nuclei.data.folds import image_weights
from nuclei.errors import UserError

# Images of one size are mostly of one microscope. The size is no part of what describe_image measures, for it says
# nothing of how an image looks; here it counts as much as three of its numbers.
SIZE_WEIGHT = 3.0


def find_kinds(
    described: Mapping[str, NDArray[np.float64]],
    shapes: Mapping[str, tuple[int, int]],
    groups: Mapping[str, str],
    n_kinds: int,
) -> dict[str, int]:
    """Sort images into at most `n_kinds` kinds, numbered from 0: image_id -> kind.

    described: what statistics.describe_image measures of each image; shapes: (H, W); groups: mosaic, which is never
    split: its images count as one by their mean. Statistics and the logarithms of height and width are brought to a
    standard deviation of 1, the latter two then weigh SIZE_WEIGHT; the groups are joined by Ward's method (Ward 1963).
    No random number is drawn, and the order of the images does not matter.
    """
    ids = sorted(described)
    values = np.array([[*described[i], *np.log2(shapes[i])] for i in ids])
    values = (values - values.mean(0)) / np.maximum(values.std(0), 1e-9)
    values[:, -2:] *= SIZE_WEIGHT
    means = pd.DataFrame(values, index=[groups[i] for i in ids]).groupby(level=0).mean()
    if len(means) < 2:
        return dict.fromkeys(ids, 0)
    label = fcluster(linkage(means.to_numpy(), "ward"), n_kinds, "maxclust")
    kind_of = dict(zip(means.index, (label - 1).tolist(), strict=True))
    return {i: kind_of[groups[i]] for i in ids}


def name_kinds(table: pd.DataFrame) -> dict[int, str]:
    """Name kinds by the type and the size that most of their images have, the largest kind first: kind -> name.

    table: columns image_id, kind, cluster, height, width. Of several with one type and size, a letter tells which.
    """
    size = table["height"].astype(str) + "x" + table["width"].astype(str)
    names = table["cluster"] + "_" + size
    of_kind = {kind: names[own.index].mode().iloc[0] for kind, own in table.groupby("kind")}
    first = table.groupby("kind")["image_id"].agg(["size", "min"]).sort_values(["size", "min"], ascending=[False, True])
    taken: dict[str, count[int]] = {}
    named = {}
    for kind in first.index:
        name = of_kind[kind]
        number = next(taken.setdefault(name, count()))
        several = list(of_kind.values()).count(name) > 1
        named[int(kind)] = f"{name}_{ascii_lowercase[number]}" if several else name
    return named


def kind_fold_table(table: pd.DataFrame, n_folds: int) -> pd.DataFrame:
    """Deal kinds into folds: COLUMNS and kind, sorted by image_id, no kind in two folds.

    table: columns image_id, group, cluster, n_nuclei and kind. Kinds are dealt largest first, each to the fold with the
    fewest images, of equal ones with the fewest nuclei, so that the folds are as equal as whole kinds let them be.
    Weights are those of assign_folds. Raises UserError for fewer kinds than folds.
    """
    sizes = table.groupby("kind").agg(images=("image_id", "size"), nuclei=("n_nuclei", "sum")).reset_index()
    if len(sizes) < n_folds:
        raise UserError(
            f"{len(sizes)} kinds of images cannot be dealt into {n_folds} folds: set data.n_folds or data.n_kinds"
        )
    images, nuclei = np.zeros(n_folds, int), np.zeros(n_folds, int)
    fold_of = {}
    for row in sizes.sort_values(["images", "kind"], ascending=[False, True]).itertuples():
        fold = min(range(n_folds), key=lambda k: (images[k], nuclei[k]))
        images[fold] += row.images
        nuclei[fold] += row.nuclei
        fold_of[row.kind] = fold
    dealt = table.assign(fold=table["kind"].map(fold_of), weight=image_weights(table["cluster"]))
    dealt = dealt.sort_values("image_id", ignore_index=True)[[*COLUMNS, "kind"]]
    check_folds(dealt)
    return dealt


def kinds_table(
    folds: pd.DataFrame, shapes: Mapping[str, tuple[int, int]], described: Mapping[str, NDArray[np.float64]]
) -> pd.DataFrame:
    """Tabulate the kinds of a fold table: a row each, by fold and size, the largest first.

    Columns kind, fold, images, groups, nuclei, median_nuclei, types and sizes ('name n' for each), and of what is
    nearest to it in the other folds, by the mean of its statistics in standard deviations: nearest_unlike and distance.
    """
    values = np.array([described[i] for i in folds["image_id"]])
    values = (values - values.mean(0)) / np.maximum(values.std(0), 1e-9)
    means = pd.DataFrame(values).groupby(folds["kind"].to_numpy()).mean()
    distance = pd.DataFrame(cdist(means, means) / np.sqrt(values.shape[1]), means.index, means.index)
    rows = []
    for kind, own in folds.groupby("kind"):
        fold = int(own["fold"].iloc[0])
        others = distance[kind][sorted(folds.loc[folds["fold"] != fold, "kind"].unique())]  # it is symmetric
        sizes = pd.Series([f"{h}x{w}" for h, w in (shapes[i] for i in own["image_id"])])
        rows.append(
            {
                "kind": kind,
                "fold": fold,
                "images": len(own),
                "groups": own["group"].nunique(),
                "nuclei": int(own["n_nuclei"].sum()),
                "median_nuclei": float(np.median(own["n_nuclei"])),
                "types": _count(own["cluster"]),
                "sizes": _count(sizes),
                "nearest_unlike": others.idxmin(),
                "distance": round(float(np.min(others)), 3),
            }
        )
    return pd.DataFrame(rows).sort_values(["fold", "images", "kind"], ascending=[True, False, True], ignore_index=True)


def _count(names: "pd.Series[str]") -> str:
    return "; ".join(f"{name} {n}" for name, n in names.value_counts(sort=True).items())
