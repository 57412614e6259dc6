"""Tables of results as Markdown, and their place in the README between markers."""

import re

import pandas as pd

from nuclei.report.blocks import render_block
from nuclei.report.climb_tables import list_climb
from nuclei.report.comparisons import list_gains
from nuclei.report.systems import list_systems
from nuclei.report.tables import METHODS

# Tables that compare runs, from the published file of the name.
COMPARISONS = {"leaderboard": list_systems, "ablations": list_gains, "climb": list_climb}


def results_table(metrics: dict) -> str:
    """Return the steps of metrics.json as a Markdown table: score and gain, each with its 95 % interval."""
    lines = ["| step | out-of-fold score | gain | over |", "|---|---|---|---|"]
    for step in metrics["steps"]:
        gain, over = "–", "–"
        if step["gain"]:
            gain, over = format_interval(step["gain"], "+.4f"), name_step(*step["over"])
        lines.append(
            f"| {name_step(step['run'], step['method'])} | {format_interval(step['score'], '.4f')} | {gain} | {over} |"
        )
    return "\n".join(lines)


def clusters_table(metrics: dict) -> str:
    """Return the scores by image type of metrics.json as a Markdown table, the largest type first."""
    lines = ["| image type | images | out-of-fold score |", "|---|---|---|"]
    clusters = sorted(metrics["oof"]["by_cluster"].items(), key=lambda item: -item[1]["n_images"])
    for name, cluster in clusters:
        lines.append(
            f"| {name.replace('_', ' ')} | {cluster['n_images']} | {format_interval(cluster['score'], '.4f')} |"
        )
    lines.append(f"| mean over types | {metrics['oof']['n_images']} | {metrics['oof']['mean_over_clusters']:.4f} |")
    return "\n".join(lines)


def made_table(made: dict) -> str:
    """Return how long each run took to train and to process, from made.json, as a Markdown table."""
    lines = ["| run | training, minutes per fold | the other stages, minutes | CPU cores |", "|---|---|---|---|"]
    for run, stages in made.items():
        trained = [f"{meta['seconds'] / 60:.0f}" for name, meta in sorted(stages.items()) if name.startswith("train_")]
        rest = sum(meta["seconds"] for name, meta in stages.items() if not name.startswith("train_")) / 60
        cpus = next(iter(stages.values()))["cpus"]
        lines.append(f"| {run} | {', '.join(trained) or 'nothing trained'} | {rest:.0f} | {cpus} |")
    return "\n".join(lines)


def name_step(run: str, method: str) -> str:
    return f"{run}: {METHODS[method]}"


def format_interval(values: list[float], form: str) -> str:
    value, low, high = (format(v, form) for v in values)
    return f"{value} ({low} to {high})"


def replace_block(text: str, name: str, content: str) -> str:
    """Return `text` with `content` between <!-- name --> and <!-- /name -->; raise ValueError if they are not there."""
    pattern = re.compile(rf"(<!-- {re.escape(name)} -->\n).*?(<!-- /{re.escape(name)} -->)", re.DOTALL)
    if not pattern.search(text):
        raise ValueError(f"README.md has no markers <!-- {name} --> and <!-- /{name} --> to put a table between")
    return pattern.sub(lambda match: f"{match[1]}{content}\n{match[2]}", text)


def blocks(name: str, metrics: dict, made: dict) -> dict[str, str]:
    """Return the generated blocks of the README for the ensemble `name`, by the name of their markers."""
    tables = {"results": results_table(metrics), "types": clusters_table(metrics), "made": made_table(made)}
    return {f"{name} {kind}": table for kind, table in tables.items()}


def comparison_block(kind: str, table: pd.DataFrame) -> str:
    """Return the README's block of a published comparison, one of COMPARISONS."""
    return render_block(COMPARISONS[kind](table))
