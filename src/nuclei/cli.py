"""Find every nucleus in a microscope image. Each command explains itself: nuclei COMMAND --help."""

import functools
import inspect
import json
import math
import re
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from nuclei.errors import UserError, explain_os_error
from nuclei.runs.backends import ARRAY_TASKS, BACKENDS, Cluster, check_cluster
from nuclei.runs.stage_table import STAGES

LESS_MEMORY = "use fewer processes by --jobs or, to train, a smaller train.batch_size or train.crop_px"
REPORT = (
    "This is a fault of the program, not of yours. Please report it with the lines above, the command, and the "
    "output of `git rev-parse HEAD` and `pip list`."
)


# Signals that ask a process to end: of the system or a scheduler, and of a terminal that was closed.
ENDINGS = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
_EMPTY_OPTION = re.compile(r"--[a-z-]+=\s*")


class Commands(TyperGroup):
    """The commands; of their errors none is left to typer, which says nothing but «Aborted.» of some."""

    def invoke(self, ctx: Any) -> Any:
        """Run a command; an interrupt ends the process, and the end of a damaged file is an error as any other."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            end(130, "interrupted")
        except EOFError as error:
            raise RuntimeError("a file ended where more was expected") from error


# What a command needs is imported when it is called, after its arguments are checked: torch alone takes seconds, for
# which nobody waits at --help, or at a path that does not exist.
app = typer.Typer(
    cls=Commands, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__
)


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


for stage_name, entry in STAGES.items():
    if stage_name != "report":
        app.command(stage_name, help=entry.help)(make_command(stage_name))


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


@app.command()
def report(
    configs: Configs,
    runs: Runs = Path("runs"),
    force: Force = False,
    publish: Publish = False,
    settings: Settings = None,
    new_name: NewName = None,
) -> None:
    """Write a report of each run, and tabulate all of them beside the systems of the field."""
    from nuclei.experiments.leaderboard import compare_runs
    from nuclei.pipeline import choose_name
    from nuclei.report.terminal import print_table
    from nuclei.runs.layout import comparison

    make_command("report")(configs=configs, runs=runs, force=force, settings=settings, new_name=new_name)
    print_table(compare_runs(choose_name(configs, new_name), runs))
    typer.echo(f"leaderboard: {comparison(runs, 'leaderboard').with_suffix('.html')}")
    if publish:
        publish_comparison(runs, "leaderboard")


def publish_comparison(runs: Path, kind: str) -> None:
    """Put a table that compares runs into ensembles/ and its README file."""
    from nuclei.experiments.leaderboard import publish

    typer.echo(f"published: {' and '.join(map(str, publish(runs, kind)))}")


@app.command()
@fans_out
def run(
    configs: Configs,
    cluster: Cluster,
    data: Data = Path("data"),
    devices: Devices = 1,
    parallel: Parallel = "1",
    jobs: Jobs = -1,
    runs: Runs = Path("runs"),
    force: Force = False,
    published: Published = False,
    settings: Settings = None,
    new_name: NewName = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="say which stages would run, and why, and with --backend slurm show the scripts; write nothing, "
            "submit nothing",
        ),
    ] = False,
) -> None:
    """Run all stages of configs or ensembles, members first; what is up to date is skipped."""
    from nuclei.config.load import parse_changes
    from nuclei.pipeline import choose_name, plan_runs, rehearse, run_plan
    from nuclei.runs.backends import fan_out
    from nuclei.runs.layout import Options, Run

    options = Options(data, None, devices, jobs, force, published, parallel=count_parallel(parallel, devices))
    plan, cluster = plan_runs(configs, parse_changes(settings or ()), new_name), in_folder(cluster, runs)
    if dry_run:
        rehearse(plan, options, runs)
        show_scripts(cluster, max((config.train.workers for config in plan.values()), default=0))
        return
    with fan_out(cluster):
        run_plan(plan, options, runs)
    for name in choose_name(configs, new_name):
        finished = Run(name, runs)
        typer.echo(f"submission: {finished.submission('test')}\nreport: {finished.report / 'report.html'}")


@app.command()
@fans_out
def ablate(
    configs: Annotated[list[Path], typer.Argument(help="ablations, each a YAML file with `base:`, or folders of them")],
    cluster: Cluster,
    data: Data = Path("data"),
    seeds: Annotated[int, typer.Option(min=1, help="repetitions with other seeds")] = 1,
    workers: Annotated[
        int, typer.Option(min=1, help="runs made side by side, each a task of the backend; of each, --jobs images")
    ] = 1,
    devices: Devices = 1,
    jobs: Jobs = -1,
    runs: Runs = Path("runs"),
    force: Force = False,
    publish: Publish = False,
    published: Published = False,
    settings: Settings = None,
) -> None:
    """Run what is missing of ablations and their bases, and tabulate what each change gains over its base."""
    from nuclei.config.load import parse_changes
    from nuclei.experiments.ablate import ablate as run_ablations
    from nuclei.report.comparisons import gains_table
    from nuclei.report.terminal import print_table
    from nuclei.runs.files import read_table
    from nuclei.runs.layout import Options, comparison

    options = Options(data, None, devices, jobs, force, published)
    changes = parse_changes(settings or ())
    cluster = in_folder(replace(cluster, workers=workers), runs)
    failed = run_ablations(configs, seeds, options, runs, cluster, changes)
    path = comparison(runs, "ablations")
    print_table(gains_table(read_table(path)))
    typer.echo(f"ablations: {path.with_suffix('.html')}")
    if publish:
        publish_comparison(runs, "ablations")
    if failed:
        lines = [f"{name}: {error}" for name, error in failed.items()]
        raise UserError("\n  ".join(["these runs failed and are not in the table:", *lines]))


@app.command()
def climb(
    steps: Annotated[
        list[str],
        typer.Argument(metavar="RUN[:METHOD]...", help="adopted steps in their order: a run, or one of its decodings"),
    ],
    runs: Runs = Path("runs"),
    publish: Publish = False,
) -> None:
    """Tabulate the steps that led to the best run: score, gain over the step before, what training took."""
    from nuclei.experiments.climb import climb as tabulate
    from nuclei.report.terminal import print_table
    from nuclei.runs.layout import comparison

    print_table(tabulate(steps, runs))
    typer.echo(f"climb: {comparison(runs, 'climb').with_suffix('.html')}")
    if publish:
        publish_comparison(runs, "climb")


@app.command("list")
def list_runs(
    names: Annotated[list[str] | None, typer.Argument(metavar="[RUN]...", help="these runs only")] = None,
    runs: Runs = Path("runs"),
    as_json: Annotated[bool, typer.Option("--json", help="everything, as JSON")] = False,
) -> None:
    """List the runs: which stages are finished, running or stopped, the score, the size on the disk."""
    from nuclei.experiments.overview import as_records, list_overviews, overview_table
    from nuclei.report.terminal import print_table

    found = list_overviews(runs, names or ())
    if as_json:
        typer.echo(json.dumps(as_records(found), indent=1))
    elif found:
        print_table(overview_table(found))
    else:
        typer.echo(f"no runs in {runs}")


@app.command()
def compare(
    first: Annotated[str, typer.Argument(metavar="RUN", help="name of a finished run")],
    second: Annotated[str, typer.Argument(metavar="RUN", help="name of another, on the same images")],
    runs: Runs = Path("runs"),
) -> None:
    """Compare two finished runs image by image: gains by type, and the images that changed most, side by side."""
    from nuclei.experiments.pair import compare_pair
    from nuclei.report.terminal import print_table

    table, page = compare_pair(first, second, runs)
    print_table(table)
    typer.echo(f"comparison: {page}")


@app.command("predict-images")
@fans_out
def predict_images(
    images: Annotated[
        list[Path],
        typer.Argument(help="images (PNG, JPEG, BMP, WebP, TIFF, OME-TIFF, CZI, …), folders, or stage1_test.zip"),
    ],
    cluster: Cluster,
    weights: Annotated[
        Path | None,
        typer.Option(
            help="folder of a published ensemble, or of a finished run in runs/", show_default="the published ensemble"
        ),
    ] = None,
    fast: Annotated[
        bool,
        typer.Option("--fast", help="one network, applied once, instead of four: faster, a little less exact"),
    ] = False,
    output: Annotated[Path, typer.Option(help="folder to write to")] = Path("nuclei_of_images"),
    submission: Annotated[Path | None, typer.Option(help="also write a submission of all the images")] = None,
    channel: Annotated[
        str | None, typer.Option(help="channel with the nuclei, by its name or its number from 0")
    ] = None,
    plane: Annotated[
        str | None, typer.Option(help="plane of a z-stack, by its number from 0; max: the maximum of all, the default")
    ] = None,
    series: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="the one image wanted of a file with several (OME-TIFF, LIF), by its number from 0",
            show_default="all",
        ),
    ] = None,
    normalise: Annotated[
        bool,
        typer.Option(
            "--normalise/--no-normalise",
            help="spread the values between percentiles 1 and 99.8 over 0..255 where an image is not of 8 bits",
        ),
    ] = True,
    pixel_size: Annotated[
        float | None,
        typer.Option(min=1e-6, callback=check_finite, help="side of a pixel in µm, instead of what the files say"),
    ] = None,
    diameter: Annotated[
        str | None,
        typer.Option(
            help="typical diameter of your nuclei in pixels, or auto to estimate it: brings images to the size that "
            "the networks learned",
            show_default="images as they are",
        ),
    ] = None,
    recursive: Annotated[bool, typer.Option("--recursive", help="look into nested folders, too")] = False,
    tile: Annotated[
        int | None,
        typer.Option(
            help="side in pixels of the tiles that a larger image is cut into, so that memory does not grow with it; "
            "0: no tiles",
            show_default="2080, above 4096 x 4096 pixels",
        ),
    ] = None,
    formats: Annotated[
        list[str] | None,
        typer.Option("--format", help="also write: zarr, labels as OME-Zarr, a pyramid in blocks (may be repeated)"),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="list what would be made, and why; write nothing")] = False,
    verify: Annotated[
        bool,
        typer.Option(
            "--verify",
            help="read every image and result to see whether it has changed; without it one of the recorded size and "
            "time of last change counts as unchanged",
        ),
    ] = False,
    jobs: Jobs = -1,
    force: Annotated[
        bool, typer.Option("--force", help="make all results anew, and overwrite other files of their names")
    ] = False,
) -> None:
    """Segment your own images: labels, outlines, measurements, files for QuPath and ImageJ, and a page to look at."""
    from nuclei.inference.arguments import check_paths, check_tile, parse_diameter

    if fast and weights:
        raise UserError("--fast chooses the networks, and so does --weights: give one of them")
    check_paths(images)
    check_paths(filter(None, [weights]), "folder of weights")
    wanted_diameter, wanted_tile = parse_diameter(diameter), check_tile(tile)
    from nuclei.data.microscope import View
    from nuclei.inference.image_files import Reading, find_images

    view = View(channel, plane, series)
    reading = Reading(view, normalise, pixel_size, wanted_diameter, wanted_tile, tuple(dict.fromkeys(formats or ())))
    found = find_images(images, recursive)
    from nuclei.inference.bundle import find_default  # which imports torch
    from nuclei.inference.records import check_formats
    from nuclei.inference.segment_files import TOLD, check_failures, describe, segment_files
    from nuclei.runs.backends import fan_out

    check_formats(reading.formats)
    cluster = in_folder(cluster, output)
    with nullcontext() if dry_run else fan_out(cluster):
        summary = segment_files(
            found,
            weights or find_default(fast),
            output,
            reading,
            force=force,
            verify=verify,
            submission=submission,
            jobs=jobs,
            dry_run=dry_run,
            columns=TOLD,
        )
    typer.echo(describe(summary, output, dry_run))
    if dry_run:
        show_scripts(cluster)
    check_failures(summary, submission)


@app.command("check-novelty")
def check(
    config: Annotated[Path, typer.Argument(help="YAML file of a run, of whose data and folds")],
    kinds: Annotated[Path, typer.Option(help="fold table by kind, of the same images")] = Path(
        "folds/dsb2018_kinds.csv"
    ),
    external: Annotated[
        Path | None, typer.Option(help="labelled images of other kinds, as score-images takes them")
    ] = None,
    weights: Annotated[
        Path | None, typer.Option(help="folder of a published ensemble or run, whose encoder is tried as well")
    ] = None,
    output: Annotated[Path, typer.Option(help="table to write")] = Path("runs/comparisons/novelty.csv"),
    runs: Runs = Path("runs"),
) -> None:
    """Measure how well definitions of novelty tell unseen kinds of images from seen ones, and tabulate it."""
    from nuclei.experiments.novelty import check_novelty
    from nuclei.pipeline import load_run
    from nuclei.runs.layout import Dataset

    table = check_novelty(Dataset(load_run(config).data, runs), kinds, external, weights, output)
    typer.echo(table.to_string(index=False))
    typer.echo(f"novelty: {output}")


@app.command("score-images")
def score_labelled(
    folder: Annotated[
        Path,
        typer.Argument(help="folder with images/ and labels/ of the same names, or with a folder of both for each set"),
    ],
    weights: Annotated[
        Path | None,
        typer.Option(
            help="folder of a published ensemble, or of a finished run in runs/", show_default="the published ensemble"
        ),
    ] = None,
    output: Annotated[Path, typer.Option(help="folder to write scores.csv and metrics.json to")] = Path("scores"),
    halve_above: Annotated[
        float,
        typer.Option(
            min=0,
            callback=check_finite,
            help="halve images whose median true nucleus has more pixels than this; 0: none",
        ),
    ] = 1500.0,
    channel: Annotated[
        str | None, typer.Option(help="channel with the nuclei, by its name or its number from 0")
    ] = None,
    jobs: Jobs = -1,
) -> None:
    """Segment labelled images that training has not seen, and score them: each set, with 95 % intervals over images."""
    from nuclei.data.microscope import View
    from nuclei.inference.bundle import find_default
    from nuclei.inference.image_files import Reading
    from nuclei.inference.score_images import find_labelled, score_images
    from nuclei.report.terminal import print_table
    from nuclei.report.unseen import outlines_table

    images = find_labelled(folder)
    reading = Reading(View(channel, None))
    _, metrics = score_images(images, weights or find_default(), output, reading, halve_above, jobs)
    summary = metrics["images"]
    print_table(outlines_table("set", summary["by_cluster"] | {"all": summary}))
    typer.echo(f"scores of {len(images)} images: {output / 'scores.csv'} and {output / 'metrics.json'}")


@app.command()
def validate(
    submission: Annotated[Path, typer.Argument(help="CSV file, also gzipped, of this project or any other")],
    images: Annotated[
        Path | None, typer.Option(help="folder of the images that it is for, or an official archive")
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="folder of the official archives: the test images that it has most of")
    ] = None,
    name: Annotated[str | None, typer.Option("--run", metavar="RUN", help="a run, for whose test images it is")] = None,
    runs: Runs = Path("runs"),
    jobs: Jobs = -1,
) -> None:
    """Check a submission against every rule of the competition; lists each violation with its row."""
    from nuclei.inference.validation import check_submission, shapes_of_archives, shapes_of_images, shapes_of_run

    if sum(given is not None for given in (images, data, name)) != 1:
        raise UserError("say which images the submission is for: by one of --images, --data and --run")
    if not submission.is_file():
        raise UserError(f"no submission {submission}")
    if images:
        shapes, said = shapes_of_images(images, jobs), str(images)
    elif data:
        shapes, said = shapes_of_archives(data, submission, jobs), str(data)
    else:
        shapes, said = shapes_of_run(str(name), runs, submission)
    violations, holds = check_submission(submission, shapes)
    if violations:
        typer.echo("\n".join(violations))
        raise UserError(
            f"{submission} breaks the rules {len(violations)} times, for the {len(shapes)} images of {said}"
        )
    typer.echo(f"valid: {holds}")


@app.command()
def serve(
    port: Annotated[int, typer.Option(min=0, max=65535, help="port of the page; 0: one that is free")] = 8724,
    weights: Annotated[
        Path | None,
        typer.Option(
            help="folder of a published ensemble, or of a finished run in runs/", show_default="the published ensemble"
        ),
    ] = None,
    max_mb: Annotated[int, typer.Option(min=1, help="larger files are refused")] = 200,
    no_open: Annotated[bool, typer.Option("--no-open", help="do not open the page in a browser")] = False,
) -> None:
    """Open a page of this machine on which images are dropped and their nuclei appear, with all files to download.

    It is reached from this machine alone, at http://127.0.0.1:PORT/, and segments as predict-images does. Nothing is
    sent elsewhere, and nothing is kept once it ends. It needs `pip install '.[serve]'`.
    """
    typer.echo("loading the networks")
    try:
        from nuclei.inference.bundle import find_default  # which imports torch
        from nuclei.inference.serve import serve as serve_page

        serve_page(weights or find_default(), port, max_mb, not no_open, typer.echo)
    except (KeyboardInterrupt, Terminated):
        typer.echo("ended; what it held is removed")


@app.command()
def show(
    name: RunName,
    image_id: Annotated[str, typer.Argument(help="an image's id, or what it begins with")],
    runs: Runs = Path("runs"),
) -> None:
    """Draw everything about one image: truth, maps, candidates with predicted and true IoU, selection, errors."""
    from nuclei.report.show import show_image

    typer.echo(show_image(name, image_id, runs))


@app.command("napari")
def show_in_napari(
    image: Annotated[Path, typer.Argument(help="an image, as predict-images reads it")],
    weights: Annotated[
        Path | None,
        typer.Option(help="folder of an ensemble, or of a run in runs/", show_default="the published ensemble"),
    ] = None,
    channel: Annotated[str | None, typer.Option(help="channel with the nuclei, by name or number")] = None,
    plane: Annotated[str | None, typer.Option(help="plane of a z-stack, by its number from 0, or max")] = None,
    series: Annotated[int | None, typer.Option(min=0, help="the one image wanted of a file with several")] = None,
    diameter: Annotated[str | None, typer.Option(help="typical diameter of your nuclei in pixels, or auto")] = None,
) -> None:
    """Segment an image and open it in napari: image, labels, and each nucleus's measurements and predicted IoU."""
    from nuclei.inference.arguments import check_paths, parse_diameter

    check_paths([image])
    check_paths(filter(None, [weights]), "folder of weights")
    wanted_diameter = parse_diameter(diameter)
    from nuclei.data.microscope import View
    from nuclei.inference import napari_layers
    from nuclei.inference.bundle import find_default
    from nuclei.inference.image_files import Reading

    napari = napari_layers.load_napari()
    reading = Reading(View(channel, plane, series), diameter=wanted_diameter)
    viewer = napari_layers.show_layers(napari_layers.build_layers(image, weights or find_default(), reading))
    typer.echo(f"{len(viewer.layers)} layers in napari; close its window to end")
    napari.run()


