"""Training images -> the fold table that data.folds names: mosaic groups, image types, folds and weights."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from tqdm import tqdm

from nuclei.config.schema import Config, DataConfig
from nuclei.data.fold_table import COLUMNS, read_folds
from nuclei.data.folds import fold_table, mosaic_groups, split_folds
from nuclei.data.kinds import find_kinds, kind_fold_table, kinds_table, name_kinds
from nuclei.data.statistics import describe_image
from nuclei.errors import UserError
from nuclei.runs.cache import fingerprint
from nuclei.runs.files import read_image, remove_partial_files, write_table
from nuclei.runs.layout import Dataset, Options, Run
from nuclei.runs.locks import lock
from nuclei.runs.rehearsal import foresee, rehearses

LEAST_FOLDS = 2


def main(run: Run, config: Config, options: Options) -> None:
    dataset = Dataset(config.data, run.folder.parent)
    fingerprint(dataset.meta)
    if rehearses():
        made = Path(config.data.folds).is_file() and not options.force
        print(f"{dataset.name} folds: {'up to date' if made else 'would run'} ({config.data.folds})", flush=True)
        if not made:
            foresee(dataset.meta.with_name("folds.json"), {})
        return
    with lock(dataset.meta.with_name("folds.json"), f"{dataset.name} folds"):
        remove_partial_files([Path(config.data.folds), dataset.folds_records])
        deal_folds(config, dataset, options.force)


def deal_folds(config: Config, dataset: Dataset, force: bool) -> None:
    """Write the fold table that data.folds names, unless it exists, and record it.

    Raises UserError if it is for other images, if it is not as it was recorded, and if what is to be replaced is none.
    """
    path = Path(config.data.folds)
    check_place(path)
    manifest = dataset.read_manifest()
    train = manifest[manifest["split"] == "train"].astype({"n_nuclei": int})  # the test images have none to count
    if path.is_file() and not force:
        check_images(dataset.read_fold_table(), set(train["image_id"]), path, dataset)
        dataset.record_folds()
        print(f"{dataset.name} folds: up to date ({path})", flush=True)
        return
    if config.data.split_folds:
        coarse = Path(config.data.split_folds)
        table = read_folds(coarse)
        check_images(table, set(train["image_id"]), coarse, dataset)
        write_table(path, split_folds(table, config.data.n_folds, config.data.folds_seed))
        dataset.record_folds()
        print(f"{dataset.name} folds: those of {coarse}, split into {config.data.n_folds} -> {path}", flush=True)
        return
    groups = mosaic_groups(each_pair(dataset, train["image_id"], "folds"))
    clusters, n_nuclei = (dict(zip(train["image_id"], train[c], strict=True)) for c in ("cluster", "n_nuclei"))
    if config.data.folds_by == "kind":
        deal_kinds(config.data, dataset, train.assign(group=train["image_id"].map(groups)))
        return
    table = fold_table(groups, clusters, n_nuclei, config.data.n_folds, config.data.folds_seed)
    write_table(path, table)
    dataset.record_folds()
    print(f"{dataset.name} folds: {table['group'].nunique()} groups of {len(table)} images -> {path}", flush=True)


def each_pair(dataset: Dataset, image_ids: Iterable[str], title: str) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    """Yield the id and the image of some ids, under a progress bar."""
    for image_id in tqdm(image_ids, title, unit="image", mininterval=1):
        yield image_id, read_image(dataset.image(image_id))


def deal_kinds(settings: DataConfig, dataset: Dataset, train: pd.DataFrame) -> None:
    """Write a fold table by kinds, and <name>_about.csv beside it, which says what the kinds are.

    train: the manifest's rows of the training images, and their mosaic group.
    """
    path = Path(settings.folds)
    described = {i: describe_image(image) for i, image in each_pair(dataset, train["image_id"], "kinds")}
    groups = dict(zip(train["image_id"], train["group"], strict=True))
    sizes = train[["height", "width"]].to_numpy(int).tolist()
    shapes = {i: (height, width) for i, (height, width) in zip(train["image_id"], sizes, strict=True)}
    table = train.assign(kind=train["image_id"].map(find_kinds(described, shapes, groups, settings.n_kinds)))
    table["kind"] = table["kind"].map(name_kinds(table))
    table = kind_fold_table(table, settings.n_folds)
    about = kinds_table(table, shapes, described)
    write_table(path.with_name(f"{path.stem}_about.csv"), about)
    write_table(path, table)
    dataset.record_folds()
    print(about.to_string(index=False), flush=True)
    print(f"{dataset.name} folds: {len(about)} kinds of {len(table)} images -> {path}", flush=True)


def check_place(path: Path) -> None:
    """Raise UserError if there is something at the path of a fold table that is none, and must not be replaced."""
    if path.exists() and not path.is_file():
        raise UserError(f"{path} is no file, so it cannot be a fold table: name another in data.folds")
    if path.is_file() and path.stat().st_size:
        with path.open("rb") as file:
            header = file.readline(1000)
        if lacking := [name for name in COLUMNS if name.encode() not in header]:
            raise UserError(
                f"{path} is no fold table, or a damaged one: it lacks the column {lacking[0]}: delete it to have the "
                "folds dealt again, or name another in data.folds"
            )


def check_images(table: pd.DataFrame, image_ids: set[str], path: Path, dataset: Dataset) -> None:
    """Raise UserError if the table has one fold or the data lacks an image of it; images beyond it are said."""
    if table["fold"].nunique() < LEAST_FOLDS:
        raise UserError(
            f"{path} is cut off: it has one fold, and there must be two: delete it and run the stage folds again, or "
            "put it back"
        )
    if missing := set(table["image_id"]) - image_ids:
        raise UserError(
            f"{path} is for other images than {dataset.manifest}: {len(missing)} of its {len(table)} are missing, "
            f"e.g. {min(missing)}. Put the archive it was made for in place, or set data.folds to a file to be made"
        )
    if beyond := len(image_ids) - len(table):
        # The original stage1_train has 670 images, the corrected one, which folds/dsb2018.csv is for, 664.
        print(
            f"only {len(table)} of {len(image_ids)} training images are in {path}: the other {beyond} are in no fold "
            "and are not used",
            flush=True,
        )
