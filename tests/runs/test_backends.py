"""Backends: on each, work comes out as on loky, outlives a worker that dies, and ends when it is given up."""

import os
import shutil
import signal
import stat
import sys
import threading
import time
from collections import deque
from collections.abc import Generator, Iterator
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from pathlib import Path

import pytest
import yaml
from light_work import always_die, describe_worker, die_once, refuse, sleep
from small_project import SMALL

from nuclei import cli
from nuclei.errors import UserError
from nuclei.pipeline import load_run, run_stage
from nuclei.runs import backends
from nuclei.runs.backends import BACKENDS, Cluster, Loky, Needs, Sequential, Submitit, fan_out, open_backend
from nuclei.runs.layout import Options, Run
from nuclei.runs.parallel import Chunk, each_image, spread, take
from nuclei.runs.slurm import GONE, read_queue, watch_queue

NAMES = list("abcd")
DEADLINE_S = 60


@contextmanager
def opened(name: str, folder: Path) -> Iterator[None]:
    """Have each_image fan out on two local workers of a backend; skip what is not installed."""
    if package := BACKENDS[name].package:
        pytest.importorskip(package)
    with fan_out(Cluster(name, 2, folder=folder / ".jobs")):
        yield


@pytest.fixture(scope="module", params=["loky", "dask", "ray", "local"])
def backend(request, tmp_path_factory) -> Iterator[str]:
    """Give each backend in turn, started once for all tests of it."""
    patch = pytest.MonkeyPatch()
    patch.setattr(backends, "RAY_STARTS", 1)
    if request.param == "local":
        pytest.importorskip("submitit")
        from submitit.core.core import Job

        patch.setattr(Job, "_results_timeout_s", 0)  # how long a result may take to appear on a slow disk
    # Where the work is defined, for workers that this process does not make of itself.
    patch.setenv("PYTHONPATH", os.pathsep.join(map(os.path.abspath, sys.path)))
    with ExitStack() as stack:
        try:
            stack.enter_context(opened(request.param, tmp_path_factory.mktemp("jobs")))
        except UserError as error:
            if "does not start here" not in str(error):
                raise
            pytest.skip(str(error))  # Ray has limits of time that cannot be set
        yield request.param
    patch.undo()


