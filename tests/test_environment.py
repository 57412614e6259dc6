"""What the package sets before libraries are loaded: waiting threads sleep, and OpenCV says no faults."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import nuclei

CODE = """
import os, sys, nuclei
assert not {"torch", "lightgbm", "numpy"} & set(sys.modules)
from nuclei.runs.parallel import each_image
print(os.environ["OMP_WAIT_POLICY"], *each_image(["OMP_WAIT_POLICY"] * 2, os.getenv, "ask", 2))
"""


@pytest.mark.parametrize(("own", "expected"), [(None, "PASSIVE"), ("ACTIVE", "ACTIVE")])
def test_waiting_threads_sleep_in_workers_too_unless_the_user_says_otherwise(own, expected):
    environment = {key: value for key, value in os.environ.items() if key != "OMP_WAIT_POLICY"}
    environment |= {"PYTHONPATH": str(Path(nuclei.__file__).parents[1])} | ({"OMP_WAIT_POLICY": own} if own else {})
    done = subprocess.run([sys.executable, "-c", CODE], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [expected] * 3


BROKEN = """
import sys, nuclei
from pathlib import Path
import cv2, numpy
from nuclei.data.axes import View
from nuclei.data.microscope import read_picture
from nuclei.errors import UserError
path = Path(sys.argv[1])
data = cv2.imencode(".png", numpy.arange(10000, dtype=numpy.uint8).reshape(100, 100))[1].tobytes()
path.write_bytes(data[: len(data) // 2])
try:
    read_picture(path, View())
except UserError as error:
    print(error)
"""


def test_a_broken_png_is_said_once_and_by_us(tmp_path):
    environment = {key: value for key, value in os.environ.items() if key != "OPENCV_LOG_LEVEL"}
    environment |= {"PYTHONPATH": str(Path(nuclei.__file__).parents[1])}
    command = [sys.executable, "-c", BROKEN, str(tmp_path / "a.png")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert "broken PNG" in done.stdout
    assert "a.png" in done.stdout
    assert not done.stderr
