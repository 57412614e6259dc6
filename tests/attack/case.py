"""One thing to be tried, made from a seed so that it can be tried again, and the folder in which it is."""

import random
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from attack.project import Project, open_project


@dataclass(frozen=True)
class Case:
    """Name one thing to be tried: its number among those of an attack, its kind, and the seed of all it draws."""

    number: int
    kind: str
    seed: int

    def draw(self) -> random.Random:
        """Return the generator of what the case draws, from its start."""
        return random.Random(f"{self.seed} {self.kind}")


def deal(kinds: Sequence[str], seed: int, n: int) -> Iterator[Case]:
    """Yield `n` cases of an attack, its kinds in turn in an order drawn from the seed."""
    rng = random.Random(seed)
    order = rng.sample(list(kinds), len(kinds))
    for number in range(n):
        yield Case(number, order[number % len(order)], rng.getrandbits(32))


class Place:
    """Give folders to try cases in, and a finished project, made when a case first asks for it if there is none."""

    def __init__(self, folder: Path, finished: Path | None = None):
        self.folder, self.finished = folder, finished or folder / "finished"

    def fresh(self) -> Path:
        """Return an empty folder; that of the case before is removed."""
        path = self.folder / "case"
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir(parents=True)
        return path

    @cached_property
    def project(self) -> Project:
        """The small project with its demo archives, all its stages run."""
        return open_project(self.finished)
