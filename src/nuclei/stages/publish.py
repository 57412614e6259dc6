"""Results of a finished run -> ensembles/<run>/, which is committed, and the tables of README.md that show them."""

import gzip
from pathlib import Path

from nuclei import runs
from nuclei.bundle import write_bundle
from nuclei.config import Config
from nuclei.readme import blocks, replace_block

KEPT = ("seconds", "commit", "dirty", "cpus", "python", "versions", "settings", "fingerprint")


def main(run: runs.Run, config: Config, options: runs.Options) -> None:
    folder, readme = Path("ensembles") / run.name, Path("README.md")
    for stage in ("evaluate", "submit"):
        runs.fingerprint(run.meta(stage))
    everyone = [runs.Run(name, run.folder.parent) for name in (*config.members, run.name)]
    runs.write_bytes(folder / "metrics.json", run.metrics.read_bytes())
    for member in everyone[:-1]:
        runs.write_bytes(folder / f"metrics_{member.name}.json", member.metrics.read_bytes())
    runs.write_json(folder / "made.json", {one.name: read_metas(one) for one in everyone})
    runs.write_bytes(folder / "per_image.csv", run.per_image("oof").read_bytes())
    compressed = gzip.compress(run.submission("test").read_bytes(), 9, mtime=0)
    runs.write_bytes(folder / "submission_stage1_test.csv.gz", compressed)
    picture = run.report / "figures" / "pipeline.png"
    if picture.is_file():
        runs.write_bytes(folder / picture.name, picture.read_bytes())
    text = readme.read_text()
    published = (runs.read_json(folder / name) for name in ("metrics.json", "made.json"))
    for name, table in blocks(run.name, *published).items():
        text = replace_block(text, name, table)
    runs.write_bytes(readme, text.encode())
    print(write_bundle(run, folder))
    print(f"{folder} and the tables of {readme} are those of {run.folder}", flush=True)


def read_metas(run: runs.Run) -> dict[str, dict]:
    """Return what made each finished stage of a run, by the stage's name."""
    metas = sorted(run.meta("x").parent.glob("*.json"))
    return {meta.stem: {key: runs.read_json(meta)[key] for key in KEPT} for meta in metas}
