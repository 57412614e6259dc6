"""Sections of a report: what was read of a run -> blocks of text, tables and figures with their captions."""

from collections.abc import Iterable, Iterator

import numpy as np
import pandas as pd

from nuclei.evaluation.summary import ERRORS, summarise_bins
from nuclei.report import charts, pictures, tables
from nuclei.report.blocks import Block, Paragraph, Picture
from nuclei.report.charts import name_type
from nuclei.report.tables import ID_LENGTH

KEPT = (pictures.TRUTH_COLOUR, pictures.PREDICTION_COLOUR, (0, 0, 0), (255, 255, 255))  # where colours are few
GALLERIES = {"best": "The best", "median": "Around the median score:", "worst": "The worst"}
ABOUT_SCORES = (
    "The score is the competition's: precision TP / (TP + FP + FN) at ten IoU thresholds from 0.50 to 0.95, averaged "
    "over thresholds, then over images. Out of fold, each image was predicted, scored and selected by models and "
    "thresholds that had not seen it. Intervals are 95 % percentile bootstrap intervals over groups of images, since "
    "tiles of one field of view resemble each other."
)
ABOUT_GALLERIES = (
    "Dark images are brightened; of large ones the square with the most outlines is shown. Where truth and prediction "
    "agree, the outline of the truth runs just inside that of the prediction."
)
ABOUT_THRESHOLDS = (
    "Each threshold is chosen where the score of the other folds is highest; for new images, where that of all folds "
    "is. Curves are means over all images."
)
ABOUT_SETTINGS = "Settings that differ from the defaults of config.py; all are in the config.yaml of each run."


def make_picture(name: str, figure, caption: str, wide: bool = False, keep: tuple = ()) -> Picture:
    """Render a figure, with few colours if some are given to `keep`."""
    return Picture(name, charts.render_png(figure, keep), caption, wide)


def write_pipeline(image_id: str, **drawn) -> Iterator[Block]:
    """Show every step on one image: arguments of galleries.draw_pipeline."""
    caption = (
        "The steps on a part of an image whose score is near the median, by a network that was not trained on it "
        f"({image_id[:ID_LENGTH]})."
    )
    if drawn.get("candidates") is not None:
        caption += " Of the candidates, the best at each node of the tree is outlined."
    yield make_picture("pipeline", pictures.draw_pipeline(**drawn), caption, wide=True)


def write_scores(metrics: dict) -> Iterator[Block]:
    """Tabulate the scores with their intervals."""
    yield Paragraph(ABOUT_SCORES)
    yield tables.list_scores(metrics)


def write_steps(steps: list[dict]) -> Iterator[Block]:
    """Compare plain decodings, candidate scoring and, of an ensemble, its best member: arguments as tables.name_steps."""
    if len(steps) > 1:
        figure = charts.draw_steps(tables.name_steps(steps), steps)
        yield make_picture(
            "steps",
            figure,
            "Out-of-fold score of each step and its paired gain: green above zero, gray undecided, red below zero.",
        )
    yield tables.list_steps(steps)


def write_precision(metrics: dict) -> Iterator[Block]:
    """Show precision against the IoU threshold."""
    curves = {name: result["by_threshold"] for name, result in tables.list_results(metrics).items()}
    yield make_picture(
        "precision",
        charts.draw_precision(curves),
        "Mean precision over images at each IoU threshold; the score is the mean of a curve.",
    )
    yield tables.list_thresholds(metrics)


def write_types(metrics: dict, order: tuple[str, ...]) -> Iterator[Block]:
    """Show the score of each image type; types come in `order`."""
    clusters = {name: result["by_cluster"] for name, result in tables.list_results(metrics).items()}
    yield make_picture(
        "types",
        charts.draw_clusters(clusters, order),
        "Mean score of each image type with its 95 % interval and number of images.",
    )
    yield tables.list_clusters(metrics, order)


