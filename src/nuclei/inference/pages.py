"""The pages of many images: index.html, and beyond one batch index_2.html and so on, each with links to the others."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nuclei.inference.exports import FORMATS
from nuclei.inference.gallery import GENERATOR, gallery_page
from nuclei.inference.up_to_date import FAILED
from nuclei.runs.files import list_matching, write_bytes

PAGE = "index.html"
HEAD_BYTES = 4096  # of a page, in which it says what made it


def name_page(number: int) -> str:
    """Return the file of a page, numbered from 0."""
    return PAGE if number == 0 else f"index_{number + 1}.html"


class Pages:
    """Write one page after the other, and the first, which tells of all, at the end."""

    def __init__(self, output: Path, count: int) -> None:
        self.output, self.count = output, count
        self.first: Sequence[Mapping[str, Any]] = ()
        self.n_images = 0
        self.failed: dict[int, int] = {}  # page -> how many images failed

    def write(self, number: int, images: Sequence[Mapping[str, Any]]) -> None:
        """Write a page of images, records with their rows of the summary; the first one is kept until `finish`."""
        self.n_images += len(images)
        if failed := sum(image["state"] == FAILED for image in images):
            self.failed[number] = failed
        if number == 0:
            self.first = images
        else:
            self._write(number, images, "")

    def finish(self) -> None:
        """Write the first page, and remove pages of an earlier call with more of them."""
        self._write(0, self.first, self._sum_up() if self.count > 1 else "")
        for path in list_matching(self.output, "index_*.html"):
            number = path.stem.removeprefix("index_")
            if number.isdecimal() and int(number) > self.count and path.name == name_page(int(number) - 1):
                with path.open("rb") as file:
                    is_own = GENERATOR.encode() in file.read(HEAD_BYTES)
                if is_own:
                    path.unlink()

    def _write(self, number: int, images: Sequence[Mapping[str, Any]], lead: str) -> None:
        lead = self._link(number) + lead if self.count > 1 else ""
        write_bytes(self.output / name_page(number), gallery_page(images, list(FORMATS), lead).encode())

    def _link(self, number: int) -> str:
        steps = {"First": 0, "Previous": number - 1, "Next": number + 1, "Last": self.count - 1}
        links = [
            f'<a href="{name_page(to)}">{text}</a>'
            for text, to in steps.items()
            if 0 <= to < self.count and to != number
        ]
        return f'<p class="links">Page {number + 1} of {self.count} {" ".join(links)}</p>\n'

    def _sum_up(self) -> str:
        links = ", ".join(f'<a href="{name_page(n)}">page {n + 1}</a> ({count})' for n, count in self.failed.items())
        failed = f" Failed: {links}." if self.failed else ""
        return f"<p>{self.n_images:,} images in all; summary.csv lists them.{failed}</p>\n"
