"""The command line: its commands, and what becomes of their errors."""

import re
import signal
import sys
import traceback
from collections.abc import Sequence
from types import FrameType
from typing import NoReturn

import typer

from nuclei.commands import experiments, images  # noqa: F401 (which add their commands to the app)
from nuclei.commands.app import Terminated, app, end
from nuclei.commands.stages import add_stages
from nuclei.errors import UserError, explain_os_error

__all__ = ["app", "main"]

LESS_MEMORY = "use fewer processes by --jobs or, to train, a smaller train.batch_size or train.crop_px"
REPORT = (
    "This is a fault of the program, not of yours. Please report it with the lines above, the command, and the "
    "output of `git rev-parse HEAD` and `pip list`."
)
# Signals that ask a process to end: of the system or a scheduler, and of a terminal that was closed.
ENDINGS = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
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
    try:
        check_arguments(sys.argv[1:])
        app()
    except (UserError, OSError) as error:
        sys.exit(f"error: {explain_os_error(error) if isinstance(error, OSError) else error}")
    except Terminated as received:
        from nuclei.runs.backends import stop_workers

        stop_workers()
        end(128 + received.args[0], "terminated")
    except Exception as error:
        if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":  # the second is torch's
            sys.exit(f"error: out of memory ({str(error).partition('. ')[0]}): {LESS_MEMORY}")
        traceback.print_exc()
        typer.echo(REPORT, err=True)
        sys.exit(1)
    finally:
        for one, handler in previous.items():
            signal.signal(one, handler)


def check_arguments(arguments: Sequence[str]) -> None:
    """Raise UserError on an empty argument or option: an empty path would be this folder, an empty name all runs."""
    for i, argument in enumerate(arguments):
        if not argument.strip() or _EMPTY_OPTION.fullmatch(argument):
            where = argument if argument.strip() else f"number {i + 1}" if i == 0 else f"after {arguments[i - 1]!r}"
            raise UserError(f"the argument {where} is empty: give a value (is a variable of your shell not set?)")


def terminate(number: int, frame: FrameType | None) -> NoReturn:  # noqa: ARG001 (what a handler of signals takes)
    """Handle one of ENDINGS."""
    raise Terminated(number)
