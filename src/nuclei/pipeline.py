"""From configs to runs: which stages a run goes through, which runs it depends on, and running them."""

import importlib
import subprocess
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from nuclei.config.load import load_config, run_name
from nuclei.config.schema import Config, check_run_name
from nuclei.decoding.methods import METHODS, check_method, uses_networks
from nuclei.errors import UserError
from nuclei.lifeline import ending_together
from nuclei.limits import read_whole
from nuclei.runs.backends import active_engine
from nuclei.runs.cache import RefusedError
from nuclei.runs.cores import use_threads
from nuclei.runs.files import remove_partial_files, write_bytes
from nuclei.runs.layout import Dataset, Options, Run
from nuclei.runs.locks import lock
from nuclei.runs.memory import keep_freed
from nuclei.runs.rehearsal import anything_foreseen, foresee, rehearsal
from nuclei.runs.stage_table import STAGES, stage_of

# Where the configs of members are looked for, from any folder above.
CONFIG_FOLDERS = ("configs", "configs/systems", "configs/large", "configs/speed", "configs/speed/networks", "ensembles")
# The stages that a run skips, by what the nuclei of its method are made from (Method.needs).
SKIPPED = {
    "image": {"novelty", "crops", "train", "predict", "ensemble", "plain", "candidates", "outside", "score", "select"},
    "maps": {"classical", "candidates", "outside", "score"},
    "detections": {"classical", "candidates", "outside", "score"},
    "candidates": {"classical"},
}


def load_run(path: str | Path, changes: Mapping[str, Any] | None = None) -> Config:
    """Load a run's config; raise UserError as `load_config` does, and naming the file, as `check_method` does."""
    config = load_config(path, changes)
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
        if config.selection.method == "labels" and not config.labels.folder.strip():
            raise UserError("labels.folder: name the folder of the other tool's label images")
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
    check_mark(run)
    save_config(run, config, replace=False)
    main = load_stage(stage)
    use_threads(options.threads)
    keep_freed()
    main(run, config, options)
    # Only now: a stage that refuses other settings must not leave them beside the results of the old ones.
    save_config(run, config)


def load_stage(stage: str) -> Callable[[Run, Config, Options], None]:
    """Import a stage and return its function."""
    main: Callable[[Run, Config, Options], None] = importlib.import_module(f"nuclei.stages.{stage}").main
    return main


def save_config(run: Run, config: Config, replace: bool = True) -> None:
    """Write the resolved, complete config of a run, unless there is one and it is not to be replaced.

    What killed processes left of such a file is removed: the lock says that no other is writing it.
    """
    with lock(run.meta("config"), f"{run.name} config"):
        remove_partial_files([run.config])
        if run.config.is_file() and not replace:
            return
        content = yaml.dump(config.model_dump(mode="json"), Dumper=yaml.CSafeDumper, sort_keys=False).encode()
        if not run.config.is_file() or read_whole(run.config) != content:
            write_bytes(run.config, content)


def check_mark(run: Run) -> None:
    """Raise UserError if the folder of a run has files, but nothing that says that they are a run's.

    Stages remove what unfinished ones left in it: none of a folder that has only the name of a run.
    """
    if run.config.is_file() or run.meta("x").parent.is_dir() or not run.folder.is_dir():
        return
    if others := sorted(path for path in run.folder.iterdir() if not path.name.startswith(".")):
        raise UserError(
            f"{run.folder} is not the folder of a run, for it has {others[0].name} and no config.yaml: give the config "
            "another name, or move the folder away"
        )


def run_plan(plan: Mapping[str, Config], options: Options, runs: Path) -> None:
    """Run all stages of the runs of a plan, each after what it needs; what is up to date is not made again.

    Where networks are trained side by side, those of all folds of all runs are that do not wait for each other, before
    the stages after training: a run without folds of its own to wait for would leave workers idle.
    """
    early: dict[str, list[str]] = {}
    if options.parallel != 1 or active_engine():
        stages = {name: list_stages(config) for name, config in plan.items()}
        early = {name: found[: found.index("train") + 1] for name, found in stages.items() if "train" in found}
        train_all(plan, early, options, runs)
    for name, config in plan.items():
        run_stages(name, config, options, runs, skipped=tuple(early.get(name, ())))


def train_all(plan: Mapping[str, Config], stages: Mapping[str, Sequence[str]], options: Options, runs: Path) -> None:
    """Run the stages of runs up to training, and train the networks of all folds of runs that need none of the others.

    stages: of the runs of the plan that train. The pool of crops of a run is made when its first network is next, while
    those of the runs before it train.
    """
    from nuclei.stages.train import list_folds, train_together

    pooled = {name for name in stages if "crops" in stages[name]}

    def make_crops(run: Run, config: Config) -> None:
        if run.name in pooled:
            pooled.remove(run.name)
            run_stage("crops", run.name, config, options, runs)

    for wave in order_waves({name: list_needed(name, plan) for name in stages}):
        for name in wave:
            for stage in stages[name]:
                if stage not in ("crops", "train"):
                    run_stage(stage, name, plan[name], options, runs)
        of_wave = [(Run(name, runs), plan[name]) for name in wave]
        networks = [(run, config, fold) for run, config in of_wave for fold in list_folds(run, config, options)]
        train_together(networks, options, make_crops)


