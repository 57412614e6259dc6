"""What a run leaves on disk: files are whole or absent, and a stage runs exactly when it must."""

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pandas as pd
import pytest

from nuclei.config.schema import DataConfig
from nuclei.runs.cache import StageError, fingerprint, stage
from nuclei.runs.files import (
    atomic,
    content_hash,
    differences,
    file_hash,
    read_json,
    read_table,
    write_bytes,
    write_json,
    write_table,
)
from nuclei.runs.layout import Dataset, Run
from nuclei.stages.prepare import source_hash

SOURCE = Path(__file__).parents[2] / "src"


def run_and_die(code: str, folder: Path) -> None:
    """Run `code` in a process that ends by a SIGKILL of its own: `die()`, in `folder`."""
    head = """
        import os, signal
        from pathlib import Path
        from nuclei.runs.cache import stage
        from nuclei.runs.files import atomic, write_bytes
        def die():
            os.kill(os.getpid(), signal.SIGKILL)
    """
    script = textwrap.dedent(head) + textwrap.dedent(code)
    done = subprocess.run([sys.executable, "-c", script], cwd=folder, env=os.environ | {"PYTHONPATH": str(SOURCE)})
    assert done.returncode == -signal.SIGKILL


@pytest.fixture
def meta(tmp_path):
    return tmp_path / "a_run/meta/train.json"


@pytest.fixture
def outputs(meta):
    """Name a folder and a file that a stage writes."""
    return [meta.parents[1] / "maps", meta.parents[1] / "metrics.json"]


def make(meta, outputs, settings=None, inputs=None, force=False, text="made") -> bool:
    """Run a stage that writes `text` into both outputs, and say whether it ran."""
    with stage(meta, settings or {"steps": 1}, inputs or {}, outputs, force) as needed:
        if needed:
            write_outputs(outputs, text)
    return needed


def write_outputs(outputs, text) -> None:
    write_bytes(outputs[0] / f"{text}.txt", text.encode())
    write_bytes(outputs[1], text.encode())


def files(outputs) -> list[str]:
    """List what is in the folder, and the file if it is there."""
    return sorted(p.name for p in outputs[0].rglob("*")) + [p.name for p in outputs[1:] if p.exists()]


def test_an_atomic_write_takes_its_name_at_the_end(tmp_path):
    path = tmp_path / "new/folder/table.csv"
    with atomic(path) as temporary:
        temporary.write_text("whole")
        assert temporary.suffix == ".csv"
        assert temporary.parent == path.parent
        assert not path.exists()
    assert path.read_text() == "whole"
    assert list(path.parent.iterdir()) == [path]


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "table.csv"
    write_bytes(path, b"old")
    with pytest.raises(RuntimeError, match="disk full"), atomic(path) as temporary:
        temporary.write_text("ha")
        raise RuntimeError("disk full")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_write_that_is_killed_leaves_the_old_file(tmp_path):
    write_bytes(tmp_path / "table.csv", b"old")
    run_and_die(
        """
        with atomic(Path("table.csv")) as temporary:
            temporary.write_text("ha")
            die()
    """,
        tmp_path,
    )
    assert (tmp_path / "table.csv").read_text() == "old"


def test_a_new_file_whose_write_is_killed_does_not_exist(tmp_path):
    run_and_die(
        """
        with atomic(Path("table.csv")) as temporary:
            temporary.write_text("ha")
            die()
    """,
        tmp_path,
    )
    assert not (tmp_path / "table.csv").exists()


def test_ids_stay_text(tmp_path):
    ids = ["007", "1e5", "12", "0012"]
    write_table(tmp_path / "t.csv", pd.DataFrame({"image_id": ids, "group": ids, "fold": range(4), "weight": 0.5}))
    table = read_table(tmp_path / "t.csv")
    assert table["image_id"].tolist() == ids
    assert table["group"].tolist() == ids
    assert table["fold"].tolist() == [0, 1, 2, 3]
    assert table["weight"].tolist() == [0.5] * 4


