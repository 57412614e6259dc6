"""Find every nucleus: python -m nuclei COMMAND …; a command's own --help explains it."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from nuclei.config.load import load_config, run_name
from nuclei.pipeline import list_runs, run_stage, run_stages
from nuclei.runs.files import read_table
from nuclei.runs.layout import Options, Run, comparison
from nuclei.stages import STAGES

# What a command needs is imported when it is called: torch alone takes seconds, for which nobody waits at --help.
app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)
WEIGHTS = Path("ensembles/long_mobilenets")  # the best ensemble that is published with its networks
Configs = Annotated[list[Path], typer.Argument(help="YAML files of runs; a file's name is its run's name")]
Data = Annotated[Path, typer.Option(help="folder of the official archives, zips or extracted")]
Fold = Annotated[int | None, typer.Option(help="train this fold only")]
Devices = Annotated[int, typer.Option(help="GPUs, or CPU processes, to train on")]
Jobs = Annotated[int, typer.Option(help="processes of the stages that go image by image; -1: one per core")]
Runs = Annotated[Path, typer.Option(help="folder of all runs")]
Publish = Annotated[bool, typer.Option("--publish", help="also put the table into ensembles/ and README.md")]
Published = Annotated[
    bool,
    typer.Option(
        "--published", help="take networks that ensembles/ has, trained with the same settings, instead of training"
    ),
]
Force = Annotated[bool, typer.Option("--force", help="replace what was made with other settings")]


def make_command(name: str):
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
            run_stage(name, run_name(path), load_config(path), options, runs)

    return command


for stage_name, stage_help in STAGES.items():
    if stage_name != "report":
        app.command(stage_name, help=stage_help)(make_command(stage_name))


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
    """Put a table that compares runs into ensembles/ and README.md."""
    from nuclei.experiments.leaderboard import publish

    publish(runs, kind)
    typer.echo(f"published: ensembles/{kind}.csv and README.md")


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
    """Run all stages of configs or ensembles, members first; what is up to date is passed over."""
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
    from nuclei.report.comparisons import list_gains

    options = Options(data, None, devices, jobs, force, published)
    failed = run_ablations(configs, seeds, options, runs, Cluster(backend, workers, address))
    path = comparison(runs, "ablations")
    print_table(list_gains(read_table(path)))
    typer.echo(f"ablations: {path.with_suffix('.html')}")
    if publish:
        publish_comparison(runs, "ablations")
    if failed:
        raise ValueError(
            "\n  ".join(["these runs failed and are not in the table:", *(f"{k}: {v}" for k, v in failed.items())])
        )


def print_table(table) -> None:
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
    """Tabulate the steps that led to the best run: each one's score, its gain over the one before, what training took."""
    from nuclei.experiments.climb import climb as tabulate

    print_table(tabulate(steps, runs))
    typer.echo(f"climb: {comparison(runs, 'climb').with_suffix('.html')}")
    if publish:
        publish_comparison(runs, "climb")


@app.command("predict-images")
def predict_images(
    images: Annotated[
        list[Path], typer.Argument(help="image files (PNG, TIFF, JPEG), folders of them, or stage1_test.zip")
    ],
    weights: Annotated[
        Path, typer.Option(help="folder of a published ensemble, or of a finished run in runs/")
    ] = WEIGHTS,
    output: Annotated[Path, typer.Option(help="folder to write to")] = Path("nuclei_of_images"),
    submission: Annotated[Path | None, typer.Option(help="also write a submission of all the images")] = None,
    jobs: Jobs = -1,
    force: Force = False,
) -> None:
    """Segment your own images: label TIFF, outlines, CSV of measurements, GeoJSON for QuPath and ROIs for ImageJ."""
    from nuclei.inference.segment_files import segment_files

    found = segment_files(images, weights, output, force, submission, jobs)
    typer.echo(f"{found['n_nuclei'].sum()} nuclei in {len(found)} images -> {output}")


@app.command()
def show(
    name: Annotated[str, typer.Argument(metavar="RUN", help="name of a finished run")],
    image_id: Annotated[str, typer.Argument(help="an image's id, or what it begins with")],
    runs: Runs = Path("runs"),
) -> None:
    """Draw one image's whole way: truth, maps, candidates with predicted and true IoU, selection, errors."""
    from nuclei.report.show import show_image

    typer.echo(show_image(name, image_id, runs))


@app.command()
def coco(
    name: Annotated[str, typer.Argument(metavar="RUN", help="name of a finished run")], runs: Runs = Path("runs")
) -> None:
    """Write a run's nuclei, and the true ones, as COCO JSON."""
    from nuclei.inference.coco import export_coco

    for path in export_coco(name, runs):
        typer.echo(path)


@app.command()
def demo(
    data: Data = Path("runs/demo_archives"), n_train: int = 36, n_test: int = 12, size: int = 256, seed: int = 2018
) -> None:
    """Write archives of synthetic nuclei in the official layout, with the truth of their test images."""
    if (data / "stage1_solution.csv").is_file():  # written last
        typer.echo(f"demo: up to date ({data})")
        return
    from nuclei.data.demo import write_demo

    write_demo(data, n_train, n_test, size, seed)
    typer.echo(f"demo: {n_train} training and {n_test} test images -> {data}")


def main() -> None:
    try:
        app()
    except (ValueError, FileNotFoundError, ConnectionError) as error:
        sys.exit(f"error: {error}")
