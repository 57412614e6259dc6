"""How the command line ends: one line for what a user can mend, a traceback for our faults, and by which status."""

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import pytest
import torch
from processes import heed_hangups

from nuclei import cli
from nuclei.commands.app import Terminated
from nuclei.errors import UserError

SOURCE = Path(__file__).parents[1] / "src"
ENVIRONMENT = os.environ | {"PYTHONPATH": os.pathsep.join([str(SOURCE), str(Path(__file__).parent)])}


def run_with(monkeypatch, error: BaseException) -> SystemExit:
    """Run a command that raises `error`, and return what the process would end by."""

    def fail(*_):
        raise error

    monkeypatch.setattr("nuclei.report.show.show_image", fail)
    monkeypatch.setattr(sys, "argv", ["nuclei", "show", "a_run", "an_image"])
    with pytest.raises(SystemExit) as raised:
        cli.main()
    return raised.value


def test_what_a_user_can_mend_is_one_line(monkeypatch, capsys):
    assert run_with(monkeypatch, UserError("a.png is damaged: fetch it anew")).code == (
        "error: a.png is damaged: fetch it anew"
    )
    assert capsys.readouterr() == ("", "")


def test_a_name_gives_no_command_to_a_terminal(monkeypatch):
    ended = run_with(monkeypatch, UserError("two are damaged:\n  a\x1b]0;title\x07.png\n  b\r.png\x9b2J"))
    assert ended.code == "error: two are damaged:\n  a\\x1b]0;title\\x07.png\n  b\\r.png\\x9b2J"
    ended = run_with(monkeypatch, OSError(errno.ENOENT, "No such file", "a\x1bb"))
    assert ended.code.startswith("error: a\\x1bb: No such file")


def test_networks_are_chosen_in_one_way(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "argv", ["nuclei", "predict-images", str(tmp_path), "--fast", "--weights", "runs/mine"])
    with pytest.raises(SystemExit, match="error: --fast chooses the networks, and so does --weights"):
        cli.main()


def test_errors_of_the_system_name_the_path_and_the_fix(monkeypatch):
    ended = run_with(monkeypatch, OSError(errno.ENOSPC, "No space left on device", "runs/a.npz"))
    assert ended.code.startswith("error: runs/a.npz: No space left on device: free some space")


@pytest.mark.parametrize("error", [ValueError("shapes differ"), KeyError("mask"), EOFError("ran out of input")])
def test_anything_else_keeps_its_traceback_and_asks_for_a_report(monkeypatch, capsys, error):
    assert run_with(monkeypatch, error).code == 1
    said = capsys.readouterr().err
    assert "Traceback (most recent call last)" in said
    assert type(error).__name__ in said
    assert str(error) in said
    assert said.splitlines()[-1] == cli.REPORT
    assert "Aborted" not in said


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("Unable to allocate 3 GiB"),
        torch.cuda.OutOfMemoryError("CUDA out of memory. Tried"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory: you tried"),
        cv2.error("OpenCV(4.10.0) alloc.cpp:73: error: (-4:Insufficient memory) Failed to allocate 9 bytes"),
        ImportError("libtorch_cpu.so: failed to map segment from shared object"),
        RuntimeError("std::bad_alloc"),
    ],
)
def test_a_lack_of_memory_is_no_fault_of_the_program(monkeypatch, capsys, error):
    assert run_with(monkeypatch, error).code.startswith(f"error: out of memory ({str(error)[:14]}")
    assert run_with(monkeypatch, MemoryError()).code.startswith("error: out of memory (MemoryError): use fewer")
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize(
    "error", [RuntimeError("can't start new thread"), OSError(errno.EAGAIN, "Resource temporarily unavailable")]
)
def test_a_lack_of_threads_is_no_fault_of_the_program(monkeypatch, error):
    assert "raise the limit (ulimit -u), or use fewer processes" in run_with(monkeypatch, error).code


def test_a_second_signal_does_not_end_what_the_first_one_clears_away(monkeypatch, capsys):
    monkeypatch.setattr("nuclei.runs.backends.stop_workers", lambda: os.kill(os.getpid(), signal.SIGTERM))
    assert run_with(monkeypatch, Terminated(signal.SIGTERM)).code == 143
    assert capsys.readouterr().err.startswith("terminated: repeat the command")


def run_in_shell(script: str, folder: Path, **variables: str) -> subprocess.CompletedProcess:
    """Run a line of a shell in which $N is the command."""
    environment = ENVIRONMENT | {"N": f"{sys.executable} -m nuclei"} | variables
    return subprocess.run(
        ["sh", "-c", script], cwd=folder, env=environment, capture_output=True, text=True, errors="replace"
    )


def test_a_terminal_of_any_encoding_is_written_to(tmp_path):
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    for variables in (plain, {"PYTHONIOENCODING": "latin-1"}):
        done = run_in_shell("$N predict-images --help", tmp_path, **variables)
        assert (done.returncode, done.stderr) == (0, "")
    # So are names that are no text.
    done = run_in_shell("$N list --runs \"$(printf 'a\\377')\"", tmp_path, PYTHONIOENCODING="")
    assert (done.returncode, done.stdout) == (0, "no runs in a\\udcff\n")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_an_output_that_is_closed_or_full_is_no_fault_of_the_program(tmp_path):
    for command in ("list >&-", "--help >&- 2>&-", "--help | head -0"):
        done = run_in_shell(f"$N {command}", tmp_path)
        assert (done.returncode, done.stderr) == (0, "")
    done = run_in_shell("$N --help > /dev/full", tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert done.stderr.startswith("error: the standard output: No space left on device")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="elsewhere a folder in use may stay, as may limits")
