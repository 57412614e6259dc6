"""Find every nucleus in a microscope image. Each command explains itself: nuclei COMMAND --help."""

import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from nuclei.config.load import run_name
from nuclei.errors import UserError, explain_os_error
from nuclei.pipeline import list_runs, load_run, run_stage, run_stages
from nuclei.runs.files import read_table
from nuclei.runs.layout import Options, Run, comparison
from nuclei.runs.stage_table import STAGES

if TYPE_CHECKING:
    from nuclei.report.blocks import Table

LESS_MEMORY = "use fewer processes by --jobs or, to train, a smaller train.batch_size or train.crop_px"
REPORT = (
    "This is a fault of the program, not of yours. Please report it with the lines above, the command, and the "
    "output of `git rev-parse HEAD` and `pip list`."
)


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


# What a command needs is imported when it is called: torch alone takes seconds, for which nobody waits at --help.
app = typer.Typer(
    cls=Commands, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__
)

Configs = Annotated[list[Path], typer.Argument(help="YAML files of runs; a file's name is its run's name")]
Data = Annotated[Path, typer.Option(help="folder of the official archives, zips or extracted")]
Fold = Annotated[int | None, typer.Option(help="train this fold only")]
Devices = Annotated[int, typer.Option(min=1, help="GPUs, or CPU processes, to train on")]
Jobs = Annotated[int, typer.Option(help="processes of the stages that go image by image; -1: one per core")]
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


def make_command(name: str) -> Callable[..., None]:
    """Return the command of one stage, which takes configs and runs that stage of each."""

    def command(
        configs: Configs,
        data: Data = Path("data"),
        fold: Fold = None,
        devices: Devices = 1,
        jobs: Jobs = -1,
        runs: Runs = Path("runs"),
        force: Force = False,
        published: Published = False,
    ) -> None:
        options = Options(data, fold, devices, jobs, force, published)
        for path in configs:
            run_stage(name, run_name(path), load_run(path), options, runs)

    return command


for stage_name, entry in STAGES.items():
    if stage_name != "report":
        app.command(stage_name, help=entry.help)(make_command(stage_name))


@app.command()
def report(configs: Configs, runs: Runs = Path("runs"), force: Force = False, publish: Publish = False) -> None:
    """Write a report of each run, and tabulate all of them beside the systems of the field."""
    from nuclei.experiments.leaderboard import compare_runs

    make_command("report")(configs, runs=runs, force=force)
    print_table(compare_runs([run_name(path) for path in configs], runs))
    typer.echo(f"leaderboard: {comparison(runs, 'leaderboard').with_suffix('.html')}")
    if publish:
        publish_comparison(runs, "leaderboard")


def publish_comparison(runs: Path, kind: str) -> None:
    """Put a table that compares runs into ensembles/ and its README file."""
    from nuclei.experiments.leaderboard import publish

    typer.echo(f"published: {' and '.join(map(str, publish(runs, kind)))}")


@app.command()
def run(
    configs: Configs,
    data: Data = Path("data"),
    devices: Devices = 1,
    jobs: Jobs = -1,
    runs: Runs = Path("runs"),
    force: Force = False,
    published: Published = False,
) -> None:
    """Run all stages of configs or ensembles, members first; what is up to date is skipped."""
    options = Options(data, None, devices, jobs, force, published)
    plan = dict(entry for path in configs for entry in list_runs(path))
    for path, config in plan.items():
        run_stages(run_name(path), config, options, runs)
    for path in configs:
        finished = Run(run_name(path), runs)
        typer.echo(f"submission: {finished.submission('test')}\nreport: {finished.report / 'report.html'}")


@app.command()
def ablate(
    configs: Annotated[list[Path], typer.Argument(help="ablations, each a YAML file with `base:`, or folders of them")],
    data: Data = Path("data"),
    seeds: Annotated[int, typer.Option(min=1, help="repetitions with other seeds")] = 1,
    backend: Annotated[
        str, typer.Option(help="where runs are made side by side: loky (processes of this machine), ray, dask")
    ] = "loky",
    workers: Annotated[int, typer.Option(min=1, help="runs made side by side")] = 1,
    address: Annotated[
        str | None, typer.Option(help="scheduler of a Ray or Dask cluster whose workers see this folder")
    ] = None,
    devices: Devices = 1,
    jobs: Jobs = -1,
    runs: Runs = Path("runs"),
    force: Force = False,
    publish: Publish = False,
    published: Published = False,
) -> None:
    """Run what is missing of ablations and their bases, and tabulate what each change gains over its base."""
    from nuclei.experiments.ablate import Cluster
    from nuclei.experiments.ablate import ablate as run_ablations
    from nuclei.report.comparisons import gains_table

    options = Options(data, None, devices, jobs, force, published)
    failed = run_ablations(configs, seeds, options, runs, Cluster(backend, workers, address))
    path = comparison(runs, "ablations")
    print_table(gains_table(read_table(path)))
    typer.echo(f"ablations: {path.with_suffix('.html')}")
    if publish:
        publish_comparison(runs, "ablations")
    if failed:
        lines = [f"{name}: {error}" for name, error in failed.items()]
        raise UserError("\n  ".join(["these runs failed and are not in the table:", *lines]))


