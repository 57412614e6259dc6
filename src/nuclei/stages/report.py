"""Everything a run left -> report/: report.md with figures/, and report.html, which holds them."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import yaml

from nuclei import runs, sections, tables
from nuclei.blend import dequantise
from nuclei.calibration import bin_predictions
from nuclei.candidates import Candidates
from nuclei.config import Config
from nuclei.folds import IMAGE_TYPES
from nuclei.galleries import count_touching
from nuclei.report import Block, Files, Heading, Missing, Paragraph, Picture, render_html, render_markdown
from nuclei.scorer import TARGETS
from nuclei.watershed import make_energy

N_GALLERY, N_EXAMPLES, N_WORST = 4, 3, 20  # images of a gallery, of each type, of the table
NUCLEI_OF_EXAMPLE = (20, 80)  # of the image that the pipeline is shown on: enough to touch, few enough to be seen
MIN_TOUCHING = 6


def main(run: runs.Run, config: Config, options: runs.Options) -> None:
    inputs = {"evaluate": runs.fingerprint(run.meta("evaluate"))}
    settings = {"config": config.model_dump(mode="json")}
    with runs.stage(run.meta("report"), settings, inputs, [run.report], options.force) as needed:
        if not needed:
            return
        title, blocks = f"Report of the run {run.name}", list(report_all(run, config))
        for block in blocks:
            if isinstance(block, Picture):
                runs.write_bytes(run.report / "figures" / f"{block.name}.png", block.png)
        runs.write_bytes(run.report / "report.md", render_markdown(title, blocks).encode())
        runs.write_bytes(run.report / "report.html", render_html(title, blocks).encode())
    print(f"{run.name}: {run.report / 'report.html'}", flush=True)


def report_all(run: runs.Run, config: Config) -> Iterator[Block]:
    """Yield all blocks of a run's report; a part whose artefact is missing ends with its name."""
    dataset = runs.Dataset(config.data.dataset, run.folder.parent)
    if config.hypothesis:
        yield Paragraph(f"What this run is to show: {config.hypothesis}.")
    parts = {
        "From image to nuclei": report_pipeline, "Scores": report_scores, "What each step gains": report_steps,
        "Precision by IoU threshold": report_precision, "Image types": report_types, "Kinds of errors": report_errors,
        "Best, median and worst images": report_galleries, "The worst images in numbers": report_worst,
        "Examples of each image type": report_examples, "Candidate scoring": report_scoring,
        "Thresholds": report_thresholds, "Training": report_training, "How it was made": report_making,
    }
    for title, part in parts.items():
        yield Heading(title)
        yield from attempt(run, partial(part, run, config, dataset))


def attempt(run: runs.Run, make: Callable[[], Iterator[Block]]) -> Iterator[Block]:
    """Yield what `make` gives up to the first block that needs a file which is not there, and name that file."""
    try:
        yield from make()
    except FileNotFoundError as error:
        path, root = Path(error.filename), run.folder.parent
        yield Missing(str(path.relative_to(root) if path.is_relative_to(root) else path))


def report_pipeline(run: runs.Run, config: Config, dataset: runs.Dataset) -> Iterator[Block]:
    """Show every step on one image."""
    image_id = choose_typical(runs.read_table(run.per_image("oof")), dataset)
    maps = dequantise(runs.read_arrays(run.maps("oof") / f"{image_id}.npz"))
    middle = {"energy": make_energy(maps, config.watershed.center_weight)}
    if config.selection.method == "scored":
        middle["candidates"] = Candidates.unpack(runs.read_arrays(run.candidates("oof") / f"{image_id}.npz"))
        middle["score"] = read_iou(run, image_id)
    instances = runs.read_labels(run.instances("oof") / f"{image_id}.png")
    yield from sections.write_pipeline(
        image_id, image=runs.read_image(dataset.image(image_id)), maps=maps, instances=instances, **middle)


