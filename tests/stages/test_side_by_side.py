"""Networks trained or applied side by side: the same files as one after the other, and what waits for what."""

from pathlib import Path

import pytest
import torch
import yaml
from attack.project import open_project
from attack.threads import FOLLOWING
from small_project import SMALL, hash_files

from nuclei.config.schema import Config
from nuclei.errors import UserError
from nuclei.pipeline import list_needed, list_runs, load_run, order_waves, run_stage
from nuclei.runs.layout import Options, Run
from nuclei.stages import train as train_stage
from nuclei.stages.train import choose_engine, list_folds, train_together

SHORT = SMALL | {"train": SMALL["train"] | {"steps": 2}}


@pytest.fixture
def threads(monkeypatch):
    """Let this process, and those that it starts, compute with one thread; and afterwards as before."""
    before = torch.get_num_threads()
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def prepare(folder: Path, data: Path) -> tuple[Run, Config]:
    """Make what training needs in the current folder, and return the run."""
    path = folder / "small.yaml"
    path.write_text(yaml.safe_dump(SHORT))
    config = load_run(path)
    for stage in ("prepare", "folds"):
        run_stage(stage, "small", config, Options(data=data, jobs=1), Path("runs"))
    return Run("small"), config


def test_networks_trained_side_by_side_are_those_trained_one_after_the_other(
    demo_folder, tmp_path, monkeypatch, threads, capfd
):
    found = []
    for parallel in (1, 2):
        folder = tmp_path / str(parallel)
        folder.mkdir()
        monkeypatch.chdir(folder)
        run, config = prepare(folder, demo_folder)
        options = Options(data=demo_folder, jobs=1, parallel=parallel)
        run_stage("train", "small", config, options, Path("runs"))
        found.append(hash_files(run.folder))
        assert {"fold0/weights.safetensors", "fold1/weights.safetensors", "fold1/history.csv"} <= found[-1].keys()
    assert found[0] == found[1]
    capfd.readouterr()
    train_together([(run, config, fold) for fold in list_folds(run, config, options)], options)
    assert capfd.readouterr().out == "small train: up to date\n"


def test_two_processes_make_of_networks_what_one_made(finished, tmp_path, monkeypatch, threads):
    project = open_project(finished)
    copy = project.copy(tmp_path / "project")
    monkeypatch.chdir(copy)
    tasks = [(path, name) for path, name in project.tasks if path.stem != "other" and name in FOLLOWING]
    assert {name for _, name in tasks} == {*FOLLOWING}
    for path, name in tasks:
        project.forget(copy, path.stem, name)
    for path, name in tasks:
        config = dict(list_runs(path))[path]
        run_stage(name, path.stem, config, Options(data=project.data, jobs=2), Path("runs"))
    assert project.compare(copy) == []


def test_what_fails_is_raised_when_the_others_are_done(demo_folder, tmp_path, monkeypatch, threads):
    monkeypatch.chdir(tmp_path)
    run, config = prepare(tmp_path, demo_folder)
    other = config.model_copy(update={"model": config.model.model_copy(update={"weights": "missing.pth"})})
    made = []
    networks = [(Run("broken"), other, 0), (run, config, 1)]
    with pytest.raises(UserError, match="missing.pth"):
        train_together(networks, Options(data=demo_folder, parallel=2), lambda run, _: made.append(run.name))
    assert (run.fold(1) / "weights.safetensors").is_file()
    assert made == ["broken", "small"]


def test_as_many_networks_go_side_by_side_as_there_are_cores_for_their_threads(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    networks = [(Run("a"), Config(), fold) for fold in range(3)]
    monkeypatch.setattr(train_stage, "count_cores", lambda: 8)
    for threads, parallel, workers, each in ((2, 0, 3, 2), (4, 0, 2, 4), (8, 0, None, 8), (8, 2, 2, 4), (1, 9, 3, 1)):
        monkeypatch.setattr(train_stage, "count_threads", lambda n=threads: n)
        engine, chosen = choose_engine(networks, Options(parallel=parallel))
        assert (getattr(engine, "workers", None), chosen) == (workers, each)


def test_memory_of_the_gpus_says_how_many_networks_go_side_by_side(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    memory = type("Properties", (), {"total_memory": 10 << 30})
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: memory)
    networks = [(Run("a"), Config(), fold) for fold in range(40)]
    for need, n in ((4 << 30, 4), (1 << 20, 16), (50 << 30, 1)):
        monkeypatch.setattr(train_stage, "spread", lambda *_, need=need: iter([(0, need, None)]))
        assert train_stage.count_side_by_side(networks) == n
    monkeypatch.setattr(train_stage, "spread", lambda *_: iter([(0, None, RuntimeError("out of memory"))]))
    assert train_stage.count_side_by_side(networks) == 1


def test_training_waits_for_the_runs_that_it_starts_and_learns_from():
    def config(**train) -> Config:
        return Config.model_validate({"train": train})

    plan = {
        "a": config(),
        "b": config(start="a"),
        "both": Config.model_validate({"members": {"a": 1, "b": 1}}),
        "taught": config(teacher="both"),
        "alone": config(start="elsewhere"),
    }
    needs = {name: list_needed(name, plan) for name in plan if name != "both"}
    assert order_waves(needs) == [["a", "alone"], ["b"], ["taught"]]