def test_workers_know_what_the_process_knows_that_they_work_for(backend, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NUCLEI_TEST", "of this command")
    monkeypatch.delenv("NUCLEI_THREADS", raising=False)
    found = each_image(NAMES, describe_worker, "work", 2, [3, 1, 2, 1])
    assert [result for result, *_ in found] == ["aaa", "b", "cc", "d"]
    assert os.getpid() not in {pid for _, pid, *_ in found}
    assert {tuple(rest) for _, _, *rest in found} == {(str(tmp_path), "of this command", 1)}


def test_what_a_worker_did_that_died_is_done_again(backend, tmp_path):
    assert each_image(NAMES, partial(die_once, tmp_path), "work", 2) == list("ABCD")
    assert (tmp_path / "died").exists()


def test_an_error_keeps_its_class_and_text(backend):
    with pytest.raises(UserError, match=r"^c.png is damaged: fetch it anew$"):
        each_image(NAMES, refuse, "work", 2)


def test_an_interrupt_ends_what_was_begun(backend, tmp_path):
    # A process that a shell began in the background ignores it.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        check_interrupt(backend, tmp_path)
    finally:
        signal.signal(signal.SIGINT, before)


def check_interrupt(backend: str, tmp_path: Path) -> None:
    if backend == "dask":
        pytest.skip("Dask cannot end a task that has begun; its own workers end with it")
    engine = backends.active_engine() or Loky(2)
    outcomes = spread(sleep, [(tmp_path, name) for name in "ab"], "ab", "work", engine)
    with pytest.raises(KeyboardInterrupt), closing(interrupted(outcomes, tmp_path)) as found:
        next(found)
    pids = [int(path.suffix[1:]) for path in tmp_path.iterdir()]
    end = time.monotonic() + DEADLINE_S
    while any(map(lives, pids)) and time.monotonic() < end:
        time.sleep(0.1)
    assert pids
    assert not any(map(lives, pids))


def interrupted(outcomes: Iterator, folder: Path) -> Generator:
    """Interrupt this process, as Ctrl-C does, once a call has begun; it waits for outcomes meanwhile."""

    def interrupt() -> None:
        end = time.monotonic() + DEADLINE_S
        while not list(folder.iterdir()) and time.monotonic() < end:
            time.sleep(0.1)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    yield from outcomes


def lives(pid: int) -> bool:
    """Return whether a process runs; one that has ended and that nobody has asked about does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_a_call_that_ends_every_worker_is_named_and_the_others_are_done():
    found = spread(always_die, [(name,) for name in NAMES], NAMES, "work", Loky(2))
    outcomes = {number: (result, error) for number, result, error in found}
    assert [outcomes[number][0] for number in (0, 2, 3)] == ["a", "c", "d"]
    error = outcomes[1][1]
    assert isinstance(error, UserError)
    assert str(error).startswith("work: b: the process that worked on it died each time (TerminatedWorkerError: ")
    assert str(error).endswith("then repeat the command, which resumes")


class Mortal(Sequential):
    """Do tasks of many calls in this process, and die of those with call 4."""

    lost, retries = (ProcessLookupError,), 2

    def __init__(self) -> None:
        self.tasks: list[list[int]] = []

    def chunk(self, n):
        return n

    def submit(self, function, tasks, needs):
        self.tasks += [[number for number, _ in calls] for _, _, calls in tasks]
        futures = super().submit(function, tasks, needs)
        for future, (_, _, calls) in zip(futures, tasks, strict=True):
            if 4 in [number for number, _ in calls]:
                future._result, future._exception = None, ProcessLookupError("gone")
        return futures


def test_a_part_that_dies_is_divided_until_the_call_is_known_that_it_dies_of():
    engine = Mortal()
    found = spread(str, [(i,) for i in range(16)], [f"image{i}" for i in range(16)], "work", engine)
    outcomes = {number: (result, error) for number, result, error in found}
    assert {number: result for number, (result, _) in outcomes.items()} == {i: str(i) for i in range(16)} | {4: None}
    assert "work: image4: the process" in str(outcomes[4][1])
    assert sorted(map(len, engine.tasks)) == [1] * 4 + [4] * 4 + [16]


def test_a_suspect_is_run_alone():
    engine, waiting = Loky(4), deque([Chunk([0], 1), Chunk([1], 1), Chunk([2])])
    assert take(waiting, [Chunk([3])], engine, 9) == []
    assert take(waiting, [], engine, 9) == [Chunk([0], 1)]
    assert take(waiting, [Chunk([0], 1)], engine, 9) == []
    assert take(deque([Chunk([0]), Chunk([1])]), [], engine, 9) == [Chunk([0]), Chunk([1])]


@pytest.mark.parametrize("name", [name for name, entry in BACKENDS.items() if entry.package and name != "slurm"])
def test_a_missing_package_of_a_backend_is_named(monkeypatch, name):
    package = str(BACKENDS[name].package)
    for module in [module for module in sys.modules if module == package or module.startswith(f"{package}.")]:
        monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setitem(sys.modules, package, None)
    with (
        pytest.raises(UserError, match=f"backend {name} needs .*: pip install {package}$"),
        open_backend(Cluster(name)),
    ):
        pass


@pytest.mark.parametrize(
    ("cluster", "said"),
    [
        (Cluster("spark"), "unknown backend spark; valid: loky, dask, ray, slurm"),
        (Cluster("loky", address="tcp://a:1"), "only the backends dask and ray have one"),
        (Cluster("ray", partition="gpu"), "are for --backend slurm, not ray"),
    ],
)
def test_what_does_not_go_together_is_refused(cluster, said):
    with pytest.raises(UserError, match=said), fan_out(cluster):
        pass


FAKE = {
    "sbatch": 'cp "$1" {folder}/script; echo Submitted batch job 77',
    "srun": "exit 1",
    "squeue": 'for i in 0 1; do echo "77_$i|$(cat {folder}/state)|node"; done',
    "scancel": 'echo "$@" >> {folder}/cancelled',
}


@pytest.fixture
def slurm(tmp_path, monkeypatch) -> Path:
    """Give a folder of a SLURM that runs nothing: what it is given lies there, as script, and what it is to end."""
    pytest.importorskip("submitit")
    for name, code in FAKE.items():
        path = tmp_path / name
        path.write_text(f"#!/bin/sh\n{code.format(folder=tmp_path)}\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
    (tmp_path / "state").write_text("RUNNING")
    watch_queue.cache_clear()  # it remembers jobs, and here all have the same number
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    return tmp_path


def test_slurm_is_given_an_array_and_told_to_end_it(slurm, monkeypatch):
    cluster = Cluster("slurm", 2, partition="long", minutes=90, sbatch=(("account", "lab"),), folder=slurm / ".jobs")
    with open_backend(cluster) as engine:
        assert isinstance(engine, Submitit)
        monkeypatch.setattr(engine, "wait", interrupt)
        with pytest.raises(KeyboardInterrupt):
            list(spread(str.upper, [(name,) for name in NAMES], NAMES, "work", engine))
    script = (slurm / "script").read_text()
    for line in ("--array=0-1%2", "--partition=long", "--time=90", "--account=lab", "--cpus-per-task=1"):
        assert f"#SBATCH {line}\n" in script
    assert (slurm / "cancelled").read_text().split() == ["77_0", "77_1"]


@pytest.mark.parametrize("state", ["FAILED", "TIMEOUT", "CANCELLED", "forgotten"])
def test_a_job_that_slurm_ended_is_lost(slurm, monkeypatch, state):
    monkeypatch.setattr("submitit.core.core.Job._results_timeout_s", 0)
    with open_backend(Cluster("slurm", 2, folder=slurm / ".jobs")) as engine:
        jobs = engine.submit(str.upper, [("a",), ("b",)], Needs())
        assert not jobs[0].done(force_check=True)
        (slurm / "state").write_text(state)
        if state == "forgotten":
            (slurm / "squeue").write_text("#!/bin/sh\n")
        time.sleep(0.01)  # which submitit leaves between two questions
        assert jobs[0].done(force_check=True)
        with pytest.raises(engine.lost):
            engine.collect(jobs[0])


def test_what_squeue_says_of_jobs_that_are_not_asked_for_is_left_out():
    text = "3_0|RUNNING|vm\n3_1|PENDING|\n9|FAILED|vm\n"
    states = {job: found["State"] for job, found in read_queue(text, ["3_0", "3_1", "4"]).items()}
    assert states == {"3_0": "RUNNING", "3_1": "PENDING", "4": GONE}


def interrupt(_):
    raise KeyboardInterrupt


def test_a_dry_run_shows_the_scripts_and_submits_nothing(tmp_path, monkeypatch, capsys):
    pytest.importorskip("submitit")
    (tmp_path / "a.png").touch()
    monkeypatch.setenv("NUCLEI_MAX_PIXELS", "1000000")
    words = ["--backend", "slurm", "--partition", "short", "--jobs", "5", "--gpus", "2", "--time", "30", "--dry-run"]
    monkeypatch.setattr("nuclei.inference.segment_files.segment_files", lambda *_, **__: None)
    monkeypatch.setattr("nuclei.inference.segment_files.describe", lambda *_: "")
    monkeypatch.setattr("nuclei.inference.segment_files.check_failures", lambda *_: None)
    monkeypatch.setattr(
        sys, "argv", ["nuclei", "predict-images", str(tmp_path), "--output", str(tmp_path / "o"), *words]
    )
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert not ended.value.code
    printed = capsys.readouterr().out
    images, networks = printed.split("# An array of ")[1:]
    for line in ("--array=0-4%5", "--partition=short", "--time=30"):
        assert f"#SBATCH {line}\n" in images
        assert f"#SBATCH {line}\n" in networks
    assert "#SBATCH --gpus-per-node=2\n" in networks
    assert "gpus" not in images
    assert "export NUCLEI_MAX_PIXELS=1000000\n" in images
    assert "submitit.core._submit" in images
    assert not (tmp_path / "o").exists()


# A small run


def write_config(folder: Path) -> Path:
    """Write the config of a run without networks."""
    path = folder / "otsu.yaml"
    content = {"data": SMALL["data"], "classical": {"recipe": "otsu"}, "selection": {"method": "classical"}}
    path.write_text(yaml.safe_dump(content))
    return path


def make_submission(data: Path, *stages: str) -> bytes:
    """Run stages up to the submission in the current folder and return that."""
    config = load_run(write_config(Path()))
    for stage in stages:
        run_stage(stage, "otsu", config, Options(data=data, jobs=2), Path("runs"))
    return Run("otsu").submission("test").read_bytes()


@pytest.fixture(scope="module")
def alone(demo_folder, tmp_path_factory) -> Path:
    """Give the folder of a run that one process made."""
    folder = tmp_path_factory.mktemp("sequential")
    with pytest.MonkeyPatch.context() as patch, fan_out(Cluster("sequential")):
        patch.chdir(folder)
        assert make_submission(demo_folder, "prepare", "folds", "classical", "submit").count(b"\n") > 4
    return folder


def test_a_run_has_the_same_submission_on_every_backend(backend, demo_folder, alone, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(alone / "runs/data", "runs/data")
    expected = Run("otsu", alone / "runs").submission("test").read_bytes()
    assert make_submission(demo_folder, "classical", "submit") == expected