def test_equal_content_gives_equal_bytes(tmp_path):
    write_json(tmp_path / "a.json", {"b": 1, "a": [1.5, None]})
    write_json(tmp_path / "b.json", {"a": [1.5, None], "b": 1})
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    assert read_json(tmp_path / "a.json") == {"a": [1.5, None], "b": 1}
    assert content_hash({"b": 1, "a": (1, 2)}) == content_hash({"a": [1, 2], "b": 1})
    assert content_hash({"b": 1, "a": (1, 2)}) != content_hash({"a": [1, 2], "b": 2})


def test_the_hash_of_a_source_sees_a_changed_file_and_a_changed_folder(tmp_path):
    write_bytes(tmp_path / "in/a.png", b"1234")
    assert source_hash(tmp_path / "in/a.png") == file_hash(tmp_path / "in/a.png")
    hashes = [source_hash(tmp_path / "in")]
    for name, data in (("in/b.png", b"1"), ("in/b.png", b"12"), ("in/deep/c.png", b"1")):
        write_bytes(tmp_path / name, data)
        hashes.append(source_hash(tmp_path / "in"))
    assert len(set(hashes)) == 4
    assert source_hash(tmp_path / "in") == hashes[-1]


def test_differences_are_named_where_they_are():
    found = {"settings": {"train": {"steps": 1, "seed": 3}}, "inputs": {"data": "x"}}
    wanted = {"settings": {"train": {"steps": 2, "seed": 3}}, "inputs": {"data": "x", "weights": "y"}}
    assert differences(found, wanted) == ["inputs.weights: None -> 'y'", "settings.train.steps: 1 -> 2"]
    assert differences(wanted, wanted) == []


def test_a_stage_runs_once(meta, outputs, capsys):
    settings = {"steps": 1, "widths": (1, 2)}
    assert make(meta, outputs, settings)
    assert files(outputs) == ["made.txt", "metrics.json"]
    assert list(meta.parent.iterdir()) == [meta]
    capsys.readouterr()
    before = meta.read_bytes()
    assert not make(meta, outputs, settings, text="again")
    assert capsys.readouterr().out == "a_run train: up to date\n"
    assert files(outputs) == ["made.txt", "metrics.json"]
    assert meta.read_bytes() == before


def test_a_finished_stage_says_what_it_was_made_of(meta, outputs):
    make(meta, outputs, {"steps": 1}, {"data": "abc"})
    content = read_json(meta)
    assert content["stage"] == "train"
    assert content["settings"] == {"steps": 1}
    assert content["inputs"] == {"data": "abc"}
    assert content["seconds"] >= 0
    assert content["versions"]["torch"]
    assert "commit" in content
    assert "dirty" in content
    assert content["fingerprint"] == fingerprint(meta)


@pytest.mark.parametrize(
    ("settings", "inputs", "said"),
    [
        ({"steps": 2}, {"data": "x"}, "settings.steps: 1 -> 2"),
        ({"steps": 1}, {"data": "y"}, "inputs.data: 'x' -> 'y'"),
    ],
)
def test_other_settings_or_inputs_are_refused_unless_forced(meta, outputs, settings, inputs, said):
    make(meta, outputs, {"steps": 1}, {"data": "x"})
    before = meta.read_bytes()
    with pytest.raises(StageError) as raised:
        make(meta, outputs, settings, inputs, text="other")
    for words in ("a_run train", said, "--force"):
        assert words in str(raised.value)
    assert files(outputs) == ["made.txt", "metrics.json"]
    assert meta.read_bytes() == before
    assert make(meta, outputs, settings, inputs, force=True, text="other")
    assert files(outputs) == ["other.txt", "metrics.json"], "what the old settings made is gone"
    assert not make(meta, outputs, settings, inputs)


def test_force_repeats_a_stage_that_is_up_to_date(meta, outputs):
    make(meta, outputs)
    assert make(meta, outputs, force=True, text="again")
    assert files(outputs) == ["again.txt", "metrics.json"]


