"""Tables in a terminal, no wider than it is; plain lines where the output goes into a file or another program."""

import shutil
import sys
from typing import Literal, TextIO

from rich.console import Console
from rich.table import Table as Grid
from rich.text import Text

from nuclei.report.blocks import Table


def print_table(table: Table, file: TextIO | None = None) -> None:
    """Print a table: to a terminal no wider than it is, long cells broken into lines; else a line per row."""
    file = file or sys.stdout
    if not file.isatty():
        file.write(_plain(table))
        return
    grid = Grid(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for i, column in enumerate(table.columns):
        # What a row is about stays whole, to be copied.
        justify: Literal["left", "right"] = "left" if i < table.n_text else "right"
        grid.add_column(Text(column), justify=justify, overflow="fold", no_wrap=not i)
    for row in table.rows:
        grid.add_row(*map(Text, row))  # in which rich finds no markup
    Console(file=file, width=shutil.get_terminal_size().columns, highlight=False).print(grid)


def _plain(table: Table) -> str:
    """Return a table as lines whose columns line up, two spaces apart."""
    rows = [table.columns, *table.rows]
    widths = [max(len(row[i]) for row in rows) for i in range(len(table.columns))]
    lines = (
        "  ".join(
            cell.ljust(width) if i < table.n_text else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    )
    return "".join(f"{line.rstrip()}\n" for line in lines)
