"""Sections that the report and the write-up are made of: functions from a RunReader to blocks.

A document is a list of Sections (REPORT in run_report.py, WRITEUP in writeup.py). To add a section, write one function
`(reader: RunReader) -> Iterator[Block]`, here if both documents may show it, and one line in the list. A `*_section`
reads what it needs through the reader and ends at the first missing file; a `*_picture` draws one figure from data.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray

from nuclei.candidates.tree import make_energy
from nuclei.data.image_types import IMAGE_TYPES
from nuclei.data.labels import count_touching
from nuclei.decoding.methods import plain_methods
from nuclei.decoding.tuning import Tuned
from nuclei.evaluation.summary import format_gain, format_score, summarise_bins
from nuclei.report import charts, pictures, tables
from nuclei.report.blocks import Block, Heading, Missing, Paragraph, Picture
from nuclei.report.charts import name_type
from nuclei.report.reader import RunReader, Shown, rank_by_median
from nuclei.report.tables import ID_LENGTH
from nuclei.report.unseen import unseen_blocks

N_GALLERY, N_EXAMPLES, N_WORST = 4, 3, 20  # images of a gallery, of each type, of the table
KEPT = (pictures.TRUTH_COLOUR, pictures.PREDICTION_COLOUR, (0, 0, 0), (255, 255, 255))  # where colours are few
N_COLOURS = 160  # of pictures of several images: more make the pages and the repository larger
GALLERIES = {"best": "The best", "median": "Around the median score:", "worst": "The worst"}
# The overview shows one image of each of the first types that there are, and one with a clump.
OVERVIEW_TYPES = (
    "dark_fluorescence_small",
    "dark_fluorescence_large",
    "purple_on_white",
    "purple_on_purple",
    "pink_and_purple",
    "black_on_white",
)
N_OVERVIEW = 6
MIN_NUCLEI_OF_OVERVIEW = 8  # in an image of it, if its type has such images
NEAR_MEDIAN = 0.1  # share of the images, those nearest to the median score, among which the clump is looked for
ABOUT_SCORES = (
    "The score is the competition's: precision TP / (TP + FP + FN) at ten IoU thresholds from 0.50 to 0.95, averaged "
    "over thresholds, then over images. Out of fold, each image was predicted, scored and selected by models and "
    "thresholds that had not seen it. Intervals are 95 % percentile bootstrap intervals over groups of images, since "
    "tiles of one field of view resemble each other; images of a single group have no interval."
)
ABOUT_SYNTHETIC = (
    "All images are synthetic: drawn by the command `nuclei demo`, to try the program. Their scores say nothing of "
    "real images, and compare with those of no other data."
)
ABOUT_GALLERIES = (
    "Dark images are brightened; of large ones the square with the most outlines is shown. Where truth and prediction "
    "agree, the outline of the truth runs just inside that of the prediction."
)
ABOUT_THRESHOLDS = (
    "Each threshold is chosen where the score of the other folds is highest; for new images, where that of all folds "
    "is. Curves are means over all images."
)


@dataclass(frozen=True)
class Section:
    """Hold one section of a document: its heading, and the function that makes its blocks."""

    title: str
    make: Callable[[RunReader], Iterator[Block]]


def compose(sections: Sequence[Section], reader: RunReader, numbered: bool = False) -> Iterator[Block]:
    """Yield all sections with their headings; a section whose file is missing ends with its name."""
    for number, section in enumerate(sections, start=1):
        yield Heading(f"{number}. {section.title}" if numbered else section.title)
        yield from reader.attempt(partial(section.make, reader))


def make_picture(name: str, figure: Figure, caption: str, alt: str = "") -> Picture:
    """Return a chart with its caption and, for those who do not see it, what it shows."""
    return Picture(name, charts.render_png(figure), caption, alt=alt, chart=True)


def pipeline_section(reader: RunReader) -> Iterator[Block]:
    """Show every step on one typical image."""
    image_id = reader.typical()
    steps = reader.steps("oof", image_id)
    if reader.has_networks and steps.candidates is None:
        steps = replace(steps, energy=make_energy(steps.maps, reader.config.watershed.center_weight))
    caption = (
        "The steps on a part of an image whose score is near the median, by a network that was not trained on it "
        f"({image_id[:ID_LENGTH]})."
    )
    if steps.candidates is not None:
        caption += " Of the candidates, the best at each node of the tree is outlined."
    drawn = ["image", *(f"{name} map" for name in steps.maps), "candidates" if steps.candidates else "energy", "nuclei"]
    alt = f"One part of an image, side by side: {', '.join(drawn)}"
    yield Picture("pipeline", charts.render_png(pictures.draw_pipeline(steps)), caption, wide=True, alt=alt)


def scores_section(reader: RunReader) -> Iterator[Block]:
    """Tabulate the scores with their intervals, and name the solutions there is no score for."""
    yield Paragraph(ABOUT_SCORES)
    yield tables.scores_table(reader.metrics, reader.titles)
    for name in reader.titles:
        if name not in reader.metrics:
            yield Missing(f"data/{reader.dataset.name}/{name}.csv, or a submission of its images")


def steps_section(reader: RunReader) -> Iterator[Block]:
    """Compare plain decodings, candidate scoring and, of an ensemble, its best member."""
    steps = reader.metrics["steps"]
    if len(steps) > 1:
        yield make_picture(
            "steps",
            charts.draw_steps(tables.name_steps(steps), steps),
            "Out-of-fold score of each step and its paired gain: green above zero, gray undecided, red below zero.",
            "Chart of scores: "
            + "; ".join(
                f"{step['run']}, {tables.name_method(step['method'])} {format_score(step['score'])}"
                + (f", gain {format_gain(step['gain'])}" if step["gain"] else "")
                for step in steps
            ),
        )
    yield tables.steps_table(steps)


def unseen_section(reader: RunReader) -> Iterator[Block]:
    """Show seen kinds and unseen ones side by side."""
    unseen = reader.unseen_metrics
    per_image = [reader.per_image, reader.unseen_per_image] if unseen else []
    yield from unseen_blocks(reader.metrics["oof"], unseen, per_image, reader.counterpart_name)


def precision_section(reader: RunReader) -> Iterator[Block]:
    """Show precision against the IoU threshold."""
    curves = {name: result["by_threshold"] for name, result in reader.results.items()}
    yield make_picture(
        "precision",
        charts.draw_precision(curves),
        "Mean precision over images at each IoU threshold; the score is the mean of a curve.",
        "Chart of falling curves: "
        + "; ".join(
            f"{name} from {max(curve.values()):.2f} at IoU {min(curve)} to {min(curve.values()):.2f} at {max(curve)}"
            for name, curve in curves.items()
        ),
    )
    yield tables.precision_table(reader.metrics, reader.titles)


def types_section(reader: RunReader) -> Iterator[Block]:
    """Show the score of each image type."""
    types = {name: result["by_cluster"] for name, result in reader.results.items()}
    yield make_picture(
        "types",
        charts.draw_types(types, IMAGE_TYPES),
        "Mean score of each image type with its 95 % interval and number of images.",
        "Chart of bars: "
        + "; ".join(
            f"{name}, {name_type(cluster)} {one['score'][0]:.3f}"
            for name, clusters in types.items()
            for cluster, one in clusters.items()
        ),
    )
    yield tables.type_scores_table(reader.metrics, IMAGE_TYPES, reader.titles)


def errors_section(reader: RunReader) -> Iterator[Block]:
    """Count the kinds of errors, of all images and of each type."""
    yield tables.errors_table(reader.metrics["oof"]["errors"])
    counts = tables.count_errors_by_type(reader.per_image, IMAGE_TYPES)
    yield make_picture(
        "errors",
        charts.draw_errors(counts, tables.WRONG),
        "Errors out of fold. Each true nucleus is counted once; false predictions come on top.",
        "Chart of bars, errors per 100 nuclei: "
        + "; ".join(
            f"{name_type(name)} "
            + ", ".join(f"{100 * c[kind] / max(c['n_true'], 1):.0f} {name_type(kind)}" for kind in tables.WRONG)
            for name, c in counts.items()
        ),
    )


def galleries_section(reader: RunReader) -> Iterator[Block]:
    """Show the best, median and worst images with their outlines."""
    yield Paragraph(ABOUT_GALLERIES)
    for name, chosen in choose_galleries(reader.per_image, N_GALLERY).items():
        yield from reader.attempt(partial(gallery_picture, name, reader.examples(chosen)))


def worst_section(reader: RunReader) -> Iterator[Block]:
    yield tables.worst_table(reader.per_image, N_WORST)


def examples_section(reader: RunReader) -> Iterator[Block]:
    """Show a few images of each type."""
    images = reader.per_image
    for cluster in tables.order_types(images["cluster"], IMAGE_TYPES):
        own = images[images["cluster"] == cluster]
        examples = reader.examples(spread_examples(own, N_EXAMPLES))
        yield from reader.attempt(partial(type_picture, cluster, examples, len(own)))


def scoring_section(reader: RunReader) -> Iterator[Block]:
    """Show how good the predicted IoU is and what it is predicted from."""
    if not reader.has_scores:
        title = tables.name_method(reader.config.selection.method)
        yield Paragraph(f"This run's nuclei are those of its {title}: no candidates were scored.")
        return
    yield from reader.attempt(lambda: reliability_picture(reader.reliability))
    yield importance_picture(reader.importance)


def thresholds_section(reader: RunReader) -> Iterator[Block]:
    """Show the score against every threshold that was chosen."""
    if not plain_methods(reader.config):
        yield Paragraph("No threshold of this run was chosen by its score: its method has none that is tuned.")
        return
    yield Paragraph(ABOUT_THRESHOLDS)
    if reader.has_scores:
        yield from reader.attempt(lambda: keep_picture(reader.tuned))
    for method in plain_methods(reader.config):
        yield from reader.attempt(partial(plain_section, reader, method))


def training_section(reader: RunReader) -> Iterator[Block]:
    """Show the training of every network that the maps come from, and name the folds without a history."""
    if absent := reader.missing_histories():
        yield Missing(", ".join(absent))
    for network in reader.networks:
        if histories := reader.histories(network):
            yield training_picture(network.name, histories)


def plain_section(reader: RunReader, method: str) -> Iterator[Block]:
    """Show the score against the thresholds of one plain decoding."""
    yield plain_picture(method, reader.plain(method))


def choose_galleries(images: pd.DataFrame, n: int) -> dict[str, pd.DataFrame]:
    """Return the rows of the n best, n median and n worst images, by the keys of GALLERIES, each from good to bad."""
    ranked = rank(images)
    middle = max((len(ranked) - n) // 2, 0)
    return {"best": ranked.head(n), "median": ranked[middle : middle + n], "worst": ranked.tail(n)}


def spread_examples(images: pd.DataFrame, n: int) -> pd.DataFrame:
    """Return n rows (all, if there are fewer) evenly spread over the ranks of the score, from good to bad."""
    places = {int((i + 0.5) / n * len(images)) for i in range(n)}
    return rank(images).iloc[sorted(places)]


def rank(images: pd.DataFrame) -> pd.DataFrame:
    return images.sort_values(["score", "image_id"], ascending=[False, True])


def gallery_picture(name: str, examples: Iterable[Shown]) -> Picture:
    """Show images with their outlines, in two rows; name is one of GALLERIES."""
    shown = [
        pictures.Example(
            one.image,
            f"{one.row.image_id[:ID_LENGTH]}   score {one.row.score:.3f}\n{name_type(one.row.cluster)}",
            one.truth,
            one.prediction,
        )
        for one in examples
    ]
    figure = pictures.draw_gallery([part for part in (shown[:2], shown[2:]) if part])
    caption = f"{GALLERIES[name]} {len(shown)} images, out of fold."
    alt = f"Images with the outlines of truth and prediction: {list_examples(shown)}"
    return Picture(f"gallery_{name}", charts.render_png(figure, KEPT, N_COLOURS), caption, alt=alt)


def list_examples(examples: Iterable[pictures.Example]) -> str:
    """Return the captions of examples in one line."""
    return "; ".join(" ".join(example.caption.split()) for example in examples)


def type_picture(cluster: str, examples: Iterable[Shown], n_images: int) -> Picture:
    """Show images of one type, above as they are, below with their outlines."""
    plain, outlined = [], []
    for row, image, truth, prediction in examples:
        counts = f"{row.n_true} nuclei, {row.n_pred} predicted"
        example = pictures.Example(image, f"score {row.score:.3f}\n{counts}", truth, prediction)
        size = f"{image.shape[1]} × {image.shape[0]} px"
        plain.append(pictures.as_plain(example, f"{row.image_id[:ID_LENGTH]}\n{size}"))
        outlined.append(example)
    caption = (
        f"{name_type(cluster).capitalize()}: {len(outlined)} of {n_images} images, from a good score to a bad one, "
        "without and with outlines."
    )
    figure = pictures.draw_gallery([plain, outlined], 340, 256)
    alt = f"Images without outlines and with those of truth and prediction: {list_examples(outlined)}"
    return Picture(f"type_{cluster}", charts.render_png(figure, KEPT, N_COLOURS), caption, wide=True, alt=alt)


def reliability_picture(sums: NDArray[np.float64]) -> Picture:
    """Compare predicted and true IoU of candidates: `sums` as summary.bin_predictions."""
    n, squared_error = int(sums[0].sum()), sums[4].sum()
    return make_picture(
        "reliability",
        charts.draw_reliability(**summarise_bins(sums)),
        f"Predicted and true IoU of {n:,} out-of-fold candidates; root mean squared "
        f"error {np.sqrt(squared_error / max(n, 1)):.3f}.",
        "Chart of the mean true IoU against the predicted one, beside the diagonal of perfect predictions; below, how "
        "many candidates there are of each predicted IoU",
    )


def importance_picture(importance: Mapping[str, float]) -> Picture:
    """Show the features that the candidates' scores come from."""
    caption = "Share of the total gain of the boosted trees, averaged over all of them."
    first = sorted(importance.items(), key=lambda item: (-item[1], item[0]))[:5]
    alt = f"Chart of bars, the largest: {', '.join(f'{name} {100 * share:.1f} %' for name, share in first)}"
    return make_picture("importance", charts.draw_importance(importance), caption, alt)