def list_needed(name: str, plan: Mapping[str, Config]) -> set[str]:
    """Return the runs of a plan whose networks one of them starts from or learns from."""
    train = plan[name].train
    taught = plan.get(str(train.teacher))
    return {str(train.start), str(train.teacher), *(taught.members if taught else ())} & plan.keys()


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


def rehearse(plan: Mapping[str, Config], options: Options, runs: Path) -> None:
    """Say what `run_stages` would do for each run of a plan, stage by stage and why, and write nothing.

    Raises what stops a run, unless it lacks no more than stages before it would make.
    """
    open_ended: dict[str, str] = {}  # run -> what is not there yet, and decides about its stages from one on
    with rehearsal():
        for name, config in plan.items():
            run, data = Run(name, runs), Dataset(config.data, runs).meta.parent
            needs = [open_ended[one] for one in (*config.members, config.train.start) if one in open_ended]
            for stage in list_stages(config):
                reason = open_ended.get(name, "")
                if not reason and STAGES[stage].time != "data":
                    reason = "the data, which would change" if anything_foreseen(data) else "".join(needs[:1])
                if not reason:
                    try:
                        main = load_stage(stage)
                        use_threads(options.threads)  # which are part of what a training leaves
                        main(run, config, options)
                        continue
                    except (UserError, OSError) as error:
                        if isinstance(error, RefusedError) or not anything_foreseen():
                            raise
                        reason = "the stages above"
                open_ended.setdefault(name, f"{name} {stage}" if reason == "the stages above" else reason)
                made = any(stage_of(meta.stem) == stage for meta in run.meta(stage).parent.glob("*.json"))
                certain = "would run (not made yet)" if not made else "would run (--force)" if options.force else ""
                print(f"{name} {stage}: {certain or f'depends on {reason}'}", flush=True)
            if anything_foreseen():
                foresee(run.config, config.model_dump(mode="json"))


def train_alone(name: str, options: Options, runs: Path) -> None:
    """Run the stage train in a process of its own, from the run's saved config; exit with its status if it fails."""
    command = [sys.executable, "-m", "nuclei", "train", str(Run(name, runs).config)]
    command += ["--devices", str(options.devices), "--runs", str(runs)]
    with ending_together():
        done = subprocess.run(command + ["--force"] * options.force + ["--published"] * options.published)
    if done.returncode:
        sys.exit(done.returncode)


def list_stages(config: Config) -> list[str]:
    """Return the stages that a run of this config goes through."""
    skipped = set(SKIPPED[METHODS[config.selection.method].needs])
    skipped |= {"train", "predict", "crops"} if config.members else {"ensemble"}
    if not config.train.pool:
        skipped |= {"crops"}
    if not config.scorer.outside:
        skipped |= {"outside"}
    if ("train" in skipped and "outside" in skipped) or not config.data.external_sets():
        skipped |= {"external"}
    return [name for name, entry in STAGES.items() if name not in skipped and not entry.on_demand]


def order_waves(needs: Mapping[str, Collection[str]]) -> list[list[str]]:
    """Return the names in waves, each of which needs only those of the waves before it; other names are no need.

    Raises ValueError if some wait for each other.
    """
    waves: list[list[str]] = []
    left = list(needs)
    while left:
        wave = [name for name in left if not set(needs[name]) & set(left)]
        if not wave:
            raise ValueError(f"these runs wait for each other: {', '.join(left)}")
        waves.append(wave)
        left = [name for name in left if name not in wave]
    return waves


def choose_name(paths: Sequence[Path], name: str | None) -> list[str]:
    """Return the names of the runs of configs: their files' names or, if one is given, that name of the only one.

    Raises UserError if it is given for several, or cannot be a name.
    """
    if name is None:
        return [run_name(path) for path in paths]
    if len(paths) != 1:
        raise UserError(f"--name {name}: it names one run, and {len(paths)} configs are given")
    try:
        return [check_run_name(name)]
    except ValueError as error:
        raise UserError(f"--name {error}") from None


def plan_runs(paths: Sequence[Path], changes: Mapping[str, Any], name: str | None) -> dict[str, Config]:
    """Return name -> config of the runs of config files and of all that they depend on, each after what it needs.

    changes: settings of the files that are named; those that they depend on are made as their own files say. Raises
    UserError as `list_runs` and `choose_name` do, and if the name is that of a run that this one depends on.
    """
    plan: dict[str, Config] = {}
    own: dict[str, Config] = {}
    for chosen, path in zip(choose_name(paths, name), paths, strict=True):
        *below, (_, config) = list_runs(path, changes)
        needed = {run_name(file): one for file, one in below}
        if chosen in needed:
            raise UserError(f"--name {chosen}: {path} depends on the run of that name")
        plan = {**needed, **plan, chosen: config}
        own[chosen] = config
    return plan | own


def list_runs(
    path: Path, changes: Mapping[str, Any] | None = None, above: tuple[str, ...] = ()
) -> list[tuple[Path, Config]]:
    """Return the configs that a run depends on (members, what its training starts and learns from) and its own, last.

    changes: as `load_config` takes them, of the run itself. Raises UserError on such a run whose config is not found,
    on one that depends on itself, and as `check_run` does.
    """
    config, found = load_run(path, changes), []
    check_run(config, str(path))
    if run_name(path) in above:
        raise UserError(f"{path} depends on itself, by way of {' -> '.join(above)}")
    for name in config.members or filter(None, [config.train.start, config.train.teacher]):
        found += list_runs(find_config(name, path), None, (*above, run_name(path)))
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
