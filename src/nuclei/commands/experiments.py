"""Commands for people with experiments: runs, ablations, reports, comparisons; and the demo."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from nuclei.commands.app import RUNS, app
from nuclei.commands.options import (
    Configs,
    Data,
    Devices,
    Force,
    Jobs,
    NewName,
    Parallel,
    Publish,
    Published,
    RunName,
    Runs,
    Settings,
    count_parallel,
    fans_out,
    in_folder,
    show_scripts,
)
from nuclei.commands.stages import make_command
from nuclei.errors import UserError
from nuclei.runs.backends import Cluster


@app.command(rich_help_panel=RUNS)
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


@app.command(rich_help_panel=RUNS)
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


@app.command("list", rich_help_panel=RUNS)
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


@app.command(rich_help_panel=RUNS)
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


@app.command(rich_help_panel=RUNS)
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


@app.command(rich_help_panel=RUNS)
def show(
    name: RunName,
    image_id: Annotated[str, typer.Argument(help="an image's id, or what it begins with")],
    runs: Runs = Path("runs"),
) -> None:
    """Draw everything about one image: truth, maps, candidates with predicted and true IoU, selection, errors."""
    from nuclei.report.show import show_image

    typer.echo(show_image(name, image_id, runs))


@app.command(rich_help_panel=RUNS)
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


@app.command("check-novelty", rich_help_panel=RUNS)
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


@app.command(rich_help_panel=RUNS)
def coco(name: RunName, runs: Runs = Path("runs")) -> None:
    """Write a run's nuclei, and the true ones, as COCO JSON."""
    from nuclei.inference.coco import export_coco

    for path in export_coco(name, runs):
        typer.echo(path)


@app.command(rich_help_panel=RUNS)
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


def publish_comparison(runs: Path, kind: str) -> None:
    """Put a table that compares runs into ensembles/ and its README file."""
    from nuclei.experiments.leaderboard import publish

    typer.echo(f"published: {' and '.join(map(str, publish(runs, kind)))}")
