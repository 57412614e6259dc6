"""From configs to runs: which stages a run goes through, which runs it stands on, and running them."""

import importlib
import subprocess
import sys
from pathlib import Path

import yaml

from nuclei.config.load import load_config, run_name
from nuclei.config.schema import Config
from nuclei.runs.files import write_bytes
from nuclei.runs.layout import Options, Run
from nuclei.stages import ON_DEMAND, STAGES

CONFIG_FOLDERS = (
    "configs",
    "configs/systems",
    "configs/large",
    "ensembles",
)  # where members are looked for, from any folder above


def run_stage(stage: str, name: str, config: Config, options: Options, runs: Path) -> None:
    """Run one stage of the run `name`, with its complete config saved beside what it makes."""
    run = Run(name, runs)
    if not run.config.is_file():
        save_config(run, config)
    importlib.import_module(f"nuclei.stages.{stage}").main(run, config, options)
    # Only now: a stage that refuses other settings must not leave them beside the results of the old ones.
    save_config(run, config)


def save_config(run: Run, config) -> None:
    """Write the resolved, complete config of a run, a pydantic model."""
    write_bytes(run.config, yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False).encode())


def run_stages(name: str, config: Config, options: Options, runs: Path, left_out: tuple[str, ...] = ()) -> None:
    """Run all stages of one run but those `left_out`; what is up to date is passed over."""
    for stage in list_stages(config):
        if stage in left_out:
            continue
        if stage == "train" and options.devices > 1:
            # Each further device is a process that repeats the command line, so that must be this stage alone.
            train_alone(name, options, runs)
        else:
            run_stage(stage, name, config, options, runs)


def train_alone(name: str, options: Options, runs: Path) -> None:
    """Run the stage train in a process of its own, from the run's saved config; leave with its exit status if it fails."""
    path = Run(name, runs).config
    command = [
        sys.executable,
        "-m",
        "nuclei",
        "train",
        str(path),
        "--devices",
        str(options.devices),
        "--runs",
        str(runs),
    ]
    done = subprocess.run(command + ["--force"] * options.force + ["--published"] * options.published)
    if done.returncode:
        sys.exit(done.returncode)


def list_stages(config: Config) -> list[str]:
    """Return the stages that a run of this config goes through."""
    method = config.selection.method
    if method == "classical":
        left_out = {"train", "predict", "ensemble", "plain", "select"}
    else:
        left_out = {"classical", *(("train", "predict") if config.members else ("ensemble",))}
    if config.members or not config.train.pool:
        left_out |= {"crops"}
    if method != "scored":
        left_out |= {"candidates", "score"}
    return [stage for stage in STAGES if stage not in left_out and stage not in ON_DEMAND]


def list_runs(path: Path, above: tuple[str, ...] = ()) -> list[tuple[Path, Config]]:
    """Return a config's members and the run that its training goes on from, theirs before them, and the config itself.

    Raises ValueError on such a run whose config is not found, and on one that stands on itself.
    """
    config, found = load_config(path), []
    if run_name(path) in above:
        raise ValueError(f"{path} stands on itself, by way of {' -> '.join(above)}")
    for name in config.members or filter(None, [config.train.start]):
        found += list_runs(find_config(name, path), (*above, run_name(path)))
    return [*found, (path, config)]


def find_config(name: str, path: Path) -> Path:
    """Return the config of the run `name` that `path` stands on; raise ValueError saying where it was looked for."""
    roots = (*path.parents, Path())
    folders = [path.parent, *(root / folder for root in roots for folder in CONFIG_FOLDERS)]
    places = [folder / f"{name}.yaml" for folder in folders]
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        raise ValueError(
            f"{path}: no config of the run {name} that it names; looked for {', '.join(map(str, dict.fromkeys(places)))}"
        )
    return found
