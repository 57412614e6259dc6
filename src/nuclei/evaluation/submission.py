"""Submissions in Kaggle's format: written, checked against every rule, and scored against a solution file."""

import csv
import gzip
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from itertools import chain
from os import PathLike
from typing import TextIO

import numpy as np
import pandas as pd

from nuclei.evaluation.metric import THRESHOLDS, count_matches, overlap_masks, score_counts
from nuclei.evaluation.rle import decode_labels, decode_masks, decode_usable_pixels, encode_labels, find_rle_violations

HEADER = ["ImageId", "EncodedPixels"]
SOLUTION_COLUMNS = [*HEADER, "Height", "Width", "Usage"]
SCORE_COLUMNS = ["image_id", "score", *(f"p{round(100 * t)}" for t in THRESHOLDS)]
_LONGEST_FIELD = 2**31 - 1
CsvFile = str | PathLike | TextIO


def submission_rows(image_id: str, labels: np.ndarray) -> list[tuple[str, str]]:
    """Return the (ImageId, EncodedPixels) rows of a label image [H, W]: one per nucleus, ascending by label.

    Without nuclei it is one row with an empty string.
    """
    return [(image_id, text) for text in encode_labels(labels) or [""]]


def write_submission(file: TextIO, images: Iterable[tuple[str, np.ndarray]]) -> None:
    """Write a submission from (image_id, label image [H, W]) pairs, holding one image at a time."""
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(HEADER)
    for image_id, labels in images:
        writer.writerows(submission_rows(image_id, labels))


def read_submission(source: CsvFile) -> pd.DataFrame:
    """Read a submission as a table of strings with the columns ImageId and EncodedPixels.

    Raises ValueError naming the missing columns. The rows are not checked: see ``validate_submission``.
    """
    return _read_table(source, HEADER, "submission")


def read_solution(source: CsvFile, usage: str | None = None) -> pd.DataFrame:
    """Read the scored nuclei of an official solution file: ImageId, EncodedPixels, Height, Width, Usage.

    Keeps the rows of one ``usage`` ("Public", "Private"), by default all that are not "Ignored". Raises
    ValueError naming missing columns, or the usages on offer where no row is left.
    """
    table = _read_table(source, SOLUTION_COLUMNS, "solution")
    kept = table[table["Usage"] == usage] if usage else table[table["Usage"] != "Ignored"]
    if kept.empty:
        offered = ", ".join(f"{name} ({rows} rows)" for name, rows in table["Usage"].value_counts().items())
        raise ValueError(f"solution has no row to score with usage={usage!r}; it has {offered or 'no rows'}")
    return kept.astype({"Height": int, "Width": int}).reset_index(drop=True)


def validate_submission(source: CsvFile, shapes: dict[str, tuple[int, int]]) -> list[str]:
    """List every way in which a submission breaks the competition's rules; an empty list means it is valid.

    ``shapes`` gives (H, W) of every image that must be present. Each violation names its row in the file
    (the header is row 1) and its image. Rules (Kaggle, Data Science Bowl 2018): the header, two columns,
    every image and no other, sorted pairs of integers inside the image, no pixel twice, no two masks of an
    image overlapping, no row twice, and one row without pixels only where an image has no masks.
    """
    rows = _read_rows(source)
    header = next(rows, (1, []))[1]
    violations = []
    if header != HEADER:
        violations.append((1, f"row 1: header is {','.join(header)!r}, not {','.join(HEADER)!r}"))
    if header and header[0] in shapes:
        rows = chain([(1, header)], rows)
    rows_of_image = defaultdict(list)
    for row, cells in rows:
        if len(cells) != len(HEADER):
            violations.append((row, f"row {row}: {len(cells)} columns instead of {len(HEADER)}"))
        elif cells[0] not in shapes:
            violations.append((row, f"row {row}, image {cells[0]!r}: unknown image"))
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
    leaves out are not scored. Truth masks may overlap: each keeps all of its pixels. Raises ValueError
    naming the image for a missing image, a broken mask or predictions that overlap.
    """
    predicted = dict(iter(submission.groupby("ImageId")["EncodedPixels"]))
    table = []
    for image_id, nuclei in solution.groupby("ImageId", sort=False):
        if image_id not in predicted:
            raise ValueError(f"image {image_id} is missing in the submission; give it a row without pixels")
        shape = int(nuclei["Height"].iloc[0]), int(nuclei["Width"].iloc[0])
        try:
            truth = decode_masks(_masks_of(nuclei["EncodedPixels"]), shape)
            prediction = decode_labels(_masks_of(predicted[image_id]), shape)
        except ValueError as error:
            raise ValueError(f"image {image_id}: {error}") from None
        score, precision = score_counts(count_matches(overlap_masks(*truth, prediction)))
        table.append((image_id, score, *precision))
    return pd.DataFrame(table, columns=SCORE_COLUMNS)


def _find_image_violations(rows: list[tuple[int, str]], shape: tuple[int, int]) -> Iterator[tuple[int, str]]:
    has_masks = any(text.strip() for _, text in rows)
    first_row_with = {}
    row_at = np.zeros(shape[0] * shape[1], dtype=np.int32)
    for row, text in rows:
        if text in first_row_with:
            yield row, f"duplicate of row {first_row_with[text]}"
            continue
        first_row_with[text] = row
        if not text.strip() and has_masks:
            yield row, "no pixels, yet the image has masks"
        for violation in find_rle_violations(text, shape):
            yield row, violation
        pixels = decode_usable_pixels(text, shape)
        others, shared_px = np.unique(row_at[pixels], return_counts=True)
        for other, n in zip(others[others > 0], shared_px[others > 0], strict=True):
            yield row, f"overlaps row {other} in {n} pixels"
        row_at[pixels] = row


def _masks_of(texts: pd.Series) -> list[str]:
    return [text for text in texts if text.strip()]


def _read_rows(source: CsvFile) -> Iterator[tuple[int, list[str]]]:
    # A mask of a large image can be longer than the 128 KiB that the csv module takes by default.
    csv.field_size_limit(_LONGEST_FIELD)
    with _open_text(source) as file:
        yield from enumerate(csv.reader(file), start=1)


def _read_table(source: CsvFile, columns: list[str], kind: str) -> pd.DataFrame:
    with _open_text(source) as file:
        table = pd.read_csv(file, dtype=str, keep_default_na=False)
    missing = [column for column in columns if column not in table]
    if missing:
        raise ValueError(f"{kind} lacks the columns {', '.join(missing)}; it has {', '.join(table)}")
    return table[columns]


def _open_text(source: CsvFile):
    if not isinstance(source, str | PathLike):
        return nullcontext(source)
    opener = gzip.open if str(source).endswith(".gz") else open
    return opener(source, "rt", encoding="utf-8", errors="replace", newline="")
