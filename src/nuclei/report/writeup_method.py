"""The sections of a write-up about the method: networks, training, inference, post-processing, ensembling."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from nuclei.config.schema import ScorerConfig, SelectionConfig, WatershedConfig
from nuclei.decoding.methods import method_of, plain_methods
from nuclei.evaluation.summary import format_gain, format_interval, judge_gain
from nuclei.report import network_tables, tables
from nuclei.report.blocks import (
    Block,
    Missing,
    Paragraph,
    Subheading,
    Table,
)
from nuclei.report.reader import RunReader
from nuclei.report.sections import (
    ABOUT_THRESHOLDS,
    keep_picture,
    pipeline_section,
    plain_picture,
    reliability_picture,
    training_section,
)
from nuclei.report.tables import SEARCH_SENTENCES, format_time, name_method

VERDICTS = {"better": "worked", "undecided": "undecided", "identical": "identical", "worse": "did not work"}
ABOUT_INFERENCE = (
    "An image of the fold table is predicted by the one network that saw neither it nor any tile of its mosaic; an "
    "unseen image by the networks of all folds, averaged. Images are padded by reflection, larger ones predicted in "
    "tiles with blended overlap."
)


def networks_section(reader: RunReader) -> Iterator[Block]:
    """Tabulate what the networks predict and what they are made of."""
    networks = reader.network_configs
    yield network_tables.channels_table(networks)
    yield from (Missing(f"{one.name}/config.yaml") for one in reader.networks if one.name not in networks)
    counts = {name: f"{count:,}" for name, count in reader.parameters.items()}
    yield network_tables.choices_table(networks, network_tables.MODEL, parameters=counts)
    yield from reader.missing(reader.weights.values())


def settings_and_training_section(reader: RunReader) -> Iterator[Block]:
    """Tabulate how the networks were trained, and show how it went."""
    networks = reader.network_configs
    times = {
        network.name: ", ".join(
            "not recorded" if seconds is None else format_time(seconds) for seconds in reader.training_seconds(network)
        )
        for network in reader.networks
    }
    yield network_tables.choices_table(networks, network_tables.TRAINING, time_of_each_fold=times)
    yield network_tables.augmentation_table(networks)
    yield from training_section(reader)


def inference_section(reader: RunReader) -> Iterator[Block]:
    yield Paragraph(ABOUT_INFERENCE)
    yield network_tables.choices_table(reader.network_configs, network_tables.INFERENCE)


def postprocessing_section(reader: RunReader) -> Iterator[Block]:
    """Show the steps from an image to its nuclei, describe them, and show how their thresholds were chosen."""
    config, method = reader.config, reader.config.selection.method
    yield from reader.attempt(lambda: pipeline_section(reader))
    if reader.has_energy:
        yield Paragraph(describe_energy(config.watershed))
    if reader.has_scores:
        yield Paragraph(describe_tree(config.watershed))
        yield Paragraph(describe_scorer(config.scorer))
        yield Paragraph(describe_selection(config.selection))
    else:
        yield Paragraph(method_of(config).sentence)
    if not plain_methods(config):
        return
    yield Subheading("Thresholds chosen out of fold")
    yield Paragraph(ABOUT_THRESHOLDS)
    yield tables.thresholds_table(reader.tuned)
    if method in plain_methods(config):
        yield plain_picture(method, reader.tuned)
    if reader.has_scores:
        yield keep_picture(reader.tuned)
        yield reliability_picture(reader.reliability)


def describe_energy(watershed: WatershedConfig) -> str:
    """Return the energy that is flooded, with its weights."""
    weight = watershed.center_weight
    return (
        f"Energy (Bai and Urtasun 2017): {weight:g} · center + {1 - weight:g} · mask · (1 − border), "
        "high at centres and low where nuclei meet."
    )


def describe_tree(watershed: WatershedConfig) -> str:
    """Return how candidates are cut, with the settings."""
    thresholds = ", ".join(f"{threshold:g}" for threshold in watershed.mask_thresholds)
    return (
        f"Tree of candidates: the region where mask exceeds {watershed.floor:g}, holes filled, is flooded from the "
        f"maxima of the energy, blurred by {watershed.smooth_px:g} px; a maximum that rises less than "
        f"{watershed.depth:g} above its pass does not count. Basins are merged over descending passes, and every node "
        f"of that tree, a part, a nucleus or a clump of up to {watershed.max_leaves} seeds, is cut at mask thresholds "
        f"{thresholds}: the candidates, of {watershed.min_area_px} px or more."
    )


def describe_scorer(scorer: ScorerConfig) -> str:
    """Return how the boosters learn, with their settings."""
    return (
        "Scorer: LightGBM, for each of the ten IoU thresholds the probability to pass it (log loss), and the IoU "
        f"itself (squared error); {scorer.rounds} rounds, {scorer.leaves} leaves, rate {scorer.learning_rate:g}, "
        f"at least {scorer.min_leaf_rows} candidates a leaf, {100 * scorer.share:g} % of candidates and of features "
        f"per tree; seeds averaged: {scorer.seeds}. Trained by the networks' own folds; a candidate weighs one over "
        "the root of their number in its image."
    )


def describe_selection(selection: SelectionConfig) -> str:
    """Return how candidates are chosen, with the settings."""
    grid = ", ".join(f"{value:g}" for value in selection.keep_grid)
    keep = (
        f"the lowest of {grid} whose score on the other folds is within {selection.tolerance:g} of the best"
        if selection.tolerance
        else f"the one of {grid} that is best on the other folds"
    )
    if selection.keep_other is not None:
        keep += f", and {selection.keep_other:g} in images unlike those of training"
    return (
        "Selection: a candidate's expected gain is the mean over thresholds of p − (1 − p) · precision, precision "
        f"being what the other folds reach there. {SEARCH_SENTENCES[selection.search]}. A keep threshold is subtracted "
        f"from each gain; each fold uses {keep}.{describe_growth(selection)}"
    )


def describe_growth(selection: SelectionConfig) -> str:
    """Return a sentence of how outlines are moved, after a space; nothing where they are not."""
    if selection.grow == selection.grow_familiar == SelectionConfig().grow:
        return ""
    return (
        f" Outlines are then moved outwards, by {selection.grow} in images unlike those of training and by "
        f"{selection.grow_familiar} in the others."
    )


def ensembling_section(reader: RunReader) -> Iterator[Block]:
    """Tabulate the members with weight and score, and say what their ensemble gains over the best."""
    members = reader.config.members
    if not members:
        yield Paragraph("This run is no ensemble: unseen images are predicted by the networks of its folds, averaged.")
        return
    if absent := [f"{name}/metrics.json" for name in members if name not in reader.member_scores]:
        yield Missing(", ".join(absent))
    steps = reader.metrics["steps"]
    yield members_table(members, reader.member_scores)
    yield from map(Paragraph, describe_gain(reader.run.name, steps))


def members_table(members: Mapping[str, float], scores: Mapping[str, Sequence[float]]) -> Table:
    """Tabulate the members of an ensemble, {run: weight}, with their out-of-fold scores."""
    total = sum(members.values())
    rows = [
        (
            member,
            f"{weight:g}",
            f"{100 * weight / total:.1f}",
            *(format_interval(scores[member]) if member in scores else ("missing", "")),
        )
        for member, weight in members.items()
    ]
    return Table(("member", "weight", "% of the average", "out-of-fold score", "95 % interval"), rows)


def describe_gain(name: str, steps: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a sentence on what the ensemble `name` gains over its best member, none if they cannot be compared."""
    over = [step for step in steps if step["run"] == name and step["over"] and step["over"][0] != name]
    return [
        f"Averaging the maps gains {format_gain(step['gain'], spelled_out=True)} over the best member, "
        f"{step['over'][0]}, both by {name_method(step['method'])}: {VERDICTS[judge_gain(step['gain'])]}."
        for step in over[-1:]
    ]
