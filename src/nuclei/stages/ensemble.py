"""Maps of the members -> maps/{oof,test} of the ensemble, their weighted average."""

from pathlib import Path

import yaml
from joblib import Parallel, delayed
from tqdm import tqdm

from nuclei import runs
from nuclei.blend import blend, dequantise, quantise
from nuclei.config import Config, parse_config


def main(run: runs.Run, config: Config, options: runs.Options) -> None:
    if not config.members:
        raise ValueError(f"{run.name} has no members: it trains, and only an ensemble averages maps")
    dataset = runs.Dataset(config.data.dataset, run.folder.parent)
    members = [runs.Run(name, run.folder.parent) for name in config.members]
    folds = runs.file_hash(Path(config.data.folds))
    inputs = {"data": runs.fingerprint(dataset.meta), "folds": folds}
    for member in members:
        check_member(member, config, folds)
        inputs[member.name] = runs.maps_fingerprint(member)
    with runs.stage(run.meta("ensemble"), {"members": config.members}, inputs, [run.folder / "maps"],
                    options.force) as needed:
        if not needed:
            return
        for split, image_ids in dataset.splits(Path(config.data.folds)).items():
            tasks = (delayed(blend_one)(run, members, list(config.members.values()), split, i) for i in image_ids)
            results = Parallel(options.jobs, return_as="generator_unordered")(tasks)
            for _ in tqdm(results, f"{run.name} ensemble {split}", len(image_ids), unit="image", mininterval=2):
                pass


def check_member(member: runs.Run, config: Config, folds: str) -> None:
    """Raise StageError if a member has no maps yet, or has those of other data or of other folds."""
    meta = runs.read_json(runs.maps_meta(member))
    dataset = parse_config(yaml.safe_load(member.config.read_text()), str(member.config)).data.dataset
    if dataset != config.data.dataset:
        raise runs.StageError(f"member {member.name} is of the data {dataset}, the ensemble of {config.data.dataset}")
    if meta["inputs"]["folds"] != folds:
        raise runs.StageError(
            f"member {member.name} was trained on other folds than {config.data.folds}: its out-of-fold maps would "
            "leak into the ensemble's. Retrain it on these folds, or leave it out"
        )


def blend_one(run: runs.Run, members: list[runs.Run], weights: list[float], split: str, image_id: str) -> None:
    """Average the maps of one image over the members and write them."""
    path = run.maps(split) / f"{image_id}.npz"
    if path.is_file():  # by a run that was killed
        return
    maps = [dequantise(runs.read_arrays(member.maps(split) / path.name)) for member in members]
    runs.write_arrays(path, quantise(blend(maps, weights)))
