"""The write-up of a run: its sections in their order, each from what the stages left."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from nuclei.config.schema import Config
from nuclei.data.image_types import IMAGE_TYPES
from nuclei.report import network_tables, reader, sections, tables, writeup
from nuclei.report.blocks import Block, Code, FillIn, Heading, Missing, Paragraph, References, Subheading
from nuclei.report.reader import attempt
from nuclei.runs.files import file_hash, read_image, read_json, read_labels, read_table
from nuclei.runs.layout import Dataset, Run, comparison

N_GALLERY = 4  # images of a gallery
ABOUT_TEAM = (
    "team name; members with place and e-mail; place and score on the public and on the private leaderboard",
    "professional and academic background of each member, and what in it helped here",
    "why you entered, how the team was formed, who did what, and how much time it took",
    "what you liked about the competition and about this solution",
)
ABOUT_RIGHTS = (
    "the statement of the licence under which code, weights and this document are given; the code's is in LICENSE",
    "external data and initial weights used, with their licences and where they were declared",
    "acknowledgements",
)


def write_all(run: Run, config: Config) -> Iterator[Block]:
    """Yield all blocks of a run's write-up; what a missing artefact would have given is replaced by its name."""
    dataset = Dataset(config.data, run.folder.parent)
    parts = {
        "Summary": write_summary,
        "Data and folds": write_data,
        "Targets and networks": write_networks,
        "Training": write_training,
        "Inference": write_inference,
        "Post-processing": write_postprocessing,
        "Ensembling": write_ensembling,
        "Results": write_results,
        "What worked and what did not": write_findings,
        "Importance of features": write_features,
        "Hardware and time": write_times,
        "How to reproduce": write_making,
        "References": lambda *_: iter([References(writeup.REFERENCES)]),
    }
    yield from attempt(run, lambda: writeup.write_opening(read_json(run.metrics)))
    yield Heading("The team")
    yield from map(FillIn, ABOUT_TEAM)
    for number, (title, part) in enumerate(parts.items(), start=1):
        yield Heading(f"{number}. {title}")
        yield from attempt(run, partial(part, run, config, dataset))
    yield Heading("Licence and acknowledgements")
    yield from map(FillIn, ABOUT_RIGHTS)


def write_summary(run: Run, config: Config, dataset: Dataset) -> Iterator[Block]:
    """Say what the method is, how much of it there is and what it took."""
    networks, folds = reader.read_networks(run, config), dataset.list_folds()
    yield from writeup.write_summary(config.model_dump(mode="json"), networks, len(folds))
    names = list(reader.list_parts(run, config.members))
    metas = reader.read_all_metas(run, names, dataset)
    yield writeup.list_glance(networks, len(folds), count_parameters(run, networks, folds[0]), metas)


def count_parameters(run: Run, networks, fold: int) -> dict[str, int]:
    """Count the parameters of each network whose weights are there."""
    paths = list_weights(run, networks, fold)
    return {name: reader.count_parameters(path) for name, path in paths.items() if path.is_file()}


def list_weights(run: Run, networks, fold: int) -> dict[str, Path]:
    return {name: Run(name, run.folder.parent).fold(fold) / "weights.safetensors" for name in networks}


def write_data(run: Run, config: Config, dataset: Dataset) -> Iterator[Block]:
    """Tabulate images, types and folds, and show an image of each type."""
    yield from attempt(run, lambda: iter([tables.list_splits(read_table(dataset.manifest))]))
    folds = read_table(dataset.folds)
    yield from attempt(run, lambda: iter([tables.list_types(folds, read_table(dataset.manifest), IMAGE_TYPES)]))
    yield Paragraph(writeup.ABOUT_FOLDS)
    yield tables.list_folds(folds, IMAGE_TYPES)
    if config.data.only_folds:
        yield Paragraph(f"Only these folds were trained and scored: {', '.join(map(str, config.data.only_folds))}.")
    chosen = writeup.choose_examples(folds, IMAGE_TYPES)
    yield from attempt(
        run,
        lambda: writeup.write_examples(
            (row, read_image(dataset.image(row.image_id)), read_labels(dataset.labels(row.image_id)))
            for row in chosen.itertuples()
        ),
    )


