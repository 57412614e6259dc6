"""Finished runs in one table, scored alike: what each was given and what it scored."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nuclei.config.load import load_config
from nuclei.errors import UserError
from nuclei.limits import read_whole
from nuclei.report.blocks import Paragraph, Table
from nuclei.report.comparisons import CLIMB_FIGURE, add_ablations, sort_systems, systems_table
from nuclei.report.reader import RunReader, count_parameters, find_reports, write_blocks, write_page
from nuclei.report.readme import comparison_block
from nuclei.report.sections import ABOUT_SYNTHETIC
from nuclei.runs.cache import check_whole, recorded_inputs
from nuclei.runs.files import differences, read_json, read_table, write_bytes, write_table
from nuclei.runs.layout import Run, comparison, open_run
from nuclei.runs.locks import lock, publishing

FIGURES = {"climb": (f"{CLIMB_FIGURE}.png",)}  # shown beside a comparison's table
ABOUT = (
    "All runs are scored out of fold on the same images by the competition's metric; the interval is the 95 % "
    "bootstrap interval over mosaic groups. Training: number of networks times minutes, waiting for other work on the "
    "machine included, and the seconds of processor time that each was allowed. The rest of an ensemble includes its "
    "members' maps. On unseen kinds: the same on folds by kind of acquisition, by the run `<run>_kinds`, where there "
    "is one; recall is the share of nuclei found at IoU above 0.5, and outlines are too tight where their offset is "
    "above zero."
)
ABOUT_TALK = (
    "The talk's scores are of the public leaderboard's images, for which most of these runs have no truth: the order "
    "can be compared, the numbers cannot."
)


def compare_runs(names: list[str], root: Path) -> Table:
    """Write <root>/comparisons/leaderboard.{csv,md,html} of finished runs and return the table to print.

    Raises UserError naming a run that has not finished, or whose data or folds are not those of the first.
    """
    runs = [Run(name, root) for name in dict.fromkeys(names)]
    for run in runs:
        check_whole(run.meta("evaluate"))
    check_images(runs)
    table = sort_systems([describe_run(run) for run in runs])
    path = comparison(root, "leaderboard")
    with lock(path, f"the table {path}"):
        write_table(path, table)
        synthetic = any(open_run(run.name, root)[2].is_synthetic for run in runs)
        page = systems_table(table, find_reports(root), with_talk=not synthetic)
        about = f"{ABOUT_SYNTHETIC} {ABOUT}" if synthetic else f"{ABOUT} {ABOUT_TALK}"
        write_page(path.parent, path.stem, "Leaderboard", [Paragraph(about), page])
    return systems_table(table, with_talk=not synthetic)


def publish(root: Path, kind: str) -> list[Path]:
    """Copy a comparison, a kind of readme.COMPARISONS, to ensembles/ and its table into the README file of its place.

    Returns the files that were written. Ablations that were published before stay, as add_ablations says.
    """
    published = Path("ensembles") / f"{kind}.csv"
    with publishing(root):
        table = read_table(comparison(root, kind))
        if kind == "ablations" and published.is_file():
            table = add_ablations(read_table(published), table)
        write_table(published, table)
        for name in FIGURES.get(kind, ()):
            figure = comparison(root, kind).parent / "figures" / name
            write_bytes(published.with_name(name), read_whole(figure))
        return [published, *write_blocks({kind: comparison_block(kind, read_table(published))})]


def check_images(runs: Sequence[Run]) -> None:
    """Raise UserError saying what differs if finished runs were not scored on the same images with the same folds."""
    scored_on = {run.name: describe_images(run) for run in runs}
    for name, found in scored_on.items():
        if found != scored_on[runs[0].name]:
            raise UserError(
                f"{name} and {runs[0].name} were scored on other data or folds, so they are not for one table: "
                f"{'; '.join(differences(scored_on[runs[0].name], found))}"
            )


def describe_images(run: Run) -> dict[str, Any]:
    """Return what decides which images a run is scored on, and with which folds."""
    config = load_config(run.config)
    makers = ("classical", "predict", "ensemble")
    meta = next(run.meta(name) for name in makers if run.meta(name).is_file())
    inputs = recorded_inputs(meta, "oof")
    return {"data": inputs["data"], "folds": inputs["folds"], "only_folds": list(config.data.only_folds)}


def describe_run(run: Run) -> dict[str, Any]:
    """Return the row of a run, columns SYSTEM_COLUMNS; the training and the maps of its members count as its own."""
    metrics, config = read_json(run.metrics)["oof"], load_config(run.config)
    reader = RunReader(run, config)
    networks, unseen = reader.networks, reader.unseen_metrics or {}
    metas = [read_json(meta) for network in networks for meta in sorted(network.meta("x").parent.glob("train_*.json"))]
    maps = [network.meta("predict") for network in networks if network.name != run.name]
    rest = [meta for meta in run.meta("x").parent.glob("*.json") if not meta.stem.startswith("train_")]
    own = [read_json(meta) for meta in (*rest, *maps)]
    files = [path for network in networks for path in sorted(network.folder.glob("fold*/weights.safetensors"))[:1]]
    configs = [load_config(network.config) for network in networks]
    budgets = dict.fromkeys(config.train.seconds for config in configs)
    weights = [config.model.weights for config in configs]
    return {
        "system": config.system,
        "run": run.name,
        **dict(zip(("score", "score_low", "score_high"), metrics["score"], strict=True)),
        "mean_over_types": metrics["mean_over_clusters"],
        **_first(metrics, ""),
        **dict(zip(("unseen_score", "unseen_low", "unseen_high"), unseen.get("score", ()), strict=False)),
        **_first(unseen, "unseen_"),
        "trainings": len(metas),
        "train_seconds": round(sum(meta["seconds"] for meta in metas), 1),
        "train_budget": ", ".join(f"{seconds:.0f} s" if seconds else "no limit" for seconds in budgets) or "none",
        "rest_seconds": round(sum(meta["seconds"] for meta in own), 1),
        "parameters": sum(count_parameters(path) for path in files),
        "weights": ", ".join(dict.fromkeys(Path(w).stem if w else "random" for w in weights)) or "none",
        "processor": next((meta["processor"] for meta in metas + own), ""),
    }


def _first(summary: Mapping[str, Any], prefix: str) -> dict[str, float]:
    """Return the recall and the outline offset of a summary that has them, without their intervals."""
    return {f"{prefix}{key}": summary[key][0] for key in ("recall", "offset_percent") if key in summary}
