"""Style and scripts of the pages, as the text of the files that lie beside this module."""

from functools import cache
from importlib.resources import files


@cache
def read_asset(name: str) -> str:
    """Return a file that lies beside this module, such as page.css or tables.js, which needs no library."""
    return files(__package__).joinpath(name).read_text(encoding="utf-8").strip()
