"""Cores and threads: what the process may use, what variables say otherwise, and one thread in each of many workers."""

import os
import subprocess
import sys
from pathlib import Path

import cv2
import pytest
import torch
from joblib.externals import loky

from nuclei.errors import UserError
from nuclei.runs.cores import count_cores, count_jobs, count_threads, say_cores, use_threads
from nuclei.runs.parallel import each_image
from nuclei.runs.provenance import provenance

ENVIRONMENT = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2] / "src")}


@pytest.fixture(autouse=True)
def cores(monkeypatch):
    """Give a machine of 8 cores; the threads of this process are afterwards what they were."""
    before = torch.get_num_threads(), cv2.getNumThreads()
    monkeypatch.delenv("NUCLEI_THREADS", raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(loky, "cpu_count", lambda: 8)
    yield
    torch.set_num_threads(before[0])
    cv2.setNumThreads(before[1])


def test_variables_say_otherwise(monkeypatch):
    assert (count_cores(), count_threads(), say_cores()) == (8, 8, "8 cores")
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert (count_cores(), count_threads()) == (8, 2)
    monkeypatch.setenv("OMP_NUM_THREADS", "99")
    assert count_threads() == 8
    monkeypatch.setenv("OMP_NUM_THREADS", "4,2")  # of nested regions, which nothing here has
    assert count_threads() == 8
    monkeypatch.setenv("OMP_NUM_THREADS", "9" * 5000)
    assert count_threads() == 8
    monkeypatch.setenv("NUCLEI_THREADS", "1")
    assert (count_cores(), count_threads(), say_cores()) == (1, 1, "1 core")
    assert provenance()["cores"] == 1


@pytest.mark.parametrize("wanted", ["0", "-1", "two", "1.5", "²", "٣", "5000", "9" * 5000])
def test_another_variable_is_named(monkeypatch, wanted):
    monkeypatch.setenv("NUCLEI_THREADS", wanted)
    with pytest.raises(UserError, match="NUCLEI_THREADS is .*: set it to a whole number from 1"):
        count_cores()


def test_jobs_are_counted_as_joblib_does():
    assert [count_jobs(jobs) for jobs in (-1, -2, -99, 1, 20)] == [8, 7, 1, 1, 20]
    with pytest.raises(UserError, match="--jobs 0: give a number of processes"):
        count_jobs(0)


def test_threads_of_torch_are_lowered_unasked_and_raised_only_if_asked(monkeypatch):
    torch.set_num_threads(2)
    use_threads()
    assert torch.get_num_threads() == 2
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    use_threads()
    assert (torch.get_num_threads(), cv2.getNumThreads()) == (1, 1)
    use_threads(2)
    assert (torch.get_num_threads(), cv2.getNumThreads()) == (2, 2)
    monkeypatch.setenv("NUCLEI_THREADS", "3")
    use_threads()
    assert torch.get_num_threads() == 3


def count_of_worker(name: str) -> tuple[int, int, str | None]:
    """Return the threads of OpenCV and torch in this process, and of what OpenMP is told."""
    return cv2.getNumThreads(), torch.get_num_threads(), os.environ.get("OMP_NUM_THREADS")


@pytest.mark.parametrize("variable", ["NUCLEI_THREADS", "OMP_NUM_THREADS"])
def test_each_of_several_workers_has_one_thread(monkeypatch, variable):
    monkeypatch.setenv(variable, "4")
    assert set(each_image(["a", "b", "c"], count_of_worker, "count", 2)) == {(1, 1, "1")}


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity here")
def test_affinity_is_respected():
    script = (
        "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
        "from nuclei.runs.cores import count_cores; print(count_cores())"
    )
    done = subprocess.run([sys.executable, "-c", script], env=ENVIRONMENT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1"]