def print_table(table: "Table") -> None:
    """Print a table of a report so that its columns line up in a terminal."""
    import pandas as pd

    typer.echo(pd.DataFrame(table.rows, columns=table.columns).to_string(index=False))


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

    print_table(tabulate(steps, runs))
    typer.echo(f"climb: {comparison(runs, 'climb').with_suffix('.html')}")
    if publish:
        publish_comparison(runs, "climb")


@app.command("predict-images")
def predict_images(
    images: Annotated[
        list[Path],
        typer.Argument(help="images (PNG, JPEG, BMP, WebP, TIFF, OME-TIFF, CZI, …), folders, or stage1_test.zip"),
    ],
    weights: Annotated[
        Path | None,
        typer.Option(
            help="folder of a published ensemble, or of a finished run in runs/", show_default="the published ensemble"
        ),
    ] = None,
    fast: Annotated[
        bool,
        typer.Option(
            "--fast", help="one small network that learned from the ensemble: much faster, a little less exact"
        ),
    ] = False,
    output: Annotated[Path, typer.Option(help="folder to write to")] = Path("nuclei_of_images"),
    submission: Annotated[Path | None, typer.Option(help="also write a submission of all the images")] = None,
    channel: Annotated[
        str | None, typer.Option(help="channel with the nuclei, by its name or its number from 0")
    ] = None,
    plane: Annotated[
        str | None, typer.Option(help="plane of a z-stack, by its number from 0; max: the maximum of all, the default")
    ] = None,
    normalise: Annotated[
        bool,
        typer.Option(
            "--normalise/--no-normalise",
            help="spread the values between percentiles 1 and 99.8 over 0..255 where an image is not of 8 bits",
        ),
    ] = True,
    pixel_size: Annotated[
        float | None, typer.Option(min=1e-6, help="side of a pixel in µm, instead of what the files say")
    ] = None,
    recursive: Annotated[bool, typer.Option("--recursive", help="look into nested folders, too")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="list what would be made, and why; write nothing")] = False,
    jobs: Jobs = -1,
    force: Annotated[
        bool, typer.Option("--force", help="make all results anew, and overwrite other files of their names")
    ] = False,
) -> None:
    """Segment your own images: labels, outlines, measurements, files for QuPath and ImageJ, and a page to look at."""
    from nuclei.data.microscope import View
    from nuclei.inference.image_files import Reading, find_images

    if fast and weights:
        raise UserError("--fast chooses the networks, and so does --weights: give one of them")
    found = find_images(images, recursive)
    reading = Reading(View(channel, plane), normalise, pixel_size)
    from nuclei.inference.bundle import find_default  # which imports torch
    from nuclei.inference.segment_files import check_failures, describe, segment_files

    summary = segment_files(
        found,
        weights or find_default(fast),
        output,
        reading,
        force=force,
        submission=submission,
        jobs=jobs,
        dry_run=dry_run,
    )
    typer.echo(describe(summary, output, dry_run))
    check_failures(summary, submission)


@app.command()
def show(
    name: RunName,
    image_id: Annotated[str, typer.Argument(help="an image's id, or what it begins with")],
    runs: Runs = Path("runs"),
) -> None:
    """Draw everything about one image: truth, maps, candidates with predicted and true IoU, selection, errors."""
    from nuclei.report.show import show_image

    typer.echo(show_image(name, image_id, runs))


@app.command()
def coco(name: RunName, runs: Runs = Path("runs")) -> None:
    """Write a run's nuclei, and the true ones, as COCO JSON."""
    from nuclei.inference.coco import export_coco

    for path in export_coco(name, runs):
        typer.echo(path)


@app.command()
def demo(
    data: Data = Path("runs/demo_archives"),
    n_train: int = 36,
    n_test: int = 12,
    size: int = 256,
    seed: int = 2018,
) -> None:
    """Write archives of synthetic nuclei in the official layout, with the truth of their test images."""
    if (data / "stage1_solution.csv").is_file():  # written last
        typer.echo(f"demo: up to date ({data})")
        return
    from nuclei.data.demo import write_demo

    write_demo(data, n_train, n_test, size, seed)
    typer.echo(f"demo: {n_train} training and {n_test} test images -> {data}")


class Terminated(BaseException):
    """Unwind the process after a SIGTERM, so that what is half done is cleared away."""


def main() -> None:
    """Run the command line.

    Exits with 1 and one line for what a user can mend, with 1, the traceback and a request to report it for anything
    else, with 2 for a wrong command line, with 130 and 143 after an interrupt and a SIGTERM.
    """
    previous = signal.signal(signal.SIGTERM, terminate)
    try:
        app()
    except (UserError, OSError) as error:
        sys.exit(f"error: {explain_os_error(error) if isinstance(error, OSError) else error}")
    except Terminated:
        from nuclei.runs.parallel import stop_workers

        stop_workers()
        end(143, "terminated")
    except Exception as error:
        if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":  # the second is torch's
            sys.exit(f"error: out of memory ({str(error).partition('. ')[0]}): {LESS_MEMORY}")
        traceback.print_exc()
        typer.echo(REPORT, err=True)
        sys.exit(1)
    finally:
        signal.signal(signal.SIGTERM, previous)


def terminate(number: int, frame: FrameType | None) -> NoReturn:  # noqa: ARG001 (what a handler of signals takes)
    """Handle a SIGTERM."""
    raise Terminated


def end(status: int, what: str) -> NoReturn:
    """End the process with a status, saying how its work is resumed."""
    typer.echo(f"{what}: repeat the command to resume; what is finished is kept", err=True)
    sys.exit(status)