def choose_typical(images: pd.DataFrame, dataset: runs.Dataset) -> str:
    """Return the image nearest the median score that has a number of nuclei that can be seen, some of them touching."""
    images = images.assign(off=(images["score"] - images["score"].median()).abs()).sort_values(["off", "image_id"])
    fit = images.loc[images["n_true"].between(*NUCLEI_OF_EXAMPLE), "image_id"].tolist() or images["image_id"].tolist()
    touching = (i for i in fit if count_touching(runs.read_labels(dataset.labels(i))) >= MIN_TOUCHING)
    return next(touching, fit[0])


def report_scores(run: runs.Run, config: Config, dataset: runs.Dataset) -> Iterator[Block]:
    """Tabulate the scores, and name the solutions there is no score of."""
    metrics = runs.read_json(run.metrics)
    yield from sections.write_scores(metrics)
    for name in tables.SOLUTIONS:
        if name not in metrics:
            yield Missing(f"data/{dataset.name}/{name}.csv, or a submission of its images")


def report_steps(run: runs.Run, config: Config, dataset: runs.Dataset) -> Iterator[Block]:
    """Compare the steps from the plain decodings to this run's own."""
    yield from sections.write_steps(runs.read_json(run.metrics)["steps"])


def report_precision(run: runs.Run, config: Config, dataset: runs.Dataset) -> Iterator[Block]:
    yield from sections.write_precision(runs.read_json(run.metrics))


def report_types(run: runs.Run, config: Config, dataset: runs.Dataset) -> Iterator[Block]:
    yield from sections.write_types(runs.read_json(run.metrics), IMAGE_TYPES)


def report_errors(run: runs.Run, config: Config, dataset: runs.Dataset) -> Iterator[Block]:
    """Count the kinds of errors, of all images and of each type."""
    yield tables.list_errors(runs.read_json(run.metrics)["oof"]["errors"])
    yield from sections.write_errors(runs.read_table(run.per_image("oof")), IMAGE_TYPES)


def report_galleries(run: runs.Run, config: Config, dataset: runs.Dataset) -> Iterator[Block]:
    """Show the best, median and worst images with their outlines."""
    yield Paragraph(sections.ABOUT_GALLERIES)
    images = runs.read_table(run.per_image("oof"))
    for name, chosen in sections.choose_galleries(images, N_GALLERY).items():
        yield from attempt(run, partial(sections.write_gallery, name, read_examples(run, dataset, chosen)))


def report_worst(run: runs.Run, config: Config, dataset: runs.Dataset) -> Iterator[Block]:
    yield tables.list_worst(runs.read_table(run.per_image("oof")), N_WORST)


def report_examples(run: runs.Run, config: Config, dataset: runs.Dataset) -> Iterator[Block]:
    """Show a few images of each type."""
    images = runs.read_table(run.per_image("oof"))
    for cluster in tables.order_clusters(images["cluster"], IMAGE_TYPES):
        own = images[images["cluster"] == cluster]
        examples = read_examples(run, dataset, sections.spread_examples(own, N_EXAMPLES))
        yield from attempt(run, partial(sections.write_type, cluster, examples, len(own)))


def report_scoring(run: runs.Run, config: Config, dataset: runs.Dataset) -> Iterator[Block]:
    """Show how good the predicted IoU is and what it is predicted from."""
    if config.selection.method != "scored":
        yield Paragraph(f"This run decodes its maps by {config.selection.method}; it has no candidates and no scorer.")
        return
    image_ids = runs.read_table(Path(config.data.folds))["image_id"]
    yield from attempt(run, lambda: sections.write_reliability(sum_bins(run, image_ids)))
    yield from sections.write_importance(runs.read_json(run.scorer / "features.json")["importance"])


def sum_bins(run: runs.Run, image_ids) -> np.ndarray:
    """Sum predicted and true IoU of all out-of-fold candidates by bins, image by image."""
    sums = 0
    for image_id in image_ids:
        sums = sums + bin_predictions(read_iou(run, image_id), read_array(run.candidates("oof") / f"{image_id}.npz", "iou"))
    return sums


def report_thresholds(run: runs.Run, config: Config, dataset: runs.Dataset) -> Iterator[Block]:
    """Show the score against every threshold that was chosen."""
    yield Paragraph(sections.ABOUT_THRESHOLDS)
    if config.selection.method == "scored":
        yield from attempt(run, lambda: sections.write_keep(runs.read_json(run.tuned)))
    for method in ("components", "watershed"):
        path = run.plain / f"{method}.json"
        yield from attempt(run, lambda method=method, path=path: sections.write_plain(method, runs.read_json(path)))


