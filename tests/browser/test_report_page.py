"""The pages of a report in a browser: sorted, filtered, switched, enlarged, on a phone and in the dark."""

import numpy as np
import pandas as pd
import pytest

from browser.conftest import wait_until
from nuclei.data.synthetic import make_image
from nuclei.report.blocks import Heading, Link, Paragraph, Picture, Table
from nuclei.report.browser import FOLDER, browser_block, draw_layers
from nuclei.report.charts import draw_importance, render_png
from nuclei.report.page import render_html
from nuclei.report.tables import WRONG

SCORES = [0.3, 0.9, 0.1, 0.5]
TYPES = ["purple_on_white", "purple_on_white", "dark_fluorescence_small", "purple_on_white"]
WIDE = tuple(f"heading of {i}" for i in range(12))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Give a page with sortable tables, a chart and a browser of four images whose pictures lie beside it."""
    folder = tmp_path_factory.mktemp("report")
    images = pd.DataFrame(
        {
            "image_id": [f"{i}" * 8 for i in range(4)],
            "cluster": TYPES,
            "fold": 0,
            "score": SCORES,
            "n_true": [5, 6, 7, 8],
            "n_pred": 5,
            **dict.fromkeys(WRONG, 0),
            "missed": [2, 0, 6, 1],
        }
    )
    for i, image_id in enumerate(images["image_id"]):
        image, truth = make_image("purple_on_white", (64, 96), np.random.default_rng(i))
        for end, data in draw_layers(image, truth, np.roll(truth, 2, axis=1)).items():
            path = folder / FOLDER / f"{image_id}{end}"
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(data)
        (folder / FOLDER / f"{image_id}_steps.png").write_bytes(render_png(draw_importance({"area": 1.0})))
    blocks = [
        Heading("Tables"),
        Table(
            ("run", "gain", "n"),
            [("b", "-0.0200 (-0.03 to -0.01)", "1,000"), (Link("a", "#tables"), "+0.1000", "20"), ("c", "", "3")],
            n_text=1,
        ),
        Table(WIDE, [tuple(f"{i}" for i in range(12))] * 3),
        Picture("chart", render_png(draw_importance({"area": 1.0})), "A chart.", alt="area 100 %", chart=True),
        Heading("All images"),
        Paragraph("Every image."),
        browser_block(images, "tiny", "nuclei report configs/tiny.yaml"),
    ]
    page = folder / "report.html"
    page.write_text(render_html("Report", blocks))
    return page


def column(page, number: int) -> list[str]:
    rows = page.locator("table").first.locator("tbody tr").all()
    return [row.locator("th, td").nth(number).inner_text() for row in rows]


def scores(page) -> list[str]:
    return page.locator(".card b").all_inner_texts()


def test_a_table_is_sorted_by_click_and_by_key_and_says_how(open_file, made):
    page = open_file(made)
    heads = page.locator("table").first.locator("thead th")
    heads.nth(0).locator("button").click()
    assert column(page, 0) == ["a", "b", "c"]
    assert heads.nth(0).get_attribute("aria-sort") == "ascending"
    heads.nth(2).locator("button").focus()
    page.keyboard.press("Enter")
    assert column(page, 2) == ["1,000", "20", "3"], "numbers, the largest first"
    assert heads.nth(2).get_attribute("aria-sort") == "descending"
    assert heads.nth(0).get_attribute("aria-sort") is None
    page.keyboard.press("Enter")
    assert column(page, 2) == ["3", "20", "1,000"]
    page.keyboard.press("Enter")
    assert column(page, 0) == ["b", "a", "c"], "as it was"
    heads.nth(1).locator("button").click()
    assert column(page, 1)[0].startswith("+0.1")
    heads.nth(1).locator("button").click()
    assert column(page, 1) == ["-0.0200 (-0.03 to -0.01)", "+0.1000", ""], "empty cells stay at the end"


def test_what_is_too_wide_for_a_phone_says_so_and_is_scrolled_from_the_keyboard(open_file, made):
    page = open_file(made, width=390)
    wide = page.locator(".scroll").nth(1)
    assert page.locator(".hint").count() >= 1
    assert wide.get_attribute("tabindex") == "0"
    wide.focus()
    page.keyboard.press("ArrowRight")
    wait_until(page, "document.querySelectorAll('.scroll')[1].scrollLeft > 0")
    page.set_viewport_size({"width": 2600, "height": 900})
    wait_until(page, "!document.querySelector('.hint')")
    assert page.locator(".scroll").nth(1).get_attribute("tabindex") is None


@pytest.mark.parametrize("width", [1400, 2200])
def test_a_table_takes_the_room_that_the_page_has(open_file, made, width):
    page = open_file(made, width=width)
    room = page.evaluate("() => document.body.clientWidth")
    shown = page.locator(".scroll").nth(1).bounding_box()["width"]
    needed = page.evaluate("() => document.querySelectorAll('table')[1].scrollWidth")
    assert shown >= min(needed, 0.9 * room) - 1


def test_images_are_sorted_and_filtered(open_file, made):
    page = open_file(made)
    page.locator(".card").first.wait_for()
    assert scores(page) == ["0.100", "0.300", "0.500", "0.900"]
    page.get_by_label("sort by").select_option("-score")
    assert scores(page) == ["0.900", "0.500", "0.300", "0.100"]
    page.get_by_label("sort by").select_option("-missed")
    assert scores(page) == ["0.100", "0.300", "0.500", "0.900"]
    page.get_by_label("type").select_option("purple_on_white")
    assert scores(page) == ["0.300", "0.500", "0.900"]
    assert "3 of 4 images, mean score 0.5667" in page.get_by_role("status").inner_text()
    page.get_by_label("error kind").select_option("missed")
    assert scores(page) == ["0.300", "0.500"]
    page.get_by_label("score from").fill("0.4")
    assert scores(page) == ["0.500"]
    page.get_by_label("id begins with").fill("x")
    assert scores(page) == []


def test_outlines_are_switched_on_and_off_everywhere(open_file, made):
    page = open_file(made)
    page.locator(".card").first.wait_for()
    truth, errors = page.locator(".card .layer-truth").first, page.locator(".card .layer-errors").first
    assert truth.is_visible()
    assert not errors.is_visible()
    page.locator("[data-layer=truth]").first.uncheck()
    page.locator("[data-layer=errors]").first.check()
    assert not truth.is_visible()
    assert errors.is_visible()
    page.locator(".card").first.click()
    assert not page.locator("dialog .layer-truth").is_visible()
    page.locator("dialog [data-layer=truth]").check()
    assert page.locator("dialog .layer-truth").is_visible()
    assert page.locator("[data-layer=truth]").first.is_checked()


def test_an_image_is_shown_at_large_with_every_step_and_left_by_key(open_file, made):
    page = open_file(made)
    page.locator(".card").first.click()
    dialog = page.locator("dialog")
    assert "22222222: score 0.1000" in dialog.inner_text()
    wait_until(page, "document.querySelector('dialog .steps img').naturalWidth > 0")
    assert dialog.locator(".steps img").is_visible()
    page.keyboard.press("ArrowRight")
    assert "00000000: score 0.3000" in dialog.inner_text()
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    assert "22222222" in dialog.inner_text(), "there is none before the first"
    page.keyboard.press("Escape")
    assert not dialog.is_visible()
    assert page.evaluate("() => document.activeElement.dataset.id") == "22222222"


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_the_page_fits_a_phone_and_follows_its_colours(open_file, made, dark):
    page = open_file(made, width=390, dark=dark)
    page.locator(".card").first.wait_for()
    colour = page.evaluate(
        "() => getComputedStyle(document.body).backgroundColor.match(/\\d+/g).slice(0, 3).map(Number)"
    )
    assert (sum(colour) < 200) == dark
    inverted = page.evaluate("() => getComputedStyle(document.querySelector('img.chart')).filter")
    assert ("invert" in inverted) == dark
    assert page.evaluate("() => document.documentElement.scrollWidth <= innerWidth")
    page.locator(".card").first.click()
    assert page.evaluate("() => { const d = document.querySelector('dialog'); return d.scrollWidth <= d.clientWidth; }")


def test_a_page_without_its_pictures_says_how_they_are_made(browser, made, tmp_path):
    """A page of its own: that a picture is not there is an error to the browser, one and no more."""
    alone = tmp_path / "report.html"
    alone.write_bytes(made.read_bytes())
    page = browser.new_page()
    failed = []
    page.on("requestfailed", lambda request: failed.append(request.url))
    page.goto(alone.as_uri())
    page.locator(".card").first.wait_for()
    assert "nuclei report configs/tiny.yaml" in page.locator(".browser .missing").inner_text()
    page.get_by_label("type").select_option("purple_on_white")
    assert scores(page) == ["0.300", "0.500", "0.900"]
    page.locator(".card").first.click()
    assert "nuclei show tiny 00000000" in page.locator("dialog").inner_text()
    assert page.locator("dialog img, .card img").count() == 0
    assert len(failed) == 1
    page.close()
