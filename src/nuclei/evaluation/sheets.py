"""CSV files read strictly, as text: submissions, solutions and fold tables.

UTF-8 with or without a byte order mark, any line ends, gzipped where the name ends in .gz. A file whose header is
separated by semicolons, as Excel saves it in many countries, is read as such.
"""

import csv
import gzip
import io
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TextIO

import pandas as pd

from nuclei.errors import UserError
from nuclei.evaluation.rle import quote
from nuclei.limits import MAX_TABLE_BYTES, read_whole

# Ten times the largest official file; its cells take a multiple of it in memory.
_LONGEST_FIELD = 2**31 - 1
CsvFile = str | PathLike[str] | TextIO
Row = tuple[int, list[str]]  # number in the file, the header's being 1, and cells


@dataclass(frozen=True)
class Sheet:
    """Hold a CSV file as it was read."""

    name: str
    delimiter: str
    header: list[str]
    rows: list[Row]


def is_blank(cells: list[str]) -> bool:
    """Return whether a row has nothing but white space."""
    return not any(cell.strip() for cell in cells)


def sheet_table(sheet: Sheet, columns: Sequence[str]) -> pd.DataFrame:
    """Return columns of a sheet, indexed by the number of the row, without blank rows.

    Raises UserError naming the file, and the row if one is not as long as the header.
    """
    missing = [column for column in columns if column not in sheet.header]
    if missing:
        found = quote(", ".join(sheet.header))
        raise UserError(f"{sheet.name} lacks the columns {', '.join(missing)}; it has {found}")
    if repeated := [column for column in columns if sheet.header.count(column) > 1]:
        raise UserError(f"{sheet.name} has the column {repeated[0]} twice: keep one")
    filled = [(row, cells) for row, cells in sheet.rows if not is_blank(cells)]
    for row, cells in filled:
        if len(cells) != len(sheet.header):
            raise UserError(f"{sheet.name}, row {row}: {len(cells)} columns instead of {len(sheet.header)}")
    index = pd.Index([row for row, _ in filled], dtype=int)
    table = pd.DataFrame([cells for _, cells in filled], index=index, columns=pd.Index(sheet.header), dtype=str)
    return table[list(columns)]


def read_sheet(source: CsvFile, kind: str) -> Sheet:
    """Read a CSV file; raise UserError naming it, or its `kind` where it has no name, if it is damaged or no text."""
    name, text = _read_text(source, kind)
    if "\0" in text:
        raise UserError(f"{name}, row {_row_at(text.index(chr(0)), text)}: a NUL byte: it is no text, or damaged")
    first_line = text.partition("\n")[0]
    delimiter = ";" if ";" in first_line and "," not in first_line else ","
    # A mask of a large image can be longer than the 128 KiB that the csv module takes by default.
    csv.field_size_limit(_LONGEST_FIELD)
    rows: list[Row] = []
    try:
        for cells in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True):
            rows.append((len(rows) + 1, cells))
    except csv.Error as error:
        raise UserError(f"{name}, row {len(rows) + 1}: not readable as CSV ({error})") from None
    return Sheet(name, delimiter, rows[0][1] if rows else [], rows[1:])


def gunzip(data: bytes, max_bytes: int) -> bytes:
    """Unpack gzipped bytes; raise OverflowError, without unpacking more, if they hold more than `max_bytes`.

    Raises what gzip raises of damage: EOFError, BadGzipFile, zlib.error.
    """
    with gzip.GzipFile(fileobj=io.BytesIO(data)) as file:
        content = file.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise OverflowError(f"it unpacks to more than {max_bytes:,} bytes")
    return content


def _read_text(source: CsvFile, kind: str) -> tuple[str, str]:
    """Return the name and the text of a file, without a byte order mark."""
    if not isinstance(source, str | PathLike):
        return kind, source.read().removeprefix("\ufeff")
    path = Path(source)
    data = read_whole(path, MAX_TABLE_BYTES)
    if path.suffix.lower() == ".gz":
        try:
            data = gunzip(data, MAX_TABLE_BYTES)
        except OverflowError as error:
            raise UserError(f"{path} is refused: {error}") from None
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise UserError(
                f"{path} is a damaged or truncated gzip file ({error}): make or download it again"
            ) from None
    try:
        return str(path), data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        row = _row_at(error.start, data.decode("latin-1"))
        raise UserError(f"{path}, row {row}: not UTF-8 text: save it as 'CSV UTF-8'") from None


def _row_at(position: int, text: str) -> int:
    return 1 + text.count("\n", 0, position)
