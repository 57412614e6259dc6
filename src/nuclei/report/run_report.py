"""The report of a run: its sections in their order, each from what the stages left."""

from collections.abc import Iterator
from functools import partial

from nuclei.config.schema import Config
from nuclei.data.image_types import IMAGE_TYPES
from nuclei.report import reader, sections, tables
from nuclei.report.blocks import Block, Files, Heading, Missing, Paragraph
from nuclei.report.reader import attempt
from nuclei.runs.files import read_json, read_table
from nuclei.runs.layout import Dataset, Run

N_GALLERY, N_EXAMPLES, N_WORST = 4, 3, 20  # images of a gallery, of each type, of the table


def report_all(run: Run, config: Config) -> Iterator[Block]:
    """Yield all blocks of a run's report; a part whose artefact is missing ends with its name."""
    dataset = Dataset(config.data, run.folder.parent)
    if config.hypothesis:
        yield Paragraph(f"What this run is to show: {config.hypothesis}.")
    parts = {
        "From image to nuclei": report_pipeline,
        "Scores": report_scores,
        "What each step gains": report_steps,
        "Precision by IoU threshold": report_precision,
        "Image types": report_types,
        "Kinds of errors": report_errors,
        "Best, median and worst images": report_galleries,
        "The worst images in numbers": report_worst,
        "Examples of each image type": report_examples,
        "Candidate scoring": report_scoring,
        "Thresholds": report_thresholds,
        "Training": report_training,
        "How it was made": report_making,
    }
    for title, part in parts.items():
        yield Heading(title)
        yield from attempt(run, partial(part, run, config, dataset))


def report_pipeline(run: Run, config: Config, dataset: Dataset) -> Iterator[Block]:
    yield from sections.write_pipeline(**reader.read_steps(run, config, dataset))


def report_scores(run: Run, config: Config, dataset: Dataset) -> Iterator[Block]:
    """Tabulate the scores, and name the solutions there is no score of."""
    metrics = read_json(run.metrics)
    yield from sections.write_scores(metrics)
    for name in tables.SOLUTIONS:
        if name not in metrics:
            yield Missing(f"data/{dataset.name}/{name}.csv, or a submission of its images")


def report_steps(run: Run, config: Config, dataset: Dataset) -> Iterator[Block]:
    """Compare the steps from the plain decodings to this run's own."""
    yield from sections.write_steps(read_json(run.metrics)["steps"])


def report_precision(run: Run, config: Config, dataset: Dataset) -> Iterator[Block]:
    yield from sections.write_precision(read_json(run.metrics))


def report_types(run: Run, config: Config, dataset: Dataset) -> Iterator[Block]:
    yield from sections.write_types(read_json(run.metrics), IMAGE_TYPES)


def report_errors(run: Run, config: Config, dataset: Dataset) -> Iterator[Block]:
    """Count the kinds of errors, of all images and of each type."""
    yield tables.list_errors(read_json(run.metrics)["oof"]["errors"])
    yield from sections.write_errors(read_table(run.per_image("oof")), IMAGE_TYPES)


def report_galleries(run: Run, config: Config, dataset: Dataset) -> Iterator[Block]:
    """Show the best, median and worst images with their outlines."""
    yield Paragraph(sections.ABOUT_GALLERIES)
    images = read_table(run.per_image("oof"))
    for name, chosen in sections.choose_galleries(images, N_GALLERY).items():
        yield from attempt(run, partial(sections.write_gallery, name, reader.read_examples(run, dataset, chosen)))


def report_worst(run: Run, config: Config, dataset: Dataset) -> Iterator[Block]:
    yield tables.list_worst(read_table(run.per_image("oof")), N_WORST)


def report_examples(run: Run, config: Config, dataset: Dataset) -> Iterator[Block]:
    """Show a few images of each type."""
    images = read_table(run.per_image("oof"))
    for cluster in tables.order_clusters(images["cluster"], IMAGE_TYPES):
        own = images[images["cluster"] == cluster]
        examples = reader.read_examples(run, dataset, sections.spread_examples(own, N_EXAMPLES))
        yield from attempt(run, partial(sections.write_type, cluster, examples, len(own)))


def report_scoring(run: Run, config: Config, dataset: Dataset) -> Iterator[Block]:
    """Show how good the predicted IoU is and what it is predicted from."""
    if config.selection.method != "scored":
        yield Paragraph(
            f"This run's nuclei are those of its {tables.METHODS[config.selection.method]}: no candidates were scored."
        )
        return
    image_ids = dataset.read_folds()["image_id"]
    yield from attempt(run, lambda: sections.write_reliability(reader.sum_bins(run, image_ids)))
    yield from sections.write_importance(read_json(run.scorer / "features.json")["importance"])


def report_thresholds(run: Run, config: Config, dataset: Dataset) -> Iterator[Block]:
    """Show the score against every threshold that was chosen."""
    if not config.plain_methods:
        yield Paragraph(
            "No threshold of this run was chosen by its score: the recipe's settings are those of its config."
        )
        return
    yield Paragraph(sections.ABOUT_THRESHOLDS)
    if config.selection.method == "scored":
        yield from attempt(run, lambda: sections.write_keep(read_json(run.tuned)))
    for method in config.plain_methods:
        path = run.plain / f"{method}.json"
        yield from attempt(run, lambda method=method, path=path: sections.write_plain(method, read_json(path)))


def report_training(run: Run, config: Config, dataset: Dataset) -> Iterator[Block]:
    """Show the training of every network that the maps are from, and name the folds without a history."""
    folds = dataset.list_folds()
    for network in reader.list_networks(run, config):
        histories, missing = reader.read_histories(network, folds)
        yield from missing
        if histories:
            yield from sections.write_training(network.name, histories)


def report_making(run: Run, config: Config, dataset: Dataset) -> Iterator[Block]:
    """Tabulate settings, stages and versions of a run and of all that it borrows from, and list its files."""
    names = list(reader.list_parts(run, config.members))
    configs = reader.read_configs(run, names)
    yield Paragraph(sections.ABOUT_SETTINGS)
    yield tables.list_settings(configs, Config().model_dump(mode="json"))
    metas = reader.read_all_metas(run, names, dataset)
    yield tables.list_stages(metas)
    yield tables.list_versions(metas)
    absent = [f"{name}/config.yaml" for name in names if name not in configs]
    yield from map(Missing, absent + [f"{name}/meta" for name, found in metas.items() if not found])
    yield from list_files(run)


def list_files(run: Run) -> Iterator[Block]:
    """Yield the files of a run that a reader of its report may want; name those that are missing."""
    wanted = {
        "complete settings": run.config,
        "scores, intervals and counts": run.metrics,
        "scores per image, out of fold": run.per_image("oof"),
        "submission of the test images": run.submission("test"),
    }
    yield Paragraph("Files of this run:")
    yield Files([(what, f"../{path.name}") for what, path in wanted.items() if path.is_file()])
    yield from (Missing(f"{run.name}/{path.name}") for path in wanted.values() if not path.is_file())
