"""The command line without its commands: the group that they join, and how a process ends."""

import sys
from typing import Any, NoReturn

import typer
from typer.core import TyperGroup

# Of --help, in their order.
PANELS = IMAGES, RUNS, STAGES_OF_A_RUN = "Your images", "Runs, and runs compared", "Stages of a run, in their order"


class Terminated(BaseException):
    """Unwind the process after a signal that asks it to end, so that what is half done is cleared away."""


def end(status: int, what: str) -> NoReturn:
    """End the process with a status, saying how its work is resumed."""
    typer.echo(f"{what}: repeat the command to resume; what is finished is kept", err=True)
    sys.exit(status)


class Commands(TyperGroup):
    """The commands; of their errors none is left to typer, which says nothing but «Aborted.» of some."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names of the commands in the order of their panels."""
        names = super().list_commands(ctx)
        return sorted(names, key=lambda name: PANELS.index(getattr(self.commands[name], "rich_help_panel", "")))

    def invoke(self, ctx: Any) -> Any:
        """Run a command; an interrupt ends the process, and the end of a damaged file is an error as any other."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            end(130, "interrupted")
        except EOFError as error:
            raise RuntimeError("a file ended where more was expected") from error


ABOUT = "Find every nucleus in a microscope image. Each command explains itself: nuclei COMMAND --help."
# What a command needs is imported when it is called, after its arguments are checked: torch alone takes seconds, for
# which nobody waits at --help, or at a path that does not exist.
app = typer.Typer(cls=Commands, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=ABOUT)
