"""The networks of other runs that a training builds on: those that it starts from, and those that teach it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lightning_fabric import Fabric

from nuclei.config.schema import Config
from nuclei.data.fold_table import read_folds
from nuclei.data.folds import match_folds
from nuclei.errors import UserError
from nuclei.networks.encoder_decoder import load_weights
from nuclei.networks.kinds import build
from nuclei.networks.tiling import network_forward
from nuclei.runs.cache import fingerprint, read_meta
from nuclei.runs.files import as_json, differences, file_hash
from nuclei.runs.layout import Dataset, Run, read_config
from nuclei.runs.rehearsal import is_made
from nuclei.training.teacher import Voice


@dataclass(frozen=True)
class Teacher:
    """Hold a run whose maps are learned, its weight beside others, and the files of the networks that may be asked."""

    run: Run
    config: Config
    weights: tuple[Path, ...]
    weight: float


def find_start(run: Run, config: Config, dataset: Dataset, fold: int | None) -> Path:
    """Return the weights that a fold's training starts from: those of train.start that saw nothing of the fold.

    The network that learns from all images starts from the first of them. Raises UserError as find_weights does, and if
    that run has networks of another build.
    """
    start = Run(str(config.train.start), run.folder.parent)
    found = find_weights(run, start, dataset, fold)
    theirs = read_config(start)
    built = [{key: value for key, value in c.model.record().items() if key != "weights"} for c in (theirs, config)]
    if differs := differences(as_json(built[0]), as_json(built[1])):
        raise UserError(f"{run.name} cannot start from {start.name}, whose model differs: {'; '.join(differs)}")
    return found[0]


def find_teachers(run: Run, config: Config, dataset: Dataset, fold: int | None) -> list[Teacher]:
    """Return the teachers of a fold's network, members of train.teacher if that is an ensemble, none without one.

    Raises UserError as find_weights does, and if a teacher gives other channels.
    """
    if not config.train.teacher:
        return []
    head = Run(config.train.teacher, run.folder.parent)
    if not is_made(head.config):
        raise UserError(f"{run.name} learns from {head.name}, which {head.folder} does not have: run it first")
    members = read_config(head).members or {head.name: 1.0}
    teachers = []
    for name, weight in members.items():
        teacher = Run(name, run.folder.parent)
        weights = find_weights(run, teacher, dataset, fold)
        theirs = read_config(teacher)
        if theirs.model.channels != config.model.channels or theirs.model.min_side_px != config.model.min_side_px:
            raise UserError(
                f"{run.name} cannot learn from {name}: model.channels and model.min_side_px must be the same"
            )
        teachers.append(Teacher(teacher, theirs, tuple(weights), weight))
    return teachers


def find_weights(run: Run, other: Run, dataset: Dataset, fold: int | None) -> list[Path]:
    """Return the weights of another run that saw nothing of a fold of ours; of all its folds for None.

    Raises UserError if that run has not trained yet, or has folds that these cross.
    """
    if not is_made(other.config):
        raise UserError(f"{run.name} builds on {other.name}, which {other.folder} does not have: train it first")
    theirs = read_config(other)
    try:
        matched = match_folds(dataset.read_folds(), read_folds(Path(theirs.data.folds)))
    except (ValueError, OSError) as error:
        raise UserError(
            f"{run.name} cannot build on {other.name}: of {dataset.folds} and {theirs.data.folds}, {error}"
        ) from error
    chosen = sorted(set(matched.values())) if fold is None else [matched[fold]]
    for one in chosen:
        fingerprint(other.meta(f"train_fold{one}"))
        if read_meta(other.meta(f"train_fold{one}"))["inputs"]["folds"] != file_hash(Path(theirs.data.folds)):
            raise UserError(f"{other.name} was trained on other folds than {theirs.data.folds} now has: train it again")
    return [other.fold(one) / "weights.safetensors" for one in chosen]


def load_voices(fabric: Fabric, teachers: Sequence[Teacher]) -> list[Voice]:
    """Load the networks of teachers onto `fabric`'s device."""
    voices = []
    for teacher in teachers:
        networks = [build(teacher.config.model, None) for _ in teacher.weights]
        for network, path in zip(networks, teacher.weights, strict=True):
            load_weights(network, path, str(teacher.run.config))
        forwards = [network_forward(fabric, fabric.to_device(network.eval())) for network in networks]
        voices.append(Voice(forwards, teacher.config.predict, teacher.weight))
    return voices
