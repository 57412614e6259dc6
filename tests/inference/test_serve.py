"""What is dropped on the page is segmented as predict-images does it, stays on this machine, and is gone afterwards."""

import io
import os
import re
import signal
import socket
import sys
import time
import zipfile

import numpy as np
import pytest
from serving import serving, start_forked, write_run
from typer.testing import CliRunner

from nuclei.cli import app
from nuclei.data.images import encode_image_png
from nuclei.data.synthetic import make_image
from nuclei.errors import UserError
from nuclei.inference.exports import FORMATS
from nuclei.inference.image_files import find_images
from nuclei.inference.segment_files import segment_files
from nuclei.inference.serve import listen, read_settings, serve


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("serve"), "--max-mb", "1", start=start_forked) as served:
        yield served


def draw(side=96):
    return encode_image_png(make_image("dark_fluorescence_small", (side, side), np.random.default_rng(1))[0])


def wait_for(server, key, timeout_s=120):
    end = time.monotonic() + timeout_s
    while (job := server.jobs()[key])["state"] != "done":
        assert time.monotonic() < end
        time.sleep(0.1)
    return job


def test_results_are_those_of_predict_images_to_the_byte(server, tmp_path, monkeypatch):
    image = draw()
    (found,) = wait_for(server, server.drop("cells #1.png", image, "?pixel_size=0,5")["key"])["images"]
    (tmp_path / "cells #1.png").write_bytes(image)
    monkeypatch.chdir(tmp_path)
    reading = read_settings("", "", "0,5", True)
    segment_files(find_images([tmp_path / "cells #1.png"]), server.weights, tmp_path / "out", reading, jobs=1)
    packed = zipfile.ZipFile(io.BytesIO(server.ask("GET", f"/{found['archive']}")[1]))
    for ending in FORMATS:
        wanted = (tmp_path / f"out/cells #1{ending}").read_bytes()
        assert server.ask("GET", f"/{found['folder']}cells%20%231{ending}") == (200, wanted)
        assert packed.read(f"cells #1/cells #1{ending}") == wanted
    assert {"cells #1/index.html", "cells #1/summary.csv", "cells #1/index_files/cells #1.js"} <= {*packed.namelist()}
    assert found["pixel_size_um"] == 0.5
    assert found["nuclei"] > 0
    assert not list(server.held.rglob("cells #1.png")), "what was dropped is not kept"


@pytest.mark.parametrize(
    ("name", "content"), [("notes.txt", b"my notes"), ("cut.png", draw()[:900]), ("empty.tif", b""), ("a.zip", b"PK")]
)
def test_what_cannot_be_read_is_refused_in_the_words_of_the_command(server, tmp_path, monkeypatch, name, content):
    (shown,) = wait_for(server, server.drop(name, content)["key"])["images"]
    (tmp_path / name).write_bytes(content)
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["predict-images", name, "--weights", str(server.weights), "--jobs", "1"])
    assert isinstance(result.exception, UserError | OSError)
    assert str(result.exception).splitlines()[-1].strip() == shown["why"]
    assert shown["state"] == "failed"


def test_two_files_of_one_name_keep_their_results_apart(server):
    keys = [server.drop("same.png", draw(side))["key"] for side in (64, 80)]
    widths = [wait_for(server, key)["images"][0]["width"] for key in keys]
    assert widths == [64, 80]
    packed = zipfile.ZipFile(io.BytesIO(server.ask("GET", "/results.zip")[1]))
    assert sum(name.endswith("/same_labels.tif") for name in packed.namelist()) == 2
    assert packed.testzip() is None


