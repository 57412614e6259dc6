"""Tables in a terminal are no wider than it is and lose nothing; in a file they are a line per row."""

import io
import re
import shutil

import pytest

from nuclei.report.blocks import Table
from nuclei.report.terminal import print_table

TABLE = Table(
    ("run", "verdict", "score"),
    (("a_run_of_some_length", "[bold]no markup[/bold]", "0.5000"), ("b", "a verdict of many words " * 4, "12.5")),
    n_text=2,
)


class Terminal(io.StringIO):
    """A text file that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("width", [60, 80, 200])
def test_a_table_fits_the_terminal_and_loses_nothing(monkeypatch, width):
    monkeypatch.setattr(shutil, "get_terminal_size", lambda: type("Size", (), {"columns": width}))
    monkeypatch.setenv("TERM", "vt100")
    file = Terminal()
    print_table(TABLE, file)
    shown = re.sub(r"\x1b\[\d*m", "", file.getvalue())
    assert max(map(len, shown.splitlines())) <= width
    assert "a_run_of_some_length" in shown
    words = shown.split()
    assert words.count("verdict") == 5
    assert "[bold]no" in words
    assert {"0.5000", "12.5"} <= set(words)


def test_in_a_file_each_row_is_a_line_and_columns_line_up():
    file = io.StringIO()
    print_table(TABLE, file)
    header, first, second = file.getvalue().splitlines()
    assert first.index("[bold]") == header.index("verdict") == second.index("a verdict")
    assert len(first) == len(second) == len(header)
    assert (first.split()[-1], second.split()[-1]) == ("0.5000", "12.5")
