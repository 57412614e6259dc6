"""Submissions in Kaggle's format: written, checked against every rule, and scored against a solution file.

A file whose header is separated by semicolons is read as such; Kaggle would not take it, so that `validate_submission`
reports it.
"""

import csv
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any, TextIO

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from nuclei.errors import UserError
from nuclei.evaluation.metric import THRESHOLDS, count_matches, overlap_masks, score_counts
from nuclei.evaluation.rle import (
    decode_labels,
    decode_masks,
    decode_usable_pixels,
    encode_labels,
    find_rle_violations,
    quote,
)
from nuclei.evaluation.sheets import CsvFile, Sheet, is_blank, read_sheet, sheet_table

HEADER = ["ImageId", "EncodedPixels"]
SOLUTION_COLUMNS = [*HEADER, "Height", "Width", "Usage"]
SCORED_USAGES = ("Public", "Private")
SCORE_COLUMNS = ["image_id", "score", *(f"p{round(100 * t)}" for t in THRESHOLDS)]
_SIDE_PX = re.compile(r"[1-9][0-9]{0,4}")


def submission_rows(image_id: str, labels: NDArray[Any]) -> list[tuple[str, str]]:
    """Return the (ImageId, EncodedPixels) rows of a label image [H, W]: one per nucleus, ascending by label.

    Without nuclei it is one row with an empty string.
    """
    return [(image_id, text) for text in encode_labels(labels) or [""]]


def write_submission(file: TextIO, images: Iterable[tuple[str, NDArray[Any]]]) -> None:
    """Write a submission from (image_id, label image [H, W]) pairs, holding one image at a time."""
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(HEADER)
    for image_id, labels in images:
        writer.writerows(submission_rows(image_id, labels))


def read_submission(source: CsvFile) -> pd.DataFrame:
    """Read a submission as a table of strings with the columns ImageId and EncodedPixels.

    Blank rows are left out; what else the rows hold is not checked: see ``validate_submission``. Raises UserError
    naming the file where it is damaged or no text, lacks a column, or has a row of another length than its header.
    """
    return sheet_table(read_sheet(source, "submission"), HEADER).reset_index(drop=True)


def read_solution(source: CsvFile, usage: str | None = None) -> pd.DataFrame:
    """Read the scored nuclei of an official solution file: ImageId, EncodedPixels, Height, Width, Usage.

    Keeps the rows of one ``usage`` ("Public", "Private"), by default all that are not "Ignored"; blank rows are left
    out. Raises what ``read_submission`` does, and UserError naming the file and the row where a scored row has no
    image, no size, the size of another image than the image's first row, an unknown usage, or a mask that breaks a
    rule; or the usages on offer where no row is left. Ignored rows are not looked at.
    """
    sheet = read_sheet(source, "solution")
    table = sheet_table(sheet, SOLUTION_COLUMNS)
    scored = table[table["Usage"] != "Ignored"]
    _check_solution(sheet.name, scored)
    kept = scored[scored["Usage"] == usage] if usage else scored
    if kept.empty:
        offered = ", ".join(f"{name} ({rows} rows)" for name, rows in table["Usage"].value_counts().items())
        raise UserError(f"{sheet.name} has no row to score with usage={usage!r}; it has {offered or 'no rows'}")
    return kept.astype({"Height": int, "Width": int}).reset_index(drop=True)


def validate_submission(source: CsvFile, shapes: dict[str, tuple[int, int]]) -> list[str]:
    """List every way in which a submission breaks the competition's rules; an empty list means it is valid.

    ``shapes`` gives (H, W) of every image that must be present. Each violation names its row in the file
    (the header is row 1) and its image; of a file that cannot be read, the only one names the file. Rules (Kaggle, Data
    Science Bowl 2018): the header, two columns separated by commas, every image and no other, sorted pairs of integers
    inside the image with single spaces between them, no pixel twice, no two masks of an image overlapping, no row
    twice, no blank row, and one row without pixels only where an image has no masks.
    """
    try:
        sheet = read_sheet(source, "submission")
    except ValueError as error:
        return [str(error)]
    violations = list(_find_header_violations(sheet))
    rows = [(1, sheet.header), *sheet.rows] if sheet.header and sheet.header[0] in shapes else sheet.rows
    rows_of_image: dict[str, list[tuple[int, str]]] = defaultdict(list)
    for row, cells in rows:
        if is_blank(cells):
            violations.append((row, f"row {row}: blank, delete it"))
        elif len(cells) != len(HEADER):
            violations.append((row, f"row {row}: {len(cells)} columns instead of {len(HEADER)}"))
        elif cells[0] not in shapes:
            violations.append((row, f"row {row}, image {quote(cells[0])}: unknown image"))
        else:
            rows_of_image[cells[0]].append((row, cells[1]))
    for image_id, image_rows in rows_of_image.items():
        for row, violation in _find_image_violations(image_rows, shapes[image_id]):
            violations.append((row, f"row {row}, image {image_id}: {violation}"))
    violations.sort(key=lambda violation: violation[0])
    missing = sorted(shapes.keys() - rows_of_image.keys())
    return [text for _, text in violations] + [f"image {image_id}: missing, no row" for image_id in missing]


