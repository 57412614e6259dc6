"""Maps of the members -> maps/{oof,test} of the ensemble, their weighted average; those of a single member as they are."""

from pathlib import Path

import yaml
from joblib import Parallel, delayed
from tqdm import tqdm

from nuclei.config.load import parse_config
from nuclei.config.schema import Config
from nuclei.data.folds import match_folds
from nuclei.networks.maps import blend, dequantise, quantise
from nuclei.runs.cache import StageError, link_outputs, stage
from nuclei.runs.files import file_hash, read_arrays, read_json, read_table, write_arrays
from nuclei.runs.layout import Dataset, Options, Run, find_fingerprint, find_meta


def main(run: Run, config: Config, options: Options) -> None:
    if not config.members:
        raise ValueError(f"{run.name} has no members: it trains, and only an ensemble averages maps")
    dataset = Dataset(config.data, run.folder.parent)
    members = [Run(name, run.folder.parent) for name in config.members]
    inputs = dataset.inputs()
    for member in members:
        check_member(member, config, inputs["folds"])
    inputs |= {member.name: find_fingerprint(member, "maps") for member in members}
    alone = members[0] if len(members) == 1 else None
    settings = {"members": config.members, "images": dataset.choice()}
    outputs = [run.folder / "maps", run.folder / "detections"]
    with stage(
        run.meta("ensemble"),
        settings,
        inputs,
        outputs,
        options.force,
        same_as=alone and find_fingerprint(alone, "maps"),
    ) as needed:
        if not needed:
            return
        if alone:
            link_outputs(outputs, run.folder, alone.folder)
            return
        for split, image_ids in dataset.splits().items():
            tasks = (delayed(blend_one)(run, members, list(config.members.values()), split, i) for i in image_ids)
            results = Parallel(options.jobs, return_as="generator_unordered")(tasks)
            for _ in tqdm(results, f"{run.name} ensemble {split}", len(image_ids), unit="image", mininterval=2):
                pass


def check_member(member: Run, config: Config, folds: str) -> None:
    """Raise StageError if a member has no maps yet, or has those of other data or of other folds."""
    meta = read_json(find_meta(member, "maps"))
    data = parse_config(yaml.safe_load(member.config.read_text()), str(member.config)).data
    for key in ("dataset", "only_folds", "unseen"):
        ours, theirs = getattr(config.data, key), getattr(data, key)
        if ours != theirs:
            raise StageError(
                f"member {member.name} has data.{key} {theirs}, the ensemble {ours}: they must be the same"
            )
    if meta["inputs"]["folds"] == folds:
        return
    try:  # finer folds will do: each network of the member has seen no less of the other folds, and nothing of its own
        if meta["inputs"]["folds"] != file_hash(Path(data.folds)):
            raise ValueError(f"{data.folds} has changed since")
        match_folds(read_table(Path(data.folds)), read_table(Path(config.data.folds)))
    except (ValueError, OSError) as error:
        raise StageError(
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
