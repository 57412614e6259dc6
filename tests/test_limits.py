"""What may be read: limits are settings, each of an environment variable; what is no file at all is refused by name."""

import os
import subprocess
import sys
from pathlib import Path
from threading import Thread

import numpy as np
import pytest

import nuclei
from nuclei.config.load import load_config, read_base
from nuclei.data.axes import View
from nuclei.data.fold_table import read_folds
from nuclei.data.images import encode_image_png
from nuclei.data.label_folder import LabelFolder
from nuclei.data.microscope import read_picture
from nuclei.errors import UserError
from nuclei.evaluation.submission import read_solution, read_submission
from nuclei.inference.image_files import read_record
from nuclei.limits import MAX_FILE_BYTES, read_limit, read_whole
from nuclei.runs.files import read_arrays, read_image, read_json, read_labels, read_table

ENVIRONMENT = os.environ | {"PYTHONPATH": str(Path(nuclei.__file__).parents[1])}


def test_a_variable_says_the_limit_and_without_one_there_is_a_default(monkeypatch):
    assert read_limit("NUCLEI_MAX_TEST", 7) == 7
    monkeypatch.setenv("NUCLEI_MAX_TEST", " 1000 ")
    assert read_limit("NUCLEI_MAX_TEST", 7) == 1000
    monkeypatch.setenv("NUCLEI_MAX_TEST", "")
    assert read_limit("NUCLEI_MAX_TEST", 7) == 7


@pytest.mark.parametrize("text", ["many", "-3", "0", "1.5", "٣", "9" * 40, "1e9", "1" * 5000])
def test_what_is_no_limit_is_named(monkeypatch, text):
    monkeypatch.setenv("NUCLEI_MAX_TEST", text)
    with pytest.raises(UserError, match="NUCLEI_MAX_TEST=.* is no limit: give a whole number from 1 on"):
        read_limit("NUCLEI_MAX_TEST", 7)


def test_an_image_beyond_the_limit_of_the_environment_is_refused_by_the_command_line(tmp_path):
    path = tmp_path / "image.png"
    path.write_bytes(encode_image_png(np.zeros((20, 30, 3), np.uint8)))
    command = [sys.executable, "-m", "nuclei", "validate", str(path), "--images", str(path)]
    for limit, said in (("599", "30 x 20 pixels, more than 599"), ("600", "")):
        done = subprocess.run(command, env=ENVIRONMENT | {"NUCLEI_MAX_PIXELS": limit}, capture_output=True, text=True)
        assert done.returncode == 1
        assert (said in done.stderr) if said else ("more than" not in done.stderr)
    done = subprocess.run(command, env=ENVIRONMENT | {"NUCLEI_MAX_PIXELS": "all"}, capture_output=True, text=True)
    assert done.stderr.startswith("error: NUCLEI_MAX_PIXELS=all is no limit")


def read_view(path: Path) -> object:
    return read_picture(path, View())


def read_labelled(path: Path) -> object:
    return LabelFolder(str(path.parent)).read(path.stem, (2, 2))


# Whatever takes the path of a file that a user, or another program, may have put there.
READERS = {
    "a.yaml": (load_config, read_base),
    "a.json": (read_json, read_record),
    "a.csv": (read_table, read_folds, read_solution, read_submission),
    "a.npz": (read_arrays,),
    "a.png": (read_image, read_labels, read_labelled, read_view, read_whole),
    "a.tif": (read_labelled, read_view),
    "a.czi": (read_view,),
}


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names here")
@pytest.mark.parametrize(("file", "read"), [(file, read) for file, reads in READERS.items() for read in reads])
def test_what_is_no_file_is_named_and_not_read_which_might_never_end(tmp_path, file, read):
    pipe = tmp_path / file
    os.mkfifo(pipe)
    # Who opens it after all is given nothing, and does not wait for ever.
    Thread(target=lambda: pipe.open("wb").close(), daemon=True).start()
    try:
        if read in (read_base, read_record):
            assert read(pipe) is None
        else:
            with pytest.raises(UserError, match=f"{file} is (neither a file nor a folder|damaged)"):
                read(pipe)
        os.close(os.open(pipe, os.O_RDONLY | os.O_NONBLOCK))  # which lets the writer end
    finally:
        pipe.unlink()


@pytest.mark.parametrize("read", [load_config, read_whole, read_view, read_json])
def test_links_that_lead_in_a_circle_are_no_file(tmp_path, read):
    for one, other in (("a.yaml", "b.yaml"), ("b.yaml", "a.yaml")):
        (tmp_path / one).symlink_to(tmp_path / other)
    with pytest.raises((UserError, OSError), match=r"a\.yaml"):
        read(tmp_path / "a.yaml")
    (tmp_path / "c.yaml").write_text("base: a.yaml\n")
    with pytest.raises(UserError, match="a.yaml is a link that leads to no file"):
        load_config(tmp_path / "c.yaml")


def test_a_sparse_file_is_as_large_as_it_claims(tmp_path):
    path = tmp_path / "a.png"
    with path.open("wb") as file:
        file.truncate(MAX_FILE_BYTES + 1)
    for read in (read_whole, read_image, read_view, read_labelled):
        with pytest.raises(UserError, match="a.png is (refused: 1,073,741,825 bytes|damaged)"):
            read(path)
