"""External images are prepared, compared with the competition's, and learned from by every fold's network."""

import shutil
import zipfile

import cv2
import numpy as np
import pandas as pd
import pytest
import yaml
from external_sets import COPY, LARGE, write_set
from small_project import SMALL, run_one

from nuclei.config.load import load_config
from nuclei.data.competition import EXTERNAL_FOLD
from nuclei.data.images import encode_image_png, encode_labels_png
from nuclei.data.size import LARGEST, SMALLEST, equivalent_diameters
from nuclei.data.synthetic import make_image
from nuclei.errors import UserError
from nuclei.pipeline import list_stages
from nuclei.runs.files import read_image, read_json, read_labels, read_table, write_bytes
from nuclei.runs.layout import Dataset, Options, Run
from nuclei.stages import download, external
from nuclei.stages import train as train_stage
from nuclei.training.crops import pool_settings

STAGES = ("prepare", "external", "folds", "crops", "train")


@pytest.fixture(scope="module")
def data(demo_folder, tmp_path_factory):
    """Give a folder of the demo archives and an external set `ours`, whose image COPY is cut from a test image."""
    folder = tmp_path_factory.mktemp("data")
    shutil.copytree(demo_folder, folder, dirs_exist_ok=True)
    with zipfile.ZipFile(folder / "stage1_test.zip") as file:
        name = sorted(n for n in file.namelist() if n.endswith(".png"))[0]
        copied = cv2.imdecode(np.frombuffer(file.read(name), np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    write_set(folder / "external/ours", copied)
    return folder


@pytest.fixture(scope="module")
def project(data, tmp_path_factory):
    """Give the folder of two runs that learned from `ours`, one from a pool of crops and one without."""
    folder = tmp_path_factory.mktemp("project")
    small = SMALL | {"data": SMALL["data"] | {"external": {"ours": 4}}}
    small |= {"train": SMALL["train"] | {"steps": 3, "evaluate_every": 3}}
    pooled = {"base": "plain.yaml", "train": {"pool": 60}}
    for name, content in {"plain": small, "pooled": pooled}.items():
        write_bytes(folder / f"configs/{name}.yaml", yaml.safe_dump(content).encode())
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name in ("pooled", "plain"):
            for stage in STAGES:
                if stage != "crops" or name == "pooled":
                    run_one(folder / f"configs/{name}.yaml", stage, data)
    return folder


@pytest.fixture
def here(project, monkeypatch):
    monkeypatch.chdir(project)
    return project


def dataset_of(name="pooled", **changed):
    settings = load_config(f"configs/{name}.yaml").data.model_copy(update=changed)
    return Dataset(settings)


def test_the_manifest_says_what_was_prepared(here):
    ours = dataset_of().external("ours")
    manifest = read_table(ours.manifest).set_index("image_id")
    assert manifest["set"].unique().tolist() == ["ours"]
    assert (manifest["licence"] == "CC0").all()
    assert (manifest["source"] == "me").all()
    assert manifest["scale"].to_dict() == {COPY: 1, LARGE: 0.5, "plain": 1}
    for image_id, row in manifest.iterrows():
        labels = read_labels(ours.labels(image_id))
        assert read_image(ours.image(image_id)).shape == (row["height"], row["width"], 3)
        assert (labels.shape, labels.max()) == ((row["height"], row["width"]), row["n_nuclei"])


def test_a_copy_of_a_test_image_is_named_and_left_out(here):
    dataset = dataset_of()
    copies = read_table(dataset.copies("ours", "test"))
    test_ids = read_table(dataset.manifest).query("split == 'test'")["image_id"]
    assert copies["image_id"].tolist() == [COPY]
    assert copies["known"].isin(test_ids).all()
    assert read_table(dataset.copies("ours", "train")).empty
    assert sorted(dataset.read_external("ours")["image_id"]) == [LARGE, "plain"]


def test_external_images_are_drawn_by_their_weight_and_held_out_by_no_fold(here):
    table = dataset_of().external_table()
    assert table["fold"].unique().tolist() == [EXTERNAL_FOLD]
    assert table["weight"].unique().tolist() == [4]
    folds = np.load("runs/pooled/crops/folds.npy")
    weights = read_table(dataset_of().folds)["weight"].sum()
    assert (folds == EXTERNAL_FOLD).sum() == pytest.approx(60 * 8 / (8 + weights), abs=1.5)
    assert not (folds == EXTERNAL_FOLD).all()
    assert EXTERNAL_FOLD not in dataset_of().list_folds()
    assert not set(table["image_id"]) & {i for ids in dataset_of().splits().values() for i in ids}


def test_a_network_learns_from_external_crops_with_and_without_a_pool(here):
    for name in ("plain", "pooled"):
        config, dataset = load_config(f"configs/{name}.yaml"), dataset_of(name)
        for fold in dataset.list_folds():
            crops = train_stage.find_crops(Run(name), config, dataset, read_table(dataset.folds), fold, 1)
            if name == "plain":
                held = (read_table(dataset.folds)["fold"] != fold).sum()
                assert len(crops.source.images) == held + 2
                assert crops.source.weights[-2:].tolist() == [4, 4]
            else:
                own = np.load("runs/pooled/crops/folds.npy") == EXTERNAL_FOLD
                assert own[crops.order].any()


def test_uniform_sampling_keeps_the_weight_of_external_images(here):
    from nuclei.runs.layout import read_training_pairs
    from nuclei.training.crops import make_source

    dataset, config = dataset_of(), load_config("configs/pooled.yaml")
    table, ours = read_table(dataset.folds), dataset.external_table()
    model = config.model.model_copy(update={"min_side_px": 400})
    config = config.model_copy(
        update={"model": model, "train": config.train.model_copy(update={"sampling": "uniform"})}
    )
    source = make_source(read_training_pairs(dataset, table, ours, config), pd.concat([table, ours]), config.train)
    assert source.weights.tolist() == [1] * len(table) + [4, 4]
    sides = dict(zip(ours["image_id"], [len(image) for image in source.images[len(table) :]], strict=True))
    assert sides == {LARGE: 320, "plain": 320}  # twice its size; what was brought to scale is not enlarged to 400


def test_all_learn_nuclei_of_one_diameter_where_it_is_asked_for(here):
    from nuclei.runs.layout import read_training_pairs

    dataset, plain = dataset_of(), load_config("configs/plain.yaml")
    table, ours = read_table(dataset.folds), dataset.external_table()

    def measure(**settings: float) -> list[float]:
        config = plain.model_copy(update={"train": plain.train.model_copy(update=settings)})
        pairs = read_training_pairs(dataset, table, ours, config)
        return [float(np.median(equivalent_diameters(labels))) for _, labels in pairs]

    as_they_are = measure()
    wanted = np.clip(24 / np.array(as_they_are), SMALLEST, LARGEST) * as_they_are
    assert 0 < np.isclose(wanted, 24).sum() < len(wanted)  # of others the factor is at its limit
    np.testing.assert_allclose(measure(diameter_px=24.0), wanted, rtol=0.08)
    np.testing.assert_allclose(measure(diameter_px=24.0, scale=0.8), 0.8 * wanted, rtol=0.1)


@pytest.mark.parametrize("setting", ["scale", "diameter_px"])
def test_crops_of_another_size_are_another_pool(here, setting):
    config = load_config("configs/pooled.yaml")
    other = config.model_copy(update={"train": config.train.model_copy(update={setting: 20.0})})
    assert pool_settings(config) != pool_settings(other)


def test_networks_say_what_they_learned_from(here):
    for name in ("plain", "pooled"):
        meta = read_json(Run(name).meta("train_fold0"))
        assert meta["settings"]["external"] == {"ours": 4}
        assert "external_ours" in meta["inputs"]
        said = meta["external"]["ours"]
        assert (said["images"], said["licence"], said["source"]) == (2, "CC0", "me")
    assert read_json(Run("pooled").meta("crops"))["inputs"]["external_ours"] == meta["inputs"]["external_ours"]


def test_all_is_up_to_date_afterwards_also_without_the_files(here, data, tmp_path, capsys):
    for folder in (data, tmp_path):
        if folder == tmp_path:
            for name in ("stage1_train.zip", "stage1_test.zip"):
                shutil.copy(data / name, tmp_path)
        for stage in ("download", "external", "train"):
            run_one(here / "configs/pooled.yaml", stage, folder)
    out = capsys.readouterr().out
    assert "running" not in out
    assert "train: up to date" in out


def test_a_finished_network_stays_up_to_date_when_the_prepared_set_is_gone(here, data, tmp_path, monkeypatch, capsys):
    shutil.copytree(here, tmp_path / "again", symlinks=True)
    monkeypatch.chdir(tmp_path / "again")
    shutil.rmtree("runs/data/external")
    for path in dataset_of().meta.parent.glob("external_*"):
        path.unlink()
    shutil.copytree(data, tmp_path / "data")
    shutil.rmtree(tmp_path / "data/external")
    capsys.readouterr()
    for stage in ("external", "train"):
        run_one(tmp_path / "again/configs/pooled.yaml", stage, tmp_path / "data")
    assert "train: up to date" in capsys.readouterr().out


def test_other_images_of_a_set_are_other_inputs(here, data, tmp_path, monkeypatch):
    shutil.copytree(here, tmp_path / "again", symlinks=True)
    shutil.copytree(data, tmp_path / "data")
    monkeypatch.chdir(tmp_path / "again")
    labels = tmp_path / "data/external/ours/labels/plain.png"
    shutil.copy(data / "external/ours/labels/plain.png", labels)
    values = cv2.imdecode(np.frombuffer(labels.read_bytes(), np.uint8), cv2.IMREAD_UNCHANGED)
    values[:80] = 0
    labels.write_bytes(encode_labels_png(values))
    run_one(tmp_path / "again/configs/pooled.yaml", "external", tmp_path / "data")
    with pytest.raises(UserError, match="inputs.external_ours"):
        run_one(tmp_path / "again/configs/pooled.yaml", "train", tmp_path / "data")


def test_a_split_that_is_added_is_compared_and_the_others_are_not_again(here, data, tmp_path, monkeypatch, capsys):
    shutil.copytree(here, tmp_path / "again", symlinks=True)
    shutil.copytree(data, tmp_path / "data")
    monkeypatch.chdir(tmp_path / "again")
    with (
        zipfile.ZipFile(data / "stage1_test.zip") as old,
        zipfile.ZipFile(tmp_path / "data/stage2_test_final.zip", "w") as new,
    ):
        image = encode_image_png(make_image("purple_on_white", (128, 128), np.random.default_rng(9))[0])
        new.writestr("new/images/new.png", image)
        assert old.namelist()
    for stage in ("prepare", "external", "train"):
        capsys.readouterr()
        run_one(tmp_path / "again/configs/pooled.yaml", stage, tmp_path / "data")
        out = capsys.readouterr().out
        if stage == "external":
            assert "again (stage2: not made yet)" in out
            assert "0 copies of images of stage2 left out" in out
    assert "train: up to date" in out


def test_what_is_missing_is_said_with_where_to_put_it(here, tmp_path):
    config = load_config("configs/pooled.yaml")
    for name, said in (("mine", "mine is missing"), ("tnbc", "TNBC_NucleiSegmentation.zip")):
        data = config.data.model_copy(update={"external": {name: 1.0}})
        with pytest.raises(UserError, match=said):
            external.main(Run("new"), config.model_copy(update={"data": data}), Options(tmp_path))


def test_a_set_without_an_address_is_left_to_the_stage_external(here, tmp_path, data):
    config = load_config("configs/pooled.yaml")
    changed = config.data.model_copy(update={"external": {"mine": 1.0}})
    download.main(Run("new"), config.model_copy(update={"data": changed}), Options(data))


def test_only_runs_that_train_on_external_images_have_the_stage(here):
    config = load_config("configs/pooled.yaml")
    assert "external" in list_stages(config)
    for changed in ({"external": {}}, {"external": {"ours": 0}}):
        assert "external" not in list_stages(config.model_copy(update={"data": config.data.model_copy(update=changed)}))
    assert "external" not in list_stages(config.model_copy(update={"members": {"pooled": 1.0}}))
