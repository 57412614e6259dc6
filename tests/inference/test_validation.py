"""nuclei validate: the sizes come from a run, archives or images, and every violation is listed with its row."""

import shutil
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from nuclei import cli
from nuclei.data.images import encode_image_png
from nuclei.errors import UserError
from nuclei.evaluation.submission import write_submission
from nuclei.inference.validation import (
    check_submission,
    choose_most_shared,
    shapes_of_archives,
    shapes_of_images,
    shapes_of_run,
)
from nuclei.runs.files import write_table
from nuclei.runs.layout import Run

IDS = {"a": (20, 30), "b": (16, 16)}


def two_nuclei(shape: tuple[int, int]) -> np.ndarray:
    labels = np.zeros(shape, np.int32)
    labels[2:5, 2:5], labels[8:12, 3:9] = 1, 2
    return labels


def write(path: Path, shapes: dict[str, tuple[int, int]]) -> Path:
    with path.open("w", newline="") as file:
        write_submission(file, ((i, two_nuclei(shape)) for i, shape in shapes.items()))
    return path


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for name, shape in IDS.items():
        (folder / f"{name}.png").write_bytes(encode_image_png(np.full((*shape, 3), 9, np.uint8)))
    return folder


def run_cli(monkeypatch, *arguments: object) -> str | int | None:
    """Run `nuclei validate`, and return what the process would end by; None if it ends well."""
    monkeypatch.setattr(sys, "argv", ["nuclei", "validate", *map(str, arguments)])
    with pytest.raises(SystemExit) as raised:
        cli.main()
    return raised.value.code


def test_a_valid_submission_is_counted(tmp_path, images, monkeypatch, capsys):
    path = write(tmp_path / "good.csv", IDS)
    assert run_cli(monkeypatch, path, "--images", images, "--jobs", 1) in (0, None)
    assert capsys.readouterr().out == "valid: 2 images, 4 nuclei\n"


def test_every_violation_is_listed_with_its_row(tmp_path, images, monkeypatch, capsys):
    path = write(tmp_path / "bad.csv", IDS)
    header, first, *rest = path.read_text().splitlines()
    path.write_text("\n".join([header, first, first, "c,1 1", *rest[:-2]]))
    said = run_cli(monkeypatch, path, "--images", images, "--jobs", 1)
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        "row 3, image a: duplicate of row 2",
        "row 4, image 'c': unknown image",
        "image b: missing, no row",
    ]
    assert said == f"error: {path} breaks the rules 3 times, for the 2 images of {images}"


def test_which_images_must_be_said_once(tmp_path, images, monkeypatch):
    path = write(tmp_path / "good.csv", IDS)
    for arguments in ((), ("--images", images, "--data", images)):
        assert str(run_cli(monkeypatch, path, *arguments)).startswith("error: say which images the submission is for")
    assert (
        run_cli(monkeypatch, tmp_path / "none.csv", "--images", images) == f"error: no submission {tmp_path}/none.csv"
    )


def test_sizes_of_images_and_archives_are_those_of_their_files(demo_folder, images, tmp_path):
    assert shapes_of_images(images, 1) == IDS
    shapes = shapes_of_images(demo_folder / "stage1_test.zip", 1)
    assert len(shapes) == 4
    assert {128} <= {side for shape in shapes.values() for side in shape} <= {128, 160}
    path = write(tmp_path / "s.csv", shapes)
    assert shapes_of_archives(demo_folder, path, 1) == shapes
    with pytest.raises(UserError, match="has no stage1_test.zip or stage2_test_final.zip: name the folder"):
        shapes_of_archives(images, path, 1)


def test_the_archive_is_that_whose_images_the_submission_has(demo_folder, images, tmp_path):
    shutil.copy(demo_folder / "stage1_test.zip", tmp_path)
    for name in IDS:
        target = tmp_path / f"stage2_test_final/{name}/images/{name}.png"
        target.parent.mkdir(parents=True)
        shutil.copy(images / f"{name}.png", target)
    assert shapes_of_archives(tmp_path, write(tmp_path / "s.csv", IDS), 1) == IDS
    (tmp_path / "unreadable.csv").write_bytes(b"\xff\xfe\x00")
    assert choose_most_shared({"x": ["a"], "y": ["b"]}, tmp_path / "unreadable.csv") == "x"


def test_a_run_gives_the_test_images_that_the_submission_has(tmp_path):
    run = Run("a_run", tmp_path)
    run.config.parent.mkdir()
    run.config.write_text("data: {dataset: some, unseen: [test, stage2]}\n")
    rows = [("a", "test", 20, 30), ("b", "stage2", 16, 16), ("c", "stage2", 17, 16), ("t", "train", 5, 5)]
    table = pd.DataFrame(rows, columns=["image_id", "split", "height", "width"]).assign(n_nuclei=1)
    write_table(tmp_path / "data/some/manifest.csv", table)
    shapes = {"b": (16, 16), "c": (17, 16)}
    path = write(tmp_path / "s.csv", shapes)
    assert shapes_of_run("a_run", tmp_path, path) == (shapes, "stage 2 test")
    assert check_submission(path, shapes) == ([], "2 images, 4 nuclei")
    write(path, {"a": (20, 30)})
    assert shapes_of_run("a_run", tmp_path, path) == ({"a": (20, 30)}, "stage 1 test")
    run.config.write_text("data: {dataset: some, unseen: []}\n")
    with pytest.raises(UserError, match="a_run has no test images: its data.unseen is empty"):
        shapes_of_run("a_run", tmp_path, path)
