"""The browser of images holds every image, draws layers where they belong, and is written beside its report."""

import json
import re
import shutil

import cv2
import numpy as np
import pandas as pd
import pytest
from finished_run import copy_run

from nuclei.data.synthetic import make_image
from nuclei.evaluation.metric import count_errors, sort_errors
from nuclei.report import browser
from nuclei.report.browser import (
    LAYERS,
    SIDE_PX,
    browser_block,
    choose_cases,
    draw_layers,
    fill_errors,
    outline,
    sample,
)
from nuclei.report.browser_pictures import write_pictures
from nuclei.report.page import render_html
from nuclei.report.pictures import TRUTH_COLOUR
from nuclei.report.reader import RunReader
from nuclei.report.tables import WRONG
from nuclei.runs.files import read_json, read_table
from nuclei.runs.layout import Run
from nuclei.stages import report as report_stage


@pytest.fixture(scope="module")
def made(coarse, tmp_path_factory, tiny):
    """Give a scored run with its report: (run, config, options)."""
    case = copy_run(tiny, tmp_path_factory.mktemp("runs"))
    report_stage.main(*case)
    return case


def make_table(n: int) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "image_id": [f"{i:03d}</script>" for i in range(n)],
            "cluster": ["rare" if i == n // 2 else "usual" for i in range(n)],
            "fold": 0,
            "score": np.linspace(0, 1, n),
            **dict.fromkeys(("n_true", "n_pred", *WRONG), 1),
        }
    )


def read_rows(html: str) -> list[dict]:
    data = re.search(r'<script type="application/json" class="browser-data">(.*?)</script>', html, re.DOTALL)
    assert data
    return json.loads(data[1])["rows"]


def decode(png: bytes) -> np.ndarray:
    found = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_UNCHANGED)
    assert found is not None
    return cv2.cvtColor(found, cv2.COLOR_BGRA2RGBA) if found.shape[2] == 4 else cv2.cvtColor(found, cv2.COLOR_BGR2RGB)


def test_the_worst_the_best_and_some_of_each_type_show_every_step(monkeypatch):
    monkeypatch.setattr(browser, "N_WORST", 12)  # other tests draw fewer
    monkeypatch.setattr(browser, "N_BEST", 4)
    monkeypatch.setattr(browser, "N_OF_TYPE", 1)
    images = make_table(200)
    ids = images["image_id"].tolist()
    assert choose_cases(images) == {*ids[:12], *ids[-4:], ids[100]}
    assert choose_cases(images.head(30)) == {*ids[:3], *ids[28:30]}
    assert choose_cases(images.head(3)) == {ids[0], ids[2]}


def test_the_page_holds_a_row_of_every_image_and_no_name_ends_its_script():
    images = make_table(5)
    html = render_html("T", [browser_block(images, "r", "nuclei report configs/r.yaml")])
    rows = read_rows(html)
    assert [row["id"] for row in rows] == images["image_id"].tolist()
    assert [row["score"] for row in rows] == [0, 0.25, 0.5, 0.75, 1]
    assert "nuclei show r {id}" in html


def test_layers_are_small_and_lie_where_the_labels_end():
    image, truth = make_image("purple_on_white", (300, 1300), np.random.default_rng(1))
    prediction = np.roll(truth, 3, axis=1)
    drawn = draw_layers(image, truth, prediction)
    assert set(drawn) == {".jpg", *(f"_{name}.png" for name in LAYERS)}
    shapes = {decode(data).shape[:2] for data in drawn.values()}
    assert shapes == {(round(300 * SIDE_PX / 1300), SIDE_PX)}
    rows, columns = sample(300, 148), sample(1300, SIDE_PX)
    layer = decode(drawn["_truth.png"])
    marked = layer[..., 3] > 0
    assert marked.any()
    assert (truth[rows][:, columns][marked] > 0).all()
    assert (layer[marked, :3] == TRUTH_COLOUR).all()


def test_an_outline_is_of_its_thickness_and_nothing_else_is_opaque():
    labels = np.zeros((20, 20), np.int32)
    labels[4:16, 4:16] = 7
    drawn = outline(labels, 2, (1, 2, 3))
    inner = np.zeros(labels.shape, bool)
    inner[6:14, 6:14] = True
    np.testing.assert_array_equal(drawn[..., 3] == 255, (labels > 0) & ~inner)


def test_what_went_wrong_is_filled_and_what_was_found_is_not():
    truth = np.zeros((40, 80), np.int32)
    truth[5:15, 5:15], truth[5:15, 30:40] = 1, 2
    prediction = np.zeros_like(truth)
    prediction[5:15, 5:15], prediction[25:35, 60:70] = 1, 2  # found; false; the second nucleus is missed
    kinds, false = sort_errors(truth, prediction)
    filled = fill_errors(truth, prediction, kinds, dict.fromkeys(false, "false"))[..., 3] > 0
    np.testing.assert_array_equal(filled, (truth == 2) | (prediction == 2))
    assert count_errors(truth, prediction)["missed"] == 1


def test_every_picture_lies_beside_the_report_and_is_an_output_of_it(made):
    run = made[0]
    table = read_table(run.per_image("oof"))
    rows = read_rows((run.report / "report.html").read_text())
    assert [row["id"] for row in rows] == table["image_id"].tolist()
    for row, scored in zip(rows, table.itertuples(), strict=True):
        assert row["score"] == round(scored.score, 5)
        assert all(row[kind] == getattr(scored, kind) for kind in WRONG)
    names = {f"{row['id']}{end}" for row in rows for end in (".jpg", *(f"_{name}.png" for name in LAYERS))}
    names |= {f"{row['id']}_steps.png" for row in rows if row["steps"]}
    assert {path.name for path in (run.report / "images").iterdir()} == names
    assert "are browsed in the HTML page" in (run.report / "report.md").read_text()
    recorded = set(read_json(run.meta("report"))["files"])
    assert {f"report/images/{name}" for name in names} <= recorded, "what is damaged of them is noticed"


def test_an_image_without_nuclei_on_disk_has_no_picture_and_the_rest_is_there(made, tmp_path):
    run, config, _ = made
    shutil.copytree(run.folder.parent, tmp_path, dirs_exist_ok=True)
    bare = Run(run.name, tmp_path)
    lost = min(bare.instances("oof").iterdir())
    lost.unlink()
    write_pictures(RunReader(bare, config), tmp_path / "new", jobs=1)
    pictured = {path.stem for path in (tmp_path / "new/images").glob("*.jpg")}
    assert pictured == {path.stem for path in bare.instances("oof").iterdir()}
    assert lost.stem not in pictured
