"""Two processes that make the same at once: both end well, and what they leave is what one alone leaves."""

import hashlib
import os
import shutil
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import yaml

from attack.case import Case, Place
from attack.project import PARTIAL, Outcome, nuclei, start

# From which stage of the data, of the ensemble, or of its members, both have work to do.
FROM = {
    "from the start": None,
    "from the archives": ("data", "prepare"),
    "from the networks": ("other", "train"),
    "from the maps": ("small", "predict"),
    "from the candidates": ("pair", "candidates"),
    "from the report": ("pair", "report"),
}
ABLATIONS = {"deeper": {"depth": 0.08}, "larger": {"min_area_px": 20}}
BLOCKS = [f"{run} {kind}" for run in ("pair", "small") for kind in ("results", "types", "made")]
KINDS = [
    *FROM,
    "ablations of one base",
    "tables of runs",
    "results that are published",
    "images into one folder",
    "images after a kill",
]


def run(case: Case, place: Place) -> str | None:
    """Start two processes at once and compare what they leave with what one leaves."""
    others: dict[str, Callable[[Case, Place], str | None]] = {
        "ablations of one base": run_ablations,
        "tables of runs": run_tables,
        "results that are published": run_publish,
        "images into one folder": run_images,
        "images after a kill": run_killed,
    }
    return others.get(case.kind, run_twice)(case, place)


def at_once(folder: Path, *commands: Sequence[object]) -> list[Outcome]:
    """Run commands at the same time."""
    return [command.wait() for command in [start(arguments, folder) for arguments in commands]]


def in_turn(folder: Path, *commands: Sequence[object]) -> list[Outcome]:
    return [nuclei(arguments, folder) for arguments in commands]


def find_failure(outcomes: Sequence[Outcome]) -> str | None:
    failed = [outcome for outcome in outcomes if outcome.status]
    return f"one ended with status {failed[0].status}: {failed[0].text[-400:]!r}" if failed else None


def hash_all(folder: Path, *but: str) -> dict[str, str]:
    """Return the hash of every file of a folder, without hidden ones and those of some names."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.name[0] != "." and path.name not in but]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def run_twice(case: Case, place: Place) -> str | None:
    project = place.project
    copy = project.copy(place.fresh() / "project")
    begin = FROM[case.kind]
    if begin is None:
        shutil.rmtree(copy / "runs")
    else:
        project.forget(copy, *begin)
    arguments = ("run", "ensembles/pair.yaml", "--data", project.data, "--jobs", "1")
    if failure := find_failure(at_once(copy, arguments, arguments)):
        return failure
    differing = project.compare(copy)
    return f"two at once left other files than one: {differing[:5]}" if differing else None


def run_ablations(case: Case, place: Place) -> str | None:
    """Ablate one base by two processes at once, and by one process after the other."""
    tables = []
    for how in (at_once, in_turn):
        copy = place.project.copy(place.fresh() / "project")
        place.project.forget(copy, "small", "candidates")
        for name, change in ABLATIONS.items():
            content = {"base": "../configs/small.yaml", "watershed": change}
            (copy / "ablations").mkdir(exist_ok=True)
            (copy / f"ablations/{name}.yaml").write_text(yaml.safe_dump(content))
        of = [("ablate", f"ablations/{n}.yaml", "--data", place.project.data, "--jobs", "1") for n in ABLATIONS]
        if failure := find_failure(how(copy, *of)):
            return failure
        if spoilt := place.project.find_spoilt(copy):
            return f"ablations left other files: {spoilt[:5]}"
        files = ("metrics.json", "per_image.csv", "submission.csv")
        tables.append([(copy / f"runs/{name}/{file}").read_bytes() for name in ABLATIONS for file in files])
        listed = (copy / "runs/comparisons/ablations.csv").read_text()
        if lost := [name for name in ABLATIONS if f"\n{name}," not in listed]:
            return f"the table of ablations lost {lost}"
    return None if tables[0] == tables[1] else "two ablations at once left other results than one after the other"


def run_tables(case: Case, place: Place) -> str | None:
    """Tabulate two sets of runs at once: table and page are those of one of the two."""
    copy = place.project.copy(place.fresh() / "project")
    of = [("report", "configs/small.yaml"), ("report", "configs/other.yaml", "ensembles/pair.yaml")]
    alone = []
    for command in of:
        if failure := find_failure(in_turn(copy, command)):
            return failure
        alone.append(hash_all(copy / "runs/comparisons"))
    if failure := find_failure(at_once(copy, *of)):
        return failure
    return None if hash_all(copy / "runs/comparisons") in alone else "a table of one with the page of the other"


def run_publish(case: Case, place: Place) -> str | None:
    """Publish two runs at once, and one after the other."""
    left = []
    for how in (at_once, in_turn):
        copy = place.project.copy(place.fresh() / "project")
        for path, markers in (("README.md", ["scores"]), ("ensembles/README.md", BLOCKS)):
            (copy / path).write_text("".join(f"<!-- {marker} -->\n<!-- /{marker} -->\n" for marker in markers))
        of = [("publish", "ensembles/pair.yaml"), ("publish", "configs/small.yaml")]
        if failure := find_failure(how(copy, *of)):
            return failure
        left.append(hash_all(copy / "ensembles") | {"README.md": (copy / "README.md").read_text()})
    return None if left[0] == left[1] else "two published at once are other files than one after the other"


def segment(place: Place, output: Path, *options: str) -> tuple[object, ...]:
    images = place.project.data / "stage1_test.zip"
    return ("predict-images", images, "--weights", "runs/pair", "--output", output, "--jobs", "1", *options)


def run_images(case: Case, place: Place) -> str | None:
    """Segment by other settings into one folder at once: the results are those of one of the two, all of them."""
    copy = place.project.copy(place.fresh() / "project")
    settings = [(), ("--pixel-size", "0.5")]
    for number, options in enumerate(settings):
        if failure := find_failure(in_turn(copy, segment(place, copy / str(number), *options))):
            return failure
    both = copy / "both"
    if failure := find_failure(at_once(copy, *(segment(place, both, *options) for options in settings))):
        return failure
    # What a record and a page say of the time is not the same twice.
    found = {name: of for name, of in hash_all(both).items() if not name.endswith((".json", ".html", "summary.csv"))}
    alone = [hash_all(copy / str(number)) for number in range(len(settings))]
    matching = [one for one in alone if all(one.get(name) == of for name, of in found.items())]
    return None if matching and found else "results of two settings are mixed in one folder"


def run_killed(case: Case, place: Place) -> str | None:
    """Kill a process that segments images at some time, while another waits: what is left is what one leaves."""
    copy = place.project.copy(place.fresh() / "project")
    alone, killed = copy / "alone", copy / "killed"
    if failure := find_failure(in_turn(copy, segment(place, alone))):
        return failure
    first = start(segment(place, killed), copy)
    time.sleep(case.draw().uniform(0, 6))
    second = start(segment(place, killed), copy)
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    if failure := find_failure([second.wait()]):
        return failure
    if left := [path.name for path in killed.rglob(f"*{PARTIAL}*")]:
        return f"left {left}"
    found, wanted = (
        {name: of for name, of in hash_all(folder).items() if not name.endswith((".json", ".html", "summary.csv"))}
        for folder in (killed, alone)
    )
    return None if found == wanted else "other results than of a process that was not disturbed"
