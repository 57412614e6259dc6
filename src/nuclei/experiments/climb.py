"""The climb: adopted steps in their order, each with its score, its gain over the last, and what training it took.

A step is a run, or a run and one of its decodings, RUN:METHOD. Scores per image are read from runs/, or from ensembles/
where a run was published and its folder no longer exists.
"""

from pathlib import Path
from typing import Any

import pandas as pd

from nuclei.config.load import run_name
from nuclei.config.schema import Config
from nuclei.decoding.methods import METHODS, uses_networks
from nuclei.errors import UserError
from nuclei.evaluation.bootstrap import paired_difference
from nuclei.evaluation.summary import interval
from nuclei.networks.kinds import count_flops
from nuclei.pipeline import find_config, list_runs
from nuclei.report.blocks import Block, Paragraph, Table
from nuclei.report.comparisons import ABOUT_CLIMB, CLIMB_COLUMNS, CLIMB_FIGURE, climb_table, draw_climb
from nuclei.report.reader import find_reports, write_page
from nuclei.report.sections import make_picture
from nuclei.runs.cache import check_whole
from nuclei.runs.files import read_json, read_table, write_table
from nuclei.runs.layout import Run, comparison
from nuclei.runs.locks import lock

SCORES, GAINS = ("score", "score_low", "score_high"), ("gain", "gain_low", "gain_high")


def climb(steps: list[str], root: Path) -> Table:
    """Write <root>/comparisons/climb.{csv,md,html} of steps RUN or RUN:METHOD in order; return the table to print.

    Raises UserError naming a step that has no scores, or that was scored on other images than the first.
    """
    rows, before = [], None
    for step in steps:
        name, _, method = step.partition(":")
        run = Run(name, root)
        images, own = read_scores(run)
        if before is not None and not images["image_id"].equals(before["image_id"]):
            raise UserError(f"{name} was scored on other images than {steps[0]}: they are not for one table")
        column = "score" if method in ("", own) else method
        if column not in images:
            raise UserError(
                f"{name} has no scores of {method}; it has {', '.join(m for m in METHODS if m in images)}, {own}"
            )
        images = images.assign(score=images[column])
        gain: tuple[float | None, ...] = (None,) * 3
        if before is not None:
            gain = paired_difference(images["score"].to_numpy(), before["score"].to_numpy(), images["group"].to_numpy())
        rows.append(
            {
                "run": name,
                "method": method or own,
                **dict(zip(SCORES, interval(images["score"], images["group"]), strict=True)),
                "mean_over_types": round(float(images.groupby("cluster")["score"].mean().mean()), 5),
                **dict(zip(GAINS, gain, strict=True)),
                **describe_training(run),
            }
        )
        before = images
    rounded = ("mean_over_types", *GAINS)
    table = pd.DataFrame(rows, columns=CLIMB_COLUMNS).astype(dict.fromkeys(rounded, float))
    table = table.round(dict.fromkeys(rounded, 5))
    path = comparison(root, "climb")
    with lock(path, f"the table {path}"):
        write_table(path, table)
        table = read_table(path)
        picture = make_picture(CLIMB_FIGURE, draw_climb(table), "Score against the operations that training took.")
        page: list[Block] = [Paragraph(ABOUT_CLIMB), climb_table(table, find_reports(root)), picture]
        write_page(path.parent, path.stem, "Climb", page)
    return climb_table(table)


def read_scores(run: Run) -> tuple[pd.DataFrame, str]:
    """Return a run's scores per image and its own method; raise UserError if neither runs/ nor ensembles/ has them."""
    published = Path("ensembles") / run.name
    for table, metrics in (
        (run.per_image("oof"), run.metrics),
        (published / "per_image.csv", published / "metrics.json"),
    ):
        if table.is_file() and metrics.is_file():
            if table.parent == run.folder and run.meta("evaluate").is_file():
                check_whole(run.meta("evaluate"))
            return read_table(table), read_json(metrics)["method"]
    raise UserError(f"no scores of {run.name} in {run.folder} or {published}: run it first")


def describe_training(run: Run) -> dict[str, Any]:
    """Return the columns of a step that say what the training of its networks took."""
    trained = list_trainings(run)
    return {
        "networks": sum(n for n, _, _ in trained),
        "training_pflop": float(f"{sum(flops for _, flops, _ in trained) / 1e15:.3g}"),
        "processor": ", ".join(dict.fromkeys(processor for _, _, processor in trained)),
    }


def list_trainings(run: Run) -> list[tuple[int, float, str]]:
    """Return, for each run whose networks a run uses: their number, the operations of their training, the processor."""
    path = run.config if run.config.is_file() else find_config(run.name, Path("configs"))
    return [
        count_training(Run(run_name(source), run.folder.parent), config)
        for source, config in list_runs(path)
        if not config.members and uses_networks(config)
    ]


def count_training(run: Run, config: Config) -> tuple[int, float, str]:
    """Count a run's networks and the operations of their training, by their histories or else by the config."""
    histories = sorted(run.folder.glob("fold*/history.csv"))
    steps = [int(read_table(path)["step"].iloc[-1]) for path in histories] or [config.train.steps] * config.data.n_folds
    metas = [read_json(path) for path in sorted(run.meta("x").parent.glob("train_*.json"))]
    flops = count_flops(config.model, config.train.crop_px) * config.train.batch_size
    return len(steps), flops * sum(steps), next((meta["processor"] for meta in metas), "")
