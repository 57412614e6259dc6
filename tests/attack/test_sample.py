"""A sample of attacks on projects finds no fault: damaged results, kills, two at once, full disks, other threads."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SEED = 2018
OF_PROJECTS = ("artefacts", "kills", "pairs", "disk", "threads")


@pytest.fixture(scope="module")
def sampled(finished):
    """Give the lines that a sample of all that takes a project prints, in a process of its own, since it forks."""
    command = [sys.executable, "-m", "attack", "--seed", str(SEED), "--sample", "--project", finished]
    command += ["--only", *OF_PROJECTS]
    environment = os.environ | {"PYTHONPATH": f"{ROOT / 'src'}:{ROOT / 'tests'}", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.stdout.endswith(" faulty\n"), done.stderr[-3000:]
    return done.stdout.splitlines()


@pytest.mark.parametrize("attack", OF_PROJECTS)
def test_a_sample_finds_no_fault(sampled, attack):
    (closing,) = (line for line in sampled if line.startswith(f"{attack}: "))
    assert " 0 faulty" in closing, [line for line in sampled if line.startswith(f"{attack}, --seed")]


def test_the_memory_of_a_sample_is_bounded(sampled):
    assert not [line for line in sampled if line.startswith("a process held")]
