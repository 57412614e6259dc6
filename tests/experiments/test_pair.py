"""Two runs are compared image by image with known gains; runs of other images are refused."""

import shutil

import numpy as np
import pandas as pd
import pytest
from finished_run import make_config, make_run
from typer.testing import CliRunner

from nuclei.cli import app
from nuclei.errors import UserError
from nuclei.experiments.pair import compare_pair, list_gains
from nuclei.pipeline import save_config
from nuclei.report.pairs import COUNTS, changes_table, gains_by_type_table, pair_images
from nuclei.runs.files import read_json, read_table, write_json, write_table
from nuclei.runs.layout import Run, comparison


@pytest.fixture(scope="module")
def root(tmp_path_factory, demo_folder):
    """Give a folder with a scored run, one that selects by watershed, and a copy of the first."""
    folder = tmp_path_factory.mktemp("runs")
    run = make_run(folder, demo_folder, "scored")[0]
    make_run(folder, demo_folder, "flooded", members={"scored": 1.0}, selection={"method": "watershed"})
    shutil.copytree(run.folder, folder / "copy")
    return folder


def make_scores(scores: dict[str, float], groups: dict[str, str] | None = None) -> pd.DataFrame:
    ids = list(scores)
    return pd.DataFrame(
        {
            "image_id": ids,
            "group": [(groups or {}).get(one, one) for one in ids],
            "cluster": ["x" if one < "c" else "y" for one in ids],
            "n_true": 5,
            "score": list(scores.values()),
            **dict.fromkeys(COUNTS, 1),
        }
    )


def test_gains_are_those_of_the_images_whatever_their_order():
    first = make_scores({"a": 0.5, "b": 0.5, "c": 0.4, "d": 0.8})
    second = make_scores({"d": 0.8, "c": 0.4, "b": 0.6, "a": 0.7})
    rows = {row["what"]: row for row in list_gains(first, second)}
    assert rows["all images"]["gain"][0] == pytest.approx(0.075)
    assert rows["x"]["gain"][0] == pytest.approx(0.15)
    assert rows["x"]["gain"][1] > 0
    assert rows["y"]["gain"] == [0, 0, 0]
    assert (rows["x"]["n_images"], rows["all images"]["n_groups"]) == (2, 4)
    said = {row[0]: row for row in gains_by_type_table(list(rows.values()), ("p", "q")).rows}
    assert said["x"][1] == "better"
    assert said["y"][1:3] == ("identical", "+0.0000 (identical)")


def test_images_of_one_group_have_no_interval_and_decide_nothing():
    groups = dict.fromkeys("ab", "one")
    first, second = make_scores({"a": 0.5, "b": 0.5}, groups), make_scores({"a": 0.6, "b": 0.7}, groups)
    (row, _) = gains_by_type_table(list(list_gains(first, second)), ("p", "q")).rows
    assert row[1:3] == ("undecided", "+0.1500 (no interval)")


def test_the_images_that_changed_most_come_first():
    first = make_scores({"a": 0.5, "b": 0.5, "c": 0.4})
    images = pair_images(first, make_scores({"a": 0.6, "b": 0.2, "c": 0.4}))
    assert images["image_id"].tolist() == ["b", "a", "c"]
    np.testing.assert_allclose(images["change"], [-0.3, 0.1, 0])
    rows = changes_table(images, ("p", "q")).rows
    assert [row[:5] for row in rows[:2]] == [
        ("b", "x", "-0.3000", "0.5000", "0.2000"),
        ("a", "x", "+0.1000", "0.5000", "0.6000"),
    ]


def test_two_runs_have_a_page_with_what_changed_and_a_table_of_all_images(root):
    table, page = compare_pair("scored", "flooded", root)
    assert page == root / "comparisons/scored_flooded.html"
    scores = {name: read_json(Run(name, root).metrics)["oof"]["score"][0] for name in ("scored", "flooded")}
    assert table.rows[0][3:5] == tuple(f"{score:.4f}" for score in scores.values())
    images = read_table(comparison(root, "scored_flooded"))
    assert images["change"].abs().is_monotonic_decreasing
    assert images["change"].mean() == pytest.approx(scores["flooded"] - scores["scored"], abs=1e-4)
    text = page.read_text()
    assert "All images are synthetic" in text
    assert all(image_id[:8] in text for image_id in images["image_id"])
    figures = {path.name for path in (page.parent / "figures").iterdir()}
    assert {"pairs.png"} < figures <= {"pairs.png", "gained.png", "lost.png"}


def test_a_copy_is_identical(root):
    table, page = compare_pair("scored", "copy", root)
    assert {row[1] for row in table.rows} == {"identical"}
    text = page.read_text()
    assert "No image gained in copy." in text
    assert "No image lost in copy." in text


def test_runs_that_do_not_compare_are_refused_and_nothing_is_written(root, tmp_path):
    shutil.copytree(root, tmp_path, dirs_exist_ok=True)
    shutil.rmtree(tmp_path / "comparisons", ignore_errors=True)
    other, config = Run("copy", tmp_path), make_config(tmp_path)
    meta = other.meta("predict")
    write_json(meta, read_json(meta) | {"inputs": read_json(meta)["inputs"] | {"data": "another"}})
    with pytest.raises(UserError, match="copy and scored were scored on other data or folds.*data: "):
        compare_pair("scored", "copy", tmp_path)
    shutil.copy(Run("scored", tmp_path).meta("predict"), meta)
    save_config(other, config)
    table = read_table(other.per_image("oof"))
    write_table(other.per_image("oof"), table.iloc[1:])
    with pytest.raises(UserError, match="per_image.csv is damaged"):
        compare_pair("scored", "copy", tmp_path)
    evaluated = read_json(other.meta("evaluate"))
    write_json(other.meta("evaluate"), evaluated | {"files": {}})  # of a run from before they were recorded
    with pytest.raises(UserError, match="scored and copy have scores of different images"):
        compare_pair("scored", "copy", tmp_path)
    with pytest.raises(UserError, match="no run scoerd in .*; did you mean scored"):
        compare_pair("scoerd", "copy", tmp_path)
    with pytest.raises(UserError, match="scored is compared with itself"):
        compare_pair("scored", "scored", tmp_path)
    other.meta("evaluate").unlink()
    with pytest.raises(UserError, match=r"copy.*evaluate.json is missing"):
        compare_pair("scored", "copy", tmp_path)
    assert not (tmp_path / "comparisons").exists()


def test_the_command_prints_a_short_table_and_the_page(root):
    result = CliRunner().invoke(app, ["compare", "scored", "flooded", "--runs", str(root)])
    assert result.exit_code == 0
    assert "all images" in result.output
    assert "scored_flooded.html" in result.output
