"""Another number of processes or threads, or another place: all that follows training is the same, bit for bit."""

import os
from functools import partial

import cv2
import torch

from attack.case import Case, Place
from attack.project import nuclei

# Options, threads of one operation, and variables of the environment.
Setting = tuple[tuple[str, ...], int, dict[str, str]]
SETTINGS: dict[str, Setting] = {
    "two processes": (("--jobs", "2"), 1, {}),
    "two threads": (("--jobs", "1"), 2, {}),
    "three of both": (("--jobs", "3"), 3, {}),
    "one per core": (("--jobs", "-1"), 1, {}),
    "three cores by the variable": (("--jobs", "-2"), 1, {"NUCLEI_THREADS": "3"}),
    "one core by the variable": (("--jobs", "-1"), 2, {"NUCLEI_THREADS": "1"}),
    "one task after the other": (("--backend", "sequential"), 2, {"OMP_NUM_THREADS": "2"}),
    "another place": (("--jobs", "1"), 1, {"TZ": "Asia/Kathmandu", "LC_ALL": "tr_TR.UTF-8", "LANG": "de_DE.UTF-8"}),
}
KINDS = list(SETTINGS)
FOLLOWING = ("predict", "ensemble", "plain", "candidates", "score", "select", "submit", "evaluate")


def run(case: Case, place: Place) -> str | None:
    """Make again all that follows training, and compare it with what one process made with one thread per core."""
    options, threads, variables = SETTINGS[case.kind]
    project = place.project
    copy = project.copy(place.fresh() / "project")
    for name in ("small", "other", "pair"):
        for stage in FOLLOWING:
            project.forget(copy, name, stage)
    arguments = ("run", "ensembles/pair.yaml", "--data", project.data, *options)
    outcome = nuclei(arguments, copy, partial(settle, threads, variables))
    if outcome.status:
        return f"status {outcome.status}: {outcome.text[-300:]!r}"
    differing = project.compare(copy)
    return f"other files: {differing[:5]}" if differing else None


def settle(n_threads: int, variables: dict[str, str]) -> None:
    os.environ.update(variables)
    torch.set_num_threads(n_threads)
    cv2.setNumThreads(n_threads)
