"""Finished runs in one table, scored alike: what each was given and what it scored."""

from pathlib import Path

from nuclei.config.load import parse_config
from nuclei.report import reader, systems
from nuclei.report.blocks import Paragraph, Table
from nuclei.report.climb_tables import FIGURE
from nuclei.report.comparisons import add_ablations
from nuclei.report.readme import comparison_block, replace_block
from nuclei.runs.cache import StageError, fingerprint, recorded_inputs
from nuclei.runs.files import differences, read_json, read_table, write_bytes, write_table
from nuclei.runs.layout import Run, comparison

FIGURES = {"climb": (f"{FIGURE}.png",)}  # that README.md shows beside a comparison's table
ABOUT = (
    "All runs are scored out of fold on the same images by the competition's metric; the interval is the 95 % bootstrap "
    "interval over mosaic groups. The talk's scores are of the public leaderboard's images, for which most of these "
    "runs have no truth: the order can be compared, the numbers cannot. Training: number of networks times minutes, "
    "waiting for other work on the machine included, and the seconds of processor time that each was allowed. The rest "
    "of an ensemble includes its members' maps."
)


def compare_runs(names: list[str], root: Path) -> Table:
    """Write <root>/comparisons/leaderboard.{csv,md,html} of finished runs and return the table to print.

    Raises StageError naming a run that has not finished, or whose data or folds are not those of the first.
    """
    rows, first = [], None
    for name in dict.fromkeys(names):
        run = Run(name, root)
        fingerprint(run.meta("evaluate"))
        scored_on = describe_images(run)
        first = first or (name, scored_on)
        if scored_on != first[1]:
            raise StageError(
                f"{name} and {first[0]} were scored on other data or folds, so they are not for one table: "
                f"{'; '.join(differences(first[1], scored_on))}"
            )
        rows.append(describe_run(run))
    table = systems.sort_systems(rows)
    path = comparison(root, "leaderboard")
    write_table(path, table)
    reader.write_report(path.parent, path.stem, "Leaderboard", [Paragraph(ABOUT), systems.list_systems(table)])
    return systems.list_systems(table)


def publish(root: Path, kind: str) -> None:
    """Copy a comparison, a kind of readme.COMPARISONS, to ensembles/, which is committed, and its table into README.md.

    What was published of other ablations stays, as add_ablations says.
    """
    table, readme = read_table(comparison(root, kind)), Path("README.md")
    published = Path("ensembles") / f"{kind}.csv"
    if kind == "ablations" and published.is_file():
        table = add_ablations(read_table(published), table)
    write_table(published, table)
    for name in FIGURES.get(kind, ()):
        figure = comparison(root, kind).parent / "figures" / name
        write_bytes(published.with_name(name), figure.read_bytes())
    block = comparison_block(kind, read_table(published))
    write_bytes(readme, replace_block(readme.read_text(), kind, block).encode())


def describe_images(run: Run) -> dict:
    """Return what decides which images a run is scored on, and with which folds."""
    config = read_config(run)
    makers = ("classical", "predict", "ensemble")
    meta = next(run.meta(name) for name in makers if run.meta(name).is_file())
    inputs = recorded_inputs(meta, "oof")
    return {"data": inputs["data"], "folds": inputs["folds"], "only_folds": list(config.data.only_folds)}


def describe_run(run: Run) -> dict:
    """Return the row of a run, columns systems.COLUMNS; the training and the maps of its members count as its own."""
    metrics, config = read_json(run.metrics)["oof"], read_config(run)
    networks = [] if config.selection.method == "classical" else reader.list_networks(run, config)
    metas = [
        read_json(meta) for network in networks for meta in sorted(network.meta("x").parent.glob("train_fold*.json"))
    ]
    maps = [network.meta("predict") for network in networks if network.name != run.name]
    rest = [meta for meta in run.meta("x").parent.glob("*.json") if not meta.stem.startswith("train_")]
    own = [read_json(meta) for meta in (*rest, *maps)]
    files = [path for network in networks for path in sorted(network.folder.glob("fold*/weights.safetensors"))[:1]]
    configs = [read_config(network) for network in networks]
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
        "parameters": sum(reader.count_parameters(path) for path in files),
        "weights": ", ".join(dict.fromkeys(Path(w).stem if w else "random" for w in weights)) or "none",
        "processor": next((meta["processor"] for meta in metas + own), ""),
    }


def read_config(run: Run):
    return parse_config(reader.read_configs(run, [run.name])[run.name], str(run.config))
