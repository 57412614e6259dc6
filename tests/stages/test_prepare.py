"""Prepared data are made archive by archive: what is added is made, what was made stays."""

import shutil
import zipfile
from pathlib import Path

import pytest

from nuclei.config.load import parse_config
from nuclei.config.schema import Config
from nuclei.data.demo import write_demo
from nuclei.errors import UserError
from nuclei.pipeline import run_stage
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


def test_what_is_not_ours_is_not_replaced(archives, tmp_path):
    write_bytes(tmp_path / "data/dsb2018/images/mine.png", b"somebody's")
    with pytest.raises(UserError, match=r"images was not made by this stage.* move it away"):
        make(tmp_path, archives, force=True)
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["mine.png"]


@pytest.mark.parametrize("name", ["report", "plain", "scorer", "notes.txt"])
def test_a_folder_that_only_has_the_name_of_a_run_is_left_alone(archives, tmp_path, name):
    mine = tmp_path / "demo" / name / "mine.txt" if "." not in name else tmp_path / "demo" / name
    write_bytes(mine, b"somebody's")
    for stage in ("prepare", "report"):
        with pytest.raises(UserError, match="demo is not the folder of a run"):
            run_stage(stage, "demo", Config(), Options(archives, jobs=1, force=True), tmp_path)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [mine]


@pytest.fixture
def dealt(archives, tmp_path, monkeypatch):
    """Give data whose folds were dealt into a table of their own."""
    monkeypatch.chdir(tmp_path)
    write_demo(tmp_path / "demo", n_train=8, n_test=1, size=64, seed=1)
    config = parse_config({"data": {"dataset": "demo", "folds": "folds.csv", "n_folds": 4}}, "a test")
    for stage in ("prepare", "folds"):
        run_stage(stage, "any", config, Options(tmp_path / "demo", jobs=1), Path("runs"))
    return config


def test_a_fold_table_that_lost_rows_is_named_by_whatever_reads_it(dealt, tmp_path):
    path, dataset = Path("folds.csv"), Dataset(dealt.data)
    whole = path.read_text()
    rows = whole.splitlines(keepends=True)
    for cut in (*range(3, len(rows)), None):
        path.write_text("".join(rows[:cut]))
        if cut is None:
            assert len(dataset.read_folds()) == 8
            continue
        for read in (
            dataset.read_folds,
            dataset.read_fold_table,
            lambda: run_stage("folds", "any", dealt, Options(tmp_path / "demo"), Path("runs")),
        ):
            with pytest.raises(UserError, match=rf"folds\.csv is not .* {cut - 1} rows, and had 8: .*_tables\.json"):
                read()
    path.write_text("".join(rows[:-1]))
    dataset.folds_records.unlink()  # the change is meant
    run_stage("folds", "any", dealt, Options(tmp_path / "demo"), Path("runs"))
    assert len(dataset.read_folds()) == 7


def test_what_is_no_fold_table_is_not_replaced_by_one(dealt, tmp_path):
    options = Options(tmp_path / "demo", force=True)
    Path("notes.csv").write_text("my,notes\n1,2\n")
    Path("ages.csv").write_text("image_id,age\na,5\n")
    tables = [(name, "is no fold table") for name in ("notes.csv", "ages.csv")]
    for folds, said in (*tables, ("/dev/null", "is no file"), ("demo", "is no file")):
        config = dealt.model_copy(update={"data": dealt.data.model_copy(update={"folds": folds})})
        with pytest.raises(UserError, match=rf"{folds} {said}"):
            run_stage("folds", "any", config, options, Path("runs"))
    assert Path("notes.csv").read_text() == "my,notes\n1,2\n"
    assert Path("ages.csv").read_text() == "image_id,age\na,5\n"
    run_stage("folds", "any", dealt, options, Path("runs"))


@pytest.mark.parametrize("content", ["", "{", "[]", '{"folds.csv": 3}', '{"folds.csv": {}}'])
def test_a_damaged_record_of_fold_tables_is_named(dealt, content):
    dataset = Dataset(dealt.data)
    dataset.folds_records.write_text(content)
    with pytest.raises(UserError, match=r"fold_tables\.json"):
        dataset.read_folds()
