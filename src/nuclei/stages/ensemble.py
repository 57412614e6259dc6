"""Maps of the members -> maps/<split> of the ensemble, their weighted average; those of a single member as they are."""

from functools import partial
from pathlib import Path

from nuclei.config.schema import Config
from nuclei.data.fold_table import read_folds
from nuclei.data.folds import match_folds
from nuclei.errors import UserError
from nuclei.networks.maps import blend, dequantise, quantise
from nuclei.runs.cache import Part, link_outputs, recorded_inputs, stage
from nuclei.runs.files import file_hash, read_arrays, write_arrays
from nuclei.runs.layout import Dataset, Options, Run, find_fingerprint, find_meta, read_config
from nuclei.runs.parallel import each_image

VERSION = 1


def main(run: Run, config: Config, options: Options) -> None:
    if not config.members:
        raise UserError(f"{run.name} has no members: it trains, and only an ensemble averages maps")
    dataset = Dataset(config.data, run.folder.parent)
    members = [Run(name, run.folder.parent) for name in config.members]
    for member in members:
        check_member(member, config, dataset.inputs()["folds"])
    alone = members[0] if len(members) == 1 else None
    splits = dataset.splits()
    parts = {}
    for split in splits:
        inputs = {member.name: find_fingerprint(member, "maps", split) for member in members}
        same_as = inputs[alone.name] if alone else None
        parts[split] = Part(dataset.inputs(split) | inputs, [run.maps(split), run.detections(split)], same_as)
    with stage(
        run.meta("ensemble"),
        {"members": config.members, "images": dataset.choice()},
        {},
        [run.folder / "maps", run.folder / "detections"],
        options.force,
        version=VERSION,
        parts=parts,
    ) as needed:
        for split in needed:
            if alone:
                link_outputs(parts[split].outputs, run.folder, alone.folder)
                continue
            work = partial(blend_one, run, members, list(config.members.values()), split)
            each_image(splits[split], work, f"{run.name} ensemble {split}", options.jobs)


def check_member(member: Run, config: Config, folds: str) -> None:
    """Raise UserError if a member has no maps yet, or has those of other data or of other folds."""
    theirs_folds = recorded_inputs(find_meta(member, "maps"), "oof")["folds"]
    data = read_config(member).data
    for key in ("dataset", "only_folds", "unseen"):
        ours, theirs = getattr(config.data, key), getattr(data, key)
        if ours != theirs:
            raise UserError(f"member {member.name} has data.{key} {theirs}, the ensemble {ours}: they must be the same")
    if theirs_folds == folds:
        return
    try:  # finer folds will do: each network of the member has seen no less of the other folds, and nothing of its own
        if theirs_folds != file_hash(Path(data.folds)):
            raise UserError(f"{data.folds} has changed since")
        match_folds(read_folds(Path(data.folds)), read_folds(Path(config.data.folds)))
    except (ValueError, OSError) as error:
        raise UserError(
            f"member {member.name} was trained on other folds than {config.data.folds}: its out-of-fold maps would "
            f"leak into the ensemble's. Retrain it on these folds, or leave it out ({error})"
        ) from error


def blend_one(run: Run, members: list[Run], weights: list[float], split: str, image_id: str) -> None:
    """Average the maps of one image over the members and write them."""
    path = run.maps(split) / f"{image_id}.npz"
    if path.is_file():  # by a run that was killed
        return
    maps = [dequantise(read_arrays(member.maps(split) / path.name)) for member in members]
    write_arrays(path, quantise(blend(maps, weights)))
