"""A sample of attacks on what is read finds no fault, and one on what is broken does; `python -m attack` tries all."""

from pathlib import Path

import pytest

from attack import inputs, submissions
from attack.case import Case, Place, deal

SEED = 2018


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
