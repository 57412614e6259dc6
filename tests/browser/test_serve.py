"""Images are dropped on the page of nuclei serve, and their nuclei appear; text is refused; every format comes down."""

import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import tifffile
from roifile import ImagejRoi
from serving import serving

from browser.conftest import DESKTOP_PX, PHONE_PX, check_width, wait_until
from nuclei.data.images import decode_image, encode_image_png
from nuclei.data.synthetic import make_image
from nuclei.inference.exports import FORMATS

NAME = "it's <b>cells #1.png"
DROP = """files => {
  const transfer = new DataTransfer();
  for (const [name, bytes] of files) transfer.items.add(new File([new Uint8Array(bytes)], name));
  document.getElementById("drop").dispatchEvent(new DragEvent("dragover", { dataTransfer: transfer, bubbles: true }));
  document.getElementById("drop").dispatchEvent(new DragEvent("drop", { dataTransfer: transfer, bubbles: true }));
}"""


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("serve"), "--max-mb", "1") as served:
        yield served


@pytest.fixture(scope="module")
def image():
    return encode_image_png(make_image("dark_fluorescence_small", (96, 128), np.random.default_rng(1))[0])


@pytest.fixture
def fresh(server, open_file):
    """Give the page of a server that holds nothing."""
    server.ask("DELETE", "/images")
    return open_file(server.address)


def drop(page, *files: tuple[str, bytes]) -> None:
    page.evaluate(DROP, [[name, list(content)] for name, content in files])


def wait_for_images(page, count: int) -> None:
    wait_until(page, f"images.length === {count} && !sending.length && countDone(jobs) === jobs.length", 120)


def test_dropped_images_appear_with_their_nuclei(fresh, image):
    fresh.evaluate(
        """(() => { const bar = document.getElementById("progress"); window.wasShown = false;
        new MutationObserver(() => { window.wasShown ||= !bar.hidden; }).observe(bar, {attributes: true}); })()"""
    )
    drop(fresh, (NAME, image), ("second.png", image))
    wait_for_images(fresh, 2)
    assert fresh.evaluate("window.wasShown"), "nobody saw that it was working"
    assert fresh.locator("#progress").is_hidden()
    assert fresh.locator(".card .name").all_inner_texts() == [NAME.removesuffix(".png"), "second"]
    assert int(fresh.locator(".card .nuclei").first.inner_text().split()[0]) > 0
    fresh.locator(".card .open").first.click()
    wait_until(fresh, "large && large.picture && large.picture !== large.view.picture")
    x, y = fresh.evaluate(
        """(() => { const [left, top, right, bottom] = large.view.boxes[0], box = stage.getBoundingClientRect();
        return [box.left + large.x + (left + right) / 2 * large.scale,
                box.top + large.y + (top + bottom) / 2 * large.scale]; })()"""
    )
    fresh.mouse.move(x, y)
    assert "Nucleus 1" in fresh.locator("#tip").inner_text()
    assert fresh.locator(".least").first.is_hidden(), "thresholds predict no IoU"


CHECKS = {
    "_labels.tif": lambda data: tifffile.imread(io.BytesIO(data)).max() > 0,
    "_outlines.png": lambda data: decode_image(data, "outlines").shape == (96, 128, 3),
    ".geojson": lambda data: len(json.loads(data)["features"]) > 0,
    "_rois.zip": lambda data: ImagejRoi.frombytes(zipfile.ZipFile(io.BytesIO(data)).read("00001.roi")).name == "00001",
    "_nuclei.csv": lambda data: data.startswith(b"label,"),
    ".zip": lambda data: "index.html" in {Path(name).name for name in zipfile.ZipFile(io.BytesIO(data)).namelist()},
}


def test_every_format_comes_down(fresh, image, tmp_path):
    drop(fresh, (NAME, image))
    wait_for_images(fresh, 1)
    fresh.locator(".card .open").click()
    links = fresh.locator("#downloads a")
    assert links.count() == len(CHECKS) == len(FORMATS) + 1
    for number, (ending, check) in enumerate(CHECKS.items()):
        with fresh.expect_download() as started:
            links.nth(number).click()
        started.value.save_as(tmp_path / "file")
        assert check((tmp_path / "file").read_bytes()), ending
        # Of characters that no system allows in names a browser makes others.
        assert started.value.suggested_filename.endswith(ending)
    fresh.keyboard.press("Escape")
    with fresh.expect_download() as started:
        fresh.click("#all a")
    assert started.value.suggested_filename == "nuclei_of_images.zip"
    started.value.save_as(tmp_path / "all.zip")
    assert CHECKS[".zip"]((tmp_path / "all.zip").read_bytes())


def test_the_page_in_the_archive_opens_by_itself(fresh, image, tmp_path, open_file):
    drop(fresh, ("cells.png", image))
    wait_for_images(fresh, 1)
    with fresh.expect_download() as started:
        fresh.click("#all a")
    started.value.save_as(tmp_path / "all.zip")
    zipfile.ZipFile(tmp_path / "all.zip").extractall(tmp_path)
    page = open_file(tmp_path / "cells/index.html")
    wait_until(page, "order.length === 1 && order[0].canvas.width > 1")


def test_text_and_damage_are_refused_with_their_reason_and_the_others_done(fresh, image):
    drop(fresh, ("notes.txt", b"my notes"), ("good.png", image), ("cut.png", image[:900]))
    wait_for_images(fresh, 3)
    assert fresh.locator("#failed h2").inner_text() == "2 images failed"
    assert fresh.locator("#failed li").all_inner_texts() == [
        "notes.txt cannot be read: it is no image of a known format: save it as TIFF or PNG",
        "cut.png cannot be read: it is a broken PNG (cut short or damaged): copy or export it again",
    ]
    assert fresh.locator(".card").count() == 1


def test_a_file_that_is_too_large_is_not_even_sent(fresh):
    fresh.evaluate("add([new File([new Uint8Array(1500000)], 'big.tif')])")
    wait_for_images(fresh, 1)
    (reason,) = fresh.locator("#failed li").all_inner_texts()
    assert reason.startswith("big.tif is refused: it has 2 MB, more than 1 MB: allow more by --max-mb")


def test_files_are_chosen_read_as_said_and_cleared(fresh, image):
    fresh.click("summary")
    fresh.fill("#pixel-size", "0.5")
    with fresh.expect_file_chooser() as chooser:
        fresh.click("#choose")
    chooser.value.set_files([{"name": "chosen.png", "mimeType": "image/png", "buffer": image}])
    wait_for_images(fresh, 1)
    assert fresh.evaluate("images[0].pixel_size_um") == 0.5
    fresh.reload()
    wait_for_images(fresh, 1)
    fresh.click("#clear")
    wait_until(fresh, "images.length === 0 && document.getElementById('results').hidden")
    assert fresh.locator("#all").is_hidden()


@pytest.mark.parametrize("width", [DESKTOP_PX, PHONE_PX])
@pytest.mark.parametrize("dark", [False, True])
def test_all_parts_fit_in_light_and_dark(server, open_file, image, width, dark):
    server.ask("DELETE", "/images")
    page = open_file(server.address, width, dark)
    drop(page, ("a_name_without_any_place_to_break_it_at_all_which_is_long.png", image), ("notes.txt", b"text"))
    check_width(page)
    wait_for_images(page, 2)
    page.click("summary")
    check_width(page)
