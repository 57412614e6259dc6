"""From configs to runs: which stages a run goes through, which runs it depends on, and running them."""

import importlib
import subprocess
import sys
from pathlib import Path

import yaml

from nuclei.config.load import load_config, run_name
from nuclei.config.schema import Config
from nuclei.decoding.methods import METHODS, check_method, uses_networks
from nuclei.errors import UserError
from nuclei.runs.files import write_bytes
from nuclei.runs.layout import Options, Run
from nuclei.runs.stage_table import STAGES

# Where the configs of members are looked for, from any folder above.
CONFIG_FOLDERS = ("configs", "configs/systems", "configs/large", "configs/speed", "configs/speed/networks", "ensembles")
# The stages that a run skips, by what the nuclei of its method are made from (Method.needs).
SKIPPED = {
    "image": {"crops", "train", "predict", "ensemble", "plain", "candidates", "score", "select"},
    "maps": {"classical", "candidates", "score"},
    "detections": {"classical", "candidates", "score"},
    "candidates": {"classical"},
}


def load_run(path: str | Path) -> Config:
    """Load a run's config; raise UserError as `load_config` does, and naming the file, as `check_method` does."""
    config = load_config(path)
    try:
        check_method(config)
    except UserError as error:
        raise UserError(f"{path}:\n  {error}") from None
    return config


def check_run(config: Config, source: str) -> None:
    """Raise UserError naming `source` for anything in a config that would stop its run after hours of work.

    What is looked up here, encoders, losses, channels, recipes, features, needs libraries that take seconds to import.
    """
    from nuclei.candidates.features import feature_names
    from nuclei.decoding.classical import check_recipe
    from nuclei.networks.kinds import check_model
    from nuclei.networks.losses import check_losses
    from nuclei.training.augment import leave_out
    from nuclei.training.targets import check_channels

    try:
        check_recipe(config.classical)
        feature_names(config.scorer.leave_out)
        if uses_networks(config) and not config.members:
            check_model(config.model)
            check_channels((*config.model.channels, *config.train.channel_weights))
            check_losses(config.train.loss)
            leave_out(config.train.augment, config.train.leave_out)
    except UserError as error:
        raise UserError(f"{source}:\n  {error}") from None


def run_stage(stage: str, name: str, config: Config, options: Options, runs: Path) -> None:
    """Run one stage of the run `name`, with its complete config saved beside what it makes."""
    run = Run(name, runs)
    if not run.config.is_file():
        save_config(run, config)
    importlib.import_module(f"nuclei.stages.{stage}").main(run, config, options)
    # Only now: a stage that refuses other settings must not leave them beside the results of the old ones.
    save_config(run, config)


def save_config(run: Run, config: Config) -> None:
    """Write the resolved, complete config of a run."""
    write_bytes(run.config, yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False).encode())


def run_stages(name: str, config: Config, options: Options, runs: Path, skipped: tuple[str, ...] = ()) -> None:
    """Run all stages of one run but those `skipped`; what is up to date is not made again."""
    for stage in list_stages(config):
        if stage in skipped:
            continue
        if stage == "train" and options.devices > 1:
            # Each further device is a process that repeats the command line, so that must be this stage alone.
            train_alone(name, options, runs)
        else:
            run_stage(stage, name, config, options, runs)


def train_alone(name: str, options: Options, runs: Path) -> None:
    """Run the stage train in a process of its own, from the run's saved config; exit with its status if it fails."""
    command = [sys.executable, "-m", "nuclei", "train", str(Run(name, runs).config)]
    command += ["--devices", str(options.devices), "--runs", str(runs)]
    done = subprocess.run(command + ["--force"] * options.force + ["--published"] * options.published)
    if done.returncode:
        sys.exit(done.returncode)


def list_stages(config: Config) -> list[str]:
    """Return the stages that a run of this config goes through."""
    skipped = set(SKIPPED[METHODS[config.selection.method].needs])
    skipped |= {"train", "predict", "crops"} if config.members else {"ensemble"}
    if not config.train.pool:
        skipped |= {"crops"}
    return [name for name, entry in STAGES.items() if name not in skipped and not entry.on_demand]


def list_runs(path: Path, above: tuple[str, ...] = ()) -> list[tuple[Path, Config]]:
    """Return the configs that a run depends on (members, what its training starts and learns from) and its own, last.

    Raises UserError on such a run whose config is not found, on one that depends on itself, and as `check_run` does.
    """
    config, found = load_run(path), []
    check_run(config, str(path))
    if run_name(path) in above:
        raise UserError(f"{path} depends on itself, by way of {' -> '.join(above)}")
    for name in config.members or filter(None, [config.train.start, config.train.teacher]):
        found += list_runs(find_config(name, path), (*above, run_name(path)))
    return [*found, (path, config)]


def find_config(name: str, path: Path) -> Path:
    """Return the config of the run `name` that `path` depends on; raise UserError saying where it was looked for."""
    roots = (*path.parents, Path())
    folders = [path.parent, *(root / folder for root in roots for folder in CONFIG_FOLDERS)]
    places = [folder / f"{name}.yaml" for folder in folders]
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        looked = ", ".join(map(str, dict.fromkeys(places)))
        raise UserError(f"{path}: no config of the run {name} that it names; looked for {looked}")
    return found
