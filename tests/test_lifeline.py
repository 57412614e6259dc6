"""Processes end when the one that started them is killed, whatever they are, and however far they have come."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from processes import SOURCE, start

from nuclei.lifeline import VARIABLE, ending_together, name_process

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="no /proc here")
WORK = """
import os, time
from pathlib import Path

def work(*_):
    Path(f"{os.getpid()}.pid").touch()
    time.sleep(600)

class Slow:
    # A worker imports what takes seconds where it unpickles its task.
    def __reduce__(self):
        return work, ()

class Crops:
    def __len__(self):
        return 2
    def __getitem__(self, number):
        work()
"""
HEAD = """
import subprocess, sys
sys.path.insert(0, ".")
os.environ["PYTHONPATH"] += ":."
from nuclei.lifeline import ending_together
from nuclei.runs.backends import Cluster, fan_out
from nuclei.runs.parallel import each_image
from work import Crops, Slow, work
"""
STARTED = {
    "workers that still import": "each_image(['a', 'b'], work, 'work', 2, [Slow(), Slow()])",
    "jobs of submitit": """
with fan_out(Cluster("local", 2, folder=Path("jobs"))):
    each_image(["a", "b"], work, "work", 2)
""",
    "workers of dask": """
with fan_out(Cluster("dask", 2)):
    each_image(["a", "b"], work, "work", 2)
""",
    "data workers": """
from torch.utils.data import DataLoader
from nuclei.networks.hardware import data_worker
list(DataLoader(Crops(), 1, num_workers=2, worker_init_fn=data_worker()))
""",
    "processes of theirs": """
import subprocess
inner = "import subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[1]])"
leaf = "import nuclei, work; work.work()"
with ending_together():
    both = [subprocess.Popen([sys.executable, "-c", inner, leaf]) for _ in "ab"]
both[0].wait()
""",
}


@pytest.mark.parametrize("kind", STARTED)
def test_they_end_with_the_one_that_started_them(tmp_path, kind):
    (tmp_path / "work.py").write_text(WORK)
    parent = start(HEAD + STARTED[kind], tmp_path)
    while len(started := [int(path.stem) for path in tmp_path.glob("*.pid")]) < 2:
        assert parent.poll() is None
        time.sleep(0.05)
    assert all(lives(pid) for pid in started)
    parent.kill()
    parent.communicate()
    while any(lives(pid) for pid in started):  # the test's own limit of time is that of the run
        time.sleep(0.1)


@pytest.mark.parametrize("told", ["by its environment", "by an argument"])
def test_one_that_begins_after_the_end_of_its_origin_ends_at_once(tmp_path, told):
    origin = start("from nuclei.lifeline import name_process\nprint(name_process())", tmp_path)
    name = origin.communicate()[0].strip()
    code = "import nuclei, time\n"
    if told == "by an argument":
        code += f"from nuclei.lifeline import end_with\nend_with({name!r})\n"
    environment = os.environ | {"PYTHONPATH": str(SOURCE)} | ({VARIABLE: name} if "environment" in told else {})
    done = subprocess.run([sys.executable, "-c", code + "time.sleep(600)"], env=environment)
    assert done.returncode == 1


def test_another_machine_s_process_and_another_of_the_same_number_are_told_apart(tmp_path):
    number, start_of_it, host = name_process().split(" ", 2)
    code = "import time, nuclei\ntime.sleep(1)"
    for name, status in ((f"{number} {start_of_it} not-{host}", 0), (f"{number} {int(start_of_it) - 1} {host}", 1)):
        environment = os.environ | {"PYTHONPATH": str(SOURCE), VARIABLE: name}
        assert subprocess.run([sys.executable, "-c", code], env=environment).returncode == status


def test_the_block_leaves_the_environment_as_it_was(monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    with ending_together():
        assert os.environ[VARIABLE] == name_process()
        with ending_together():
            pass
        assert os.environ[VARIABLE] == name_process()
    assert VARIABLE not in os.environ


def lives(pid: int) -> bool:
    """Return whether a process runs; one that has ended and that nobody has asked about yet does not."""
    state = Path(f"/proc/{pid}/stat")
    return state.is_file() and state.read_text().rsplit(")", 1)[1].split()[0] != "Z"
