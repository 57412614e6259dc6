"""Files of a run: atomic writes, and images, tables, arrays and JSON read back."""

import hashlib
import json
import os
import shutil
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd

from nuclei.data.images import decode_image, decode_labels_png


@contextmanager
def atomic(path: Path):
    """Yield a temporary path beside `path` that takes its name only if the block ends without an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # The suffix stays last: writers such as cv2 and numpy choose the format by it.
    temporary = path.with_name(f".{os.getpid()}.partial.{path.name}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_bytes(path: Path, data: bytes) -> None:
    with atomic(path) as temporary:
        temporary.write_bytes(data)


def write_json(path: Path, content: dict) -> None:
    write_bytes(path, (json.dumps(content, indent=1, sort_keys=True) + "\n").encode())


def read_json(path: Path) -> dict:
    return json.loads(path.read_text())


def file_hash(path: Path) -> str:
    """Return the sha256 of a file, hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def read_image(path: Path) -> np.ndarray:
    """Read an image, uint8 [H, W, 3]; raise ValueError naming the file if it is damaged."""
    return decode_image(path.read_bytes(), str(path))


def read_labels(path: Path) -> np.ndarray:
    """Read a label image, int32 [H, W]; raise ValueError naming the file if it is damaged."""
    return decode_labels_png(path.read_bytes(), str(path))


def read_table(path: Path) -> pd.DataFrame:
    """Read a CSV table whose ids stay text, whatever digits they are made of, and whose numbers are those written."""
    return pd.read_csv(path, dtype={"image_id": str, "group": str}, float_precision="round_trip")


def write_table(path: Path, table: pd.DataFrame) -> None:
    write_bytes(path, table.to_csv(index=False, lineterminator="\n").encode())


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    with np.load(path) as file:
        return dict(file)


def write_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    with atomic(path) as temporary:
        np.savez_compressed(temporary, **arrays)


def content_hash(content) -> str:
    """Return a short hash of anything JSON can hold."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:16]


def as_json(content: dict) -> dict:
    """Return `content` as it comes back from JSON, so that it can be compared with what was read."""
    return json.loads(json.dumps(content, default=str))


def link(source: Path, target: Path) -> None:
    """Make `target` the same file as `source`, or a copy of it if that lies on another disk."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def differences(found, wanted, where: str = "") -> list[str]:
    """List where two nested mappings differ, one line each: 'key: old -> new'."""
    if isinstance(found, dict) and isinstance(wanted, dict):
        return [
            line
            for key in sorted(found.keys() | wanted.keys())
            for line in differences(found.get(key), wanted.get(key), f"{where}.{key}".lstrip("."))
        ]
    return [] if found == wanted else [f"{where}: {found!r} -> {wanted!r}"]