def test_a_stage_that_fails_is_not_finished(meta, outputs):
    with pytest.raises(ZeroDivisionError), stage(meta, {"steps": 1}, {}, outputs):
        write_outputs(outputs, "partial")
        raise ZeroDivisionError
    assert not meta.exists()
    assert files(outputs) == ["partial.txt", "metrics.json"]
    assert make(meta, outputs)
    assert files(outputs) == ["made.txt", "partial.txt", "metrics.json"]


KILLED = """
    outputs = [Path("a_run/maps"), Path("a_run/metrics.json")]
    with stage(Path("a_run/meta/train.json"), {"steps": 1}, {}, outputs, force=FORCE):
        write_bytes(outputs[0] / "partial.txt", b"")
        write_bytes(outputs[1], b"")
        die()
"""


@pytest.mark.parametrize("finished_before", [False, True])
def test_a_killed_stage_never_looks_finished(meta, outputs, tmp_path, finished_before):
    if finished_before:
        make(meta, outputs)
    run_and_die(KILLED.replace("FORCE", str(finished_before)), tmp_path)
    with pytest.raises(StageError, match=f"{meta} is missing"):
        fingerprint(meta)
    assert files(outputs) == ["partial.txt", "metrics.json"]


@pytest.mark.parametrize("force", [False, True])
def test_a_killed_stage_goes_on_from_what_it_left(meta, outputs, tmp_path, force):
    run_and_die(KILLED.replace("FORCE", "False"), tmp_path)
    assert make(meta, outputs, force=force)
    assert files(outputs) == ["made.txt", "partial.txt", "metrics.json"]
    assert list(meta.parent.iterdir()) == [meta]


def test_what_a_killed_stage_left_is_cleared_for_other_settings(meta, outputs, tmp_path):
    run_and_die(KILLED.replace("FORCE", "False"), tmp_path)
    with stage(meta, {"steps": 2}, {}, outputs) as needed:
        assert needed
        assert files(outputs) == []


def test_what_nobody_began_is_cleared(meta, outputs):
    write_outputs(outputs, "stray")
    with stage(meta, {"steps": 1}, {}, outputs):
        assert files(outputs) == []


def test_a_fingerprint_changes_with_settings_inputs_and_stage(tmp_path):
    seen = []
    for name, settings, inputs in (
        ("train", {"a": 1}, {"b": "x"}),
        ("train", {"a": 2}, {"b": "x"}),
        ("train", {"a": 1}, {"b": "y"}),
        ("predict", {"a": 1}, {"b": "x"}),
        ("train", {"a": 1}, {"b": "x"}),
    ):
        path = tmp_path / f"run{len(seen)}/meta/{name}.json"
        with stage(path, settings, inputs):
            pass
        seen.append(fingerprint(path))
    assert len(set(seen[:4])) == 4
    assert seen[4] == seen[0]


def test_a_change_travels_down_the_chain_of_stages(tmp_path):
    first, second = tmp_path / "run/meta/prepare.json", tmp_path / "run/meta/train.json"

    def chain(size, force=()):
        with stage(first, {"size": size}, {}, force=first in force):
            pass
        with stage(second, {"steps": 1}, {"data": fingerprint(first)}, force=second in force) as needed:
            return needed

    assert chain(1)
    assert not chain(1)
    with pytest.raises(StageError, match=r"run train was made .*\n  inputs.data: "):
        chain(2, force=[first])
    assert chain(2, force=[second])


def test_a_stage_before_its_predecessor_says_which_is_missing(tmp_path):
    with pytest.raises(StageError, match="prepare.json is missing: .* run it first"):
        fingerprint(Dataset(DataConfig(), tmp_path).meta)


def test_runs_and_datasets_lie_below_their_root(tmp_path):
    run, dataset = Run("resnet34", tmp_path), Dataset(DataConfig(), tmp_path)
    assert run.folder == tmp_path / "resnet34"
    assert dataset.folder == tmp_path / "data/dsb2018"
    assert run.meta("train_fold0") == tmp_path / "resnet34/meta/train_fold0.json"
    assert dataset.image("007") == tmp_path / "data/dsb2018/images/007.png"
