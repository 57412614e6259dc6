"""What a format is to the attack on inputs: a whole file of it, how it is read, and what is done to it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from attack.damage import Mutation, noise

DEEP = 3000
# What must come of an input: it is refused, it is read as the whole one, or either; VALID: what it now says is read.
REFUSED, SAME, EITHER = "refused", "same", "either"
Mutations = dict[str, tuple[str, Mutation]]
ANYTHING: Mutations = {
    "empty": (REFUSED, lambda rng, data: b""),
    "noise": (REFUSED, noise),
}


@dataclass(frozen=True)
class Format:
    """Describe a format: the name and bytes of a whole file of it, how it is read, and what is done to it.

    read: path -> what repr tells apart.
    """

    file: str
    whole: Callable[[], bytes]
    read: Callable[[Path], Any]
    mutations: Mutations


def as_text(array: NDArray[Any]) -> tuple[Any, ...]:
    return array.shape, array.dtype.name, array.tobytes()
