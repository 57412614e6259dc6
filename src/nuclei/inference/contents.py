"""What a run must hold to segment images: a network of every fold, boosters of every fold and seed, thresholds.

Or, where the config says so, one network and boosters that learned from everything: of the `whole`.
"""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from nuclei.config.load import load_config
from nuclei.config.schema import Config
from nuclei.decoding.methods import is_scored, method_of, uses_networks
from nuclei.errors import UserError
from nuclei.inference.predictions import read_tuned
from nuclei.runs.cache import read_meta
from nuclei.runs.layout import Run, name_fold
from nuclei.runs.outputs import Records, find_damage

FILE_OF_CHECKPOINT = {"last": "weights.safetensors", "best": "best.safetensors"}
FEW = 3  # missing files that are named
_FOLD = re.compile(r"(?:train_)?fold(\d+)")


def list_folds(run: Run) -> list[int]:
    """Return the folds that a run has trained, in order, by all that is left of each: its meta, folder, thresholds.

    So a fold that has lost one of them is still missed.
    """
    left = [*(path.stem for path in run.meta("").parent.glob("train_fold*.json")), *_list_folders(run.folder)]
    folds = {int(match[1]) for name in left if (match := _FOLD.fullmatch(name))}
    return sorted(folds | set(read_tuned(run).fold if run.tuned.is_file() else ()))


def list_networks(run: Run, config: Config) -> list[Path]:
    """Return the weights that a run predicts with, its members' and theirs included, whether they exist or not."""
    if config.members:
        members = [Run(name, run.folder.parent) for name in config.members]
        return [path for member in members for path in list_networks(member, load_config(member.config))]
    if not uses_networks(config):
        return []
    return [run.fold(fold) / FILE_OF_CHECKPOINT[config.predict.checkpoint] for fold in list_new(run, config)]


def list_new(run: Run, config: Config) -> list[int | None]:
    """Return the folds whose networks are applied to new images; None for the whole one."""
    if config.predict.new_images == "whole":
        return [None]
    folds: list[int | None] = [*list_folds(run)]
    return folds[:1] if config.predict.new_images == "first" else folds


def list_boosters(run: Run, config: Config) -> list[Path]:
    """Return the boosters that a run scores with, whether they exist or not; raise UserError if it has no thresholds.

    Thresholds are chosen for each fold that has boosters.
    """
    if not is_scored(config):
        return []
    check_files(run, [run.tuned])
    whole = config.scorer.new_images == "whole"
    folds = [None] if whole else sorted(read_tuned(run).fold)
    return [run.boosters(fold, seed) for fold in folds for seed in range(config.scorer.seeds)]


def list_required(run: Run, config: Config) -> list[Path]:
    """Return all that segments images by a run: networks, boosters and thresholds."""
    thresholds = [] if method_of(config).segment else [run.tuned]
    return [*list_networks(run, config), *list_boosters(run, config), *thresholds]


def describe_contents(run: Run, config: Config, is_member: bool) -> dict[str, Any]:
    """Return what a run must hold, by name: members, folds and, unless it is a member of another, boosters."""
    trains = uses_networks(config) and not config.members
    boosters = [] if is_member else list_boosters(run, config)
    return {
        "members": list(config.members),
        "folds": [name_fold(None) if fold is None else fold for fold in list_new(run, config)] if trains else [],
        "boosters": [path.name for path in boosters],
    }


def check_files(run: Run, paths: Iterable[Path]) -> None:
    """Raise UserError naming those files of a run, or of its members, that are missing, and the stages to run."""
    missing = [path for path in paths if not path.is_file()]
    if not missing:
        return
    stages = dict.fromkeys(_stage_of(path) for path in missing)
    names = ", ".join(map(str, missing[:FEW])) + (f" and {len(missing) - FEW} more" if len(missing) > FEW else "")
    verb = "is" if len(missing) == 1 else "are"
    raise UserError(
        f"{run.folder} is not whole: {names} {verb} missing: run the stage {' and '.join(stages)} first or, "
        "of a bundle, fetch it anew"
    )


def check_contents(run: Run, config: Config) -> None:
    """Raise UserError naming what a run needs to segment images and lacks, or has otherwise than its stages left it."""
    check_as_left(run, list_required(run, config))


def check_as_left(run: Run, required: Sequence[Path]) -> None:
    """Raise UserError naming those files of a run, or of its members, that are not there as their stages left them."""
    check_files(run, required)
    root = run.folder.parent
    for folder in dict.fromkeys(root / path.relative_to(root).parts[0] for path in required):
        left: Records = {}
        for meta in sorted(Run(folder.name, root).meta("").parent.glob("*.json")):
            left |= read_meta(meta).get("files", {})
        own = {path.relative_to(folder).as_posix() for path in required if path.is_relative_to(folder)}
        damaged = find_damage({name: record for name, record in left.items() if name in own}, folder)
        if damaged:
            text = "; ".join(damage.text for damage in damaged[:FEW])
            raise UserError(f"{text}: put the file back as it was, or delete it and run its stage again")


def _stage_of(path: Path) -> str:
    if path.suffix == ".safetensors":
        return f"train of {path.parent.parent.name}"
    return f"select of {path.parent.name}" if path.suffix == ".json" else f"score of {path.parent.parent.name}"


def _list_folders(folder: Path) -> list[str]:
    return [path.name for path in folder.glob("fold*") if path.is_dir()]
