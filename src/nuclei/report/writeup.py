"""The write-up of a run, in the form that Kaggle asks of winners: its texts and the list of its sections.

A section is added by one function and one line of WRITEUP. Steps are those of summary.compare_steps.
"""

from collections.abc import Iterator

from nuclei.report.blocks import (
    Block,
    FillIn,
    Heading,
    Paragraph,
)
from nuclei.report.reader import RunReader
from nuclei.report.sections import (
    ABOUT_SYNTHETIC,
    Section,
    compose,
)
from nuclei.report.writeup_making import references_section, reproduction_section, times_section
from nuclei.report.writeup_method import (
    ensembling_section,
    inference_section,
    networks_section,
    postprocessing_section,
    settings_and_training_section,
)
from nuclei.report.writeup_opening import data_section, external_section, opening_section, summary_section
from nuclei.report.writeup_results import features_section, findings_section, results_section

PLACES = "; place and score on the public and on the private leaderboard"
ABOUT_TEAM = (
    "professional and academic background of each member, and what in it helped here",
    "why you entered, how the team was formed, who did what, and how much time it took",
    "what you liked about the competition and about this solution",
)
ABOUT_RIGHTS = (
    "the statement of the licence under which code, weights and this document are given; the code's is in LICENSE",
    "external data and initial weights used, with their licences and where they were declared",
    "acknowledgements",
)


WRITEUP = [
    Section("Summary", summary_section),
    Section("Data and folds", data_section),
    Section("External data", external_section),
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
    synthetic = reader.dataset.is_synthetic
    if synthetic:
        yield Paragraph(ABOUT_SYNTHETIC)
    yield from reader.attempt(lambda: opening_section(reader))
    yield Heading("The team")
    yield FillIn("team name; members with place and e-mail" + ("" if synthetic else PLACES))
    yield from map(FillIn, ABOUT_TEAM)
    yield from compose(WRITEUP, reader, numbered=True)
    yield Heading("Licence and acknowledgements")
    yield from map(FillIn, ABOUT_RIGHTS)
