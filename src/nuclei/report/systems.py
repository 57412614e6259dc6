"""The five systems of the field, and their runs in one table. Pure.

Scores of the field: "Deconvoluting Convolutions", talk at a Data Science Meetup, April 2018: ranges of the leaderboard's
mean average precision, on images that this project has no truth of.
"""

from dataclasses import dataclass

import pandas as pd

from nuclei.report.blocks import Table


@dataclass(frozen=True)
class System:
    """Hold an approach by the talk's name, and the range of scores that it gives."""

    title: str
    low: float
    high: float


SYSTEMS = {
    "classical": System("classical image processing", 0.20, 0.28),
    "vanilla_unet": System("vanilla U-Net", 0.25, 0.42),
    "mask_rcnn": System("Mask R-CNN", 0.37, 0.50),
    "deep_watershed": System("U-Net + deep watershed", 0.45, 0.55),
    "full": System("full ensemble with candidate scoring", 0.65, 0.65),
}
COLUMNS = (
    "system",
    "run",
    "score",
    "score_low",
    "score_high",
    "mean_over_types",
    "train_seconds",
    "trainings",
    "train_budget",
    "rest_seconds",
    "parameters",
    "weights",
    "processor",
)


def sort_systems(rows: list[dict]) -> pd.DataFrame:
    """Return the table of runs, columns COLUMNS, in the order of SYSTEMS; runs that stand for none of them come last."""
    order = list(SYSTEMS)
    table = pd.DataFrame(rows, columns=COLUMNS)
    place = table["system"].map({name: i for i, name in enumerate(order)}).fillna(len(order))
    return table.assign(place=place).sort_values(["place", "score"]).drop(columns="place").reset_index(drop=True)


def list_systems(table: pd.DataFrame) -> Table:
    """Tabulate runs beside the talk's scores of their systems."""
    return Table(
        (
            "system",
            "in the talk",
            "run",
            "out-of-fold score (95 % interval)",
            "mean over types",
            "training, minutes",
            "allowed each",
            "the rest, minutes",
            "parameters, millions",
            "initial weights",
        ),
        [list_row(row) for row in table.itertuples()],
        n_text=3,
    )


def list_row(row) -> tuple[str, ...]:
    """Return one run of the table as it is to be read."""
    system = SYSTEMS.get(row.system)
    talk = (
        ""
        if system is None
        else f"{system.low:.2f}"
        if system.low == system.high
        else f"{system.low:.2f} – {system.high:.2f}"
    )
    trained = "none" if not row.trainings else f"{row.trainings} x {row.train_seconds / 60 / row.trainings:.1f}"
    return (
        system.title if system else "",
        talk,
        row.run,
        f"{row.score:.4f} ({row.score_low:.4f} to {row.score_high:.4f})",
        f"{row.mean_over_types:.4f}",
        trained,
        row.train_budget,
        f"{row.rest_seconds / 60:.1f}",
        f"{row.parameters / 1e6:.1f}" if row.parameters else "none",
        row.weights,
    )
