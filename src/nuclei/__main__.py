"""The command line: python -m nuclei STAGE CONFIG…"""

import importlib
import sys
from pathlib import Path
from typing import Annotated

import typer

from nuclei.config import Config, load_config
from nuclei.runs import Options, Run, save_config
from nuclei.stages import STAGES

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)

Configs = Annotated[list[Path], typer.Argument(help="YAML files of runs; a file's name is its run's name")]
Data = Annotated[Path, typer.Option(help="folder of the official archives, zips or extracted")]
Fold = Annotated[int | None, typer.Option(help="train this fold only")]
Devices = Annotated[int, typer.Option(help="GPUs, or CPU processes, to train on")]
Jobs = Annotated[int, typer.Option(help="processes of the stages that go image by image; -1: one per core")]
Runs = Annotated[Path, typer.Option(help="folder of all runs")]
Force = Annotated[bool, typer.Option("--force", help="replace what was made with other settings")]


def run_stage(name: str, run: Run, config: Config, options: Options) -> None:
    """Run one stage of one run, with the run's complete config saved beside what it makes."""
    save_config(run, config.model_dump(mode="json"))
    importlib.import_module(f"nuclei.stages.{name}").main(run, config, options)


def make_command(name: str):
    def command(configs: Configs, data: Data = Path("data"), fold: Fold = None, devices: Devices = 1,
                jobs: Jobs = -1, runs: Runs = Path("runs"), force: Force = False) -> None:
        options = Options(data, fold, devices, jobs, force)
        for path in configs:
            run_stage(name, Run(path.stem, runs), load_config(path), options)
    return command


for stage_name, stage_help in STAGES.items():
    app.command(stage_name, help=stage_help)(make_command(stage_name))


def main() -> None:
    try:
        app()
    except (ValueError, FileNotFoundError, ConnectionError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
