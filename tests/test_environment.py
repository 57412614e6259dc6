"""Threads that wait sleep, here and in every worker, unless the user says otherwise."""

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
