"""A report as a list of blocks. markdown.py renders it beside its figures, page.py as one HTML file that holds them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


class Link(str):
    """A cell of a table that leads to a page, at an address relative to the table's own."""

    __slots__ = ("address",)
    address: str

    def __new__(cls, text: str, address: str) -> "Link":
        made = super().__new__(cls, text)
        made.address = address
        return made


@dataclass(frozen=True)
class Heading:
    text: str


@dataclass(frozen=True)
class Subheading:
    text: str


@dataclass(frozen=True)
class Paragraph:
    text: str


@dataclass(frozen=True)
class Code:
    """Hold lines to be copied: commands, or checksums."""

    text: str


@dataclass(frozen=True)
class Table:
    """Hold cells as they are to be read; the columns after the first `n_text` hold numbers.

    A cell that is a Link leads somewhere. tall: on a page, a table of many rows is scrolled in a frame of its own.
    """

    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    n_text: int = 1
    tall: bool = False


@dataclass(frozen=True)
class Picture:
    """Hold one figure: PNG bytes, to be filed as figures/<name>.png.

    alt: what it shows, for those who do not see it; where it is empty, the caption says enough. wide: several images
    side by side, which are not shrunk to the width of a phone. chart: lines on white, which a dark page inverts.
    """

    name: str
    png: bytes
    caption: str
    wide: bool = False
    alt: str = ""
    chart: bool = False


@dataclass(frozen=True)
class Files:
    """Name files that lie near the report: (what it is, path relative to the report's folder)."""

    files: list[tuple[str, str]]


@dataclass(frozen=True)
class Missing:
    """Name a missing artefact that a part of the report would have been made from."""

    what: str


@dataclass(frozen=True)
class FillIn:
    """Ask for what only a person can write."""

    what: str


@dataclass(frozen=True)
class References:
    """Name the sources of a report: (what it is, its address)."""

    sources: list[tuple[str, str]]


@dataclass(frozen=True)
class Browser:
    """Hold a browser of images: a row for each, and the folder beside the page in which their pictures lie.

    rows: id, type, score, the counts of nuclei and of each kind of errors, and `steps`, whether there is a picture of
    every step. layers: {what is drawn over an image: its legend, {name: CSS colour}}. command: makes the pictures, and
    case_command that of every step of one image, {id} standing for it.
    """

    folder: str
    rows: Sequence[Mapping[str, Any]]
    kinds: Sequence[str]
    layers: Mapping[str, Mapping[str, str]]
    command: str
    case_command: str


Block = Heading | Subheading | Paragraph | Code | Table | Picture | Files | Missing | FillIn | References | Browser
