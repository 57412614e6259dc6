"""A project in small: configs of two tiny members and their ensemble over demo archives, and the stages run on it.

`python -m small_project FOLDER` makes it with its archives, all stages run, each in a forked process, which saves the
imports and needs a process that has computed nothing.
"""

import hashlib
import importlib
import json
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import cv2
import numpy as np
import torch
import yaml
from matplotlib.figure import Figure

from nuclei.data.demo import write_demo
from nuclei.pipeline import list_runs, list_stages, run_stage
from nuclei.report import browser, charts, show
from nuclei.runs.layout import Options
from nuclei.runs.stage_table import STAGES

SMALL: dict[str, dict] = {
    "data": {"dataset": "demo", "folds": "runs/data/demo/folds.csv", "n_folds": 2},
    "model": {"encoder": "tu-test_resnet", "weights": None, "decoder_channels": [16, 8, 8]},
    "train": {
        "steps": 24,
        "batch_size": 2,
        "crop_px": 64,
        "evaluate_every": 12,
        "evaluate_images": 2,
        "workers": 0,
        "checkpoint_every": 20,
        "precision": "32-true",
    },
    "predict": {"tta": "none"},
    "plain": {"mask_thresholds": [0.4, 0.5], "seed_levels": [0.3, 0.5]},
    "scorer": {"rounds": 3, "seeds": 1, "min_leaf_rows": 5},
}
# Times, versions and event files differ from run to run by nature.
NOT_COMPARED = ("meta", "tensorboard")
BLANK = cv2.imencode(".png", np.zeros((1, 1), np.uint8))[1].tobytes()
WRITES = "writes.json"  # of a finished project, beside it; written last


def write_project(folder: Path) -> Path:
    """Write the configs into a folder and return the path of the ensemble."""
    for name, content in {
        "configs/small": SMALL,
        "configs/other": {"base": "small.yaml", "model": {"min_side_px": 150}, "train": {"seed": 1, "pool": 40}},
        "ensembles/pair": {"members": {"small": 1, "other": 2}}
        | {key: SMALL[key] for key in ("data", "plain", "scorer")},
    }.items():
        path = folder / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(yaml.safe_dump(content))
    return folder / "ensembles/pair.yaml"


@contextmanager
def few_steps() -> Iterator[None]:
    """Have a report show every step of one image alone, and figures be made but left blank: to draw them takes longest.

    What they show is for the tests of reports.
    """

    def blank(figure: Figure, *_: object) -> bytes:
        return BLANK

    with (
        patch.multiple(browser, N_WORST=1, N_BEST=0, N_OF_TYPE=0),
        patch.object(charts, "render_png", blank),
        patch.object(show, "render_png", blank),
    ):
        yield


def finish(folder: Path) -> None:
    """Make the archives, FOLDER/data, and the project, FOLDER/project, and note how many files each stage wrote.

    Three runs of all stages take some 40 s of one core, which several files of tests share by `finished` of conftest.
    """
    data, ensemble = folder / "data", write_project(folder / "project")
    write_demo(data, n_train=12, n_test=4, size=128, seed=2018)
    before = Path.cwd()
    os.chdir(folder / "project")
    try:
        writes = [(path.stem, name, run_forked(path, name, data)) for path, name in list_tasks(ensemble)]
    finally:
        os.chdir(before)
    (folder / WRITES).write_text(json.dumps(writes))


def import_stages() -> None:
    """Import all that a stage needs, once for all the processes that are forked; nothing is computed.

    Each has one thread: several at once, each with one per core, would wait for each other, and the fork of a process
    with threads can wait for ever for one that it has not.
    """
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    for name in STAGES:
        importlib.import_module(f"nuclei.stages.{name}")


def run_all(ensemble: Path, data: Path) -> None:
    """Run all stages of all runs in this process, from the current folder."""
    for path, name in list_tasks(ensemble):
        run_one(path, name, data)


def list_tasks(ensemble: Path) -> list[tuple[Path, str]]:
    return [(path, name) for path, config in list_runs(ensemble) for name in list_stages(config)]


def run_one(path: Path, name: str, data: Path) -> None:
    config = dict(list_runs(path))[path]
    with few_steps():
        run_stage(name, path.stem, config, Options(data=data, jobs=1), Path("runs"))


def run_forked(path: Path, name: str, data: Path, die_at: int | None = None) -> int:
    """Run one stage in a forked process and return how many files it wrote; raise RuntimeError if it failed.

    With `die_at` the process kills itself by SIGKILL when its write of that number, from 1, is about to finish. Every
    output is written to a temporary name and then renamed, so the renames are where a kill does harm.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        rename, count = os.replace, 0

        def replace(*paths):
            nonlocal count
            count += 1
            if count == die_at:
                os.kill(os.getpid(), signal.SIGKILL)
            rename(*paths)

        setattr(os, "replace", replace)  # noqa: B010 (an assignment would have to have its very types)
        status = 1
        try:
            run_one(path, name, data)
            os.write(writer, str(count).encode())
            status = 0
        finally:
            os._exit(status)
    os.close(writer)
    _, status = os.waitpid(child, 0)
    written = os.read(reader, 20)
    os.close(reader)
    killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
    if killed != (die_at is not None) or (not killed and status):
        raise RuntimeError(f"{path.stem} {name} ended with status {status}")
    return int(written or 0)


def hash_files(folder: Path) -> dict[str, str]:
    """Return the hash of every file below a folder that is the same whenever it is made."""
    files = (p.relative_to(folder) for p in sorted(folder.rglob("*")) if p.is_file() and ".partial." not in p.name)
    return {
        str(p): hashlib.sha256((folder / p).read_bytes()).hexdigest()
        for p in files
        if not set(p.parts) & set(NOT_COMPARED) and "report" not in p.parts
    }


def main() -> None:
    import_stages()
    finish(Path(sys.argv[1]).resolve())


if __name__ == "__main__":
    main()