def report_training(run: runs.Run, config: Config, dataset: runs.Dataset) -> Iterator[Block]:
    """Show the training of every network that the maps are from, and name the folds without a history."""
    folds = sorted(runs.read_table(Path(config.data.folds))["fold"].unique().tolist())
    for name, members in list_parts(run, config.members).items():
        if not members:
            paths = {str(fold): runs.Run(name, run.folder.parent).fold(fold) / "history.csv" for fold in folds}
            yield from (Missing(f"{name}/{path.parent.name}/{path.name}") for path in paths.values() if not path.is_file())
            histories = {fold: runs.read_table(path) for fold, path in paths.items() if path.is_file()}
            if histories:
                yield from sections.write_training(name, histories)


def list_parts(run: runs.Run, members) -> dict[str, list[str]]:
    """Return a run and all that it borrows from, theirs before them: name -> names of its members."""
    found = {}
    for name, content in ((name, read_configs(run, [name]).get(name, {})) for name in members):
        found |= list_parts(runs.Run(name, run.folder.parent), content.get("members", []))
    return found | {run.name: list(members)}


def report_making(run: runs.Run, config: Config, dataset: runs.Dataset) -> Iterator[Block]:
    """Tabulate settings, stages and versions of a run and of all that it borrows from, and list its files."""
    names = list(list_parts(run, config.members))
    configs = read_configs(run, names)
    yield Paragraph(sections.ABOUT_SETTINGS)
    yield tables.list_settings(configs, Config().model_dump(mode="json"))
    metas = {f"data/{dataset.name}": read_metas(dataset.meta.parent)}
    metas |= {name: read_metas(runs.Run(name, run.folder.parent).meta("report").parent) for name in names}
    yield tables.list_stages(metas)
    yield tables.list_versions(metas)
    absent = [f"{name}/config.yaml" for name in names if name not in configs]
    yield from map(Missing, absent + [f"{name}/meta" for name, found in metas.items() if not found])
    yield from list_files(run)


def list_files(run: runs.Run) -> Iterator[Block]:
    """Yield the files of a run that a reader of its report may want; name those that are missing."""
    wanted = {"complete settings": run.config, "scores, intervals and counts": run.metrics,
              "scores per image, out of fold": run.per_image("oof"), "submission of the test images": run.submission("test")}
    yield Paragraph("Files of this run:")
    yield Files([(what, f"../{path.name}") for what, path in wanted.items() if path.is_file()])
    yield from (Missing(f"{run.name}/{path.name}") for path in wanted.values() if not path.is_file())


def read_array(path: Path, name: str) -> np.ndarray:
    """Read one array of a file: the features beside it are far larger and are not unpacked."""
    with np.load(path) as file:
        return file[name]


def read_iou(run: runs.Run, image_id: str) -> np.ndarray:
    """Read the predicted IoU of an image's out-of-fold candidates, float32 [N]."""
    return read_array(run.scores("oof") / f"{image_id}.npz", "scores")[:, TARGETS.index("iou")]


def read_examples(run: runs.Run, dataset: runs.Dataset, images: pd.DataFrame) -> Iterator[tuple]:
    """Yield (row, image, truth, prediction) of the rows of a table of images, each read when it is asked for."""
    for row in images.itertuples():
        truth, prediction = dataset.labels(row.image_id), run.instances("oof") / f"{row.image_id}.png"
        yield row, runs.read_image(dataset.image(row.image_id)), runs.read_labels(truth), runs.read_labels(prediction)


def read_configs(run: runs.Run, names) -> dict[str, dict]:
    """Return the saved configs of the named runs beside a run, of those that have one."""
    paths = {name: runs.Run(name, run.folder.parent).config for name in names}
    return {name: yaml.safe_load(path.read_text()) for name, path in paths.items() if path.is_file()}


def read_metas(folder: Path) -> list[dict]:
    """Read the metas of the stages that a report is about; its own is none of them."""
    return [runs.read_json(path) for path in sorted(folder.glob("*.json")) if path.stem != "report"]
