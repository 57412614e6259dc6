"""Work on each image: results in order, a bar that ends full, further arguments one by one."""

import operator

import pytest

from nuclei.runs import parallel
from nuclei.runs.backends import Sequential
from nuclei.runs.parallel import each_image


@pytest.mark.parametrize("jobs", [1, 2])
def test_results_come_in_the_order_of_the_images_and_the_bar_ends_full(jobs, capsys):
    assert each_image(["a", "b", "c"], operator.mul, "some work", jobs, [3, 1, 2]) == ["aaa", "b", "cc"]
    assert "some work: 100%" in capsys.readouterr().err


def test_no_image_is_no_result():
    assert each_image([], len, "nothing", 1) == []


def test_a_failure_is_raised():
    with pytest.raises(ValueError, match="invalid literal"):
        each_image(["1", "one"], int, "numbers", 1)


def test_no_more_processes_are_started_than_there_are_images(monkeypatch):
    asked = []
    monkeypatch.setattr(parallel, "engine_of", lambda n: asked.append(n) or Sequential())
    for n in (0, 1, 3):
        each_image(["a"] * n, str, "work", 100_000)
    assert asked == [1, 1, 3]
