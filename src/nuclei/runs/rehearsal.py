"""A rehearsal: stages say what they would make and why, and nothing is written.

What a stage would leave is foreseen: its fingerprint follows from its settings and inputs, so that the stages after it
can be asked as well.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

_FORESEEN: ContextVar[dict[Path, dict[str, Any]] | None] = ContextVar("foreseen", default=None)


@contextmanager
def rehearsal() -> Iterator[None]:
    """Rehearse whatever stages are run in this block."""
    token = _FORESEEN.set({})
    try:
        yield
    finally:
        _FORESEEN.reset(token)


def rehearses() -> bool:
    """Return whether this is a rehearsal, in which nothing may be written."""
    return _FORESEEN.get() is not None


def foresee(meta: Path, content: dict[str, Any]) -> None:
    """Note, in a rehearsal, what would be written into a stage's meta, or into the config of a run."""
    metas = _FORESEEN.get()
    assert metas is not None, "only a rehearsal foresees"
    metas[meta] = content


def foreseen(meta: Path) -> dict[str, Any] | None:
    """Return what would have been written into a meta or config, None if that was not foreseen or is no rehearsal."""
    return (_FORESEEN.get() or {}).get(meta)


def anything_foreseen(folder: Path | None = None) -> bool:
    """Return whether a stage would make something, with a meta in that folder; so that another may lack only that."""
    return any(folder in (None, meta.parent) for meta in _FORESEEN.get() or {})


def is_made(meta: Path) -> bool:
    """Return whether a meta or config is there, or in a rehearsal would be."""
    return foreseen(meta) is not None or meta.is_file()
