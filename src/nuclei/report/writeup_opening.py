"""The first sections of a write-up: the solution in brief, and the data."""

from collections.abc import Iterable, Iterator, Mapping, Sequence

import pandas as pd
from matplotlib.figure import Figure

from nuclei.candidates.features import FEATURES
from nuclei.data.image_types import IMAGE_TYPES
from nuclei.decoding.methods import method_of
from nuclei.evaluation.summary import format_interval, format_score
from nuclei.report import charts, network_tables, pictures, tables
from nuclei.report.blocks import (
    Block,
    Missing,
    Paragraph,
    Picture,
    Table,
)
from nuclei.report.charts import name_type, styled
from nuclei.report.reader import RunReader, Shown
from nuclei.report.tables import SEARCH_SENTENCES, Metas, each_row, format_time

ABOUT_FOLDS = (
    "Many images are tiles of one larger field of view. They were matched by their edges into mosaic groups, and all "
    "tiles of a group share a fold, or validation would leak. Folds are balanced by image type."
)
ABOUT_EXTERNAL = (
    "Beside the competition's images every network learned from these, which are held out of no fold and scored "
    "nowhere. Each was compared by content with the competition's images of all splits, and copies of them, of parts, "
    "turned, flipped or rescaled, were left out."
)
ABOUT_NO_EXTERNAL = (
    "No images but the competition's were learned from; initial weights are named below, with the networks."
)


def opening_section(reader: RunReader) -> Iterator[Block]:
    """Say the score in one line."""
    metrics = reader.metrics
    subject = "Synthetic nuclei" if reader.dataset.is_synthetic else "Nuclei of the 2018 Data Science Bowl"
    said = [
        f"{subject}, segmented one by one: out-of-fold score "
        f"{format_score(metrics['oof']['score'], spelled_out=True)} over {metrics['oof']['n_images']} images"
    ]
    for key, name in reader.titles.items():
        if key != "oof" and key in metrics:
            said.append(f"{format_interval(metrics[key]['score'])[0]} on {name}")
    yield Paragraph(", ".join(said) + ".")


def summary_section(reader: RunReader) -> Iterator[Block]:
    """Say what the method is, how much of it there is and what it took."""
    config, n_folds = reader.config, len(reader.folds)
    decoding = method_of(config).sentence.format(
        n_features=count_features(config.scorer.leave_out), search=SEARCH_SENTENCES[config.selection.search]
    )
    yield Paragraph(" ".join([*describe_networks(reader.network_configs, n_folds), decoding]))
    yield glance_table(reader.network_configs, n_folds, reader.parameters, reader.metas)


def describe_networks(networks: Mapping[str, network_tables.Setup], n_folds: int) -> list[str]:
    """Return a sentence on what the networks are and predict, none without networks."""
    if not networks:
        return []
    models = [config["model"] for config in networks.values()]
    names = [" over ".join(name.removeprefix("tu-") for name in (m["decoder"], m["encoder"]) if name) for m in models]
    channels = ", ".join(dict.fromkeys(name for model in models for name in model["channels"]))
    sets = "One set of networks" if len(networks) == 1 else f"{len(networks)} sets of networks"
    return [
        f"{sets} ({', '.join(dict.fromkeys(names))}), one network for each fold of a {n_folds}-fold "
        f"cross-validation: each gives {f'for every pixel the maps {channels}' if channels else 'detections'}."
    ]


def count_features(leave_out: Iterable[str]) -> int:
    return sum(len(features) for group, features in FEATURES.items() if group not in leave_out)


def glance_table(
    networks: Mapping[str, network_tables.Setup], n_folds: int, parameters: Mapping[str, int], metas: Metas
) -> Table:
    """Tabulate what a reader asks first: networks, parameters, time, machine and tools."""
    found = [meta for metas_of_run in metas.values() for meta in metas_of_run]
    trainings = [meta["seconds"] for meta in found if meta["stage"].startswith("train_")]
    rows = [("networks", f"{len(networks)} × {n_folds} folds = {len(networks) * n_folds}")]
    if parameters:
        rows.append(("parameters", ", ".join(f"{name}: {n / 1e6:.2f} million" for name, n in parameters.items())))
    if trainings:
        rows.append(("training", f"{format_time(sum(trainings))}: {len(trainings)} trainings, their times added up"))
    if found:
        rows += [
            ("everything else", format_time(sum(meta["seconds"] for meta in found) - sum(trainings))),
            ("machine", "; ".join(sorted({tables.describe_machine(meta) for meta in found}))),
            ("tools", ", ".join(" ".join(row) for row in tables.versions_table(metas).rows)),
        ]
    return Table(("what", "this solution"), rows, n_text=2)


