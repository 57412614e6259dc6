"""Fetch the official files (BBBC038, public domain) and external data sets; an interrupted download resumes."""

import errno
import hashlib
import http.client
import json
import os
import re
import shutil
import time
import urllib.request
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from nuclei.data.archives import is_clutter
from nuclei.data.competition import FILES
from nuclei.data.external import PublishedSet
from nuclei.errors import UserError
from nuclei.limits import MAX_ARCHIVE_BYTES

BASE_URL = "https://data.broadinstitute.org/bbbc/BBBC038/"
CONTENTS = {file.file_name: file.content for file in FILES.values()}
_OF_NAMES = (errno.ENOTDIR, errno.EEXIST, errno.EISDIR, errno.ENAMETOOLONG)
_BLOCK_BYTES = 1 << 18


@dataclass(frozen=True)
class RemoteFile:
    """Say where a file comes from, what it holds, in words, and its licence where that is to be recorded."""

    url: str
    content: str
    licence: str = ""


def download_files(
    folder: str | Path, names: list[str], base_url: str = BASE_URL, attempts: int = 4, timeout_s: float = 30
) -> dict[str, dict[str, Any]]:
    """Fetch official files into a folder, resuming from the `.part` file that an interrupted run left.

    Returns and records what `fetch_files` does. Raises UserError for a name not in CONTENTS, and as that does.
    """
    unknown = [name for name in names if name not in CONTENTS]
    if unknown:
        raise UserError(f"unknown file {', '.join(unknown)}; the official ones are {', '.join(CONTENTS)}")
    files = {name: RemoteFile(base_url + name, CONTENTS[name]) for name in names}
    return fetch_files(Path(folder), files, attempts, timeout_s)


def fetch_files(
    folder: Path, files: Mapping[str, RemoteFile], attempts: int = 4, timeout_s: float = 30
) -> dict[str, dict[str, Any]]:
    """Fetch files into a folder under the names given, resuming from the `.part` file that an interrupted run left.

    Returns, and records in `downloads.json` beside the files, name -> {url, bytes, sha256}, and the licence where one
    is given. A file that exists is kept; `attempts` is how many tries in a row may bring nothing. Raises UserError for
    a kept file that is not the recorded one, ConnectionError listing which files to put where.
    """
    folder.mkdir(parents=True, exist_ok=True)
    records_path = folder / "downloads.json"
    records = _read_records(records_path)
    for name, file in files.items():
        path, url = folder / name, file.url
        if not path.is_file():
            try:
                _fetch(url, path, attempts, timeout_s)
            except (OSError, http.client.HTTPException) as error:
                missing = {other: rest for other, rest in files.items() if not (folder / other).is_file()}
                raise ConnectionError(_explain(folder, missing, url, error)) from error
        with path.open("rb") as stream:
            record = {
                "url": url,
                "bytes": path.stat().st_size,
                "sha256": hashlib.file_digest(stream, "sha256").hexdigest(),
            } | ({"licence": file.licence} if file.licence else {})
        if records.setdefault(name, record)["sha256"] != record["sha256"]:
            raise UserError(f"{path} is not the file recorded in {records_path}: delete it and run again")
        _replace_text(records_path, json.dumps(records, indent=1, sort_keys=True) + "\n")
    return {name: records[name] for name in files}


def fetch_external(folder: Path, name: str, published: PublishedSet, attempts: int = 4, timeout_s: float = 30) -> None:
    """Fetch the archive of an external data set as <folder>/<name>.zip, and unpack what is needed into <folder>/<name>.

    An archive that is there already is unpacked. Raises as `fetch_files` does, and UserError naming an archive that is
    damaged, unpacks to too much or holds nothing of the set.
    """
    archive = folder / f"{name}.zip"
    fetch_files(
        folder, {archive.name: RemoteFile(published.url, published.title, published.licence)}, attempts, timeout_s
    )
    unpack(archive, folder / name, published.unpacked)


