"""Options that commands share, and what is made of them."""

import functools
import inspect
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from nuclei.errors import UserError
from nuclei.runs.backends import ARRAY_TASKS, BACKENDS, Cluster, check_cluster


def check_finite(value: float | None) -> float | None:
    """Return an option's number; raise BadParameter on nan and inf, which no range of typer's keeps out."""
    if value is not None and not math.isfinite(value):
        raise typer.BadParameter(f"{value} is not a finite number")
    return value


Configs = Annotated[list[Path], typer.Argument(help="YAML files of runs; a file's name is its run's name")]
Data = Annotated[Path, typer.Option(help="folder of the official archives, zips or extracted")]
Fold = Annotated[int | None, typer.Option(help="train this fold only")]
Devices = Annotated[int, typer.Option(min=1, help="GPUs, or CPU processes, to train on")]
Jobs = Annotated[
    int,
    typer.Option(
        help="images worked on side by side: processes of this machine; with --backend the workers that dask or ray "
        f"start here, or the array tasks of slurm that run at once. -1: one per core that may be used, of which the "
        f"variable NUCLEI_THREADS gives another number; of slurm {ARRAY_TASKS}"
    ),
]
Runs = Annotated[Path, typer.Option(help="folder of all runs")]
RunName = Annotated[str, typer.Argument(metavar="RUN", help="name of a finished run")]
Publish = Annotated[bool, typer.Option("--publish", help="also put the table into ensembles/ and its README file")]
Published = Annotated[
    bool,
    typer.Option(
        "--published", help="take networks of ensembles/ that were trained with the same settings, instead of training"
    ),
]
Force = Annotated[bool, typer.Option("--force", help="replace what was made with other settings")]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="change a setting of the named configs, as in --set train.steps=100, the value in YAML; may be repeated",
    ),
]
NewName = Annotated[
    str | None, typer.Option("--name", help="name of the run that is made", show_default="the config's file name")
]
Parallel = Annotated[
    str,
    typer.Option(
        help="networks trained side by side on this machine, folds and members alike, each in a process of its own; "
        "auto: as many as fit into the GPU's memory, which a few steps measure, or onto the cores by their threads"
    ),
]
CLUSTER = "Many machines"  # the panel of --help


def cluster_options(
    backend: Annotated[
        str,
        typer.Option(
            rich_help_panel=CLUSTER,
            help="where images, folds and members are worked on side by side: "
            + "; ".join(f"{name}: {entry.help}" for name, entry in BACKENDS.items())
            + ". All need a folder that every machine sees under the same path: stages talk through files, and an "
            "object store will do only where it is mounted",
        ),
    ] = "loky",
    address: Annotated[
        str | None,
        typer.Option(rich_help_panel=CLUSTER, help="scheduler of a running Dask or Ray cluster, or auto for Ray's own"),
    ] = None,
    gpus: Annotated[
        int | None,
        typer.Option(
            min=0,
            rich_help_panel=CLUSTER,
            help="GPUs asked for each task that trains or applies networks",
            show_default="1 where dask or ray has any, 0 of slurm",
        ),
    ] = None,
    partition: Annotated[str | None, typer.Option(rich_help_panel=CLUSTER, help="of slurm")] = None,
    minutes: Annotated[
        int,
        typer.Option(
            "--time",
            min=1,
            rich_help_panel=CLUSTER,
            help="minutes that a task of slurm may take; one that is cut off is submitted again, and resumes",
        ),
    ] = 240,
    sbatch: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=VALUE",
            rich_help_panel=CLUSTER,
            help="any other option of sbatch, as in --sbatch account=lab --sbatch mem=16G; may be repeated",
        ),
    ] = None,
) -> None:
    """Hold the options of a cluster, which `fans_out` adds to a command."""


def fans_out(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options of a cluster to a command that takes `cluster`, and give it the Cluster made of them."""
    own = inspect.signature(command, eval_str=True).parameters
    added = inspect.signature(cluster_options, eval_str=True).parameters

    @functools.wraps(command)
    def wrapper(**values: Any) -> None:
        chosen = {key: values.pop(key, parameter.default) for key, parameter in added.items()}
        command(**values, cluster=make_cluster(jobs=values.get("jobs", -1), **chosen))

    parameters = [one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in (*own.values(), *added.values())]
    parameters = [one for one in parameters if one.name != "cluster"]
    wrapper.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    wrapper.__annotations__ = {one.name: one.annotation for one in parameters}
    return wrapper


def make_cluster(
    jobs: int,
    backend: str,
    address: str | None,
    gpus: int | None,
    partition: str | None,
    minutes: int,
    sbatch: list[str] | None,
) -> Cluster:
    """Return the cluster that options describe; raise UserError on what does not go together."""
    pairs = [text.partition("=") for text in sbatch or ()]
    if wrong := [text for text, (_, sign, _) in zip(sbatch or (), pairs, strict=True) if not sign]:
        raise UserError(f"--sbatch {wrong[0]}: write it as KEY=VALUE, without the dashes of sbatch")
    workers = 1
    if backend == "slurm" and jobs == -1:
        workers = ARRAY_TASKS
    elif backend not in ("loky", "sequential") and address is None:
        from nuclei.runs.cores import count_jobs

        workers = count_jobs(jobs)
    options = tuple((key.strip(), value.strip()) for key, _, value in pairs)
    cluster = Cluster(backend, workers, address, gpus, partition, minutes, options)
    check_cluster(cluster)
    return cluster


def count_parallel(text: str, devices: int) -> int:
    """Return how many networks --parallel asks for, 0 for auto; raise UserError if it is no number from 1."""
    n = 0 if text == "auto" else int(text) if text.isascii() and text.isdecimal() else -1
    if n < 0 or text == "0":
        raise UserError(f"--parallel {text}: give the number of networks trained side by side, or auto")
    if n != 1 and devices > 1:
        raise UserError("--devices trains one network on several GPUs: --parallel does not go with it")
    return n


def in_folder(cluster: Cluster, folder: Path) -> Cluster:
    """Return a cluster that keeps what it writes of tasks below a folder."""
    return replace(cluster, folder=folder / ".jobs")


def show_scripts(cluster: Cluster, helpers: int = 0) -> None:
    """Print what SLURM would be given: arrays of images, and of networks to train, which have `helpers` processes."""
    if cluster.backend != "slurm":
        return
    from nuclei.runs.backends import Needs
    from nuclei.runs.slurm import write_script

    for what, needs in (("images", Needs()), ("networks, one task each", Needs(helpers=helpers, networks=True))):
        typer.echo(f"\n# An array of {what}, as it would be submitted\n{write_script(cluster, needs, cluster.workers)}")
