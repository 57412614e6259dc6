"""The climb: adopted steps in their order, each with its score, its gain over the step before, and what training it took.

A step is a run, or a run and one of its decodings, RUN:METHOD. Scores per image are read from runs/, or from ensembles/
where a run was published and is no longer there.
"""

from pathlib import Path

import pandas as pd

from nuclei.config.load import run_name
from nuclei.config.schema import Config
from nuclei.evaluation.bootstrap import paired_difference
from nuclei.evaluation.summary import interval
from nuclei.networks.kinds import count_flops
from nuclei.pipeline import find_config, list_runs
from nuclei.report import reader
from nuclei.report.blocks import Paragraph, Table
from nuclei.report.climb_tables import ABOUT, COLUMNS, FIGURE, draw_climb, list_climb
from nuclei.report.sections import make_picture
from nuclei.report.tables import METHODS
from nuclei.runs.cache import StageError
from nuclei.runs.files import read_json, read_table, write_table
from nuclei.runs.layout import Run, comparison


def climb(steps: list[str], root: Path) -> Table:
    """Write <root>/comparisons/climb.{csv,md,html} of steps RUN or RUN:METHOD in their order; return the table to print.

    Raises StageError naming a step that has no scores, or that was scored on other images than the first.
    """
    rows, before = [], None
    for step in steps:
        name, _, method = step.partition(":")
        run = Run(name, root)
        images, own = read_scores(run)
        if before is not None and not images["image_id"].equals(before["image_id"]):
            raise StageError(f"{name} was scored on other images than {steps[0]}: they are not for one table")
        column = "score" if method in ("", own) else method
        if column not in images:
            raise StageError(
                f"{name} has no scores of {method}; it has {', '.join(m for m in METHODS if m in images)}, {own}"
            )
        images = images.assign(score=images[column])
        gain = (None,) * 3
        if before is not None:
            gain = paired_difference(images["score"].to_numpy(), before["score"].to_numpy(), images["group"].to_numpy())
        trained = list_trainings(run)
        rows.append(
            {
                "run": name,
                "method": method or own,
                **dict(zip(COLUMNS[2:5], interval(images["score"], images["group"]), strict=True)),
                "mean_over_types": round(float(images.groupby("cluster")["score"].mean().mean()), 5),
                **dict(zip(COLUMNS[6:9], gain, strict=True)),
                "networks": sum(n for n, _, _ in trained),
                "training_pflop": float(f"{sum(flops for _, flops, _ in trained) / 1e15:.3g}"),
                "processor": ", ".join(dict.fromkeys(processor for _, _, processor in trained)),
            }
        )
        before = images
    gains = list(COLUMNS[5:9])
    table = pd.DataFrame(rows, columns=COLUMNS).astype(dict.fromkeys(gains, float)).round(dict.fromkeys(gains, 5))
    path = comparison(root, "climb")
    write_table(path, table)
    table = read_table(path)
    picture = make_picture(FIGURE, draw_climb(table), "Score against the operations that training took")
    reader.write_report(path.parent, path.stem, "Climb", [Paragraph(ABOUT), list_climb(table), picture])
    return list_climb(table)


def read_scores(run: Run) -> tuple[pd.DataFrame, str]:
    """Return a run's scores per image and its own method; raise StageError if neither runs/ nor ensembles/ has them."""
    published = Path("ensembles") / run.name
    for table, metrics in (
        (run.per_image("oof"), run.metrics),
        (published / "per_image.csv", published / "metrics.json"),
    ):
        if table.is_file() and metrics.is_file():
            return read_table(table), read_json(metrics)["method"]
    raise StageError(f"no scores of {run.name} in {run.folder} or {published}: run it first")


def list_trainings(run: Run) -> list[tuple[int, float, str]]:
    """Return, for each run whose networks a run uses: their number, the operations of their training, the processor."""
    path = run.config if run.config.is_file() else find_config(run.name, Path("configs"))
    return [
        count_training(Run(run_name(source), run.folder.parent), config)
        for source, config in list_runs(path)
        if not config.members and config.selection.method != "classical"
    ]


def count_training(run: Run, config: Config) -> tuple[int, float, str]:
    """Count a run's networks and the operations of their training, by their histories or else by the config."""
    histories = sorted(run.folder.glob("fold*/history.csv"))
    steps = [int(read_table(path)["step"].iloc[-1]) for path in histories] or [config.train.steps] * config.data.n_folds
    metas = [read_json(path) for path in sorted(run.meta("x").parent.glob("train_fold*.json"))]
    flops = count_flops(config.model, config.train.crop_px) * config.train.batch_size
    return len(steps), flops * sum(steps), next((meta["processor"] for meta in metas), "")
