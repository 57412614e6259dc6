"""A download resumes where it broke, ends complete, is recorded, and says what to do when it cannot be."""

import hashlib
import io
import json
import threading
import zipfile
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from nuclei.data import download
from nuclei.data.download import CONTENTS, download_files, fetch_external
from nuclei.data.external import PUBLISHED_SETS, PublishedSet
from nuclei.errors import UserError

CONTENT = {name: np.random.default_rng(n).bytes(300_000 + n) for n, name in enumerate(CONTENTS)}
NAME = "stage1_train.zip"


@contextmanager
def serve(cut_after=(), ranges=True):
    """Serve CONTENT, answer n breaking off after cut_after[n] bytes; yield (url, list of ranges asked)."""
    asked, cuts = [], list(cut_after)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            content = CONTENT.get(self.path[1:])
            asked.append(self.headers.get("Range"))
            if content is None:
                return self.send_error(404)
            start = int(asked[-1][6:-1]) if asked[-1] and ranges else 0
            if start >= len(content):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(content)}")
                return self.end_headers()
            self.send_response(206 if start else 200)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
            self.send_header("Content-Length", str(len(content) - start))
            self.end_headers()
            self.wfile.write(content[start:][: cuts.pop(0) if cuts else None])

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/", asked
    finally:
        server.shutdown()
        server.server_close()


def test_files_come_whole_are_recorded_and_not_fetched_again(tmp_path):
    names = [NAME, "stage1_solution.csv"]
    with serve() as (url, asked):
        records = download_files(tmp_path, names, url)
        assert download_files(tmp_path, names, url) == records
        assert asked == [None, None]
    assert json.loads((tmp_path / "downloads.json").read_text()) == records
    for name in names:
        assert (tmp_path / name).read_bytes() == CONTENT[name]
        sha256 = hashlib.sha256(CONTENT[name]).hexdigest()
        assert records[name] == {"url": url + name, "bytes": len(CONTENT[name]), "sha256": sha256}
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*names, "downloads.json"])


def test_a_broken_connection_resumes_where_it_stopped(tmp_path):
    with serve(cut_after=[100_000, 50_000]) as (url, asked):
        download_files(tmp_path, [NAME], url, attempts=1)
        assert asked == [None, "bytes=100000-", "bytes=150000-"]
    assert (tmp_path / NAME).read_bytes() == CONTENT[NAME]


def test_a_killed_download_resumes_in_the_next_run(tmp_path):
    with serve(cut_after=[100_000, 0]) as (url, asked):
        with pytest.raises(ConnectionError, match="broke after 100000 bytes"):
            download_files(tmp_path, [NAME], url, attempts=1)
        assert [path.name for path in tmp_path.iterdir()] == [f"{NAME}.part"]
        download_files(tmp_path, [NAME], url)
        assert asked[-1] == "bytes=100000-"
    assert (tmp_path / NAME).read_bytes() == CONTENT[NAME]


@pytest.mark.parametrize("part", ["complete", "too long"])
def test_a_part_with_nothing_beyond_it(tmp_path, part):
    (tmp_path / f"{NAME}.part").write_bytes(CONTENT[NAME] + b"!" * (part == "too long"))
    with serve() as (url, asked):
        download_files(tmp_path, [NAME], url)
        assert len(asked) == (1 if part == "complete" else 2)
    assert (tmp_path / NAME).read_bytes() == CONTENT[NAME]


def test_a_server_without_ranges_starts_over(tmp_path):
    (tmp_path / f"{NAME}.part").write_bytes(b"x" * 1000)
    with serve(ranges=False) as (url, _):
        download_files(tmp_path, [NAME], url)
    assert (tmp_path / NAME).read_bytes() == CONTENT[NAME]


def test_out_of_reach_lists_which_files_to_put_where(tmp_path):
    (tmp_path / "stage1_test.zip").write_bytes(b"here already")
    with serve() as (url, _):
        pass
    with pytest.raises(ConnectionError) as error:
        download_files(tmp_path, ["stage1_test.zip", NAME, "stage1_solution.csv"], url, attempts=1)
    message = str(error.value)
    assert str(tmp_path) in message
    assert "stage1_test.zip" not in message
    for name in (NAME, "stage1_solution.csv"):
        assert f"{name}  ({CONTENTS[name]}) from {url}{name}" in message


def test_a_missing_file_is_an_error_at_once(tmp_path):
    with serve() as (url, asked), pytest.raises(ConnectionError, match="404"):
        download_files(tmp_path, [NAME], url + "elsewhere/")
    assert len(asked) == 1


def test_wrong_names_and_changed_files_are_errors(tmp_path):
    with pytest.raises(ValueError, match=r"stage3.zip; the official ones are stage1_train.zip"):
        download_files(tmp_path, ["stage3.zip"])
    with serve() as (url, _):
        download_files(tmp_path, [NAME], url)
        (tmp_path / NAME).write_bytes(b"something else")
        with pytest.raises(ValueError, match=f"{NAME} is not the file recorded"):
            download_files(tmp_path, [NAME], url)


