"""Training images -> the fold table that data.folds names: mosaic groups, image types, folds and weights."""

from pathlib import Path

import pandas as pd
from tqdm import tqdm

from nuclei.config.schema import Config
from nuclei.data.fold_table import COLUMNS, read_folds
from nuclei.data.folds import fold_table, mosaic_groups, split_folds
from nuclei.errors import UserError
from nuclei.runs.cache import fingerprint, lock
from nuclei.runs.files import read_image, remove_partial_files, write_table
from nuclei.runs.layout import Dataset, Options, Run

LEAST_FOLDS = 2


def main(run: Run, config: Config, options: Options) -> None:
    dataset = Dataset(config.data, run.folder.parent)
    fingerprint(dataset.meta)
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
    ids = tqdm(train["image_id"], "folds", unit="image", mininterval=1)
    images = ((i, read_image(dataset.image(i))) for i in ids)
    groups = mosaic_groups(images)
    clusters, n_nuclei = (dict(zip(train["image_id"], train[c], strict=True)) for c in ("cluster", "n_nuclei"))
    table = fold_table(groups, clusters, n_nuclei, config.data.n_folds, config.data.folds_seed)
    write_table(path, table)
    dataset.record_folds()
    print(f"{dataset.name} folds: {table['group'].nunique()} groups of {len(table)} images -> {path}", flush=True)


def check_place(path: Path) -> None:
    """Raise UserError if there is something at the path of a fold table that is none, and must not be replaced."""
    if path.exists() and not path.is_file():
        raise UserError(f"{path} is no file, so it cannot be a fold table: name another in data.folds")
    if path.is_file() and path.stat().st_size:
        with path.open("rb") as file:
            header = file.readline(1000)
        if COLUMNS[0].encode() not in header:
            raise UserError(
                f"{path} is no fold table, or a damaged one: it lacks the column {COLUMNS[0]}: delete it to have the "
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