def test_no_folder_and_too_little_memory_are_said_before_anything_is_loaded(tmp_path):
    done = run_in_shell("mkdir a && cd a && rmdir ../a && $N --help", tmp_path)
    assert (done.returncode, done.stderr) == (
        1,
        "error: the current folder has been removed: change to one that exists\n",
    )
    done = run_in_shell("ulimit -v 400000 && $N --help", tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert done.stderr.startswith("error: a process may have 0.4 GB of memory here")


def test_an_interrupt_says_how_to_resume(monkeypatch, capsys):
    assert run_with(monkeypatch, KeyboardInterrupt()).code == 130
    assert capsys.readouterr().err == "interrupted: repeat the command to resume; what is finished is kept\n"


def run(*arguments: str, folder: Path) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "nuclei", *arguments]
    return subprocess.run(command, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True)


def test_statuses_and_lines_of_a_process(tmp_path):
    done = run("show", "--nonsense", folder=tmp_path)
    assert done.returncode == 2
    done = run("show", "a_run", "a", folder=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "error: no run a_run in runs\n")
    (tmp_path / "a.yaml").write_bytes(b"\xff\xfe")
    done = run("run", "a.yaml", folder=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("error: a.yaml is not UTF-8 text")
    (tmp_path / "runs").write_text("a file in place of the folder")
    (tmp_path / "b.yaml").write_text("selection: {method: classical}\n")
    done = run("submit", "b.yaml", folder=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("error: runs/b")
    assert done.stderr.count("\n") == 1


HEAVY = {"torch", "lightgbm", "pandas", "numpy", "scipy", "cv2", "skimage", "matplotlib"}
LOADED = """
import sys
from nuclei.cli import main
sys.argv = ["nuclei", *sys.argv[1:]]
try:
    main()
except SystemExit as end:
    print(end.code, file=sys.stderr)
print(*{name.partition(".")[0] for name in sys.modules})
"""


@pytest.mark.parametrize(
    ("command", "said", "allowed"),
    [
        ("--help", "0", set()),
        ("predict-images --help", "0", set()),
        ("run --nonsense", "2", set()),
        ("predict-images nowhere", "error: no image or folder nowhere", set()),
        ("predict-images . --weights nowhere", "error: no folder of weights nowhere", set()),
        ("predict-images . --diameter wide", "error: a diameter of 'wide'", set()),
        ("predict-images . --output=", "error: the argument --output= is empty", set()),
        ("list --runs=", "error: the argument --runs= is empty", set()),
        ("predict-images . --pixel-size nan", "2", set()),
        ("predict-images . --pixel-size inf", "2", set()),
        ("score-images . --halve-above nan", "2", set()),
        ("demo --n-train 0", "2", set()),
        ("demo --size 7", "2", set()),
        ("demo --seed -1", "2", set()),
        ("predict-images .", "error: no images in .", HEAVY - {"torch", "lightgbm", "matplotlib"}),
        ("run nowhere.yaml", "nowhere.yaml", HEAVY - {"torch", "lightgbm", "matplotlib"}),
        ("train nowhere.yaml", "nowhere.yaml", HEAVY - {"torch", "lightgbm", "matplotlib"}),
    ],
)
def test_a_wrong_argument_is_reported_before_what_takes_time_is_imported(tmp_path, command, said, allowed):
    run_command = [sys.executable, "-c", LOADED, *command.split()]
    done = subprocess.run(run_command, cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True)
    assert said in done.stderr
    assert not HEAVY & set(done.stdout.splitlines()[-1].split()) - allowed


@pytest.mark.parametrize("arguments", [["list", ""], ["run", "a.yaml", "--data", " "], [""], ["coco", "a", "--runs="]])
def test_an_empty_argument_is_refused(arguments):
    with pytest.raises(UserError, match="is empty: give a value"):
        cli.check_arguments(arguments)


@pytest.mark.parametrize("arguments", [[], ["list"], ["run", "a.yaml", "--set", "train.start="], ["--set=x="]])
def test_an_argument_that_is_not_empty_is_not(arguments):
    cli.check_arguments(arguments)


SLOW = """
import sys, types
from slow_work import slow_stage
from nuclei import cli
sys.modules["nuclei.report.show"] = types.SimpleNamespace(show_image=slow_stage)  # itself it takes seconds to import
sys.argv = ["nuclei", "show", "a", "b"]
cli.main()
"""
WORK = """
import os, time
from pathlib import Path
from nuclei.runs.parallel import each_image
def work(name):
    Path(f"{os.getpid()}.pid").touch()
    time.sleep(600)
def slow_stage(*_):
    each_image(["a", "b"], work, "slow", 2)
"""


def wait_for(true) -> bool:
    """Wait until a condition holds, a minute at most, and return whether it does."""
    end = time.monotonic() + 60
    while not true() and time.monotonic() < end:
        time.sleep(0.1)
    return bool(true())


def lives(pid: int) -> bool:
    """Return whether a process runs; one that has ended and that nobody has asked about does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc")
@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_workers_end_with_the_process_that_is_asked_to(tmp_path, number, status):
    (tmp_path / "slow_work.py").write_text(WORK)
    environment = ENVIRONMENT | {"PYTHONPATH": os.pathsep.join([str(tmp_path), ENVIRONMENT["PYTHONPATH"]])}
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW],
        cwd=tmp_path,
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=heed_hangups,
    )
    try:
        assert wait_for(lambda: len(list(tmp_path.glob("*.pid"))) == 2)
        workers = [int(path.stem) for path in tmp_path.glob("*.pid")]
        assert all(lives(pid) for pid in workers)
        process.send_signal(number)
        _, said = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == status
    assert wait_for(lambda: not any(lives(pid) for pid in workers))
    assert said.splitlines()[-1] == "terminated: repeat the command to resume; what is finished is kept"
