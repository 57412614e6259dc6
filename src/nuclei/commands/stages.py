"""A command for each stage of a run."""

from collections.abc import Callable
from pathlib import Path

from nuclei.commands.app import STAGES_OF_A_RUN, app
from nuclei.commands.options import (
    Configs,
    Data,
    Devices,
    Fold,
    Force,
    Jobs,
    NewName,
    Parallel,
    Published,
    Runs,
    Settings,
    count_parallel,
    fans_out,
    in_folder,
)
from nuclei.runs.backends import Cluster
from nuclei.runs.stage_table import STAGES


def add_stages() -> None:
    """Add the commands of all stages to the app; `report`, which tabulates as well, has one of its own."""
    for name, entry in STAGES.items():
        if name != "report":
            app.command(name, help=entry.help, rich_help_panel=STAGES_OF_A_RUN)(make_command(name))


def make_command(name: str) -> Callable[..., None]:
    """Return the command of one stage, which takes configs and runs that stage of each."""

    @fans_out
    def command(
        configs: Configs,
        cluster: Cluster,
        data: Data = Path("data"),
        fold: Fold = None,
        devices: Devices = 1,
        parallel: Parallel = "1",
        jobs: Jobs = -1,
        runs: Runs = Path("runs"),
        force: Force = False,
        published: Published = False,
        settings: Settings = None,
        new_name: NewName = None,
    ) -> None:
        from nuclei.config.load import parse_changes
        from nuclei.pipeline import choose_name, load_run, run_stage
        from nuclei.runs.backends import fan_out
        from nuclei.runs.layout import Options

        beside = count_parallel(parallel, devices)
        options = Options(data, fold, devices, jobs, force, published, parallel=beside)
        changes = parse_changes(settings or ())
        chosen = [
            (run, load_run(path, changes)) for path, run in zip(configs, choose_name(configs, new_name), strict=True)
        ]
        with fan_out(in_folder(cluster, runs)):
            for run, config in chosen:
                run_stage(name, run, config, options, runs)

    return command
