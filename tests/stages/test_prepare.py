"""Prepared data are made archive by archive: what is added is made, what was made stays."""

import shutil
import zipfile

import pytest

from nuclei.config.schema import Config
from nuclei.data.demo import write_demo
from nuclei.runs.cache import fingerprint
from nuclei.runs.files import file_hash, read_table, write_bytes
from nuclei.runs.layout import Dataset, Options, Run
from nuclei.stages import prepare
from nuclei.stages.prepare import source_hash


def test_the_hash_of_a_source_sees_a_changed_file_and_a_changed_folder(tmp_path):
    write_bytes(tmp_path / "in/a.png", b"1234")
    assert source_hash(tmp_path / "in/a.png") == file_hash(tmp_path / "in/a.png")
    hashes = [source_hash(tmp_path / "in")]
    for name, data in (("in/b.png", b"1"), ("in/b.png", b"12"), ("in/deep/c.png", b"1")):
        write_bytes(tmp_path / name, data)
        hashes.append(source_hash(tmp_path / "in"))
    assert len(set(hashes)) == 4
    assert source_hash(tmp_path / "in") == hashes[-1]


@pytest.fixture(scope="module")
def archives(tmp_path_factory):
    """Give a folder with all five official files, in small."""
    folder = tmp_path_factory.mktemp("archives")
    write_demo(folder / "second", n_train=1, n_test=2, size=64, seed=2)
    write_demo(folder, n_train=3, n_test=2, size=64, seed=1)
    (folder / "second/stage1_test.zip").rename(folder / "stage2_test_final.zip")
    (folder / "second/stage1_solution.csv").rename(folder / "stage2_solution_final.csv")
    shutil.rmtree(folder / "second")
    return folder


def make(root, data, force=False) -> Dataset:
    config = Config()
    prepare.main(Run("any", root), config, Options(data, jobs=1, force=force))
    return Dataset(config.data, root)


def state(folder) -> dict[str, int]:
    return {str(path.relative_to(folder)): path.stat().st_ino for path in sorted(folder.rglob("*.*")) if path.is_file()}


def test_archives_and_solutions_may_be_added_one_by_one(archives, tmp_path, capsys):
    whole, data = make(tmp_path / "whole", archives), tmp_path / "data"
    for name in ("stage1_train.zip", "stage1_test.zip"):
        data.mkdir(exist_ok=True)
        shutil.copy(archives / name, data)
    dataset = make(tmp_path / "runs", data)
    before, train = state(dataset.folder), fingerprint(dataset.meta, "train")
    for name, part in {
        "stage1_solution.csv": "stage1_solution",
        "stage2_test_final.zip": "stage2",
        "stage2_solution_final.csv": "stage2_solution_final",
    }.items():
        shutil.copy(archives / name, data)
        capsys.readouterr()
        make(tmp_path / "runs", data)
        assert f"running again ({part}: not made yet)" in capsys.readouterr().out
    after = state(dataset.folder)
    changed = {name for name in before if after.get(name) != before[name]}
    assert changed == {"manifest.csv", "meta/prepare.json"}
    assert fingerprint(dataset.meta, "train") == train
    assert dataset.manifest.read_bytes() == whole.manifest.read_bytes()
    assert after.keys() == state(whole.folder).keys()
    capsys.readouterr()
    make(tmp_path / "runs", data)
    assert "up to date" in capsys.readouterr().out


def test_another_archive_replaces_the_images_of_its_split_alone(archives, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(archives, data)
    dataset = make(tmp_path / "runs", data)
    manifest, before = read_table(dataset.manifest), state(dataset.folder / "images")
    gone, *_ = manifest.loc[manifest["split"] == "test", "image_id"]
    with zipfile.ZipFile(archives / "stage1_test.zip") as old, zipfile.ZipFile(data / "stage1_test.zip", "w") as new:
        for name in old.namelist():
            if gone not in name:
                new.writestr(name, old.read(name))
    make(tmp_path / "runs", data)
    assert read_table(dataset.manifest)["image_id"].tolist() == [i for i in manifest["image_id"] if i != gone]
    after = state(dataset.folder / "images")
    assert before.keys() - after.keys() == {f"{gone}.png"}
    train = [f"{i}.png" for i in manifest.loc[manifest["split"] == "train", "image_id"]]
    assert all(after[name] == before[name] for name in train)


def test_prepared_data_without_their_manifest_are_made_anew(archives, tmp_path):
    dataset = make(tmp_path / "runs", archives)
    content = dataset.manifest.read_bytes()
    dataset.manifest.unlink()
    make(tmp_path / "runs", archives)
    assert dataset.manifest.read_bytes() == content


def test_an_archive_that_has_gone_takes_nothing_with_it(archives, tmp_path, capsys):
    dataset, data = make(tmp_path / "runs", archives), tmp_path / "data"
    shutil.copytree(archives, data)
    (data / "stage2_test_final.zip").unlink()
    before = state(dataset.folder)
    capsys.readouterr()
    make(tmp_path / "runs", data)
    assert "up to date" in capsys.readouterr().out
    assert state(dataset.folder) == before
