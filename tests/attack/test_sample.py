"""A sample of attacks on projects finds no fault: damaged results, kills, two at once, full disks, other threads."""

import pytest
from forks import start_fork

from attack.__main__ import main

# Whose case of threads starts no workers, which takes longest: stages/test_side_by_side.py compares what those make.
SEED = 2046
OF_PROJECTS = ("artefacts", "kills", "pairs", "disk", "threads")


@pytest.fixture(scope="module")
def sampled(finished, tmp_path_factory):
    """Give the lines that a sample of all that takes a project prints, in a process of its own, since it forks."""
    folder = tmp_path_factory.mktemp("sample")
    words = ["attack", "--seed", SEED, "--sample", "--project", finished, "--only", *OF_PROJECTS]
    start_fork(main, words, folder).join()
    said, errors = ((folder / f"{name}.txt").read_text(errors="replace") for name in ("stdout", "stderr"))
    assert said.endswith(" faulty\n"), errors[-3000:]
    return said.splitlines()


@pytest.mark.parametrize("attack", OF_PROJECTS)
def test_a_sample_finds_no_fault(sampled, attack):
    (closing,) = (line for line in sampled if line.startswith(f"{attack}: "))
    assert " 0 faulty" in closing, [line for line in sampled if line.startswith(f"{attack}, --seed")]


def test_the_memory_of_a_sample_is_bounded(sampled):
    assert not [line for line in sampled if line.startswith("a process held")]