@app.command("export-onnx")
def export_onnx(
    weights: Annotated[
        Path, typer.Argument(metavar="RUN_OR_BUNDLE", help="folder of a finished run in runs/, or of ensembles/")
    ],
    fold: Annotated[int, typer.Option(min=0, help="the fold whose network is written")],
    member: Annotated[str | None, typer.Option(help="of an ensemble: the run whose network is written")] = None,
    output: Annotated[
        Path | None, typer.Option(help="file to write", show_default="<run>_fold<K>.onnx in this folder")
    ] = None,
) -> None:
    """Write one trained network as ONNX, for other programs; it takes images of any size that 32 divides."""
    from nuclei.inference.arguments import check_paths

    check_paths([weights], "run or bundle")
    from nuclei.inference.onnx_file import export_onnx as export

    typer.echo(export(weights, fold, member, output))


@app.command()
def coco(name: RunName, runs: Runs = Path("runs")) -> None:
    """Write a run's nuclei, and the true ones, as COCO JSON."""
    from nuclei.inference.coco import export_coco

    for path in export_coco(name, runs):
        typer.echo(path)


@app.command()
def demo(
    data: Data = Path("runs/demo_archives"),
    n_train: Annotated[int, typer.Option(min=1, max=10_000, help="training images")] = 36,
    n_test: Annotated[int, typer.Option(min=1, max=10_000, help="test images")] = 12,
    size: Annotated[int, typer.Option(min=64, max=4096, help="shorter side of an image, in pixels")] = 256,
    seed: Annotated[int, typer.Option(min=0, help="another gives other images")] = 2018,
) -> None:
    """Write archives of synthetic nuclei in the official layout, with the truth of their test images."""
    from nuclei.data.demo import write_demo
    from nuclei.runs.locks import lock

    with lock(data / ".demo", "demo"):
        new = write_demo(data, n_train, n_test, size, seed)
    typer.echo(f"demo: {n_train} training and {n_test} test images -> {data}" if new else f"demo: up to date ({data})")


