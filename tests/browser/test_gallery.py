"""The page of predict-images in a browser: outlines, measurements, filter, order, keys; on a desk and on a phone."""

import json
from urllib.parse import unquote

import numpy as np
import pandas as pd
import pytest
from skimage.filters import threshold_otsu
from skimage.measure import label

from browser.conftest import DESKTOP_PX, PHONE_PX, check_width, wait_until
from nuclei.data.images import decode_image, encode_image_png
from nuclei.data.synthetic import make_image
from nuclei.inference import segment_files as module
from nuclei.inference.bundle import find_default
from nuclei.inference.exports import FORMATS, Segmented
from nuclei.inference.gallery import gallery_page
from nuclei.inference.image_files import Reading, find_images
from nuclei.inference.measures import measure_nuclei
from nuclei.runs.files import write_bytes

HOSTILE = '<script>alert(1)<img src=x onerror=alert(2)> "it\'s" & 細胞 #1 50%?'
NAMES = ("a2", "a10", HOSTILE)  # in the order of the names, numbers as numbers


class Threshold:
    """Stand for a Predictor: bright components are nuclei, their predicted IoUs 0.2, 0.5, 0.8 in turn."""

    novelty = None  # as of a run that was made before its training images were recorded

    def segment(self, image, of_competition=False):  # noqa: ARG002 (as a Predictor takes it)
        gray = image[..., 0]
        labels = label(gray > threshold_otsu(gray)).astype(np.int32)
        return labels, np.float32([0.2, 0.5, 0.8])[np.arange(labels.max()) % 3]


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Give a folder with the results of three images, and a file that failed."""
    folder = tmp_path_factory.mktemp("results")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "load_predictor", lambda *key: Threshold())
        for seed, name in enumerate(NAMES):
            image = make_image("dark_fluorescence_small", (96, 128 + 32 * seed), np.random.default_rng(seed))[0]
            write_bytes(folder / f"in/{name}.png", encode_image_png(image))
        write_bytes(folder / "in/<b>notes.png", b"no image")
        reading = Reading(pixel_size_um=0.5)
        module.segment_files(find_images([folder / "in"]), find_default(), folder / "out", reading, jobs=1)
    return folder / "out"


def wait_for_cards(page):
    wait_until(page, "order.length && order.every(image => !image.seen || image.canvas.width > 1)")


def pixels(page, selector):
    """Return what is seen of the first such element, uint8 [H, W, 3]; a page of the disk may not read its canvas."""
    return decode_image(page.locator(selector).first.screenshot(), selector)


def count_coloured(picture):
    """Return how many pixels are no gray: those of outlines, as the images are gray."""
    colours = picture[..., :3].astype(int)
    return int((np.ptp(colours, axis=2) > 40).sum())


def open_large(page, number=1):
    page.click(f".card:nth-child({number}) .open")
    wait_until(page, "large && large.picture && large.picture !== large.view.picture")
    settle(page)


def settle(page):
    page.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")


def middle_of(page, number):
    """Return where the middle of a nucleus, from 0, of the image at large lies in the window."""
    return page.evaluate(
        """number => { const [left, top, right, bottom] = large.view.boxes[number], box = stage.getBoundingClientRect();
        return [box.left + large.x + (left + right) / 2 * large.scale,
                box.top + large.y + (top + bottom) / 2 * large.scale]; }""",
        number,
    )


@pytest.mark.parametrize("width", [DESKTOP_PX, PHONE_PX])
@pytest.mark.parametrize("dark", [False, True])
def test_all_parts_fit_in_light_and_dark(open_file, results, width, dark):
    page = open_file(results / "index.html", width, dark)
    wait_for_cards(page)
    assert page.locator(".card").count() == 3
    check_width(page)
    page.click("#as-table")
    check_width(page)
    page.click("#as-pictures")
    open_large(page)
    check_width(page)
    ground, ink = page.evaluate(
        "[document.body, viewer].map(e => getComputedStyle(e)).flatMap(s => [s.backgroundColor, s.color])"
    )[:2]
    brightness = [sum(map(int, colour.strip("rgb()").split(","))) for colour in (ground, ink)]
    assert (brightness[0] < brightness[1]) == dark
    assert page.evaluate("stage.clientWidth > 300 && stage.clientHeight > 300")


def test_names_are_shown_as_they_are_and_failures_with_their_reason(open_file, results):
    page = open_file(results / "index.html")
    wait_for_cards(page)
    assert HOSTILE in page.locator(".card .name").all_inner_texts()
    assert page.locator("body img").count() == 0
    assert page.locator("#failed h2").inner_text() == "1 image failed"
    (reason,) = page.locator("#failed li").all_inner_texts()
    assert "<b>notes.png cannot be read: it is no image of a known format" in reason
    page.click("#as-table")
    assert page.locator("#table tbody tr").count() == 4
    assert page.locator("#title").inner_text().endswith("in 3 images")


def test_outlines_go_on_and_off(open_file, results):
    page = open_file(results / "index.html")
    wait_for_cards(page)
    assert count_coloured(pixels(page, ".card canvas")) > 50
    page.uncheck("#outlines")
    settle(page)
    wait_until(page, "!at('viewer').open")
    assert count_coloured(pixels(page, ".card canvas")) == 0
    open_large(page)
    assert count_coloured(pixels(page, "#stage")) == 0
    page.keyboard.press("o")
    settle(page)
    assert count_coloured(pixels(page, "#stage")) > 50
    assert page.is_checked("#outlines")
    assert page.is_checked("#viewer-outlines")


def test_a_nucleus_says_what_was_measured_of_it(open_file, results):
    page = open_file(results / "index.html")
    wait_for_cards(page)
    open_large(page)
    name = page.locator("#viewer-name").inner_text()
    table = pd.read_csv(results / f"{name}_nuclei.csv")
    number = int(table["area_px"].argmax())
    row = table.loc[number]
    page.mouse.move(*middle_of(page, number))
    tip = page.locator("#tip").inner_text()
    assert f"Nucleus {row['label']:.0f}" in tip
    assert f"{row['area_px']:.0f} px ({row['area_px'] / 4:,.2f}".rstrip("0").rstrip(".") in tip
    assert f"{row['predicted_iou']:.2f}" in tip
    assert "µm" in tip
    assert f"{row['gray_mean_raw']:.4g}" in tip
    box = page.locator("#stage").bounding_box()
    page.mouse.move(box["x"] + 2, box["y"] + 2)
    assert page.locator("#tip").is_hidden()
    page.keyboard.press("Escape")
    wait_until(page, "!at('viewer').open")
    canvas = page.locator(".card canvas").first.bounding_box()
    scale = canvas["width"] / page.evaluate("order[0].width")
    page.mouse.move(
        canvas["x"] + row["centroid_x_px"] * scale + scale / 2, canvas["y"] + row["centroid_y_px"] * scale + scale / 2
    )
    wait_until(page, "!at('tip').hidden")
    assert f"Nucleus {row['label']:.0f}" in page.locator("#tip").inner_text()


def test_a_finger_asks_for_a_nucleus_and_moves_the_image(browser, results):
    context = browser.new_context(viewport={"width": PHONE_PX, "height": 800}, has_touch=True, is_mobile=True)
    page = context.new_page()
    page.goto((results / "index.html").as_uri())
    wait_for_cards(page)
    open_large(page)
    number = page.evaluate("large.view.columns.area_px.indexOf(Math.max(...large.view.columns.area_px))")
    page.touchscreen.tap(*middle_of(page, number))
    assert f"Nucleus {number + 1}" in page.locator("#tip").inner_text()
    context.close()


def test_the_filter_hides_what_is_below_it(open_file, results):
    page = open_file(results / "index.html")
    wait_for_cards(page)
    open_large(page)
    shown, least = [], [0.0, 0.3, 0.6, 0.9]
    all_iou = page.evaluate("large.view.columns.predicted_iou")
    for value in least:
        page.fill("#viewer-least", str(value))
        settle(page)
        shown.append(count_coloured(pixels(page, "#stage")))
        kept = sum(iou >= value for iou in all_iou)
        assert page.locator("#count").inner_text().startswith(f"{kept}" if kept == len(all_iou) else f"{kept} of ")
    assert shown[0] > shown[1] > shown[2] > shown[3] == 0
    page.mouse.move(*middle_of(page, int(np.argmax(all_iou))))
    assert page.locator("#tip").is_hidden()
    assert page.locator("#least-value").inner_text() == "0.90"
    page.keyboard.press("Escape")
    wait_until(page, "!at('viewer').open")
    assert page.locator(".card .nuclei").first.inner_text().startswith("0 of ")


def test_the_table_is_sorted_by_numbers_as_numbers_and_what_is_unknown_is_last(open_file, results):
    page = open_file(results / "index.html")
    page.click("#as-table")
    cells = page.locator("#table tbody tr td:first-child")
    heading = page.locator("#table th", has_text="Nuclei")
    numbers = page.locator("#table tbody tr td:nth-child(3)")
    heading.locator("button").click()
    assert heading.get_attribute("aria-sort") == "descending"
    down = [int(text) for text in numbers.all_inner_texts() if text]
    assert down == sorted(down, reverse=True)
    assert numbers.last.inner_text() == ""
    heading.locator("button").click()
    assert heading.get_attribute("aria-sort") == "ascending"
    assert [int(text) for text in numbers.all_inner_texts() if text] == sorted(down)
    assert numbers.last.inner_text() == ""
    page.locator("#table th button", has_text="Image").click()
    names = [text.split("\n")[0].strip() for text in cells.all_inner_texts()]
    assert names.index("a2") < names.index("a10")
    page.click("#as-pictures")
    assert [name for name in names if name in NAMES] == page.locator(".card .name").all_inner_texts()
    page.fill("#search", "A1")
    assert page.locator(".card .name").all_inner_texts() == ["a10"]
    page.fill("#search", "nothing of the kind")
    assert page.locator("#none").is_visible()


def test_keys_lead_from_image_to_image_and_out(open_file, results):
    page = open_file(results / "index.html")
    wait_for_cards(page)
    names = page.locator(".card .name").all_inner_texts()
    page.locator(".card .open").first.focus()
    page.keyboard.press("Enter")
    for key, name in [("", 0), ("ArrowRight", 1), ("ArrowRight", 2), ("ArrowRight", 2), ("ArrowLeft", 1)]:
        if key:
            page.keyboard.press(key)
        wait_until(page, f"at('viewer-name').textContent === {json.dumps(names[name])} && large.view")
    assert page.locator("#viewer-place").inner_text() == "2 / 3"
    before = page.evaluate("large.scale")
    page.keyboard.press("+")
    assert page.evaluate("large.scale") > before
    page.keyboard.press("0")
    assert page.evaluate("large.scale") == pytest.approx(before)
    page.keyboard.press("Escape")
    wait_until(page, "!at('viewer').open")
    page.go_forward()
    wait_until(page, "at('viewer').open")
    page.go_back()
    wait_until(page, "!at('viewer').open")


def test_every_result_is_linked(open_file, results):
    page = open_file(results / "index.html")
    page.click("#as-table")
    links = page.evaluate("[...document.querySelectorAll('#table a')].map(a => a.href)")
    assert len(links) == 3 * len(FORMATS)
    wanted = {(results / f"{name}{ending}").as_uri() for name in NAMES for ending in FORMATS}
    # Which characters must be encoded is another question to a browser than to Python.
    assert {unquote(link) for link in links} == {unquote(address) for address in wanted}


def test_what_is_missing_is_said_where_it_would_be(browser, results, tmp_path):
    (tmp_path / "index.html").write_bytes((results / "index.html").read_bytes())
    page = browser.new_page()
    page.goto((tmp_path / "index.html").as_uri())
    wait_until(page, "order.every(image => image.count.textContent === 'its nuclei are missing')")
    page.locator(".card .open").first.click()
    wait_until(page, "at('count').textContent === 'its nuclei are missing'")
    page.close()


def test_a_thousand_images_load_what_is_seen(open_file, results, tmp_path):
    record = {"image": "a2", "file": "a2.png", "state": "made", "finished": True, "nuclei": 1, "width": 9, "height": 9}
    path = results / "thousand.html"
    path.write_text(gallery_page([record] * 1000, list(FORMATS)), encoding="utf-8")
    page = open_file(path)
    wait_until(page, "order.length === 1000 && order.some(image => image.canvas.width > 1)")
    settle(page)
    drawn = "order.filter(image => image.canvas.width > 1).length"
    assert page.evaluate(drawn) < 60
    page.evaluate("scrollTo(0, document.body.scrollHeight)")
    wait_until(page, "order[999].canvas.width > 1 && order[0].canvas.width === 0")
    assert page.evaluate(drawn) < 60


def test_five_thousand_nuclei_are_drawn_and_asked_for(open_file, tmp_path):
    """A page of a lattice of nuclei, each 6 x 6 pixels with a pixel between them."""
    side, count = 7, 71
    labels = np.zeros((side * count, side * count), np.int32)
    numbers = np.arange(1, count**2 + 1).reshape(count, count)
    labels[:] = np.kron(numbers, np.pad(np.ones((6, 6), np.int32), ((0, 1), (0, 1))))
    image = np.uint8(labels > 0)[..., None].repeat(3, axis=2) * 200
    measures = measure_nuclei(labels, image)
    made = Segmented(image, labels, measures)
    for file, encode in module.list_results("many").items():
        if file.startswith(module.VIEWS):
            write_bytes(tmp_path / file, encode(made))
    record = {"image": "many", "file": "many.png", "state": "made", "finished": True, "nuclei": count**2}
    record |= {"width": labels.shape[1], "height": labels.shape[0]}
    write_bytes(tmp_path / "index.html", gallery_page([record], list(FORMATS)).encode())
    page = open_file(tmp_path / "index.html")
    wait_for_cards(page)
    open_large(page)
    assert page.locator("#count").inner_text() == "5,041 nuclei"
    page.mouse.move(*middle_of(page, 4321))
    assert "Nucleus 4,322" in page.locator("#tip").inner_text() or "Nucleus 4322" in page.locator("#tip").inner_text()
