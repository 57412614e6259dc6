"""Damaged files of a finished project: refused by name, made again, or not read at all, but never silently used."""

import os
from dataclasses import dataclass
from pathlib import Path

from attack.case import Case, Place
from attack.damage import Draw, flip
from attack.project import Project, nuclei

RUN = ("run", "ensembles/pair.yaml")


@dataclass(frozen=True)
class Artefact:
    """Describe files of a project: where they are, and what reads them.

    files: pattern below runs/; forget: run and stage that is forgotten, so that it reads them again, None: nothing is;
    predict: images are segmented by the ensemble, instead of all being run again; command: what is called instead.
    """

    files: str
    forget: tuple[str, str] | None = None
    predict: bool = False
    command: tuple[str, ...] = ()


ARTEFACTS = {
    "image": Artefact("data/demo/images/*.png", ("small", "predict")),
    "image of candidates": Artefact("data/demo/images/*.png", ("pair", "candidates")),
    "labels": Artefact("data/demo/labels/*.png", ("pair", "evaluate")),
    "labels of plain": Artefact("data/demo/labels/*.png", ("pair", "plain")),
    "manifest": Artefact("data/demo/manifest.csv", ("pair", "submit")),
    "fold table": Artefact("data/demo/folds.csv", ("pair", "score")),
    "record of fold tables": Artefact("data/demo/fold_tables.json", ("pair", "score")),
    "solution": Artefact("data/demo/stage1_solution.csv", ("pair", "evaluate")),
    "meta of data": Artefact("data/demo/meta/*.json"),
    "meta": Artefact("*/meta/*.json"),
    "meta when a stage is made again": Artefact("*/meta/*.json", ("pair", "candidates")),
    "config": Artefact("small/config.yaml", ("pair", "ensemble")),
    "crops": Artefact("other/crops/*.npy", ("other", "train")),
    "weights": Artefact("small/fold*/weights.safetensors", ("small", "predict")),
    "maps of a member": Artefact("small/maps/*/*.npz", ("pair", "ensemble")),
    "maps": Artefact("pair/maps/*/*.npz", ("pair", "candidates")),
    "maps of plain": Artefact("pair/maps/oof/*.npz", ("pair", "plain")),
    "plain": Artefact("pair/plain/*", ("pair", "evaluate")),
    "candidates": Artefact("pair/candidates/*/*.npz", ("pair", "score")),
    "candidates of selection": Artefact("pair/candidates/*/*.npz", ("pair", "select")),
    "scores": Artefact("pair/scorer/*/*.npz", ("pair", "select")),
    "boosters": Artefact("pair/scorer/*.json.gz", predict=True),
    "thresholds": Artefact("pair/select.json", predict=True),
    "training images": Artefact("pair/novelty.npz", predict=True),
    "weights for images": Artefact("other/fold*/weights.safetensors", predict=True),
    "config for images": Artefact("*/config.yaml", predict=True),
    "instances": Artefact("pair/instances/oof/*.png", ("pair", "evaluate")),
    "instances of test": Artefact("pair/instances/test/*.png", ("pair", "submit")),
    "submission": Artefact("pair/submission.csv", ("pair", "evaluate")),
    "metrics of a member": Artefact("small/metrics.json", ("pair", "evaluate")),
    "scores per image of a member": Artefact("small/per_image.csv", ("pair", "evaluate")),
    "metrics that are compared": Artefact("pair/metrics.json", command=("compare", "small", "pair")),
    "scores that are compared": Artefact("pair/per_image.csv", command=("compare", "small", "pair")),
    "scores of a step": Artefact("small/per_image.csv", command=("climb", "small", "pair")),
    "instances as COCO": Artefact("pair/instances/oof/*.png", command=("coco", "pair")),
    "instances that are shown": Artefact("pair/instances/oof/*.png", command=("show", "pair")),
    "scores that are shown": Artefact("pair/scorer/oof/*.npz", command=("show", "pair")),
    "metrics": Artefact("pair/metrics.json", ("pair", "report")),
    "scores per image": Artefact("pair/per_image.csv", ("pair", "report")),
}
DAMAGE = ("cut off", "a bit flipped", "empty", "a folder", "a pipe", "gone")
KINDS = [f"{name}: {damage}" for name in ARTEFACTS for damage in DAMAGE]


def spoil(path: Path, damage: str, rng: Draw) -> None:
    """Put a damaged file, or none, in the place of one; other links to it keep the whole one."""
    data = path.read_bytes()
    path.unlink()
    if damage == "a folder":
        path.mkdir()
    elif damage == "a pipe":  # which nobody writes to: whoever reads it waits for ever
        os.mkfifo(path)
    elif damage != "gone":
        content = {"cut off": data[: rng.randrange(1, len(data))], "a bit flipped": flip(rng, data), "empty": b""}
        path.write_bytes(content[damage])


def run(case: Case, place: Place) -> str | None:
    """Damage one file, have it read, and compare every result with what it was."""
    name, _, damage = case.kind.partition(": ")
    artefact, project, rng = ARTEFACTS[name], place.project, case.draw()
    copy = project.copy(place.fresh() / "project")
    path = rng.choice(sorted(copy.glob(f"runs/{artefact.files}")))
    if artefact.forget:
        project.forget(copy, *artefact.forget)
    if not path.exists():
        return None  # it is the meta that was forgotten
    spoil(path, damage, rng)
    if artefact.predict:
        return run_images(project, copy, path)
    if artefact.command:
        return run_command(artefact.command, copy, path)
    outcome = nuclei([*RUN, "--data", project.data, "--jobs", "1"], copy)
    damaged = path.relative_to(copy / "runs").as_posix()
    if outcome.status and (fault := outcome.find_fault(path.name, str(path.parent.relative_to(copy)))):
        return f"{damaged}: {fault}"
    if spoilt := project.find_spoilt(copy, [damaged]):
        return f"{damaged} is used silently: {spoilt[:5]} differ, status {outcome.status}"
    return None


def run_command(command: tuple[str, ...], copy: Path, path: Path) -> str | None:
    """Call a command that reads a finished run, which must refuse what is damaged by the file's name."""
    outcome = nuclei([*command, *([path.stem] if command[0] == "show" else [])], copy)
    fault = outcome.find_fault(path.name, str(path.parent.relative_to(copy)))
    return fault and f"{path.relative_to(copy / 'runs').as_posix()}, {command[0]}: {fault}"


def run_images(project: Project, copy: Path, path: Path) -> str | None:
    """Segment the test images by the ensemble, which must be as its submission, or refused by the file's name."""
    images = project.data / "stage1_test.zip"
    arguments = ["predict-images", images, "--weights", "runs/pair", "--submission", "again.csv", "--jobs", "1"]
    outcome = nuclei(arguments, copy)
    damaged = path.relative_to(copy / "runs").as_posix()
    if outcome.status:
        fault = outcome.find_fault(path.name, str(path.parent.relative_to(copy)))
        return fault and f"{damaged}: {fault}"
    same = (copy / "again.csv").read_bytes() == (project.folder / "runs/pair/submission.csv").read_bytes()
    return None if same else f"{damaged} is used silently: another submission"
