"""Work on each image: results in order, a bar that ends full, further arguments one by one."""

import operator
import sys
import time
from pathlib import Path

import pytest
from processes import start

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


CHILD = """
import os, time
from nuclei.runs.parallel import end_with
end_with(os.getppid())
print("ready", flush=True)
time.sleep(600)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="no /proc here")
def test_a_process_that_is_told_to_ends_with_the_one_that_started_it(tmp_path):
    (tmp_path / "child.py").write_text(CHILD)
    parent = start(
        """
        import subprocess, sys, time
        child = subprocess.Popen([sys.executable, "child.py"], stdout=subprocess.PIPE, text=True)
        child.stdout.readline()
        print(child.pid, flush=True)
        time.sleep(600)
        """,
        tmp_path,
    )
    child = int(parent.stdout.readline())
    parent.kill()
    parent.communicate()
    while lives(child):  # the test's own limit of time is that of the run
        time.sleep(0.1)


def lives(pid: int) -> bool:
    """Return whether a process runs; one that has ended and that nobody has asked about yet does not."""
    state = Path(f"/proc/{pid}/stat")
    return state.is_file() and state.read_text().rsplit(")", 1)[1].split()[0] != "Z"
