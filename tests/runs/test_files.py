"""Files of a run are whole or absent, and come back as they were written."""

import errno
import os
import re
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from processes import run_and_die

from nuclei.data.images import encode_labels_png
from nuclei.errors import UserError
from nuclei.runs.files import (
    atomic,
    check_target,
    content_hash,
    differences,
    read_arrays,
    read_image,
    read_json,
    read_labels,
    read_table,
    remove_partial_files,
    write_arrays,
    write_bytes,
    write_json,
    write_table,
)


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

    def fail():
        with atomic(path) as temporary:
            temporary.write_text("ha")
            raise RuntimeError("disk full")

    with pytest.raises(RuntimeError, match="disk full"):
        fail()
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


def test_differences_are_named_where_they_are():
    found = {"settings": {"train": {"steps": 1, "seed": 3}}, "inputs": {"data": "x"}}
    wanted = {"settings": {"train": {"steps": 2, "seed": 3}}, "inputs": {"data": "x", "weights": "y"}}
    assert differences(found, wanted) == ["inputs.weights: None -> 'y'", "settings.train.steps: 1 -> 2"]
    assert differences(wanted, wanted) == []


def test_of_lists_of_names_the_difference_is_what_came_and_went():
    assert differences({"features": ["a", "b"]}, {"features": ["a", "c"]}) == ["features: without 'b', with 'c'"]
    assert differences({"features": ["a", "b"]}, {"features": ["b", "a"]}) == ["features: ['a', 'b'] -> ['b', 'a']"]
    assert differences({"widths": [1, 2]}, {"widths": [1, 3]}) == ["widths: [1, 2] -> [1, 3]"]
    (line,) = differences({}, {"features": [f"feature_{i}" for i in range(1000)]})
    assert len(line) < 200


def test_what_killed_writes_left_is_removed_and_nothing_else(tmp_path):
    inside, beside = tmp_path / "maps/oof/.1.partial.a.npz", tmp_path / ".2.partial.metrics.json"
    others = [tmp_path / ".3.partial.config.yaml", tmp_path / "maps/oof/a.npz", tmp_path / "metrics.json"]
    for path in (inside, beside, *others):
        write_bytes(path, b"x")
    remove_partial_files([tmp_path / "maps", tmp_path / "metrics.json", tmp_path / "missing/table.csv"])
    assert not inside.exists()
    assert not beside.exists()
    assert all(path.is_file() for path in others)


def test_a_damaged_json_file_is_named(tmp_path):
    write_bytes(tmp_path / "select.json", b'{"keep": 0.')
    with pytest.raises(ValueError, match=r"select.json is damaged, or no JSON file \(.*\): delete it and run"):
        read_json(tmp_path / "select.json")


@pytest.mark.parametrize(
    ("name", "read", "stage"),
    [
        ("select.json", read_json, "the stage that makes it"),
        ("plain/watershed.csv", read_table, "the stage plain"),
        ("candidates/oof/a.npz", read_arrays, "the stage candidates"),
        ("scorer/oof/a.npz", read_arrays, "the stage score"),
        ("images/a.png", read_image, "the stage prepare"),
        ("instances/oof/a.png", read_labels, "the stage select"),
    ],
)
@pytest.mark.parametrize("damage", ["emptied", "cut", "noise", "zeros"])
def test_a_damaged_file_of_any_format_is_named_with_the_fix(tmp_path, name, read, stage, damage):
    path = tmp_path / name
    if damage == "cut":
        write_whole(path)
        content = path.read_bytes()[:-40]
    else:
        content = {"emptied": b"", "noise": bytes(range(255, 0, -1)), "zeros": bytes(200)}[damage]
    write_bytes(path, content)
    if path.suffix == ".csv" and damage in ("cut", "zeros"):
        return  # a table has no end of its own
    with pytest.raises(
        UserError, match=rf"^{re.escape(str(path))} is damaged, or no .* file.*: delete it and run {stage}"
    ):
        read(path)


def write_whole(path):
    """Write a file of the format that its name says."""
    if path.suffix == ".npz":
        write_arrays(path, {"a": np.arange(1000)})
    elif path.suffix == ".json":
        write_json(path, {"a": "b" * 100})
    else:
        write_bytes(path, encode_labels_png(np.random.default_rng(0).integers(0, 9, (30, 30))))


def test_arrays_that_would_run_code_are_refused(tmp_path):
    np.savez(tmp_path / "a.npz", a=np.array([{"a": 1}], dtype=object))
    with pytest.raises(UserError, match=r"a.npz is damaged, or no NPZ file \(ValueError: .*allow_pickle=False\)"):
        read_arrays(tmp_path / "a.npz")


def test_an_array_that_is_asked_for_and_missing_is_named(tmp_path):
    write_arrays(tmp_path / "a.npz", {"a": np.arange(3), "b": np.arange(2)})
    assert list(read_arrays(tmp_path / "a.npz", ["b"])) == ["b"]
    with pytest.raises(UserError, match=r"a.npz is damaged.*scores"):
        read_arrays(tmp_path / "a.npz", ["scores"])


@pytest.mark.parametrize("read", [read_json, read_table, read_arrays, read_image, read_labels])
def test_a_missing_file_is_an_error_of_the_system(tmp_path, read):
    with pytest.raises(FileNotFoundError) as raised:
        read(tmp_path / "missing")
    assert raised.value.filename == str(tmp_path / "missing") or raised.value.filename == tmp_path / "missing"


def test_a_full_disk_names_the_file_that_was_to_be_written(tmp_path):
    path = tmp_path / "maps.npz"

    def fill():
        with atomic(path):
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space left") as raised:
        fill()
    assert raised.value.filename == str(path)
    with pytest.raises(OSError, match="too long") as raised:
        write_bytes(tmp_path / ("a" * 254), b"")
    assert raised.value.filename == str(tmp_path / ("a" * 254))


def test_what_cannot_be_written_is_said_before(tmp_path):
    check_target(tmp_path / "new/folder/a.csv", "a,b")
    assert list(tmp_path.rglob("*.csv")) == []
    (tmp_path / "file").touch()
    for path, said in (
        (tmp_path, "is a folder, and is to be written as a file"),
        (tmp_path / "file/a.csv", "a.csv cannot be written"),
    ):
        with pytest.raises(UserError, match=said):
            check_target(path, "a,b")


@pytest.mark.parametrize(
    ("content", "ours"), [(b"a,b\n1,2\n", True), (b"", True), (b"x: 1\n", False), (b"\xff\0", False)]
)
def test_a_file_is_replaced_only_if_it_is_of_the_kind_that_is_written(tmp_path, content, ours):
    path = tmp_path / "a.csv"
    path.write_bytes(content)
    with nullcontext() if ours else pytest.raises(UserError, match=r"a\.csv is not of this command"):
        check_target(path, "a,b")
    assert path.read_bytes() == content


def test_a_pipe_or_device_is_not_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/null")):
        with pytest.raises(UserError, match="is not of this command"):
            check_target(path, "a,b")


@pytest.mark.parametrize("missing", ["score", "image_id"])
def test_a_table_without_a_column_is_named(tmp_path, missing):
    path = tmp_path / "per_image.csv"
    path.write_text("image_id,score\na,1\n".replace(missing, "other"))
    with pytest.raises(UserError, match=f"per_image.csv .*lacks {missing}"):
        read_table(path, ("image_id", "score"))
