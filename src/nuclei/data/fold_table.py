"""The fold table as a file, read strictly: group, cluster, number of nuclei, fold and weight of training images."""

import math
import re
from pathlib import Path

import numpy as np
import pandas as pd

from nuclei.data.image_ids import find_id_fault
from nuclei.errors import UserError
from nuclei.evaluation.rle import quote
from nuclei.evaluation.sheets import read_sheet, sheet_table

COLUMNS = ("image_id", "group", "cluster", "n_nuclei", "fold", "weight")
_COUNT = re.compile(r"[0-9]{1,9}")


def check_folds(table: pd.DataFrame) -> None:
    """Raise UserError when a fold table lacks a column, repeats an image, or has a group in two folds."""
    if missing := [c for c in COLUMNS if c not in table]:
        raise UserError(f"fold table lacks {', '.join(missing)}; it needs {', '.join(COLUMNS)}")
    if (repeated := table["image_id"].duplicated()).any():
        raise UserError(f"fold table names image {table['image_id'][repeated].iloc[0]} twice")
    n_folds = table.groupby("group")["fold"].nunique()
    if (n_folds > 1).any():
        group = n_folds.idxmax()
        folds = sorted(table["fold"][table["group"] == group].unique().tolist())
        raise UserError(f"group {group} crosses folds {folds}: tiles of one field must share a fold")


def read_folds(path: Path) -> pd.DataFrame:
    """Read a fold table: COLUMNS, ids, groups and clusters as text, n_nuclei and fold int64, weight float64.

    Raises UserError naming the file where it is no such table, and the row where an image or group has no name, a
    count or fold is no whole number from 0 on, or a weight no number above 0; and as `check_folds` does.
    """
    sheet = read_sheet(path, "fold table")
    table = sheet_table(sheet, COLUMNS)
    if table.empty:
        raise UserError(f"{sheet.name} has no rows: delete it to have the folds dealt again")
    for row, image_id, group, _, n_nuclei, fold, weight in table.itertuples(name=None):
        where = f"{sheet.name}, row {row}"
        if not image_id.strip() or not group.strip():
            raise UserError(f"{where}: no image_id or no group: fill it in or delete the row")
        if fault := find_id_fault(image_id):
            raise UserError(f"{where}: the id {quote(image_id)} {fault}: correct it or delete the row")
        for column, value in (("n_nuclei", n_nuclei), ("fold", fold)):
            if not _COUNT.fullmatch(value):
                raise UserError(f"{where}, image {image_id}: {column} is {quote(value)}, not a whole number from 0 on")
        if not _is_weight(weight):
            raise UserError(f"{where}, image {image_id}: weight is {quote(weight)}, not a number above 0")
    table = table.reset_index(drop=True).astype({"n_nuclei": np.int64, "fold": np.int64, "weight": np.float64})
    try:
        check_folds(table)
    except ValueError as error:
        raise UserError(f"{sheet.name}: {error}") from None
    return table


def _is_weight(text: str) -> bool:
    try:
        return 0 < float(text) < math.inf
    except ValueError:
        return False
