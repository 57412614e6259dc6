"""How large inputs may be: limits against damaged and hostile files, checked from headers before anything is decoded.

Each is raised, or lowered, by an environment variable, which the processes that a command starts inherit.
"""

import os
from pathlib import Path

from nuclei.errors import UserError


def read_limit(variable: str, default: int) -> int:
    """Return a limit: what the environment variable says, else the default; raise UserError if it is no such number."""
    text = os.environ.get(variable, "").strip()
    if not text:
        return default
    if not (text.isascii() and text.isdecimal() and len(text) < 19 and int(text) > 0):
        raise UserError(f"{variable}={text[:80]} is no limit: give a whole number from 1 on, or unset it")
    return int(text)


MAX_PIXELS = read_limit("NUCLEI_MAX_PIXELS", 1 << 28)  # of an image that is decoded in one piece
MAX_SLIDE_PIXELS = read_limit("NUCLEI_MAX_SLIDE_PIXELS", 1 << 33)  # of an image that is read piece by piece
MAX_VALUES = 4 * MAX_PIXELS  # of a stack that is read to be projected
MAX_FILE_BYTES = read_limit("NUCLEI_MAX_FILE_BYTES", 1 << 30)  # of an image file, or a file of an archive, unpacked
MAX_TABLE_BYTES = read_limit("NUCLEI_MAX_TABLE_BYTES", 1 << 27)  # of a submission, solution or fold table, unpacked
MAX_BOOSTERS_BYTES = read_limit("NUCLEI_MAX_BOOSTERS_BYTES", 1 << 28)  # of a set of boosters, unpacked
MAX_ARCHIVE_BYTES = read_limit("NUCLEI_MAX_ARCHIVE_BYTES", 1 << 35)  # of an external set, unpacked
MAX_TEXT_BYTES = read_limit("NUCLEI_MAX_TEXT_BYTES", 1 << 26)  # of a YAML or JSON file
# By the names of their variables, so that a worker can be asked for its own.
LIMITS = {
    "NUCLEI_MAX_PIXELS": MAX_PIXELS,
    "NUCLEI_MAX_FILE_BYTES": MAX_FILE_BYTES,
    "NUCLEI_MAX_TABLE_BYTES": MAX_TABLE_BYTES,
    "NUCLEI_MAX_BOOSTERS_BYTES": MAX_BOOSTERS_BYTES,
    "NUCLEI_MAX_ARCHIVE_BYTES": MAX_ARCHIVE_BYTES,
    "NUCLEI_MAX_TEXT_BYTES": MAX_TEXT_BYTES,
}


def check_kind(path: Path) -> None:
    """Raise UserError naming what is neither a file nor a folder: reading a pipe or a device may never end."""
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise UserError(f"{path} is neither a file nor a folder: copy its content to a file, and name that")


def check_file(path: Path, max_bytes: int = MAX_FILE_BYTES) -> None:
    """Raise UserError naming a file that is too large to be read whole; a sparse one is as large as it claims.

    And as check_kind does.
    """
    check_kind(path)
    if (size_bytes := path.stat().st_size) > max_bytes:
        raise UserError(f"{path} is refused: {size_bytes:,} bytes, more than {max_bytes:,}")


def read_whole(path: Path, max_bytes: int = MAX_FILE_BYTES) -> bytes:
    """Return the bytes of a file; raise UserError as check_file does."""
    check_file(path, max_bytes)
    return path.read_bytes()
