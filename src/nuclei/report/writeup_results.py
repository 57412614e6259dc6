"""The sections of a write-up about what came of it: scores, errors, what worked, what the features are worth."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from nuclei.candidates.features import FEATURES
from nuclei.evaluation.summary import format_interval, judge_gain
from nuclei.report import comparisons
from nuclei.report.blocks import (
    Block,
    Paragraph,
    Subheading,
    Table,
)
from nuclei.report.reader import RunReader
from nuclei.report.sections import (
    errors_section,
    galleries_section,
    importance_picture,
    precision_section,
    scores_section,
    steps_section,
    types_section,
    unseen_section,
)
from nuclei.report.tables import name_method
from nuclei.report.writeup_method import VERDICTS

ABOUT_ABLATIONS = {
    "worse": (
        "Changes for the worse",
        "Worse than the base, interval below zero: the change did not work, and what "
        "the base has in its place is worth keeping. The loss from taking a part away is what it is worth.",
    ),
    "better": ("Changes for the better", "Better than the base, interval above zero: what the base does without."),
    "undecided": ("Undecided changes", "Zero is inside the interval: these images cannot tell it from the base."),
    "identical": ("Changes without effect", "Every image has the score that it has in the base."),
}
ABOUT_PUBLISHED = (
    "For comparison: the first three of the private leaderboard, stage 2, reached 0.6316, 0.6147 and 0.6141 (Caicedo "
    "et al. 2019, table 1). Only scores of the same images compare with these; out-of-fold scores do not."
)
ABOUT_SIMPLER = "How much of the score simpler versions of the solution reach:"
ABOUT_FEATURES = (
    "Features enter as they are; boosted trees take what helps. The importance is a feature's share of the gain of all "
    "trees, averaged over thresholds, folds and seeds; features that say nearly the same share it between them."
)


def results_section(reader: RunReader) -> Iterator[Block]:
    """Show the scores from all sides, and what goes wrong."""
    yield from scores_section(reader)
    if not reader.dataset.is_synthetic:
        yield Paragraph(ABOUT_PUBLISHED)
    yield Subheading("Seen and unseen kinds")
    yield from reader.attempt(lambda: unseen_section(reader))
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
            VERDICTS[judge_gain(step["gain"])],
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
