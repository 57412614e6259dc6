"""Seen kinds of images and unseen ones side by side: the same method on the usual folds, and on folds by kind."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from nuclei.evaluation.summary import ERRORS, summarise
from nuclei.report.blocks import Block, Paragraph, Table
from nuclei.report.charts import name_type

ABOUT = (
    "Seen kinds: the usual folds, in which every image has others of its kind among those that its networks were "
    "trained on. Unseen kinds: folds by kind of acquisition (folds/dsb2018_kinds.csv), in which it has none. Recall "
    "and precision are shares of all nuclei, and of all predictions, at IoU above 0.5; the outline offset is the true "
    "minus the predicted equivalent radius of matched nuclei, above zero where outlines are too tight. Brackets hold "
    "95 % bootstrap intervals over mosaic groups."
)
NOT_MEASURED = "not measured"
# Key of a summary -> (title, factor, number format).
MEASURES = {
    "score": ("score", 1, ".4f"),
    "recall": ("recall at IoU 0.5, %", 100, ".1f"),
    "precision": ("precision at IoU 0.5, %", 100, ".1f"),
    "offset_px": ("outline offset, px", 1, "+.2f"),
    "offset_percent": ("outline offset, % of the radius", 1, "+.1f"),
}
Summary = Mapping[str, Any]


def format_measure(summary: Summary | None, key: str) -> str:
    """Return a measure of a summary, one of MEASURES, with its interval: '84.1 (80.2 to 87.9)'; NOT_MEASURED."""
    if summary is None or key not in summary:
        return NOT_MEASURED
    _, factor, style = MEASURES[key]
    value, low, high = (format(factor * number + 0.0, style) for number in summary[key])
    return f"{value} ({low} to {high})"


def format_error(summary: Summary | None, kind: str) -> str:
    """Return how many of 100 true nuclei have a kind of error, or how many false predictions there are for them."""
    errors = (summary or {}).get("errors")
    if not errors:
        return NOT_MEASURED
    n_true = sum(errors[name] for name in ERRORS if name != "false")
    return f"{100 * errors[kind] / max(n_true, 1):.1f}"


def seen_and_unseen_table(seen: Summary, unseen: Summary | None) -> Table:
    """Tabulate two summaries of summary.summarise, of seen and of unseen kinds, side by side."""
    both = (seen, unseen)
    rows = [(title, *(format_measure(one, key) for one in both)) for key, (title, *_) in MEASURES.items()]
    wrong = [kind for kind in ERRORS if kind != "found"]
    rows += [(f"{name_type(kind)}, per 100 true nuclei", *(format_error(one, kind) for one in both)) for kind in wrong]
    return Table(("", "seen kinds", "unseen kinds"), rows)


def kinds_table(images: pd.DataFrame, unseen: pd.DataFrame) -> Table:
    """Tabulate score, recall and outline offset of each kind, seen and unseen, the largest kind first.

    images, unseen: per_image.csv of the two runs; the latter has the kind of each image.
    """
    images = images.merge(unseen[["image_id", "kind"]], on="image_id")
    of_seen, of_unseen = (summarise(table)["by_kind"] for table in (images, unseen))
    keys = ("score", "recall", "offset_percent")
    rows = [
        (
            name_type(kind),
            str(of_unseen[kind]["n_images"]),
            *(format_measure(one.get(kind), key) for key in keys for one in (of_seen, of_unseen)),
        )
        for kind in sorted(of_unseen, key=lambda kind: (-of_unseen[kind]["n_images"], kind))
    ]
    heads = [f"{MEASURES[key][0]}: {regime}" for key in keys for regime in ("seen", "unseen")]
    return Table(("kind", "images", *heads), rows)


def outlines_table(title: str, summaries: Mapping[str, Summary]) -> Table:
    """Tabulate MEASURES and errors of several summaries, {name: summary}, under a column of this title."""
    wrong = ("missed", "false", "split", "merged")
    rows = [
        (
            name_type(name),
            str(one["n_images"]),
            *(format_measure(one, key) for key in MEASURES),
            *(format_error(one, kind) for kind in wrong),
        )
        for name, one in summaries.items()
    ]
    heads = [f"{name_type(kind)}, per 100" for kind in wrong]
    return Table((title, "images", *(head for head, *_ in MEASURES.values()), *heads), rows)


def unseen_blocks(
    seen: Summary, unseen: Summary | None, tables: Sequence[pd.DataFrame], counterpart: str
) -> Iterator[Block]:
    """Yield what is known of a run on seen kinds, and on unseen ones by its counterpart.

    seen, unseen: out-of-fold summaries; tables: per_image.csv of both, or nothing; counterpart: that run's name.
    """
    yield Paragraph(ABOUT)
    if unseen is None:
        yield Paragraph(f"Unseen kinds were not measured: there is no finished run {counterpart}.")
    yield seen_and_unseen_table(seen, unseen)
    if len(tables) == 2 and all("matched" in table for table in tables) and "kind" in tables[1]:
        yield kinds_table(*tables)
    if "recall" in seen:
        yield outlines_table("image type, seen kinds", seen["by_cluster"])