def score_submission(submission: pd.DataFrame, solution: pd.DataFrame) -> pd.DataFrame:
    """Score each image of a solution: a table with image_id, score and the precisions p50, p55 … p95, 0..1.

    Takes the tables of ``read_submission`` and ``read_solution``; images of the submission that the solution
    leaves out are not scored. Truth masks may overlap: each keeps all of its pixels. Raises UserError
    naming the image for a missing image, a broken mask or predictions that overlap.
    """
    predicted = dict(iter(submission.groupby("ImageId")["EncodedPixels"]))
    table = []
    for image_id, nuclei in solution.groupby("ImageId", sort=False):
        if image_id not in predicted:
            raise UserError(f"image {image_id} is missing in the submission; give it a row without pixels")
        shape = int(nuclei["Height"].iloc[0]), int(nuclei["Width"].iloc[0])
        try:
            truth = decode_masks(_masks_of(nuclei["EncodedPixels"]), shape)
            prediction = decode_labels(_masks_of(predicted[image_id]), shape)
        except ValueError as error:
            raise UserError(f"image {image_id}: {error}") from None
        score, precision = score_counts(count_matches(overlap_masks(*truth, prediction)))
        table.append((image_id, score, *precision))
    return pd.DataFrame(table, columns=SCORE_COLUMNS)


def _find_header_violations(sheet: Sheet) -> Iterator[tuple[int, str]]:
    if sheet.delimiter != ",":
        yield 1, f"row 1: columns are separated by {sheet.delimiter!r}: save the file again with commas"
    if sheet.header != HEADER:
        yield 1, f"row 1: header is {quote(','.join(sheet.header))}, not {','.join(HEADER)!r}"


def _find_image_violations(rows: list[tuple[int, str]], shape: tuple[int, int]) -> Iterator[tuple[int, str]]:
    has_masks = any(text.strip() for _, text in rows)
    first_row_with: dict[str, int] = {}
    row_at = np.zeros(shape[0] * shape[1], dtype=np.int32)
    for row, text in rows:
        values = " ".join(text.split())
        if not values and has_masks:
            yield row, "no pixels, yet the image has masks"
        for violation in find_rle_violations(text, shape):
            yield row, violation
        if values in first_row_with:
            yield row, f"duplicate of row {first_row_with[values]}"
            continue
        first_row_with[values] = row
        pixels = decode_usable_pixels(text, shape)
        others, shared_px = np.unique(row_at[pixels], return_counts=True)
        for other, n in zip(others[others > 0], shared_px[others > 0], strict=True):
            yield row, f"overlaps row {other} in {n} pixels"
        row_at[pixels] = row


def _check_solution(name: str, scored: pd.DataFrame) -> None:
    """Raise UserError naming the file and the row of the first scored row of a solution that cannot be scored."""
    size_of: dict[str, tuple[str, str]] = {}
    for row, image_id, text, height, width, usage in scored.itertuples(name=None):
        where = f"{name}, row {row}"
        if not image_id.strip():
            raise UserError(f"{where}: no image: fill in its ImageId or delete the row")
        for column, value in (("Height", height), ("Width", width)):
            if not _SIDE_PX.fullmatch(value):
                raise UserError(
                    f"{where}, image {image_id}: {column} is {quote(value)}, not a whole number of pixels, 1 to 99999"
                )
        if usage not in SCORED_USAGES:
            raise UserError(f"{where}, image {image_id}: Usage is {quote(usage)}, not Public, Private or Ignored")
        if size_of.setdefault(image_id, (height, width)) != (height, width):
            raise UserError(f"{where}, image {image_id}: Height and Width differ from the image's first row")
        if violations := find_rle_violations(text, (int(height), int(width))):
            raise UserError(f"{where}, image {image_id}: {'; '.join(violations)}")


def _masks_of(texts: "pd.Series[str]") -> list[str]:
    return [text for text in texts if text.strip()]
