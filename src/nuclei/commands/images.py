"""Commands for people with images: segment, look at, score and check them."""

from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

from nuclei.commands.app import IMAGES, Terminated, app
from nuclei.commands.options import Jobs, Runs, check_finite, fans_out, in_folder, show_scripts
from nuclei.errors import UserError
from nuclei.runs.backends import Cluster


@app.command("predict-images", rich_help_panel=IMAGES)
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
        str,
        typer.Option(
            help="typical diameter of your nuclei in pixels, by which images are brought to the size that the networks "
            "learned; auto: estimated of each image; unlike: of images unlike training alone, and used where nuclei "
            "are less than half or over four times as large as learned; none: images as they are",
        ),
    ] = "unlike",
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
    from nuclei.data.axes import View
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


@app.command("napari", rich_help_panel=IMAGES)
def show_in_napari(
    image: Annotated[Path, typer.Argument(help="an image, as predict-images reads it")],
    weights: Annotated[
        Path | None,
        typer.Option(help="folder of an ensemble, or of a run in runs/", show_default="the published ensemble"),
    ] = None,
    channel: Annotated[str | None, typer.Option(help="channel with the nuclei, by name or number")] = None,
    plane: Annotated[str | None, typer.Option(help="plane of a z-stack, by its number from 0, or max")] = None,
    series: Annotated[int | None, typer.Option(min=0, help="the one image wanted of a file with several")] = None,
    diameter: Annotated[
        str, typer.Option(help="typical diameter of your nuclei in pixels, auto, unlike or none (see predict-images)")
    ] = "unlike",
) -> None:
    """Segment an image and open it in napari: image, labels, and each nucleus's measurements and predicted IoU."""
    from nuclei.inference.arguments import check_paths, parse_diameter

    check_paths([image])
    check_paths(filter(None, [weights]), "folder of weights")
    wanted_diameter = parse_diameter(diameter)
    from nuclei.data.axes import View
    from nuclei.inference import napari_layers
    from nuclei.inference.bundle import find_default
    from nuclei.inference.image_files import Reading

    napari_layers.load_napari()
    reading = Reading(View(channel, plane, series), diameter=wanted_diameter)
    viewer = napari_layers.show_layers(napari_layers.build_layers(image, weights or find_default(), reading))
    typer.echo(f"{len(viewer.layers)} layers in napari; close its window to end")
    napari_layers.wait_until_closed()


@app.command(rich_help_panel=IMAGES)
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


@app.command("export-onnx", rich_help_panel=IMAGES)
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


@app.command("score-images", rich_help_panel=IMAGES)
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
    from nuclei.data.axes import View
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


@app.command(rich_help_panel=IMAGES)
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
