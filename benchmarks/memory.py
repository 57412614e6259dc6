"""Peak memory of candidates, scoring, selection and submission for many images, simulated by repeating images.

    PYTHONPATH=src python benchmarks/memory.py runs/demo [N ...]     # default: 100 3019

The run must be finished. Its test images are repeated under new names (links, no copies); every stage runs in a
process of its own, so that its peak is its own. Writes benchmarks/memory.json.
"""

import json
import multiprocessing
import os
import sys
import tempfile
import time
from contextlib import redirect_stderr
from importlib import import_module
from pathlib import Path

import pandas as pd
import yaml

from nuclei.config.load import parse_config
from nuclei.config.schema import Config
from nuclei.runs.files import read_table, write_json, write_table
from nuclei.runs.layout import Dataset, Options, Run
from nuclei.runs.memory import measure_peak_bytes

STAGES = ("candidates", "score", "select", "submit")


def repeat_run(source: Run, n: int, root: Path) -> tuple[Run, Config]:
    """Make a run with the out-of-fold maps of `source` and n test images, and return it with its config."""
    config = parse_config(yaml.safe_load(source.config.read_text()), str(source.config))
    config = config.model_copy(
        update={"data": config.data.model_copy(update={"folds": str(Path(config.data.folds).resolve())})}
    )
    old = Dataset(config.data, source.folder.parent)
    dataset, run = Dataset(config.data, root), Run(source.name, root)
    manifest = read_table(old.manifest)
    train, test = (manifest[manifest["split"] == split] for split in ("train", "test"))
    repeated = test.iloc[[i % len(test) for i in range(n)]].copy()
    sources = repeated["image_id"].tolist()
    repeated["image_id"] = [f"{i:05d}" for i in range(n)]
    write_table(dataset.manifest, pd.concat([train, repeated]))
    for folder in (dataset.image("x").parent, run.maps("oof").parent, run.maps("test"), run.meta("x").parent):
        folder.mkdir(parents=True, exist_ok=True)
    for image_id in train["image_id"]:
        dataset.image(image_id).symlink_to(old.image(image_id).resolve())
    for name, image_id in zip(repeated["image_id"], sources, strict=True):
        dataset.image(name).symlink_to(old.image(image_id).resolve())
        (run.maps("test") / f"{name}.npz").symlink_to((source.maps("test") / f"{image_id}.npz").resolve())
    dataset.labels("x").parent.symlink_to(old.labels("x").parent.resolve())
    run.maps("oof").symlink_to(source.maps("oof").resolve())
    for meta in source.meta("x").parent.glob("*.json"):
        if meta.stem in ("predict", "ensemble"):
            run.meta(meta.stem).symlink_to(meta.resolve())
    return run, config


def measure(stage: str, run: Run, config: Config, queue: multiprocessing.Queue) -> None:
    """Run one stage in this process, one image at a time, and report its peak memory in MiB and its seconds."""
    module = import_module(f"nuclei.stages.{stage}")
    start = time.perf_counter()
    with Path(os.devnull).open("w") as nowhere, redirect_stderr(nowhere):  # progress bars
        module.main(run, config, Options(jobs=1))
    peak = measure_peak_bytes() / 2**20
    queue.put({"peak_MiB": round(peak), "seconds": round(time.perf_counter() - start, 1)})


def main(folder: str, *numbers: str) -> None:
    source = Run(Path(folder).name, Path(folder).parent)
    result: dict[str, dict[str, dict[str, float]]] = {}
    context = multiprocessing.get_context("spawn")
    for n in map(int, numbers or ("100", "3019")):
        with tempfile.TemporaryDirectory() as root:
            run, config = repeat_run(source, n, Path(root))
            result[str(n)] = {}
            for stage in STAGES:
                queue = context.Queue()
                process = context.Process(target=measure, args=(stage, run, config, queue))
                process.start()
                result[str(n)][stage] = queue.get()
                process.join()
                print(n, stage, result[str(n)][stage], flush=True)
    write_json(Path(__file__).with_suffix(".json"), result)
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main(*sys.argv[1:])
