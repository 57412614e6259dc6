"""Results of a finished run -> ensembles/<run>/, which is committed, and the tables of README.md that show them."""

import gzip
from pathlib import Path

from nuclei.config.schema import Config
from nuclei.inference.bundle import write_bundle
from nuclei.report.readme import blocks, replace_block
from nuclei.runs.cache import fingerprint
from nuclei.runs.files import read_json, write_bytes, write_json
from nuclei.runs.layout import Options, Run

KEPT = ("seconds", "commit", "dirty", "cpus", "python", "versions", "settings", "fingerprint")


def main(run: Run, config: Config, options: Options) -> None:  # noqa: ARG001 (every stage is called alike)
    folder, readme = Path("ensembles") / run.name, Path("README.md")
    for stage in ("evaluate", "submit"):
        fingerprint(run.meta(stage))
    everyone = [Run(name, run.folder.parent) for name in (*config.members, run.name)]
    write_bytes(folder / "metrics.json", run.metrics.read_bytes())
    for member in everyone[:-1]:
        write_bytes(folder / f"metrics_{member.name}.json", member.metrics.read_bytes())
    write_json(folder / "made.json", {one.name: read_metas(one) for one in everyone})
    write_bytes(folder / "per_image.csv", run.per_image("oof").read_bytes())
    compressed = gzip.compress(run.submission("test").read_bytes(), 9, mtime=0)
    write_bytes(folder / "submission_stage1_test.csv.gz", compressed)
    picture = run.report / "figures" / "pipeline.png"
    if picture.is_file():
        write_bytes(folder / picture.name, picture.read_bytes())
    text = readme.read_text()
    published = (read_json(folder / name) for name in ("metrics.json", "made.json"))
    for name, table in blocks(run.name, *published).items():
        text = replace_block(text, name, table)
    write_bytes(readme, text.encode())
    print(write_bundle(run, folder))
    print(f"{folder} and the tables of {readme} are those of {run.folder}", flush=True)


def read_metas(run: Run) -> dict[str, dict]:
    """Return what made each finished stage of a run, by the stage's name."""
    metas = sorted(run.meta("x").parent.glob("*.json"))
    return {meta.stem: {key: read_json(meta)[key] for key in KEPT} for meta in metas}
