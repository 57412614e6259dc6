"""Limits on inputs are settings: an environment variable raises or lowers each, and what is no number is named."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import nuclei
from nuclei.data.images import encode_image_png
from nuclei.errors import UserError
from nuclei.limits import read_limit

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
