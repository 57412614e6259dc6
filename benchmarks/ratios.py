"""What the benchmarks have in common: two ways of doing the same, timed in turns, and their ratio beside a target."""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

Work = Callable[[Any], object]


@dataclass(frozen=True)
class Ratio:
    """Hold what was measured: seconds of the processor of ours and of a floor or a peer, and what their ratio is to be.

    faster: whether the ratio is that of theirs to ours, which is to be at least the target; else it is that of ours to
    theirs, at most the target.
    """

    what: str
    beside: str
    ours_s: float
    theirs_s: float
    target: float
    faster: bool
    sample: str

    @property
    def ratio(self) -> float:
        return self.theirs_s / self.ours_s if self.faster else self.ours_s / self.theirs_s

    @property
    def is_met(self) -> bool:
        return bool(self.ratio >= self.target if self.faster else self.ratio <= self.target)

    def record(self) -> dict[str, Any]:
        """Return all of it, as JSON takes it."""
        times = {key: round(float(getattr(self, key)), 4) for key in ("ours_s", "theirs_s", "ratio")}
        return asdict(self) | times | {"met": self.is_met}


def time_work(work: Work, item: Any) -> float:
    """Return the seconds of the processor that a work takes, of this process with all its threads."""
    start = time.process_time()
    work(item)
    return time.process_time() - start


def time_in_turns(ours: Work, theirs: Work, items: Sequence[Any], repeats: int = 3) -> tuple[float, float]:
    """Return the seconds of the processor that two works take for all items, of each item the median of the repeats.

    They take turns, item by item, so that what else the machine does slows both alike. The first item warms both up.
    """
    ours(items[0])
    theirs(items[0])
    total_ours = total_theirs = 0.0
    for item in items:
        pairs = [(time_work(ours, item), time_work(theirs, item)) for _ in range(repeats)]
        total_ours += median(one for one, _ in pairs)
        total_theirs += median(other for _, other in pairs)
    return total_ours, total_theirs


def spread(items: Sequence[Any], most: int) -> list[Any]:
    """Return up to so many items, evenly spaced."""
    return list(items[:: max(1, len(items) // most)][:most])


def show(ratios: Iterable[Ratio]) -> str:
    """Return the ratios as lines of text."""
    lines = [f"{'what':44}{'beside':34}{'ratio':>8}  target"]
    for one in ratios:
        sign = ">=" if one.faster else "<="
        lines.append(
            f"{one.what:44}{one.beside:34}{one.ratio:8.2f}  {sign} {one.target:g}{'' if one.is_met else '  missed'}"
        )
    return "\n".join(lines)