def unpack(archive: Path, target: Path, pattern: str) -> None:
    """Unpack those files of a zip whose paths match into a new folder, which is there whole or not at all.

    Raises UserError naming an archive that is damaged, unpacks to more than MAX_ARCHIVE_BYTES or has no such file.
    """
    temporary = target.with_name(target.name + ".part")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        with zipfile.ZipFile(archive) as file:
            wanted = [
                info
                for info in file.infolist()
                if re.search(pattern, info.filename) and not is_clutter(info.filename) and not info.is_dir()
            ]
            if not wanted:
                raise UserError(
                    f"{archive} holds nothing that matches {pattern}: is it another archive? Put the right one"
                )
            if (size := sum(info.file_size for info in wanted)) > MAX_ARCHIVE_BYTES:
                raise UserError(f"{archive} is refused: it unpacks to {size:,} bytes, more than {MAX_ARCHIVE_BYTES:,}")
            for info in tqdm(wanted, f"unpack {archive.name}", unit="file", mininterval=2):
                file.extract(info, temporary)  # which writes nothing outside of the folder
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise UserError(
            f"{archive} is damaged or no zip ({error}): delete it and run the stage download again"
        ) from None
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if error.errno not in _OF_NAMES:
            raise
        name = Path(error.filename or "").name[:80]
        raise UserError(f"{archive} has a file {name} that cannot be written ({error.strerror}): rename it") from None
    temporary.replace(target)


def _read_records(path: Path) -> dict[str, dict[str, Any]]:
    """Return what is recorded of downloaded files; nothing if there is no record."""
    if not path.is_file():
        return {}
    try:
        records: dict[str, dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
        sums = [one["sha256"] for one in records.values()]
    except (ValueError, AttributeError, TypeError, KeyError, RecursionError):
        sums = [None]
    if not all(isinstance(value, str) for value in sums):
        raise UserError(f"{path} is damaged: delete it, then repeat the command, which records the files anew")
    return records


def _fetch(url: str, path: Path, attempts: int, timeout_s: float) -> None:
    """Download a file into `<path>.part`, resuming at its end after each break, and rename it when complete."""
    part = path.with_name(path.name + ".part")
    failures = 0
    while True:
        before = _size_bytes(part)
        error: Exception
        try:
            if _append(url, part, timeout_s):
                break
            error = ConnectionError(f"the connection broke after {_size_bytes(part)} bytes")
        except urllib.error.HTTPError as answer:
            if answer.code < 500:
                raise
            error = answer
        except (OSError, http.client.HTTPException) as broken:
            error = broken
        after = _size_bytes(part)
        failures = 0 if after > before else failures + 1
        if failures == attempts:
            raise error
        time.sleep(failures)
    part.replace(path)


def _append(url: str, part: Path, timeout_s: float) -> bool:
    """Append to `part` what a server has beyond it; return whether the file is complete now."""
    have = _size_bytes(part)
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        answer = urllib.request.urlopen(request, timeout=timeout_s)
    except urllib.error.HTTPError as error:
        # 416: nothing lies beyond. The part is complete, or it is longer than the file and useless.
        if error.code != 416:
            raise
        if error.headers.get("Content-Range") == f"bytes */{have}":
            return True
        part.unlink()
        return False
    with answer:
        content_range = answer.headers.get("Content-Range", "")
        resumed = re.fullmatch(rf"bytes {have}-\d+/(\d+)", content_range)
        if answer.status == 206 and not resumed:
            raise ConnectionError(f"asked for the bytes from {have}, the server sent {content_range!r}")
        # A server that does not support ranges sends the whole file again.
        have = have if resumed else 0
        length = resumed[1] if resumed else answer.headers.get("Content-Length")
        total = int(length) if length else None
        with (
            part.open("ab" if resumed else "wb") as stream,
            tqdm(total=total, initial=have, unit="B", unit_scale=True, desc=part.stem) as progress,
        ):
            while block := answer.read1(_BLOCK_BYTES):
                stream.write(block)
                progress.update(len(block))
                have += len(block)
    return total is None or have == total


def _size_bytes(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _explain(folder: Path, missing: Mapping[str, RemoteFile], url: str, error: Exception) -> str:
    files = [f"  {name}  ({file.content}) from {file.url}" for name, file in missing.items()]
    fix = f"Run it again to resume, or put these files into {os.path.realpath(folder)}:"
    return "\n".join([f"cannot download {url}: {error}", fix, *files])


def _replace_text(path: Path, text: str) -> None:
    temporary = path.with_name(path.name + ".part")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)
