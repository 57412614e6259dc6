"""Boosters learn from external images as networks see them that never learned from those."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from external_sets import write_set
from small_project import run_one

from nuclei.config.load import load_config
from nuclei.errors import UserError
from nuclei.inference.predictions import read_training
from nuclei.pipeline import list_runs, list_stages, run_stage
from nuclei.runs.files import read_arrays, read_image
from nuclei.runs.layout import Dataset, Options, Run

CONFIG = Path("configs/taught.yaml")


@pytest.fixture(scope="module")
def project(finished, tmp_path_factory):
    """Give the folder of a finished run `small` and of `taught`, which learned from external images beside it."""
    folder = shutil.copytree(finished / "project", tmp_path_factory.mktemp("outside") / "project")
    shutil.copytree(finished / "data", folder / "archives")
    write_set(folder / "archives/external/ours", np.zeros((128, 128, 3), np.uint8))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        taught = {
            "base": "small.yaml",
            "data": {"external": {"ours": 4}},
            "scorer": {"outside": "small"},
            "train": {"steps": 3, "evaluate_every": 3},
        }
        CONFIG.write_text(yaml.safe_dump(taught))
        for stage in list_stages(load_config(CONFIG))[:-2]:
            run_one(CONFIG, stage, folder / "archives")
    return folder


@pytest.fixture
def here(project, monkeypatch):
    monkeypatch.chdir(project)
    return project


@pytest.mark.usefixtures("here")
def test_candidates_of_external_images_come_from_the_other_run():
    run, dataset = Run("taught"), Dataset(load_config(CONFIG).data)
    table = dataset.external_table()
    found = sorted(path.stem for path in run.outside.glob("*.npz"))
    assert found == sorted(f"ours_{image_id}" for image_id in table["image_id"])
    for image_id in table["image_id"]:
        arrays = read_arrays(run.outside / f"ours_{image_id}.npz")
        image = read_image(dataset.external("ours").image(image_id))
        assert arrays["shape"].tolist() == list(image.shape[:2])
        assert len(arrays["features"]) == len(arrays["iou"])


@pytest.mark.usefixtures("here")
def test_the_boosters_learn_from_them_and_no_score_has_them(tmp_path):
    run, config = Run("taught"), load_config(CONFIG)
    ids = set(Dataset(config.data).read_folds()["image_id"])
    assert {path.stem for path in run.scores("oof").glob("*.npz")} == ids
    alone = config.model_copy(update={"scorer": config.scorer.model_copy(update={"outside": None})})
    shutil.copytree("runs", tmp_path / "runs")
    run_stage("score", "taught", alone, Options(jobs=1, force=True), tmp_path / "runs")
    files = sorted(path.name for path in run.scorer.glob("fold*"))
    other = Run("taught", tmp_path / "runs").scorer
    assert files
    assert all((run.scorer / name).read_bytes() != (other / name).read_bytes() for name in files)


def test_a_run_that_learned_from_the_set_cannot_say_how_unseen_images_fare(here):
    content = yaml.safe_load(CONFIG.read_text()) | {"scorer": {"outside": "taught"}}
    Path("configs/again.yaml").write_text(yaml.safe_dump(content))
    config = dict(list_runs(Path("configs/again.yaml")))[Path("configs/again.yaml")]
    with pytest.raises(UserError, match="taught has learned from ours"):
        run_stage("outside", "again", config, Options(here / "archives", jobs=1), Path("runs"))
    nowhere = config.model_copy(update={"scorer": config.scorer.model_copy(update={"outside": "nowhere"})})
    with pytest.raises(UserError, match="no run nowhere in runs or ensembles"):
        run_stage("outside", "again", nowhere, Options(here / "archives", jobs=1), Path("runs"))


@pytest.mark.parametrize("prepared", [True, False])
def test_the_same_images_under_another_name_are_no_less_seen(here, tmp_path, prepared):
    shutil.copytree("runs", tmp_path / "runs")
    if prepared:
        shutil.copytree("runs/data/external/ours", tmp_path / "runs/data/external/alias")
    for name, external in (("small", {"alias": 1}), ("taught", {"ours": 4})):
        path = tmp_path / f"runs/{name}/config.yaml"
        content = yaml.safe_load(path.read_text())
        path.write_text(yaml.safe_dump(content | {"data": content["data"] | {"external": external}}))
    with pytest.raises(UserError, match="small has learned from alias"):
        run_stage("outside", "taught", load_config(CONFIG), Options(here / "archives", jobs=1), tmp_path / "runs")


def test_a_network_that_is_damaged_tells_nothing(here, tmp_path):
    shutil.copytree("runs", tmp_path / "runs")
    path = Run("small", tmp_path / "runs").fold(1) / "weights.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(UserError, match=r"fold1/weights.safetensors is damaged"):
        run_stage("outside", "taught", load_config(CONFIG), Options(here / "archives", jobs=1), tmp_path / "runs")
    path.unlink()
    with pytest.raises(UserError, match=r"fold1/weights.safetensors is missing"):
        run_stage("outside", "taught", load_config(CONFIG), Options(here / "archives", jobs=1), tmp_path / "runs")


def test_a_run_without_it_has_no_such_stage():
    assert "outside" not in list_stages(load_config(Path(__file__).parents[2] / "configs/mobilenetv2.yaml"))


@pytest.mark.usefixtures("here")
def test_images_like_the_external_ones_are_not_new_to_what_learned_from_them():
    dataset = Dataset(load_config(CONFIG).data)
    table = dataset.external_table()
    images = [read_image(dataset.external("ours").image(i)) for i in table["image_id"]]
    taught, plain = (read_training(Run(name)) for name in ("taught", "small"))
    assert len(taught.folds) == len(plain.folds) + len(images)
    assert [taught.novelty(fold)(image) for fold in (None, 0) for image in images] == pytest.approx(
        [0] * 2 * len(images), abs=1e-6
    )
    assert min(plain.novelty()(image) for image in images) > 0
