"""A stage of a finished project, made again and killed at a write: the next attempt ends in the same files."""

import os

from small_project import run_forked

from attack.case import Case, Place
from attack.project import Project

# Stages that write something on this project; what is at hand is not fetched.
STAGES = (
    *("prepare", "folds", "crops", "train", "predict", "ensemble", "plain", "candidates", "score", "select", "submit"),
    *("evaluate", "report"),
)
RUN_OF = {"crops": "other", "train": "other", "predict": "other"}  # else the ensemble's
KINDS = list(STAGES)


def run(case: Case, place: Place) -> str | None:
    """Kill a stage once, or twice, each time at a write drawn, and run it once more."""
    project, rng = place.project, case.draw()
    name = RUN_OF.get(case.kind, "pair")
    copy = project.copy(place.fresh() / "project")
    project.forget(copy, name, case.kind)
    (path,) = (path for path, stage in project.tasks if path.stem == name and stage == case.kind)
    n_writes = count_writes(project, place, name, case.kind)
    os.chdir(copy)
    killed: list[int] = []
    for _ in range(rng.choice([1, 1, 2])):
        # A second attempt has less to write: it ends whole where the write that was drawn does not come.
        killed.append(rng.randint(1, max(1, n_writes // (len(killed) + 1))))
        try:
            run_forked(path, case.kind, project.data, die_at=killed[-1])
        except RuntimeError:
            break
    run_forked(path, case.kind, project.data)
    differing = project.compare(copy)
    return f"killed at write {killed} of {n_writes}, it left other files: {differing[:5]}" if differing else None


def count_writes(project: Project, place: Place, name: str, stage: str) -> int:
    """Return how many files a stage writes when its run has forgotten it."""
    if (name, stage) not in project.writes:
        copy = project.copy(place.folder / "counted" / f"{name}_{stage}")
        project.forget(copy, name, stage)
        (path,) = (path for path, other in project.tasks if path.stem == name and other == stage)
        os.chdir(copy)
        project.writes[name, stage] = run_forked(path, stage, project.data)
    return project.writes[name, stage]