def keep_picture(tuned: Tuned) -> Picture:
    """Show the curve of the keep threshold of scored candidates."""
    tuned = replace(tuned, options=[{"keep": value} for value in tuned.options])
    figure = charts.draw_threshold("Which candidates to keep", "expected gain a candidate must exceed", tuned, "keep")
    return make_picture("keep", figure, "Score against the keep threshold of the selection.", describe_curve(tuned))


def plain_picture(method: str, tuned: Tuned) -> Picture:
    """Show the curves of a plain decoding, one for each value of its threshold beside that of the mask, if any."""
    line = next((name for name in tuned.new if name != "mask_threshold"), None)
    title, x_label = f"Plain decoding by {method}", "threshold of the mask map"
    figure = charts.draw_threshold(title, x_label, tuned, "mask_threshold", line)
    return make_picture(
        method, figure, f"Score of the plain decoding by {method} against its thresholds.", describe_curve(tuned)
    )


def describe_curve(tuned: Tuned) -> str:
    """Return in words what the chart of a tuning shows."""
    chosen = ", ".join(
        f"{name_type(name)} {value:g}" for name, value in tuned.new.items() if not isinstance(value, list)
    )
    return f"Chart of scores from {min(tuned.curve):.3f} to {max(tuned.curve):.3f}; chosen for new images: {chosen}"