@pytest.mark.parametrize("chunked", [False, True])
def test_a_file_that_is_too_large_is_refused_and_not_kept(server, chunked):
    content = b"\0" * 1_500_000
    before = set(server.jobs())
    if chunked:
        status, body = server.ask("PUT", "/images/big.tif", iter([content[:700_000], content[:800_000]]))
    else:
        status, body = server.ask("PUT", "/images/big.tif", content[:1], Content_Length="1500000")
    assert status == 400
    assert re.search(rb"big.tif is refused: it has [12] MB, more than 1 MB: allow more by --max-mb", body)
    assert set(server.jobs()) == before
    assert not list(server.held.rglob("big.tif"))


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Host": "127.0.0.1"}, 200),
        ({"Host": "localhost:8000"}, 200),
        ({"Host": "evil.example"}, 400),
        ({"Host": "127.0.0.1.evil.example:8000"}, 400),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Sec_Fetch_Site": "cross-site"}, 403),
        ({"Sec_Fetch_Site": "same-site"}, 403),
        ({"Sec_Fetch_Site": "same-origin"}, 200),
    ],
)
def test_only_its_own_page_may_ask(server, headers, status):
    assert server.ask("GET", "/images", **headers)[0] == status
    assert server.ask("PUT", "/images/x.png?pixel_size=no", b"", **headers)[0] == (400 if status == 200 else status)


def test_it_listens_to_this_machine_alone(server):
    port = int(re.findall(r"\d+", server.address)[-1])
    with pytest.raises(OSError, match=r"refused|unreachable|assign"):
        socket.create_connection(("127.0.0.2", port), timeout=5)
    result = CliRunner().invoke(app, ["serve", "--host", "0.0.0.0"])
    assert result.exit_code == 2
    with pytest.raises(UserError, match=f"port {port} cannot be had.*--port"), listen(port):
        pass


@pytest.mark.parametrize("path", ["../../etc/passwd", "index.html", "", "..%2f..%2fheld", "%2e%2e/secret"])
def test_nothing_but_results_is_given(server, path):
    key = server.drop("a.png", draw())["key"]
    wait_for(server, key)
    assert server.ask("GET", f"/results/{key}/{path}")[0] == 404
    assert server.ask("GET", f"/results/0000/{path}")[0] == 404


@pytest.mark.parametrize("name", ["..", "a/..", "\0.png", "x" * 252 + ".png"])
def test_a_name_that_is_none_is_refused(server, name):
    assert server.ask("PUT", f"/images/{name.replace(chr(0), '%00')}", b"x")[0] == 400


def test_a_path_in_a_name_leads_nowhere(server):
    for name in ("../../up.png", "..\\up.png", "/etc/up.png"):
        assert server.drop(name, draw())["file"] == "up.png"
    assert not list(server.held.parent.glob("up.png"))


def test_clearing_removes_what_was_dropped(server):
    wait_for(server, server.drop("gone.png", draw())["key"])
    assert list(server.held.rglob("gone_labels.tif"))
    assert server.ask("DELETE", "/images")[0] == 200
    assert server.jobs() == {}
    assert not list(server.held.rglob("gone*"))


@pytest.mark.parametrize("text", ["x", "-1", "0", "inf", "nan"])
def test_a_pixel_size_is_a_number(text):
    with pytest.raises(UserError, match="pixel size"):
        read_settings("", "", text, True)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_nothing_is_left_when_it_ends_even_while_it_segments(tmp_path, number):
    with serving(tmp_path, start=start_forked) as served:
        served.drop("large.png", draw(1200))
        served.drop("waiting.png", draw())
        assert list(served.held.rglob("*.png"))
        assert served.end(number) == 0
        assert list(served.held.iterdir()) == []


def test_it_says_what_is_missing_before_it_serves(tmp_path):
    result = CliRunner().invoke(app, ["serve", "--no-open", "--port", "0", "--weights", str(tmp_path / "none")])
    assert "is no run" in str(result.exception)
    run = write_run(tmp_path)
    (run / "config.yaml").unlink()
    assert os.listdir(run) == []  # noqa: PTH208 (names)


@pytest.mark.parametrize("package", ["uvicorn", "fastapi"])
def test_without_its_extra_it_says_how_to_get_it(monkeypatch, tmp_path, package):
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, "nuclei.inference.serve_app", raising=False)
    with pytest.raises(UserError, match=rf"needs {package}, which is not installed: pip install '.\[serve\]'"):
        serve(tmp_path, 0, 1, False, print)


def test_help_says_where_it_is_and_that_nothing_leaves():
    text = " ".join(CliRunner().invoke(app, ["serve", "--help"]).output.split())
    for part in ("127.0.0.1", "Nothing is sent elsewhere", "--port", "--weights", "--no-open", "--max-mb"):
        assert part in text
