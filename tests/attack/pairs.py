"""Two processes that make the same at once: both end well, and what they leave is what one alone leaves."""

import shutil

import yaml

from attack.case import Case, Place
from attack.project import nuclei, start

# From which stage of the ensemble, or of its members, both have work to do.
FROM = {
    "from the start": None,
    "from the networks": ("other", "train"),
    "from the maps": ("small", "predict"),
    "from the candidates": ("pair", "candidates"),
    "from the report": ("pair", "report"),
}
ABLATIONS = {"deeper": {"depth": 0.08}, "larger": {"min_area_px": 20}}
KINDS = [*FROM, "ablations of one base"]


def run(case: Case, place: Place) -> str | None:
    """Start two processes at once and compare what they leave with what one leaves."""
    return run_ablations(place) if case.kind not in FROM else run_twice(case, place)


def run_twice(case: Case, place: Place) -> str | None:
    project = place.project
    copy = project.copy(place.fresh() / "project")
    begin = FROM[case.kind]
    if begin is None:
        shutil.rmtree(copy / "runs")
    else:
        project.forget(copy, *begin)
    arguments = ("run", "ensembles/pair.yaml", "--data", project.data, "--jobs", "1")
    commands = [start(arguments, copy) for _ in range(2)]
    for outcome in [command.wait() for command in commands]:
        if outcome.status:
            return f"one of two ended with status {outcome.status}: {outcome.text[-400:]!r}"
    differing = project.compare(copy)
    return f"two at once left other files than one: {differing[:5]}" if differing else None


def run_ablations(place: Place) -> str | None:
    """Ablate one base by two processes at once, and by one process after the other."""
    tables = []
    for together in (True, False):
        copy = place.project.copy(place.fresh() / "project")
        place.project.forget(copy, "small", "candidates")
        for name, change in ABLATIONS.items():
            content = {"base": "../configs/small.yaml", "watershed": change}
            (copy / "ablations").mkdir(exist_ok=True)
            (copy / f"ablations/{name}.yaml").write_text(yaml.safe_dump(content))
        of = [("ablate", f"ablations/{n}.yaml", "--data", place.project.data, "--jobs", "1") for n in ABLATIONS]
        if together:
            commands = [start(arguments, copy) for arguments in of]
            outcomes = [command.wait() for command in commands]
        else:
            outcomes = [nuclei(arguments, copy) for arguments in of]
        for outcome in outcomes:
            if outcome.status:
                return f"an ablation ended with status {outcome.status}: {outcome.text[-400:]!r}"
        if spoilt := place.project.find_spoilt(copy):
            return f"ablations left other files: {spoilt[:5]}"
        files = ("metrics.json", "per_image.csv", "submission.csv")
        tables.append([(copy / f"runs/{name}/{file}").read_bytes() for name in ABLATIONS for file in files])
        listed = (copy / "runs/comparisons/ablations.csv").read_text()
        if lost := [name for name in ABLATIONS if f"\n{name}," not in listed]:
            return f"the table of ablations lost {lost}"
    return None if tables[0] == tables[1] else "two ablations at once left other results than one after the other"
