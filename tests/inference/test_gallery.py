"""What the page of images loads is what was measured, and no name of a file is code in it."""

import json
import re
import zipfile
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from skimage.draw import polygon2mask
from skimage.measure import label

from nuclei.data.synthetic import make_image
from nuclei.inference.exports import OUTLINE_COLOURS, Segmented, number_colours
from nuclei.inference.gallery import (
    PARTS,
    PICTURE_PX,
    THUMBNAIL_PX,
    draw_picture,
    embed_json,
    encode_view,
    gallery_page,
)
from nuclei.inference.measures import measure_nuclei

ROOT = Path(__file__).parents[2]


def segmented(kind="dark_fluorescence_small", size=(96, 128), pixel_size_um=None, scored=True):
    image, labels = make_image(kind, size, np.random.default_rng(4))[:2]
    labels = label(labels > 0).astype(np.int32)
    measures = measure_nuclei(labels, image, pixel_size_um)
    if scored:
        measures["predicted_iou"] = np.linspace(0, 1, len(measures), dtype=np.float32)
    return Segmented(image, labels, measures)


def read_view(made):
    script = encode_view(made).decode("ascii")
    found = re.fullmatch(r"receive\((.*)\);\n", script, re.DOTALL)
    assert found
    return json.loads(found[1])


def fill(path, shape):
    """Return the pixels whose middles lie in a path of relative steps, as an even-odd rule fills it."""
    inside = np.zeros(shape, bool)
    for start, steps in re.findall(r"M([\d ]+)l([-\d ]+)z", path):
        first = np.array(start.split(), float)
        points = np.cumsum(np.vstack([first, np.array(steps.split(), float).reshape(-1, 2)]), axis=0)
        inside ^= polygon2mask(shape, points[:, ::-1] - 0.5)
    return inside


def test_what_is_drawn_is_each_nucleus_within_a_pixel_of_its_outline():
    made = segmented()
    view = read_view(made)
    assert (view["width"], view["height"]) == (128, 96)
    assert len(view["paths"]) == made.labels.max() > 3
    near = np.ones((3, 3), np.uint8)
    for number, path in enumerate(view["paths"], start=1):
        mask = made.labels == number
        drawn = fill(path, mask.shape)
        padded = np.pad(mask, 1, mode="edge").astype(np.uint8)
        inner, outer = (function(padded, near)[1:-1, 1:-1] > 0 for function in (cv2.erode, cv2.dilate))
        assert not (inner & ~drawn).any()
        assert not (drawn & ~outer).any()


def test_measurements_are_those_of_the_table_in_both_units():
    made = segmented(pixel_size_um=0.5)
    columns = read_view(made)["columns"]
    assert columns["label"] == made.measures["label"].tolist()
    for name in ("area_px", "area_um2", "equivalent_diameter_um", "predicted_iou", "gray_mean_raw"):
        assert columns[name] == pytest.approx(made.measures[name].tolist(), abs=0.01)
    assert columns["area_um2"] == [area / 4 for area in columns["area_px"]]
    plain = read_view(segmented(scored=False))["columns"]
    assert "predicted_iou" not in plain
    assert not [name for name in plain if "_um" in name]


def test_boxes_and_colours_belong_to_their_nuclei():
    made = segmented()
    view = read_view(made)
    for number, (left, top, right, bottom) in enumerate(view["boxes"], start=1):
        assert (made.labels[top:bottom, left:right] == number).sum() == (made.labels == number).sum()
    assert view["colours"] == number_colours(made.labels)[1:].tolist()
    assert max(view["colours"]) < len(OUTLINE_COLOURS)


def test_an_image_without_nuclei_has_a_view():
    nothing = np.zeros((20, 30), np.int32)
    image = np.zeros((20, 30, 3), np.uint8)
    view = read_view(Segmented(image, nothing, measure_nuclei(nothing, image)))
    assert (view["paths"], view["boxes"], view["colours"]) == ([], [], [])


def test_pictures_are_no_larger_than_they_need_to_be():
    labels = np.zeros((10, PICTURE_PX + 100), np.int32)
    image = np.full((*labels.shape, 3), 200, np.uint8)
    made = Segmented(image, labels, measure_nuclei(labels, image))
    assert cv2.imdecode(np.frombuffer(draw_picture(made), np.uint8), 1).shape == (10, PICTURE_PX, 3)
    assert f'"width":{PICTURE_PX + 100}' in encode_view(made).decode()
    small = segmented()
    assert cv2.imdecode(np.frombuffer(draw_picture(small), np.uint8), 1).shape == small.image.shape
    assert THUMBNAIL_PX < PICTURE_PX


class Page(HTMLParser):
    """Collect the tags of a page, the addresses that they name, and the JSON in it."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.addresses, self.data, self.inside = [], [], "", ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.addresses += [value for key, value in attrs if key in ("src", "href")]
        self.inside = dict(attrs).get("type", "")

    def handle_data(self, data):
        if self.inside == "application/json":
            self.data += data

    def handle_endtag(self, tag):  # noqa: ARG002 (HTMLParser's)
        self.inside = ""


texts = st.text() | st.sampled_from(["</script><script>alert(1)</script>", "<!--<script>", "]]>", "\u2028", "'\"&<>\\"])


@given(texts, texts)
def test_no_name_ends_the_data_of_the_page_or_names_an_address(name, why):
    row = {"image": name, "file": f"{name}.png", "state": "failed", "why": why}
    page, plain = Page(gallery_page([row], [])), Page(gallery_page([], []))
    assert page.tags == plain.tags
    assert page.addresses == plain.addresses == ["data:,"]
    (held,) = json.loads(page.data)["images"]
    assert held["file"] == f"{name}.png"
    assert held.get("why", "") == why
    assert "<" not in embed_json([name, why])


def test_the_page_tells_what_has_results_from_what_failed():
    made = {"image": "a", "file": "a.png", "state": "made", "why": "no results yet", "finished": True, "nuclei": 0}
    failed = {"image": "b", "file": "b.png", "state": "failed", "why": "it is broken"}
    first, second = json.loads(Page(gallery_page([made, failed], [".csv"])).data)["images"]
    assert first == {"image": "a", "file": "a.png", "state": "made", "nuclei": 0, "folder": "", "results": [".csv"]}
    assert second == {**failed, "folder": "", "results": []}


def test_a_wheel_holds_the_parts_of_the_page(tmp_path):
    build = pytest.importorskip("hatchling.builders.wheel", reason="no hatchling: pip install '.[dev]'")
    (wheel,) = build.WheelBuilder(str(ROOT)).build(directory=str(tmp_path), versions=["standard"])
    with zipfile.ZipFile(wheel) as file:
        held = set(file.namelist())
    parts = {f"nuclei/inference/viewer/{path.name}" for path in PARTS.iterdir()}
    assert len(parts) >= 3
    assert parts <= held