def training_picture(run: str, histories: Mapping[str, pd.DataFrame]) -> Picture:
    """Show the training of a run's networks, {fold: history}."""
    return make_picture(
        f"training_{run}",
        charts.draw_training("Training loss", histories),
        f"Training of {run}, one network per fold. The score on the right is a "
        "quick look at some images of the fold left out; it chooses nothing that is reported.",
        "Chart of losses against the optimiser's step, at the end: "
        + ", ".join(f"fold {fold} {table['loss'].iloc[-1]:.3f}" for fold, table in histories.items()),
    )


def overview_picture(reader: RunReader) -> Picture:
    """Show a run at a glance: the images of choose_overview with the outlines of truth and prediction."""
    examples = [
        pictures.Example(image, f"{name_type(row.cluster)}{row.note}\nscore {row.score:.3f}", truth, prediction)
        for row, image, truth, prediction in reader.examples(choose_overview(reader))
    ]
    caption = "Out-of-fold predictions: an image of median score of each type, and one with a clump."
    png = charts.render_png(pictures.draw_overview(examples), KEPT, N_COLOURS)
    return Picture("gallery", png, caption, wide=True, alt=f"Outlined images: {list_examples(examples)}")


def choose_overview(reader: RunReader) -> pd.DataFrame:
    """Choose the images of the overview, rows of per_image: a typical one of each type, then one with a clump.

    Of each of the first N_OVERVIEW - 1 types of OVERVIEW_TYPES that occur, the image nearest to the type's median score
    that has MIN_NUCLEI_OF_OVERVIEW nuclei or more, or any number if none has. The last is the one with the most
    touching nuclei among the images nearest to the median score, a share NEAR_MEDIAN of all; the column `note` says so.
    Of equal ones, the first by id.
    """
    images = reader.per_image
    types = [name for name in OVERVIEW_TYPES if (images["cluster"] == name).any()][: N_OVERVIEW - 1]
    chosen = []
    for name in types:
        ranked = rank_by_median(images[images["cluster"] == name])
        enough = ranked[ranked["n_true"] >= MIN_NUCLEI_OF_OVERVIEW]
        chosen.append((enough if len(enough) else ranked).head(1).assign(note=""))
    near = rank_by_median(images).head(max(1, round(NEAR_MEDIAN * len(images))))
    near = near[~near["image_id"].isin([one["image_id"].iloc[0] for one in chosen])].sort_values("image_id")
    touching = [count_touching(reader.truth(image_id)) for image_id in near["image_id"]]
    if touching:
        chosen.append(near.iloc[[int(np.argmax(touching))]].assign(note=": touching nuclei"))
    return pd.concat(chosen)
