"""A stage of a finished project, made again and killed at a write: the next attempt ends in the same files."""

import os
from contextlib import suppress

from small_project import run_forked

from attack.case import Case, Place

# Stages that write something on this project; what is at hand is not fetched.
STAGES = (
    *("prepare", "folds", "novelty", "crops", "train", "predict", "ensemble", "plain", "candidates", "score"),
    *("select", "submit", "evaluate", "report"),
)
RUN_OF = dict.fromkeys(("novelty", "crops", "train", "predict"), "other")  # else the ensemble's
NEEDED_BY = {"crops": ["train"]}  # what is not made again where these are finished
KINDS = list(STAGES)


def run(case: Case, place: Place) -> str | None:
    """Kill a stage once, or twice, each time at a write drawn, and run it once more."""
    project, rng = place.project, case.draw()
    name = RUN_OF.get(case.kind, "pair")
    copy = project.copy(place.fresh() / "project")
    for stage in [case.kind, *NEEDED_BY.get(case.kind, [])]:
        project.forget(copy, name, stage)
    (path,) = (path for path, stage in project.tasks if path.stem == name and stage == case.kind)
    # Of the ensemble's data a member before it has written all.
    n_writes = project.writes[name, case.kind] or max(n for key, n in project.writes.items() if key[1] == case.kind)
    os.chdir(copy)
    killed: list[int] = []
    while not killed:
        write = rng.randint(1, n_writes)
        try:
            run_forked(path, case.kind, project.data, die_at=write)
            killed.append(write)
        except RuntimeError:  # it writes fewer files than it did when the project was made, and ended whole
            n_writes = write - 1
            project.forget(copy, name, case.kind)
    if rng.random() < 1 / 3:
        killed.append(rng.randint(1, max(1, n_writes // 2)))
        with suppress(RuntimeError):  # of a second attempt that had less to write than that
            run_forked(path, case.kind, project.data, die_at=killed[-1])
    run_forked(path, case.kind, project.data)
    differing = project.compare(copy)
    return f"killed at write {killed} of {n_writes}, it left other files: {differing[:5]}" if differing else None