def write_networks(run: Run, config: Config, dataset: Dataset) -> Iterator[Block]:
    """Tabulate what the networks predict and what they are made of."""
    networks, fold = reader.read_networks(run, config), dataset.list_folds()[0]
    yield network_tables.list_channels(networks)
    found = reader.list_networks(run, config)
    yield from (Missing(f"{network.name}/config.yaml") for network in found if network.name not in networks)
    counts = {name: f"{count:,}" for name, count in count_parameters(run, networks, fold).items()}
    yield network_tables.list_choices(networks, network_tables.MODEL, parameters=counts)
    weights = list_weights(run, networks, fold).values()
    yield from (Missing(reader.name_file(run, path)) for path in weights if not path.is_file())


def write_training(run: Run, config: Config, dataset: Dataset) -> Iterator[Block]:
    """Tabulate how the networks were trained, and show how it went."""
    networks, folds = reader.read_networks(run, config), dataset.list_folds()
    times = {name: ", ".join(read_times(Run(name, run.folder.parent), folds)) for name in networks}
    yield network_tables.list_choices(networks, network_tables.TRAINING, time_of_each_fold=times)
    yield network_tables.list_augmentation(networks)
    for network in reader.list_networks(run, config):
        histories, missing = reader.read_histories(network, folds)
        yield from missing
        if histories:
            yield from sections.write_training(network.name, histories)


def read_times(network: Run, folds) -> list[str]:
    """Return how long the training of each fold took, in words, where that is known."""
    paths = [network.meta(f"train_fold{fold}") for fold in folds]
    return [tables.format_time(read_json(path)["seconds"]) if path.is_file() else "not recorded" for path in paths]


def write_inference(run: Run, config: Config, dataset: Dataset) -> Iterator[Block]:
    yield Paragraph(writeup.ABOUT_INFERENCE)
    yield network_tables.list_choices(reader.read_networks(run, config), network_tables.INFERENCE)


def write_postprocessing(run: Run, config: Config, dataset: Dataset) -> Iterator[Block]:
    """Show the way from an image to its nuclei, describe it, and show how its thresholds were chosen."""
    yield from attempt(run, lambda: sections.write_pipeline(**reader.read_steps(run, config, dataset)))
    yield from writeup.write_postprocessing(config.model_dump(mode="json"))
    if config.selection.method == "classical":
        return
    yield Subheading("Thresholds chosen out of fold")
    yield Paragraph(sections.ABOUT_THRESHOLDS)
    tuned = read_json(run.tuned)
    yield tables.list_chosen(tuned)
    if config.selection.method in ("components", "watershed"):
        yield from sections.write_plain(config.selection.method, tuned)
    if config.selection.method != "scored":
        return
    yield from sections.write_keep(tuned)
    yield from sections.write_reliability(reader.sum_bins(run, dataset.read_folds()["image_id"]))


def write_ensembling(run: Run, config: Config, dataset: Dataset) -> Iterator[Block]:
    """Tabulate the members and say what their ensemble gains."""
    if not config.members:
        yield Paragraph("This run is no ensemble: unseen images are predicted by the networks of its folds, averaged.")
        return
    paths = {name: Run(name, run.folder.parent).metrics for name in config.members}
    scores = {name: read_json(path)["oof"]["score"] for name, path in paths.items() if path.is_file()}
    yield from (Missing(f"{name}/metrics.json") for name in config.members if name not in scores)
    yield from writeup.write_members(run.name, config.members, scores, read_json(run.metrics)["steps"])


