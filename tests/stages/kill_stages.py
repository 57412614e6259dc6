"""Run a small project twice, once whole and once with every stage killed, and print what differs.

Usage: python kill_stages.py DATA FOLDER

It forks a process per stage from one that has imported everything and computed nothing, which is safe and saves the
imports.
"""

import importlib
import os
import sys
from pathlib import Path

from small_project import hash_files, list_tasks, run_forked, write_project

from nuclei.runs.stage_table import STAGES


def main(data: Path, folder: Path) -> None:
    for name in STAGES:
        importlib.import_module(f"nuclei.stages.{name}")
    found = []
    for title in ("whole", "killed"):
        place = folder / title
        tasks = list_tasks(write_project(place))
        os.chdir(place)
        if title == "whole":
            writes = [run_forked(path, name, data) for path, name in tasks]
        else:
            for (path, name), n in zip(tasks, writes, strict=True):
                if n and path.stem != "other":  # it goes through the same code as the member before it
                    # Halfway, and then again at the first thing that the second attempt writes.
                    for write in ((n + 1) // 2, 1):
                        run_forked(path, name, data, die_at=write)
                run_forked(path, name, data)
        found.append(hash_files(place / "runs"))
    whole, killed = found
    differing = sorted(name for name in whole.keys() | killed.keys() if whole.get(name) != killed.get(name))
    print(f"{len(whole)} files, {sum(writes)} writes, {len(differing)} differ", *differing, sep="\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve())
