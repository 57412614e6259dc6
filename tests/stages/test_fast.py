"""One network that learned from others, and boosters of all candidates: what segments new images fast."""

import shutil
from pathlib import Path

import pytest
import yaml
from small_project import list_tasks, run_all, run_one

from nuclei.errors import UserError
from nuclei.evaluation.submission import validate_submission
from nuclei.inference.bundle import find_published, write_bundle
from nuclei.inference.image_files import find_images
from nuclei.inference.other_networks import find_teachers
from nuclei.inference.predictor import Predictor
from nuclei.inference.segment_files import segment_files
from nuclei.pipeline import list_runs, load_run
from nuclei.runs.files import file_hash, read_json, read_table
from nuclei.runs.layout import Dataset, Options, Run
from nuclei.stages.train import main

FAST = {
    "base": "small.yaml",
    "train": {"start": "small", "teacher": "small", "unlabelled": 0.25, "scale": 0.8, "steps": 6},
    "predict": {"scales": [0.8], "new_images": "whole"},
    "scorer": {"new_images": "whole"},
}


@pytest.fixture(scope="module")
def project(finished, tmp_path_factory):
    """Give the folder of the small project with a fast run that learned from `small`, run whole."""
    folder = shutil.copytree(finished / "project", tmp_path_factory.mktemp("fast") / "project")
    (folder / "configs/fast.yaml").write_text(yaml.safe_dump(FAST))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        run_all(folder / "configs/fast.yaml", finished / "data")
    return folder


def test_a_run_comes_after_the_one_that_it_learns_from(project, monkeypatch):
    monkeypatch.chdir(project)
    assert next(path.stem for path, _ in list_runs(Path("configs/fast.yaml"))) == "small"
    assert [name for _, name in list_tasks(Path("configs/fast.yaml"))].count("train") >= 2


def test_a_fold_learns_from_no_network_that_saw_it_and_the_whole_from_all(project):
    run, teacher = Run("fast", project / "runs"), Run("small", project / "runs")
    for fold in (0, 1):
        inputs = read_json(run.meta(f"train_fold{fold}"))["inputs"]
        weights = file_hash(teacher.fold(fold) / "weights.safetensors")
        assert {key: value for key, value in inputs.items() if "teacher" in key} == {
            f"teacher_small_fold{fold}": weights
        }
        assert inputs["start"] == weights
    whole = read_json(run.meta("train_whole"))["inputs"]
    assert {key for key in whole if "teacher" in key} == {"teacher_small_fold0", "teacher_small_fold1"}
    assert "unlabelled_test" in whole


def test_new_images_get_one_network_and_one_set_of_boosters(project, demo_folder, tmp_path):
    run = Run("fast", project / "runs")
    predictor = Predictor(run)
    assert (len(predictor.forwards), len(predictor.boosters)) == (1, 1)
    manifest = read_table(project / "runs/data/demo/manifest.csv")
    shapes = {row.image_id: (row.height, row.width) for row in manifest[manifest["split"] == "test"].itertuples()}
    assert validate_submission(run.submission("test"), shapes) == []
    assert "1 networks" in write_bundle(run, tmp_path / "fast")
    bundle = tmp_path / "fast/bundle/fast"
    held = {path.relative_to(bundle).as_posix() for path in bundle.rglob("*.*")}
    assert {"whole/weights.safetensors", "meta/train_whole.json", "scorer/whole_seed0.json.gz"} <= held
    assert not [name for name in held if "fold" in name]
    segment_files(
        find_images([demo_folder / "stage1_test.zip"]),
        tmp_path / "fast",
        tmp_path / "out",
        submission=tmp_path / "again.csv",
        jobs=1,
    )
    assert (tmp_path / "again.csv").read_bytes() == run.submission("test").read_bytes()


def test_the_published_whole_is_found_again(project, tmp_path, monkeypatch):
    write_bundle(Run("fast", project / "runs"), tmp_path / "ensembles/fast")
    monkeypatch.setattr("nuclei.inference.bundle.PUBLISHED", tmp_path / "ensembles")
    monkeypatch.chdir(project)
    config = load_run("configs/fast.yaml")
    assert find_published(config, Dataset(config.data), None)
    assert find_published(config, Dataset(config.data), 0) is None


def test_a_second_run_does_nothing(project, demo_folder, monkeypatch, capsys):
    monkeypatch.chdir(project)
    for name in ("train", "predict", "score", "select"):
        run_one(Path("configs/fast.yaml"), name, demo_folder)
    assert all("up to date" in line for line in capsys.readouterr().out.splitlines())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"teacher": "nobody"}, "fast learns from nobody, which runs/nobody does not have"),
        ({"start": "nobody"}, "fast builds on nobody, which runs/nobody does not have"),
    ],
)
def test_who_learns_from_nobody_is_told(project, demo_folder, monkeypatch, change, said):
    monkeypatch.chdir(project)
    config = load_run("configs/fast.yaml")
    config = config.model_copy(update={"train": config.train.model_copy(update=change)})
    with pytest.raises(UserError, match=said):
        main(Run("fast", Path("runs")), config, Options(demo_folder))


def test_a_teacher_of_other_channels_is_refused(project, monkeypatch):
    monkeypatch.chdir(project)
    config = load_run("configs/fast.yaml")
    other = config.model_copy(update={"model": config.model.model_copy(update={"channels": ("mask",)})})
    with pytest.raises(UserError, match="cannot learn from small: model.channels"):
        find_teachers(Run("fast", Path("runs")), other, Dataset(config.data), 0)
