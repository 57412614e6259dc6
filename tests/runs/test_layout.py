"""Where the files of a run and of prepared data lie, and what the images of each split are made of."""

from nuclei.config.schema import DataConfig
from nuclei.runs.cache import Part, stage
from nuclei.runs.files import write_bytes
from nuclei.runs.layout import Dataset, Run


def test_runs_and_datasets_lie_below_their_root(tmp_path):
    run, dataset = Run("resnet34", tmp_path), Dataset(DataConfig(), tmp_path)
    assert run.folder == tmp_path / "resnet34"
    assert dataset.folder == tmp_path / "data/dsb2018"
    assert run.meta("train_fold0") == tmp_path / "resnet34/meta/train_fold0.json"
    assert dataset.image("007") == tmp_path / "data/dsb2018/images/007.png"


def test_each_split_has_its_own_inputs(tmp_path):
    write_bytes(tmp_path / "folds.csv", b"image_id,fold")
    dataset = Dataset(DataConfig(folds=str(tmp_path / "folds.csv")), tmp_path)

    def prepare(**archives):
        with stage(dataset.meta, {}, {}, parts={split: Part({split: content}) for split, content in archives.items()}):
            pass
        return {split: dataset.inputs(split) for split in ("oof", *archives) if split != "train"}

    first = prepare(train="a", test="b")
    assert first["oof"].keys() == {"data", "folds"}
    assert first["test"].keys() == {"data"}
    second = prepare(train="a", test="b", stage2="c")
    assert {split: second[split] for split in first} == first
    third = prepare(train="a", test="other", stage2="c")
    assert [split for split in third if third[split] != second[split]] == ["test"]
    write_bytes(tmp_path / "folds.csv", b"image_id,fold,weight")
    fourth = prepare(train="a", test="other", stage2="c")
    assert [split for split in third if fourth[split] != third[split]] == ["oof"]
