"""Ablations: run what is missing of them and of their bases, and compare each with its base.

An ablation is a config whose `base:` names the config it is compared with, and that changes the one thing it is about.
Bases, and the members of both, are run first; what is up to date is skipped, and stages that two runs have in common
are made once.
"""

import sys
import traceback
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
from tqdm import tqdm

from nuclei.config.load import load_config, parse_config, read_base, run_name
from nuclei.config.schema import Config
from nuclei.errors import UserError, explain_os_error
from nuclei.experiments.gains import compare
from nuclei.pipeline import list_runs, order_waves, run_stages
from nuclei.report.comparisons import ABLATION_COLUMNS, ablation_blocks, add_ablations
from nuclei.report.reader import find_reports, write_page
from nuclei.runs.backends import Cluster, Needs, open_backend
from nuclei.runs.cores import count_cores
from nuclei.runs.files import read_json, read_table, write_table
from nuclei.runs.layout import Options, Run, comparison
from nuclei.runs.locks import lock
from nuclei.runs.parallel import spread

RETRAINING = ("data", "model", "train")  # sections of a config that decide what the networks are
NO_DIFFERENCE = ("hypothesis",)  # keys of a config that change no result


@dataclass(frozen=True)
class Task:
    """Hold a run to be made: its name, its complete config, and the names of the runs it depends on."""

    name: str
    config: Config
    needs: tuple[str, ...]


@dataclass(frozen=True)
class Ablation:
    """Hold an ablation: its name, the config of its base, its own, and what it changes, one 'key: old -> new' each."""

    name: str
    base_path: Path
    config: Config
    changed: tuple[str, ...]

    @property
    def base(self) -> str:
        """Return the name of the base's run."""
        return run_name(self.base_path)


def find_configs(paths: Iterable[Path]) -> list[Path]:
    """Return the YAML files among files and folders, in order; raise UserError on a folder without any."""
    found = []
    for path in paths:
        files = sorted(path.glob("*.yaml")) if path.is_dir() else [path]
        if not files:
            raise UserError(f"no *.yaml in {path}: name ablation files, or a folder that holds them")
        found += files
    return list(dict.fromkeys(found))


def read_ablation(path: Path, changes: Mapping[str, Any] | None = None) -> Ablation:
    """Read an ablation; raise UserError if it has no base, differs from it in nothing, or has other data than it.

    changes: settings that are changed of it and of its base alike, as load_config takes them.
    """
    config, base_path = load_config(path, changes), read_base(path)
    if base_path is None:
        raise UserError(f"{path} has no base to be compared with: begin it with `base: <config>`, and change one thing")
    base = load_config(base_path, changes)
    changed = list_changes(base.model_dump(mode="json"), config.model_dump(mode="json"))
    if not changed:
        raise UserError(f"{path} differs from its base {base_path} in nothing: change what the ablation is about")
    if base.data.without_external() != config.data.without_external():
        raise UserError(f"{path} and its base {base_path} have other data or folds: their scores cannot be compared")
    return Ablation(run_name(path), base_path, config, tuple(changed))


def plan(paths: list[Path], seeds: int, changes: Mapping[str, Any] | None = None) -> tuple[list[Ablation], list[Task]]:
    """Return the ablations of config files, and the tasks that make them, their bases and members, in order.

    changes: as read_ablation takes them; members are made as their own files say.
    """
    found = [read_ablation(path, changes) for path in paths]
    tasks: dict[str, Task] = {}
    for ablation, path in zip(found, paths, strict=True):
        for target in (ablation.base_path, path):
            *below, (_, config) = list_runs(target, changes)
            for member_path, member in below:
                name = run_name(member_path)
                tasks.setdefault(name, Task(name, member, tuple(member.members)))
            for number in range(seeds):
                seeded = parse_config(with_seed(config.model_dump(mode="json"), number), str(target))
                name = name_seed(run_name(target), number)
                # An ablation waits for its base: the stages that they have in common are made once.
                after = (name_seed(ablation.base, number),) if target == path else ()
                tasks.setdefault(name, Task(name, seeded, (*config.members, *after)))
    return found, list(tasks.values())


def name_seed(name: str, number: int) -> str:
    return f"{name}_seed{number}" if number else name


def list_waves(tasks: list[Task]) -> list[list[Task]]:
    """Return the tasks in waves, each of which needs only runs of those before it."""
    by_name = {task.name: task for task in tasks}
    waves = order_waves({task.name: task.needs for task in tasks})
    return [[by_name[name] for name in wave] for wave in waves]


def run_tasks(tasks: list[Task], options: Options, runs: Path, cluster: Cluster) -> dict[str, str]:
    """Run tasks, those of a wave side by side; return what went wrong, {run: error}: what depends on it is not run."""
    failed: dict[str, str] = {}
    with open_backend(cluster) as engine, tqdm(total=len(tasks), desc="runs", unit="run") as progress:
        for wave in list_waves(tasks):
            failed |= {
                task.name: "not run: a run it depends on failed" for task in wave if failed.keys() & set(task.needs)
            }
            able = [task for task in wave if task.name not in failed]
            progress.update(len(wave) - len(able))
            # The first task alone prepares the data and deals the folds, which all of them need.
            for part in (able[:1], able[1:]) if not progress.n else (able,):
                calls, names = [(task, options, runs) for task in part], [task.name for task in part]
                needs = Needs(max(1, options.threads), networks=True)
                for number, error, lost in spread(run_task, calls, names, "ablate", engine, needs, alone=True):
                    if error or lost:
                        failed[names[number]] = error or str(lost)
                    progress.update()
    return failed