class Terminated(BaseException):
    """Unwind the process after one of ENDINGS, so that what is half done is cleared away."""


def main() -> None:
    """Run the command line.

    Exits with 1 and one line for what a user can mend, with 1, the traceback and a request to report it for anything
    else, with 2 for a wrong command line, with 130, 129 and 143 after an interrupt, a SIGHUP and a SIGTERM.
    """
    # Not where a signal is ignored, as SIGHUP is below nohup.
    previous = {one: signal.getsignal(one) for one in ENDINGS if signal.getsignal(one) != signal.SIG_IGN}
    for one in previous:
        signal.signal(one, terminate)
    try:
        check_arguments(sys.argv[1:])
        app()
    except (UserError, OSError) as error:
        sys.exit(f"error: {explain_os_error(error) if isinstance(error, OSError) else error}")
    except Terminated as received:
        from nuclei.runs.backends import stop_workers

        stop_workers()
        end(128 + received.args[0], "terminated")
    except Exception as error:
        if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":  # the second is torch's
            sys.exit(f"error: out of memory ({str(error).partition('. ')[0]}): {LESS_MEMORY}")
        traceback.print_exc()
        typer.echo(REPORT, err=True)
        sys.exit(1)
    finally:
        for one, handler in previous.items():
            signal.signal(one, handler)


def check_arguments(arguments: Sequence[str]) -> None:
    """Raise UserError on an empty argument or option: an empty path would be this folder, an empty name all runs."""
    for i, argument in enumerate(arguments):
        if not argument.strip() or _EMPTY_OPTION.fullmatch(argument):
            where = argument if argument.strip() else f"number {i + 1}" if i == 0 else f"after {arguments[i - 1]!r}"
            raise UserError(f"the argument {where} is empty: give a value (is a variable of your shell not set?)")


def terminate(number: int, frame: FrameType | None) -> NoReturn:  # noqa: ARG001 (what a handler of signals takes)
    """Handle one of ENDINGS."""
    raise Terminated(number)


def end(status: int, what: str) -> NoReturn:
    """End the process with a status, saying how its work is resumed."""
    typer.echo(f"{what}: repeat the command to resume; what is finished is kept", err=True)
    sys.exit(status)
