"""The command line: its commands, and what becomes of their errors."""

import io
import os
import re
import signal
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import NoReturn

import typer

from nuclei.commands import experiments, images  # noqa: F401 (which add their commands to the app)
from nuclei.commands.app import Terminated, app, end
from nuclei.commands.stages import add_stages
from nuclei.errors import MEMORY, THREADS, UserError, escape_controls, explain_os_error, find_lack
from nuclei.runs.memory import check_address_space

__all__ = ["app", "main"]

# What the system did not give, in words, and what helps.
LACKS = {
    MEMORY: (
        "out of memory",
        "use fewer processes by --jobs or, to train, a smaller train.batch_size or train.crop_px",
    ),
    THREADS: (
        "no further process or thread can be started",
        "raise the limit (ulimit -u), or use fewer processes by --jobs",
    ),
}
REPORT = (
    "This is a fault of the program, not of yours. Please report it with the lines above, the command, and the "
    "output of `git rev-parse HEAD` and `pip list`."
)
# Signals that ask a process to end: of the system or a scheduler, and of a terminal that was closed.
ENDINGS = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
ESCAPED = "backslashreplace"  # what becomes of characters that an encoding lacks
_EMPTY_OPTION = re.compile(r"--[a-z-]+=\s*")

add_stages()


def main() -> None:
    """Run the command line.

    Exits with 1 and one line for what a user can mend, with 1, the traceback and a request to report it for anything
    else, with 2 for a wrong command line, with 130, 129 and 143 after an interrupt, a SIGHUP and a SIGTERM.
    """
    # Not where a signal is ignored, as SIGHUP is below nohup.
    previous = {one: signal.getsignal(one) for one in ENDINGS if signal.getsignal(one) != signal.SIG_IGN}
    for one in previous:
        signal.signal(one, terminate)
    open_streams()
    try:
        check_surroundings()
        check_arguments(sys.argv[1:])
        app()
    except (UserError, OSError) as error:
        said = explain_os_error(name_stream(error)) if isinstance(error, OSError) else str(error)
        sys.exit(f"error: {escape_controls(said)}")
    except Terminated as received:
        for one in previous:  # a second signal is to end nothing of this
            signal.signal(one, signal.SIG_IGN)
        from nuclei.runs.backends import stop_workers

        stop_workers()
        end(128 + received.args[0], "terminated")
    except Exception as error:
        if lack := find_lack(error):
            what, fix = LACKS[lack]
            said = str(error).strip().partition("\n")[0].partition(". ")[0]
            sys.exit(f"error: {what} ({said or type(error).__name__}): {fix}")
        traceback.print_exc()
        typer.echo(REPORT, err=True)
        sys.exit(1)
    finally:
        for one, handler in previous.items():
            signal.signal(one, handler)


def open_streams() -> None:
    """Have the standard streams take every text: what their encoding lacks is escaped, a closed one loses it.

    Those of processes that are started are told by a variable of Python's.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115 (which stays open)
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=ESCAPED)
    os.environ.setdefault("PYTHONIOENCODING", f":{ESCAPED}")


def name_stream(error: OSError) -> OSError:
    """Name the standard output in an error that names no file, if it takes no more line, as on a full disk."""
    if error.errno and error.filename is None:
        try:
            print(flush=True)
        except OSError:
            error.filename = "the standard output"
    return error


def check_surroundings() -> None:
    """Raise UserError where libraries would end the process or wait for ever: in no folder, with little memory."""
    try:
        Path.cwd()
    except OSError:
        raise UserError("the current folder has been removed: change to one that exists") from None
    check_address_space()


def check_arguments(arguments: Sequence[str]) -> None:
    """Raise UserError on an empty argument or option: an empty path would be this folder, an empty name all runs."""
    for i, argument in enumerate(arguments):
        if not argument.strip() or _EMPTY_OPTION.fullmatch(argument):
            where = argument if argument.strip() else f"number {i + 1}" if i == 0 else f"after {arguments[i - 1]!r}"
            raise UserError(f"the argument {where} is empty: give a value (is a variable of your shell not set?)")


def terminate(number: int, frame: FrameType | None) -> NoReturn:  # noqa: ARG001 (what a handler of signals takes)
    """Handle one of ENDINGS."""
    raise Terminated(number)