@pytest.mark.parametrize(
    "text", ["{", "[]", "null", '{"a": 1}', '{"a": {}}', '{"a": {"sha256": null}}', "\x00", "[" * 9999]
)
def test_a_damaged_record_is_named(tmp_path, text):
    (tmp_path / "downloads.json").write_text(text)
    with pytest.raises(UserError, match=r"downloads\.json is damaged: delete it"):
        download_files(tmp_path, [])


SET = PublishedSet("some nuclei", "CC0", "somebody", "", r"Slide_\d+/[^/]+\.png$")
ARCHIVE = "ours.zip"


def zipped(files):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name, content in files.items():
            file.writestr(name, content)
    return buffer.getvalue()


def served(monkeypatch, url, content):
    monkeypatch.setitem(CONTENT, ARCHIVE, content)
    return PublishedSet(SET.title, SET.licence, SET.source, url + ARCHIVE, SET.unpacked)


FILES = {"set/Slide_01/a.png": b"a" * 200_000, "set/readme.txt": b"no", "__MACOSX/set/Slide_01/._a.png": b"no"}


def test_an_external_archive_is_resumed_recorded_with_its_licence_and_unpacked(tmp_path, monkeypatch):
    content = zipped(FILES)
    with serve(cut_after=[100_000, 20_000]) as (url, asked):
        fetch_external(tmp_path, "ours", served(monkeypatch, url, content), attempts=1)
        assert asked == [None, "bytes=100000-", "bytes=120000-"]
    record = json.loads((tmp_path / "downloads.json").read_text())[ARCHIVE]
    sha256 = hashlib.sha256(content).hexdigest()
    assert record == {"url": url + ARCHIVE, "bytes": len(content), "sha256": sha256, "licence": "CC0"}
    files = [path.relative_to(tmp_path).as_posix() for path in sorted(tmp_path.rglob("*")) if path.is_file()]
    assert files == ["downloads.json", "ours/set/Slide_01/a.png", ARCHIVE]


def test_an_archive_at_hand_is_unpacked_without_the_network_unless_it_changed(tmp_path):
    (tmp_path / ARCHIVE).write_bytes(zipped(FILES))
    fetch_external(tmp_path, "ours", SET)
    assert (tmp_path / "ours/set/Slide_01/a.png").read_bytes() == FILES["set/Slide_01/a.png"]
    (tmp_path / ARCHIVE).write_bytes(zipped({"Slide_1/b.png": b"b"}))
    with pytest.raises(UserError, match=f"{ARCHIVE} is not the file recorded"):
        fetch_external(tmp_path, "ours", SET)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (zipped(FILES)[:-40], "is damaged or no zip"),
        (b"<html>", "is damaged or no zip"),
        (zipped({"other.png": b""}), "holds nothing that matches"),
        (zipped({"Slide_1/a.png": b"12345", "Slide_1/b.png": b"12345"}), "unpacks to 10 bytes, more than 9"),
        (zipped({f"Slide_1/{'x' * 300}.png": b""}), f"{ARCHIVE} has a file x+ that cannot be written"),
        (
            zipped({"Slide_1/a.png": b"", "Slide_1/a.png/Slide_1/b.png": b""}),
            f"{ARCHIVE} has a file Slide_1 that",
        ),
    ],
)
def test_an_archive_that_cannot_be_used_leaves_no_folder(tmp_path, monkeypatch, content, said):
    monkeypatch.setattr(download, "MAX_ARCHIVE_BYTES", 9 if "9" in said else 1 << 30)
    (tmp_path / ARCHIVE).write_bytes(content)
    with pytest.raises(UserError, match=said):
        fetch_external(tmp_path, "ours", SET)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["downloads.json", ARCHIVE]


def test_a_flipped_bit_in_an_archive_is_found_and_nothing_half_unpacked_stays(tmp_path):
    content = bytearray(zipped(FILES))
    content[1000] ^= 1
    (tmp_path / ARCHIVE).write_bytes(bytes(content))
    with pytest.raises(UserError, match="is damaged or no zip"):
        fetch_external(tmp_path, "ours", SET)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["downloads.json", ARCHIVE]


def test_an_archive_writes_nothing_outside_of_its_folder(tmp_path):
    folder = tmp_path / "external"
    folder.mkdir()
    (folder / ARCHIVE).write_bytes(zipped({"../../Slide_1/a.png": b"a", "/Slide_2/b.png": b"b"}))
    fetch_external(folder, "ours", SET)
    assert {path.parents[2] for path in tmp_path.rglob("*.png")} <= {folder, folder / "ours"}
    assert len(list((folder / "ours").rglob("*.png"))) == 2


def test_an_external_set_out_of_reach_says_what_to_put_where(tmp_path, monkeypatch):
    with serve() as (url, _):
        pass
    with pytest.raises(ConnectionError) as error:
        fetch_external(tmp_path, "ours", served(monkeypatch, url, b""), attempts=1)
    assert str(tmp_path) in str(error.value)
    assert f"{ARCHIVE}  (some nuclei) from {url}{ARCHIVE}" in str(error.value)


def test_published_sets_have_licences_and_addresses():
    for one in PUBLISHED_SETS.values():
        assert one.url.startswith("https://")
        assert one.url.endswith(".zip")
        assert one.licence in ("CC0", "CC BY 4.0")
