"""The command line: python -m nuclei STAGE CONFIG…"""

import importlib
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from nuclei.config import Config, load_config
from nuclei.demo import write_demo
from nuclei.runs import Options, Run, save_config
from nuclei.stages import ON_DEMAND, STAGES

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)

Configs = Annotated[list[Path], typer.Argument(help="YAML files of runs; a file's name is its run's name")]
Data = Annotated[Path, typer.Option(help="folder of the official archives, zips or extracted")]
Fold = Annotated[int | None, typer.Option(help="train this fold only")]
Devices = Annotated[int, typer.Option(help="GPUs, or CPU processes, to train on")]
Jobs = Annotated[int, typer.Option(help="processes of the stages that go image by image; -1: one per core")]
Runs = Annotated[Path, typer.Option(help="folder of all runs")]
Force = Annotated[bool, typer.Option("--force", help="replace what was made with other settings")]


def run_stage(name: str, path: Path, config: Config, options: Options, runs: Path) -> None:
    """Run one stage of one run, with the run's complete config saved beside what it makes."""
    run = Run(path.stem, runs)
    if not run.config.is_file():
        save_config(run, config)
    importlib.import_module(f"nuclei.stages.{name}").main(run, config, options)
    # Only now: a stage that refuses other settings must not leave them beside the results of the old ones.
    save_config(run, config)


def list_stages(config: Config) -> list[str]:
    """Return the stages that a run of this config goes through."""
    left_out = {*ON_DEMAND, *(("train", "predict") if config.members else ("ensemble",))}
    if config.selection.method != "scored":
        left_out |= {"candidates", "score"}
    return [name for name in STAGES if name not in left_out]


def list_runs(path: Path, above: tuple[str, ...] = ()) -> list[tuple[Path, Config]]:
    """Return a config's members, theirs before them, and the config itself.

    Raises ValueError on a member whose config is not found, and on a run that is a member of itself.
    """
    config, found = load_config(path), []
    if path.stem in above:
        raise ValueError(f"{path} is a member of itself, by way of {' -> '.join(above)}")
    for name in config.members:
        folders = (path.parent, path.parent.parent / "configs", Path("configs"))
        places = [folder / f"{name}.yaml" for folder in folders]
        member = next((place for place in places if place.is_file()), None)
        if member is None:
            raise ValueError(f"{path}: no config of the member {name}; looked for {', '.join(map(str, places))}")
        found += list_runs(member, (*above, path.stem))
    return [*found, (path, config)]


def make_command(name: str):
    """Return the command of one stage, which takes configs and runs that stage of each."""
    def command(configs: Configs, data: Data = Path("data"), fold: Fold = None, devices: Devices = 1,
                jobs: Jobs = -1, runs: Runs = Path("runs"), force: Force = False) -> None:
        options = Options(data, fold, devices, jobs, force)
        for path in configs:
            run_stage(name, path, load_config(path), options, runs)
    return command


for stage_name, stage_help in STAGES.items():
    app.command(stage_name, help=stage_help)(make_command(stage_name))


@app.command()
def run(configs: Configs, data: Data = Path("data"), devices: Devices = 1, jobs: Jobs = -1,
        runs: Runs = Path("runs"), force: Force = False) -> None:
    """Run all stages of configs or ensembles, members first; what is up to date is passed over."""
    options = Options(data, None, devices, jobs, force)
    plan = dict(entry for path in configs for entry in list_runs(path))
    for path, config in plan.items():
        for name in list_stages(config):
            if name == "train" and devices > 1:
                # Each further device is a process that repeats the command line, so that must be this stage alone.
                train_alone(path, options, runs)
            else:
                run_stage(name, path, config, options, runs)
    for path in configs:
        finished = Run(path.stem, runs)
        typer.echo(f"submission: {finished.submission('test')}\nreport: {finished.report / 'report.html'}")


def train_alone(path: Path, options: Options, runs: Path) -> None:
    """Run the stage train in a process of its own; leave with its exit status if it fails."""
    command = [sys.executable, "-m", "nuclei", "train", str(path), "--devices", str(options.devices), "--runs", str(runs)]
    done = subprocess.run(command + ["--force"] * options.force)
    if done.returncode:
        sys.exit(done.returncode)


@app.command()
def demo(data: Data = Path("runs/demo_archives"), n_train: int = 36, n_test: int = 12, size: int = 256,
         seed: int = 2018) -> None:
    """Write archives of synthetic nuclei in the official layout, with the truth of their test images."""
    if (data / "stage1_solution.csv").is_file():  # written last
        typer.echo(f"demo: up to date ({data})")
        return
    write_demo(data, n_train, n_test, size, seed)
    typer.echo(f"demo: {n_train} training and {n_test} test images -> {data}")


def main() -> None:
    try:
        app()
    except (ValueError, FileNotFoundError, ConnectionError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
