"""The report of a run: the list of its sections. A section is added by one function and one line of REPORT."""

from collections.abc import Iterator

from nuclei.config.schema import Config
from nuclei.report import tables
from nuclei.report.blocks import Block, Files, Missing, Paragraph
from nuclei.report.browser import browser_block
from nuclei.report.reader import RunReader, find_config
from nuclei.report.sections import (
    ABOUT_SYNTHETIC,
    Section,
    compose,
    errors_section,
    examples_section,
    galleries_section,
    pipeline_section,
    precision_section,
    scores_section,
    scoring_section,
    steps_section,
    thresholds_section,
    training_section,
    types_section,
    unseen_section,
    worst_section,
)
from nuclei.runs.stage_table import STAGES

ABOUT_BROWSER = (
    "Every image, out of fold. A click shows it at large; of the best and worst images, and the worst of each type, "
    "also every step from its maps to the selection."
)
ABOUT_SETTINGS = "Settings that differ from the defaults of schema.py; all are in the config.yaml of each run."


def making_section(reader: RunReader) -> Iterator[Block]:
    """Tabulate settings, stages and versions of a run and of all that it borrows from, and list its files."""
    yield Paragraph(ABOUT_SETTINGS)
    yield tables.settings_table(reader.configs, Config().model_dump(mode="json"))
    yield tables.stages_table(reader.metas, tuple(STAGES))
    yield tables.versions_table(reader.metas)
    absent = [f"{name}/config.yaml" for name in reader.parts if name not in reader.configs]
    yield from map(Missing, absent + [f"{name}/meta" for name, found in reader.metas.items() if not found])
    yield from files_section(reader)


def browser_section(reader: RunReader) -> Iterator[Block]:
    """Show every image, to be sorted and filtered; its pictures are those of write_pictures."""
    yield Paragraph(ABOUT_BROWSER)
    config = find_config(reader.run.name, bool(reader.config.members))
    yield browser_block(reader.per_image, reader.run.name, f"nuclei report {config}")


def files_section(reader: RunReader) -> Iterator[Block]:
    """List the files of a run that a reader of its report may want, and name those that are missing."""
    run = reader.run
    wanted = {
        "complete settings": run.config,
        "scores, intervals and counts": run.metrics,
        "scores per image, out of fold": run.per_image("oof"),
        "submission of the test images": run.submission("test"),
    }
    yield Paragraph("Files of this run:")
    yield Files([(what, f"../{path.name}") for what, path in wanted.items() if path.is_file()])
    yield from reader.missing(wanted.values())


REPORT = [
    Section("From image to nuclei", pipeline_section),
    Section("Scores", scores_section),
    Section("Seen and unseen kinds", unseen_section),
    Section("What each step gains", steps_section),
    Section("Precision by IoU threshold", precision_section),
    Section("Image types", types_section),
    Section("Kinds of errors", errors_section),
    Section("Best, median and worst images", galleries_section),
    Section("All images", browser_section),
    Section("The worst images in numbers", worst_section),
    Section("Examples of each image type", examples_section),
    Section("Candidate scoring", scoring_section),
    Section("Thresholds", thresholds_section),
    Section("Training", training_section),
    Section("How it was made", making_section),
]


def report_blocks(reader: RunReader) -> Iterator[Block]:
    """Yield all blocks of a run's report; a section whose file is missing ends with its name."""
    if reader.dataset.is_synthetic:
        yield Paragraph(ABOUT_SYNTHETIC)
    if reader.config.hypothesis:
        yield Paragraph(f"What this run is to show: {reader.config.hypothesis}.")
    yield from compose(REPORT, reader)