def write_errors(images: pd.DataFrame, order: tuple[str, ...]) -> Iterator[Block]:
    """Draw the kinds of errors of the image types, from the table of images."""
    counts = tables.count_errors_by_type(images, order)
    kinds = tuple(kind for kind in ERRORS if kind != "found")
    yield make_picture(
        "errors",
        charts.draw_errors(counts, kinds),
        "Errors out of fold. Each true nucleus is counted once; false predictions come on top.",
    )


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


def write_gallery(name: str, examples: Iterable[tuple]) -> Iterator[Block]:
    """Show images with their outlines: `examples` are (row of the table, image, truth, prediction)."""
    shown = [
        pictures.Example(
            image, f"{row.image_id[:ID_LENGTH]}   score {row.score:.3f}\n{name_type(row.cluster)}", *labels
        )
        for row, image, *labels in examples
    ]
    figure = pictures.draw_gallery([part for part in (shown[:2], shown[2:]) if part])
    yield make_picture(f"gallery_{name}", figure, f"{GALLERIES[name]} {len(shown)} images, out of fold.", keep=KEPT)


def write_type(cluster: str, examples: Iterable[tuple], n_images: int) -> Iterator[Block]:
    """Show images of one type, above as they are, below with their outlines: `examples` as write_gallery."""
    plain, outlined = [], []
    for row, image, *labels in examples:
        counts = f"{row.n_true} nuclei, {row.n_pred} predicted"
        example = pictures.Example(image, f"score {row.score:.3f}\n{counts}", *labels)
        size = f"{image.shape[1]} × {image.shape[0]} px"
        plain.append(pictures.as_plain(example, f"{row.image_id[:ID_LENGTH]}\n{size}"))
        outlined.append(example)
    caption = (
        f"{name_type(cluster).capitalize()}: {len(outlined)} of {n_images} images, from a good score to a bad one, "
        "without and with outlines."
    )
    yield make_picture(f"type_{cluster}", pictures.draw_gallery([plain, outlined], 340, 256), caption, True, KEPT)


def write_reliability(sums: np.ndarray) -> Iterator[Block]:
    """Compare predicted and true IoU of candidates: `sums` as calibration.bin_predictions."""
    n, squared_error = int(sums[0].sum()), sums[4].sum()
    figure = charts.draw_reliability(**summarise_bins(sums))
    yield make_picture(
        "reliability",
        figure,
        f"Predicted and true IoU of {n:,} out-of-fold candidates; root mean squared "
        f"error {np.sqrt(squared_error / max(n, 1)):.3f}.",
    )


def write_importance(importance: dict[str, float]) -> Iterator[Block]:
    """Show the features that the candidates' scores come from."""
    yield make_picture(
        "importance",
        charts.draw_importance(importance),
        "Share of the total gain of the boosted trees, averaged over all of them.",
    )


def write_keep(tuned: dict) -> Iterator[Block]:
    """Show the curve of the keep threshold: `tuned` as the stage select leaves it for scored candidates."""
    tuned = tuned | {"options": [{"keep": value} for value in tuned["options"]]}
    figure = charts.draw_threshold("Which candidates to keep", "expected gain a candidate must exceed", tuned, "keep")
    yield make_picture("keep", figure, "Score against the keep threshold of the selection.")


def write_plain(method: str, tuned: dict) -> Iterator[Block]:
    """Show the curves of a plain decoding: `tuned` as the stage plain leaves it."""
    line = {"watershed": "seed_level", "detections": "score"}.get(method)
    title, x_label = f"Plain decoding by {method}", "threshold of the mask map"
    figure = charts.draw_threshold(title, x_label, tuned, "mask_threshold", line)
    yield make_picture(method, figure, f"Score of the plain decoding by {method} against its thresholds.")


def write_training(run: str, histories: dict[str, pd.DataFrame]) -> Iterator[Block]:
    """Show the training of a run's networks, {fold: history}."""
    figure = charts.draw_training("Training loss", histories)
    yield make_picture(
        f"training_{run}",
        figure,
        f"Training of {run}, one network per fold. The score on the right is a "
        "quick look at some images of the fold left out; it chooses nothing that is reported.",
    )
