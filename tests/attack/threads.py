"""Another number of processes or threads: all that follows training comes out the same, bit for bit."""

from functools import partial

import cv2
import torch

from attack.case import Case, Place
from attack.project import nuclei

# Processes, as --jobs gives them, and threads of one operation.
COUNTS = {"two processes": ("2", 1), "two threads": ("1", 2), "three of both": ("3", 3), "one per core": ("-1", 1)}
KINDS = list(COUNTS)
FOLLOWING = ("predict", "ensemble", "plain", "candidates", "score", "select", "submit", "evaluate")


def run(case: Case, place: Place) -> str | None:
    """Make again all that follows training, and compare it with what one process made with one thread per core."""
    jobs, threads = COUNTS[case.kind]
    project = place.project
    copy = project.copy(place.fresh() / "project")
    for name in ("small", "other", "pair"):
        for stage in FOLLOWING:
            project.forget(copy, name, stage)
    arguments = ("run", "ensembles/pair.yaml", "--data", project.data, "--jobs", jobs)
    outcome = nuclei(arguments, copy, partial(set_threads, threads))
    if outcome.status:
        return f"status {outcome.status}: {outcome.text[-300:]!r}"
    differing = project.compare(copy)
    return f"other files: {differing[:5]}" if differing else None


def set_threads(n: int) -> None:
    torch.set_num_threads(n)
    cv2.setNumThreads(n)
