"""Instances and truth -> metrics.json and per_image.csv, out of fold; and against solution files, if there are any."""

from functools import partial
from typing import Any

import pandas as pd

from nuclei.config.schema import Config
from nuclei.data.competition import SOLUTIONS
from nuclei.decoding.methods import list_steps, plain_methods
from nuclei.evaluation.submission import read_solution, read_submission, score_submission
from nuclei.evaluation.summary import compare_steps, format_score, score_labels, summarise
from nuclei.runs.cache import fingerprint, stage
from nuclei.runs.files import file_hash, read_json, read_labels, read_table, write_json, write_table
from nuclei.runs.layout import Dataset, Options, Run, find_fingerprint
from nuclei.runs.parallel import each_image
from nuclei.runs.rehearsal import is_made, rehearses

VERSION = 2


def main(run: Run, config: Config, options: Options) -> None:
    dataset = Dataset(config.data, run.folder.parent)
    solutions = {
        split: dataset.solution(name)
        for split, name in SOLUTIONS.items()
        if dataset.solution(name).is_file() and run.submission(split).is_file()
    }
    members = [Run(name, run.folder.parent) for name in config.members]
    members = [member for member in members if is_made(member.meta("evaluate"))]
    inputs = {"instances": find_fingerprint(run, "instances", "oof")}
    if plain_methods(config):
        inputs["plain"] = fingerprint(run.meta("plain"))
    inputs |= {member.name: fingerprint(member.meta("evaluate")) for member in members}
    for split, path in solutions.items():
        inputs |= {path.stem: file_hash(path), f"submission_{split}": fingerprint(run.meta("submit"), split)}
    outputs = [run.metrics, run.per_image("oof"), *map(run.per_image, SOLUTIONS)]
    with stage(run.meta("evaluate"), {}, inputs, outputs, options.force, version=VERSION) as needed:
        if needed:
            table = score_out_of_fold(run, config, dataset, options)
            write_table(run.per_image("oof"), table)
            metrics = {
                "run": run.name,
                "method": config.selection.method,
                "oof": summarise(table),
                "steps": compare(run, config, table, members),
            }
            manifest = dataset.read_manifest()[["image_id", "cluster"]]
            for split, path in solutions.items():
                scores = score_submission(read_submission(run.submission(split)), read_solution(path))
                scores = scores.merge(manifest, on="image_id").assign(group=lambda t: t["image_id"])
                write_table(run.per_image(split), scores)
                metrics[path.stem] = summarise(scores)
            write_json(run.metrics, metrics)
    if not rehearses():
        print(describe(run, dataset.is_synthetic), flush=True)


def score_out_of_fold(run: Run, config: Config, dataset: Dataset, options: Options) -> pd.DataFrame:
    """Return one row per image of the fold table: its score, precisions, plain scores and counts of errors."""
    table = dataset.read_folds()
    rows = each_image(
        table["image_id"].tolist(), partial(score_one, run, dataset), f"{run.name} evaluate", options.jobs
    )
    scores = pd.DataFrame(rows)
    kind = ["kind"] if "kind" in table else []  # of a fold table that keeps kinds together
    table = table[["image_id", "group", "cluster", *kind, "fold"]].merge(scores, on="image_id")
    for method in plain_methods(config):
        plain = read_table(run.plain / f"{method}.csv").rename(columns={"score": method})
        table = table.merge(plain, on="image_id")
    return table


def score_one(run: Run, dataset: Dataset, image_id: str) -> dict[str, Any]:
    """Score the instances of one image and count its errors: a row of per_image.csv."""
    paths = dataset.labels(image_id), run.instances("oof") / f"{image_id}.png"
    truth, prediction = (read_labels(path) for path in paths)
    return {"image_id": image_id} | score_labels(truth, prediction)


def compare(run: Run, config: Config, table: pd.DataFrame, members: list[Run]) -> list[dict[str, Any]]:
    """Return the steps from the plain decodings to this run's own, the best member's before an ensemble's."""
    method = config.selection.method
    # A member that selects otherwise has no score to compare the last step with.
    members = [member for member in members if read_json(member.metrics)["method"] == method]
    tables = [(member.name, read_table(member.per_image("oof"))) for member in members]
    best = max(tables, key=lambda named: named[1]["score"].mean(), default=None)
    steps = [
        (name, m, rows["score" if m == method else m])
        for name, rows in ([best] if best else []) + [(run.name, table)]
        for m in list_steps(config)
    ]
    return compare_steps(steps, table["group"].to_numpy())


def describe(run: Run, synthetic: bool = False) -> str:
    """Say the scores of metrics.json in a line each; of synthetic images, that they are."""
    metrics = read_json(run.metrics)
    names = {"oof": "out-of-fold", **{name: name for name in SOLUTIONS.values() if name in metrics}}
    if synthetic:
        names = {key: "synthetic test" if key != "oof" else "synthetic out-of-fold" for key in names}
    return "\n".join(
        f"{run.name}: {said} score {format_score(metrics[key]['score'], spelled_out=True)} "
        f"of {metrics[key]['n_images']} images"
        for key, said in names.items()
    )
