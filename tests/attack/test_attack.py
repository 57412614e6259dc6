"""A sample of every attack finds no fault, and an attack on what is broken does; `python -m attack` tries all."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from attack import inputs, submissions
from attack.case import Case, Place, deal

ROOT = Path(__file__).parents[2]
SEED = 2018
OF_PROJECTS = ("artefacts", "kills", "pairs", "disk", "threads")


@pytest.mark.parametrize("kind", submissions.KINDS)
def test_submissions_are_judged_as_by_the_oracle(tmp_path, kind):
    place = Place(tmp_path)
    assert [fault for case in deal([kind], SEED, 4) if (fault := submissions.run(case, place))] == []


@pytest.mark.parametrize("kind", inputs.KINDS)
def test_broken_inputs_are_refused_by_name_or_used_as_the_whole_one(tmp_path, kind):
    place = Place(tmp_path)
    assert [fault for case in deal([kind], SEED, 2) if (fault := inputs.run(case, place))] == []


def test_the_oracle_differs_from_a_validator_that_finds_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(submissions, "validate_submission", lambda path, shapes: [])
    case = Case(0, "no header", SEED)
    assert "the oracle says invalid" in str(submissions.run(case, Place(tmp_path)))


def test_a_reader_that_takes_anything_is_at_fault(tmp_path, monkeypatch):
    case = Case(0, "solution: another usage", SEED)
    monkeypatch.setitem(
        inputs.FORMATS, "solution", inputs.Format("x.csv", inputs.FORMATS["solution"].whole, Path.stat, inputs.SOLUTION)
    )
    assert "used" in str(inputs.run(case, Place(tmp_path)))


@pytest.fixture(scope="module")
def sampled():
    """Give the lines that a sample of all that takes a project prints, in a process of its own, since it forks."""
    command = [sys.executable, "-m", "attack", "--seed", str(SEED), "--sample", "--only", *OF_PROJECTS]
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
