"""Label images of another tool are a run like any other: validated, scored, submitted, reported, compared, shown."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile
import yaml
from small_project import SMALL, run_all

from nuclei.data.images import encode_labels_png
from nuclei.errors import UserError
from nuclei.experiments.leaderboard import compare_runs
from nuclei.inference.bundle import find_run
from nuclei.inference.coco import export_coco
from nuclei.inference.predictor import Predictor
from nuclei.report.show import show_image
from nuclei.runs.files import read_json, read_labels, read_table
from nuclei.runs.layout import Dataset, Run


def write_config(folder: Path, name: str, **sections) -> Path:
    path = folder / f"configs/{name}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump({"data": SMALL["data"], **sections}))
    return path


@pytest.fixture(scope="module")
def project(demo_folder, tmp_path_factory):
    """Give a project with a run of Otsu's recipe, and one of its label images as another tool might write them."""
    folder = tmp_path_factory.mktemp("other_tool")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        run_all(write_config(folder, "otsu", selection={"method": "classical"}), demo_folder)
        rng = np.random.default_rng(3)
        for split in ("oof", "test"):
            for number, path in enumerate(sorted(Run("otsu").instances(split).iterdir())):
                labels = read_labels(path)
                numbers = np.append(0, 1 + rng.choice(60_000, labels.max(), replace=False))  # any order, with gaps
                target = folder / f"theirs/{split}/{path.stem}_cp_masks.tif"
                target.parent.mkdir(parents=True, exist_ok=True)
                if number % 2:
                    tifffile.imwrite(target, numbers[labels].astype(np.int32), compression="zlib")
                else:
                    target.with_name(f"{path.stem}.png").write_bytes(encode_labels_png(numbers[labels]))
        theirs = {"selection": {"method": "labels"}, "labels": {"folder": "theirs"}}
        run_all(write_config(folder, "their_tool", **theirs), demo_folder)
        yield folder


def test_the_scores_and_the_submission_are_those_of_the_labels(project):
    ours, theirs = Run("otsu", project / "runs"), Run("their_tool", project / "runs")
    columns = ["image_id", "score", "n_true", "n_pred", "merged", "split", "missed", "false"]
    pd.testing.assert_frame_equal(*(read_table(run.per_image("oof"))[columns] for run in (ours, theirs)))
    rows = [sorted(run.submission("test").read_text().splitlines()) for run in (ours, theirs)]
    assert rows[0] == rows[1]
    metrics = read_json(theirs.metrics)
    assert metrics["stage1_solution"]["score"] == read_json(ours.metrics)["stage1_solution"]["score"]
    assert [step["method"] for step in metrics["steps"]] == ["labels"]


def test_it_is_reported_compared_shown_and_exported(project, monkeypatch):
    monkeypatch.chdir(project)
    page = (project / "runs/their_tool/report/report.html").read_text()
    assert "label images of another tool" in page
    table = compare_runs(["otsu", "their_tool"], Path("runs"))
    run = table.columns.index("run")
    assert {row[run] for row in table.rows} == {"otsu", "their_tool"}
    image_id = read_table(Path("folds.csv") if Path("folds.csv").is_file() else Path(SMALL["data"]["folds"]))[
        "image_id"
    ][0]
    assert show_image("their_tool", image_id, Path("runs")).is_file()
    written = export_coco("their_tool", Path("runs"))
    predicted = json.loads(next(path for path in written if path.name == "oof_predictions.json").read_text())
    assert len(predicted) == read_table(Run("their_tool").per_image("oof"))["n_pred"].sum()


def test_changed_label_images_are_read_again_by_themselves(project, demo_folder, monkeypatch, capsys):
    monkeypatch.chdir(project)
    path = next(Path("theirs/oof").glob("*.tif"))
    image_id, before = path.stem.removesuffix("_cp_masks"), path.read_bytes()
    tifffile.imwrite(path, np.zeros_like(tifffile.imread(path)))
    try:
        run_all(project / "configs/their_tool.yaml", demo_folder)
        table = read_table(Run("their_tool").per_image("oof")).set_index("image_id")
        assert table.loc[image_id, "n_pred"] == 0
        assert "their_tool classical: running again (" in capsys.readouterr().out
    finally:
        path.write_bytes(before)
        run_all(project / "configs/their_tool.yaml", demo_folder)


def test_a_missing_label_image_is_named_before_anything_is_scored(project, demo_folder, monkeypatch):
    monkeypatch.chdir(project)
    path = next(Path("theirs/oof").glob("*.png"))
    away = path.rename(project / "away.png")
    try:
        with pytest.raises(ValueError, match=f"theirs must have one label image of {path.stem}"):
            run_all(project / "configs/their_tool.yaml", demo_folder)
    finally:
        away.rename(path)
        run_all(project / "configs/their_tool.yaml", demo_folder)


def test_it_segments_no_other_images_and_says_so(project):
    with pytest.raises(UserError, match="their_tool holds the label images of another tool: it cannot segment other"):
        Predictor(find_run(project / "runs/their_tool"))


def test_a_run_of_a_recipe_does_segment_other_images(project, monkeypatch):
    monkeypatch.chdir(project)
    run, dataset = Run("otsu"), Dataset(read_config())
    image_id = dataset.splits()["test"][0]
    from nuclei.runs.files import read_image

    labels, predicted_iou = Predictor(run).segment(read_image(dataset.image(image_id)))
    np.testing.assert_array_equal(labels, read_labels(run.instances("test") / f"{image_id}.png"))
    assert predicted_iou is None


def read_config():
    from nuclei.config.load import load_config

    return load_config("configs/otsu.yaml").data