def data_section(reader: RunReader) -> Iterator[Block]:
    """Tabulate images, types and folds, and show an image of each type."""
    yield from reader.attempt(lambda: tables.splits_table(reader.manifest))
    folds = reader.fold_table
    yield from reader.attempt(lambda: tables.types_table(folds, reader.manifest, IMAGE_TYPES))
    yield Paragraph(ABOUT_FOLDS)
    yield tables.folds_table(folds, IMAGE_TYPES)
    if only := reader.config.data.only_folds:
        yield Paragraph(f"Only these folds were trained and scored: {', '.join(map(str, only))}.")
    yield from reader.attempt(lambda: examples_picture(read_annotated(reader, choose_examples(folds, IMAGE_TYPES))))


def choose_examples(folds: pd.DataFrame, order: Sequence[str]) -> pd.DataFrame:
    """Return one row of the fold table for each image type: that with the median number of nuclei."""
    ranked = folds.sort_values(["n_nuclei", "image_id"])
    of_type = [ranked[ranked["cluster"] == cluster] for cluster in tables.order_types(folds["cluster"], order)]
    return pd.concat([images.iloc[[(len(images) - 1) // 2]] for images in of_type])


def read_annotated(reader: RunReader, folds: pd.DataFrame) -> Iterator[Shown]:
    """Yield the images of some rows of the fold table with their annotation."""
    for row in each_row(folds):
        yield Shown(row, reader.image(row.image_id), reader.truth(row.image_id))


@styled
def draw_examples(examples: Sequence[pictures.Example]) -> Figure:
    """Draw images in two rows, as they are and outlined; captions are of two lines, one for each row."""
    captions = [list(line) for line in zip(*(example.caption.split("\n") for example in examples), strict=True)]
    rows = [
        [pictures.make_tile(pictures.as_plain(example, ""), 250, 256) for example in examples],
        [pictures.make_tile(example, 250, 256) for example in examples],
    ]
    return pictures.place_tiles(rows, captions, 12, 38)


def examples_picture(examples: Iterable[Shown]) -> Picture:
    """Show one image of each type as it is and with the outlines of its annotation."""
    shown = []
    for row, image, truth, _ in examples:
        size = f"{truth.shape[1]} × {truth.shape[0]} px"
        shown.append(pictures.Example(image, f"{name_type(row.cluster)}\n{row.n_nuclei} nuclei, {size}", truth))
    caption = (
        "An image of each type, that with the median number of nuclei, as it is and with the outlines of its "
        "annotation. Dark images are brightened; of large ones the square with the most outlines is shown."
    )
    keep = (pictures.TRUTH_COLOUR, (0, 0, 0), (255, 255, 255))
    return Picture("data", charts.render_png(draw_examples(shown), keep), caption, wide=True)


def external_section(reader: RunReader) -> Iterator[Block]:
    """Name the external data that the networks learned from, as the competition asks, or say that there are none."""
    said = {
        name: entry
        for metas in reader.metas.values()
        for meta in metas
        for name, entry in meta.get("external", {}).items()
    }
    configs = reader.network_configs
    weights = {name: weight for c in configs.values() for name, weight in c["data"]["external"].items() if weight}
    unknown = [network.name for network in reader.networks if network.name not in configs]
    yield from (Missing(f"{name}/config.yaml") for name in unknown)
    if not weights:
        yield from () if unknown or not configs else (Paragraph(ABOUT_NO_EXTERNAL),)
        return
    yield Paragraph(ABOUT_EXTERNAL)
    rows = [
        (
            name,
            *(str(said.get(name, {}).get(key, "?")) for key in ("source", "licence", "images", "nuclei")),
            f"{weight:g}",
        )
        for name, weight in weights.items()
    ]
    yield Table(("data set", "source", "licence", "images", "nuclei", "weight of an image"), rows, n_text=3)
    yield from (Missing(f"what train_fold*.json say of {name}") for name in weights if name not in said)