def run_task(task: Task, options: Options, runs: Path) -> str | None:
    """Run all stages of a task and return the error it ended with, if any: one failure must not lose the others."""
    try:
        run_stages(task.name, task.config, options, runs, skipped=("report",))
    except (UserError, OSError) as error:
        return explain_os_error(error) if isinstance(error, OSError) else str(error)
    except (Exception, SystemExit) as error:
        traceback.print_exc(file=sys.stderr)
        return f"{type(error).__name__}: {error}"
    return None


def tabulate(found: list[Ablation], seeds: int, runs: Path) -> pd.DataFrame:
    """Return the table of ablations and their bases, columns ABLATION_COLUMNS; those without a score are left out."""
    rows = []
    for base in dict.fromkeys(ablation.base for ablation in found):
        scores = read_scores(base, seeds, runs)
        if scores is None:
            continue
        seconds = count_seconds(base, seeds, runs)
        said = {"kind": "base", "changed": "", "hypothesis": ""}
        rows.append({"ablation": base, "base": base, "seconds": seconds} | said | compare(scores, None))
        for ablation in (one for one in found if one.base == base):
            own = read_scores(ablation.name, seeds, runs)
            if own is not None:
                seconds = count_seconds(ablation.name, seeds, runs)
                row = {"ablation": ablation.name, "base": base, "seconds": seconds}
                rows.append(row | describe_change(ablation) | compare(own, scores))
    return pd.DataFrame(rows, columns=ABLATION_COLUMNS)


def describe_change(ablation: Ablation) -> dict[str, str]:
    """Return the columns that say what an ablation changes and why."""
    return {
        "kind": name_kind(ablation.changed),
        "changed": "; ".join(ablation.changed),
        "hypothesis": ablation.config.hypothesis,
    }


def read_scores(name: str, seeds: int, runs: Path) -> list[pd.DataFrame] | None:
    """Read the scores per image of a run's seeds, None if one is missing."""
    paths = [Run(name_seed(name, number), runs).per_image("oof") for number in range(seeds)]
    return [read_table(path) for path in paths] if all(path.is_file() for path in paths) else None


def count_seconds(name: str, seeds: int, runs: Path) -> float:
    """Add up the seconds of a run's stages, all seeds; what another run had made already took none."""
    folders = [Run(name_seed(name, number), runs).meta("evaluate").parent for number in range(seeds)]
    metas = [read_json(path) for folder in folders for path in folder.glob("*.json")]
    return round(float(sum(meta["seconds"] for meta in metas if "shared_with" not in meta)), 1)


def ablate(
    paths: list[Path],
    seeds: int,
    options: Options,
    runs: Path,
    cluster: Cluster,
    changes: Mapping[str, Any] | None = None,
) -> dict[str, str]:
    """Run the ablations of files and folders and add them to the table; return what went wrong, {run: error}.

    changes: as read_ablation takes them.
    """
    found, tasks = plan(find_configs(paths), seeds, changes)
    if options.jobs == -1 and cluster.workers > 1:
        options = replace(options, jobs=max(1, count_cores() // cluster.workers))
    if options.jobs > 0:
        options = replace(options, threads=options.jobs)
    failed = run_tasks(tasks, options, runs, cluster)
    table, path = tabulate(found, seeds, runs), comparison(runs, "ablations")
    with lock(path, f"the table {path}"):  # of which another process may be adding rows
        table = add_ablations(read_table(path), table) if path.is_file() else table
        write_table(path, table)
        write_page(path.parent, path.stem, "Ablations", list(ablation_blocks(table, find_reports(runs))))
    return failed


def list_changes(base: Mapping[str, Any], own: Mapping[str, Any]) -> list[str]:
    """List what a config changes of its base, one 'key: old -> new' each; keys that change no result left out."""
    return [line for key in base if key not in NO_DIFFERENCE for line in _differences(base[key], own[key], key)]


def _differences(base: Any, own: Any, where: str) -> list[str]:
    # Members, losses and the like are one value: half of a mapping says nothing.
    if isinstance(base, dict) and isinstance(own, dict) and base.keys() == own.keys():
        return [line for key in base for line in _differences(base[key], own[key], f"{where}.{key}")]
    return [] if base == own else [f"{where}: {_show(base)} -> {_show(own)}"]


def _show(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_show(one)}" for key, one in value.items()) or "none"
    if isinstance(value, list | tuple):
        return ", ".join(map(_show, value)) or "none"
    return "none" if value is None else str(value)


def name_kind(changes: Iterable[str]) -> str:
    """Return 'retrain' if a change makes other networks, else 'post-process'."""
    sections = {change.split(":")[0].split(".")[0] for change in changes}
    return "retrain" if sections & set(RETRAINING) else "post-process"


def with_seed(config: dict[str, Any], number: int) -> dict[str, Any]:
    """Return a config, as a mapping, whose seeds are those of repetition `number`; 0 leaves them as they are."""
    changed = {part: config[part] | {"seed": config[part]["seed"] + number} for part in ("train", "scorer")}
    return config | changed
