"""Memory that is freed is kept: the next arrays of the same size take no new pages."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from nuclei.runs.memory import keep_freed

ENVIRONMENT = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2] / "src")}
COUNT_FAULTS = """
import resource, sys
import numpy as np
from nuclei.runs.memory import keep_freed
if sys.argv[1] == "kept":
    keep_freed()
def work():
    return [np.ones(400_000) for _ in range(8)]
work()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    work()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def test_arrays_of_freed_memory_take_no_page_faults():
    if not keep_freed():
        pytest.skip("this C library has no mallopt")
    command = [sys.executable, "-c", COUNT_FAULTS]
    faults = {
        how: int(subprocess.run([*command, how], env=ENVIRONMENT, check=True, capture_output=True).stdout)
        for how in ("kept", "given back")
    }
    assert faults["kept"] * 10 < faults["given back"]
