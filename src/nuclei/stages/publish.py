"""Results of a finished run -> ensembles/<run>/, which is committed, and the generated blocks of the README files."""

import gzip
from pathlib import Path
from typing import Any

import pandas as pd

from nuclei.config.schema import Config
from nuclei.errors import UserError
from nuclei.inference.bundle import write_bundle
from nuclei.limits import read_whole
from nuclei.report.reader import RunReader, write_blocks
from nuclei.report.readme import run_blocks, scores_line
from nuclei.report.sections import overview_picture
from nuclei.runs.cache import check_whole
from nuclei.runs.files import read_json, read_table, write_bytes, write_json
from nuclei.runs.layout import Options, Run, counterpart
from nuclei.runs.locks import publishing

ENSEMBLES = Path("ensembles")
UNSEEN = "metrics_unseen_kinds.json"  # of the run's counterpart on folds by kind
MADE = "made.json"
KEPT = (
    *("seconds", "commit", "dirty", "cpus", "threads", "processor", "python", "versions", "settings", "fingerprint"),
    "external",
)


def main(run: Run, config: Config, options: Options) -> None:
    folder = ENSEMBLES / run.name
    for stage in ("evaluate", "submit"):
        check_whole(run.meta(stage))
    if folder.is_dir() and any(folder.iterdir()) and not (folder / MADE).is_file():
        raise UserError(f"{folder} is not the folder of a published run, for it lacks {MADE}: move it away")
    with publishing(run.folder.parent):
        publish(run, config, folder)


def publish(run: Run, config: Config, folder: Path) -> None:
    """Copy the results of a run to a folder of ENSEMBLES, and write the blocks that tell of it."""
    members = [Run(name, run.folder.parent) for name in config.members]
    copies = {run.metrics: "metrics.json", run.per_image("oof"): "per_image.csv"}
    scored = [member for member in members if member.metrics.is_file()]
    copies |= {member.metrics: f"metrics_{member.name}.json" for member in scored}
    unseen = counterpart(run)
    copies |= {path: name for path, name in ((unseen.metrics, UNSEEN),) if path.is_file()}
    optional = (run.report / "figures/pipeline.png", run.report / "report.html", run.writeup / "writeup.html")
    copies |= {path: path.name for path in optional if path.is_file()}
    for path, name in copies.items():
        write_bytes(folder / name, read_whole(path))
    write_json(folder / MADE, {one.name: read_metas(one) for one in (*members, run)})
    submissions = {"submission_stage1_test": run.submission("test")}
    for growth in config.submit.growths:
        path = run.submission("test", growth)
        submissions[path.stem.replace("submission", "stage1_test")] = path
    for name, path in submissions.items():
        write_bytes(folder / f"{name}.csv.gz", gzip.compress(read_whole(path), 9, mtime=0))
    picture = overview_picture(RunReader(run, config))
    write_bytes(folder / f"{picture.name}.png", picture.png)
    published = {path.parent.name: read_published(path.parent) for path in sorted(ENSEMBLES.glob("*/metrics.json"))}
    everything = ((name, *files) for name, files in published.items())
    scores = {"scores": scores_line(everything, read_stage1(), read_unseen())}
    places = write_blocks(run_blocks(run.name, *published[run.name]) | scores)
    print(write_bundle(run, folder))
    print(f"{folder} and the blocks of {' and '.join(map(str, places))} are those of {run.folder}", flush=True)


def read_stage1() -> pd.DataFrame:
    """Return the scores that submissions for stage1_test got elsewhere; none if there is no such table."""
    path = ENSEMBLES / "stage1_test.csv"
    return read_table(path) if path.is_file() else pd.DataFrame({"run": [], "score": []})


def read_unseen() -> dict[str, dict[str, Any]]:
    """Return the scores on unseen kinds of the published runs that have a counterpart, by the run."""
    return {path.parent.name: read_json(path) for path in sorted(ENSEMBLES.glob(f"*/{UNSEEN}"))}


def read_published(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the scores of a published run, and what its stages took."""
    return read_json(folder / "metrics.json"), read_json(folder / MADE)


def read_metas(run: Run) -> dict[str, dict[str, Any]]:
    """Return what made each finished stage of a run, by the stage's name."""
    metas = {path.stem: read_json(path) for path in sorted(run.meta("x").parent.glob("*.json"))}
    return {name: {key: meta[key] for key in KEPT if key in meta} for name, meta in metas.items()}
