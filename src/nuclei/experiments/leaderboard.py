"""Finished runs in one table, scored alike: what each was given and what it scored."""

from pathlib import Path
from typing import Any

from nuclei.config.load import load_config
from nuclei.errors import UserError
from nuclei.report.blocks import Paragraph, Table
from nuclei.report.comparisons import CLIMB_FIGURE, add_ablations, sort_systems, systems_table
from nuclei.report.reader import RunReader, count_parameters, write_blocks, write_page
from nuclei.report.readme import comparison_block
from nuclei.runs.cache import fingerprint, recorded_inputs
from nuclei.runs.files import differences, read_json, read_table, write_bytes, write_table
from nuclei.runs.layout import Run, comparison

FIGURES = {"climb": (f"{CLIMB_FIGURE}.png",)}  # shown beside a comparison's table
ABOUT = (
    "All runs are scored out of fold on the same images by the competition's metric; the interval is the 95 % "
    "bootstrap interval over mosaic groups. The talk's scores are of the public leaderboard's images, for which most "
    "of these runs have no truth: the order can be compared, the numbers cannot. Training: number of networks times "
    "minutes, waiting for other work on the machine included, and the seconds of processor time that each was "
    "allowed. The rest of an ensemble includes its members' maps."
)


def compare_runs(names: list[str], root: Path) -> Table:
    """Write <root>/comparisons/leaderboard.{csv,md,html} of finished runs and return the table to print.

    Raises UserError naming a run that has not finished, or whose data or folds are not those of the first.
    """
    rows, first = [], None
    for name in dict.fromkeys(names):
        run = Run(name, root)
        fingerprint(run.meta("evaluate"))
        scored_on = describe_images(run)
        first = first or (name, scored_on)
        if scored_on != first[1]:
            raise UserError(
                f"{name} and {first[0]} were scored on other data or folds, so they are not for one table: "
                f"{'; '.join(differences(first[1], scored_on))}"
            )
        rows.append(describe_run(run))
    table = sort_systems(rows)
    path = comparison(root, "leaderboard")
    write_table(path, table)
    write_page(path.parent, path.stem, "Leaderboard", [Paragraph(ABOUT), systems_table(table)])
    return systems_table(table)


def publish(root: Path, kind: str) -> list[Path]:
    """Copy a comparison, a kind of readme.COMPARISONS, to ensembles/ and its table into the README file of its place.

    Returns the files that were written. Ablations that were published before stay, as add_ablations says.
    """
    table = read_table(comparison(root, kind))
    published = Path("ensembles") / f"{kind}.csv"
    if kind == "ablations" and published.is_file():
        table = add_ablations(read_table(published), table)
    write_table(published, table)
    for name in FIGURES.get(kind, ()):
        figure = comparison(root, kind).parent / "figures" / name
        write_bytes(published.with_name(name), figure.read_bytes())
    return [published, *write_blocks({kind: comparison_block(kind, read_table(published))})]


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
    networks = RunReader(run, config).networks
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
        "trainings": len(metas),
        "train_seconds": round(sum(meta["seconds"] for meta in metas), 1),
        "train_budget": ", ".join(f"{seconds:.0f} s" if seconds else "no limit" for seconds in budgets) or "none",
        "rest_seconds": round(sum(meta["seconds"] for meta in own), 1),
        "parameters": sum(count_parameters(path) for path in files),
        "weights": ", ".join(dict.fromkeys(Path(w).stem if w else "random" for w in weights)) or "none",
        "processor": next((meta["processor"] for meta in metas + own), ""),
    }
