"""Python processes that a test starts, talks with line by line, and sees killed."""

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

SOURCE = Path(__file__).parents[1] / "src"
HEAD = """
import os, signal
from pathlib import Path
from nuclei.runs.cache import stage
from nuclei.runs.files import atomic, write_bytes
def die():
    os.kill(os.getpid(), signal.SIGKILL)
"""


def heed_hangups() -> None:
    """Have a process that is just being started end by a SIGHUP, which below nohup all ignore."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def start(code: str, folder: Path) -> subprocess.Popen:
    """Start `code` in a process of its own, in `folder`, with pipes to its standard input and output."""
    return subprocess.Popen(
        [sys.executable, "-c", HEAD + textwrap.dedent(code)],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(SOURCE)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def run_and_die(code: str, folder: Path) -> None:
    """Run `code` in a process that ends by a SIGKILL of its own: `die()`, in `folder`."""
    process = start(code, folder)
    process.communicate()
    assert process.returncode == -9