def write_results(run: Run, config: Config, dataset: Dataset) -> Iterator[Block]:
    """Show the scores from all sides, and what goes wrong."""
    metrics = read_json(run.metrics)
    yield from sections.write_scores(metrics)
    yield from (
        Missing(f"data/{dataset.name}/{name}.csv, or a submission of its images")
        for name in tables.SOLUTIONS
        if name not in metrics
    )
    yield Paragraph(writeup.ABOUT_PUBLISHED)
    yield Subheading("Steps")
    yield from sections.write_steps(metrics["steps"])
    yield Subheading("Simpler versions")
    yield Paragraph(writeup.ABOUT_SIMPLER)
    yield writeup.list_simpler(metrics["steps"])
    yield Subheading("Precision by IoU threshold")
    yield from sections.write_precision(metrics)
    yield Subheading("Image types")
    yield from sections.write_types(metrics, IMAGE_TYPES)
    yield Subheading("Errors")
    yield tables.list_errors(metrics["oof"]["errors"])
    images = read_table(run.per_image("oof"))
    yield from sections.write_errors(images, IMAGE_TYPES)
    yield Subheading("Best, median and worst images")
    yield Paragraph(sections.ABOUT_GALLERIES)
    for name, chosen in sections.choose_galleries(images, N_GALLERY).items():
        yield from attempt(run, partial(sections.write_gallery, name, reader.read_examples(run, dataset, chosen)))


def write_findings(run: Run, config: Config, dataset: Dataset) -> Iterator[Block]:
    """Sort the steps and the ablations by what they gained."""
    yield Subheading("The steps of the method")
    yield from attempt(run, lambda: iter([writeup.list_findings(read_json(run.metrics)["steps"])]))
    yield from writeup.write_ablations(read_table(comparison(run.folder.parent, "ablations")))


def write_features(run: Run, config: Config, dataset: Dataset) -> Iterator[Block]:
    """Tabulate the features by group, and show the most used."""
    if config.selection.method != "scored":
        yield Paragraph(f"This run decodes its maps by {config.selection.method}, which uses no features.")
        return
    yield Paragraph(writeup.ABOUT_FEATURES)
    path = run.scorer / "features.json"
    importance = read_json(path)["importance"] if path.is_file() else {}
    yield writeup.list_features(config.scorer.leave_out, importance)
    yield from sections.write_importance(importance) if importance else [Missing(reader.name_file(run, path))]


def write_times(run: Run, config: Config, dataset: Dataset) -> Iterator[Block]:
    """Tabulate what every run took, on what."""
    metas = reader.read_all_metas(run, reader.list_parts(run, config.members), dataset)
    yield Paragraph(writeup.ABOUT_TIMES)
    yield tables.list_times(metas)
    yield from (Missing(f"{name}/meta") for name, found in metas.items() if not found)


def write_making(run: Run, config: Config, dataset: Dataset) -> Iterator[Block]:
    """Give the commands, commits, versions and checksums that it takes to make a run again."""
    yield FillIn("the public address of the repository")
    names = list(reader.list_parts(run, config.members))
    metas = reader.read_all_metas(run, names, dataset)
    yield from writeup.write_commands(find_config(run, config), metas)
    yield tables.list_versions(metas)
    yield Paragraph(writeup.ABOUT_CHECKS)
    paths = [
        dataset.folds,
        *list_initial_weights(reader.read_networks(run, config)),
        *(run.submission(split) for split in ("test", "stage2")),
        run.metrics,
    ]
    if sums := [f"{file_hash(path)}  {path}" for path in paths if path.is_file()]:
        yield Code("\n".join(sums))
    yield from (
        Missing(reader.name_file(run, path))
        for path in paths
        if not path.is_file() and path != run.submission("stage2")
    )


def find_config(run: Run, config: Config) -> str:
    """Return the path of the config that makes a run: the one that is there, or else where it ought to be."""
    folders = [Path("ensembles"), Path("configs")]
    found = (path for folder in folders for path in sorted(folder.rglob(f"{run.name}.yaml")))
    return str(next(found, folders[not config.members] / f"{run.name}.yaml"))


def list_initial_weights(networks) -> list[Path]:
    """Return the local files of initial weights."""
    weights = dict.fromkeys(config["model"]["weights"] for config in networks.values())
    return [Path(name) for name in weights if name and Path(name).suffix]
