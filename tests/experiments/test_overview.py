"""The list of runs: what each stage has come to, by what is on the disk and which locks are held."""

import json
import stat
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from nuclei.errors import UserError
from nuclei.experiments.overview import (
    FINISHED,
    NOT_RUN,
    RUNNING,
    STOPPED,
    as_records,
    count_bytes,
    find_change,
    format_bytes,
    list_overviews,
    overview_table,
    say_state,
)
from nuclei.runs.cache import stage
from nuclei.runs.layout import Run

CLASSICAL = {"selection": {"method": "classical"}}
TRAINING = {"data": {"n_folds": 2, "folds": "none.csv"}}


def make_run(runs: Path, name: str, config: dict) -> Run:
    run = Run(name, runs)
    run.config.parent.mkdir(parents=True)
    run.config.write_text(yaml.safe_dump(config))
    return run


def make_stage(run: Run, *names: str) -> None:
    for name in names:
        with stage(run.meta(name), {}, {}):
            pass


def test_a_stage_is_finished_running_stopped_or_not_run(tmp_path):
    run = make_run(tmp_path, "a_run", CLASSICAL)
    make_stage(run, "classical")
    assert list_overviews(tmp_path)[0].state == "next: submit"
    with stage(run.meta("submit"), {}, {}):
        (overview,) = list_overviews(tmp_path)
        assert overview.stages == {"classical": FINISHED, "submit": RUNNING, "evaluate": NOT_RUN, "report": NOT_RUN}
        assert overview.state == "running: submit"
    with pytest.raises(OSError, match="killed"), stage(run.meta("evaluate"), {}, {}):
        raise OSError("killed")
    (overview,) = list_overviews(tmp_path)
    assert overview.stages["evaluate"] == STOPPED
    assert overview.state == "stopped: evaluate"
    make_stage(run, "evaluate", "report")
    assert list_overviews(tmp_path)[0].state == FINISHED


def test_looking_changes_nothing(tmp_path):
    run = make_run(tmp_path, "a_run", CLASSICAL)
    make_stage(run, "classical")
    before = {path: path.stat().st_mtime_ns for path in sorted(tmp_path.rglob("*"))}
    list_overviews(tmp_path)
    assert {path: path.stat().st_mtime_ns for path in sorted(tmp_path.rglob("*"))} == before


def test_another_process_is_seen(tmp_path):
    run = make_run(tmp_path, "a_run", CLASSICAL)
    script = (
        "import sys; from pathlib import Path; from nuclei.runs.cache import stage\n"
        "with stage(Path(sys.argv[1]), {}, {}): print('inside', flush=True); sys.stdin.readline()"
    )
    command = [sys.executable, "-c", script, str(run.meta("classical"))]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin
        assert process.stdout
        while process.stdout.readline().strip() != "inside":
            assert process.poll() is None
        assert list_overviews(tmp_path)[0].state == "running: classical"
        process.kill()
    assert list_overviews(tmp_path)[0].state == "stopped: classical"


def test_the_folds_of_a_training_stand_apart(tmp_path):
    run = make_run(tmp_path, "a_run", TRAINING)
    make_stage(run, "train_fold1")
    (overview,) = list_overviews(tmp_path)
    assert [overview.stages[name] for name in ("train_fold0", "train_fold1", "predict")] == [NOT_RUN, FINISHED, NOT_RUN]
    assert {"prepare", "folds", "crops"}.isdisjoint(overview.stages)
    assert overview.state == "next: train_fold0"


def test_a_damaged_run_is_listed_and_others_with_it(tmp_path):
    make_run(tmp_path, "good", CLASSICAL)
    run = make_run(tmp_path, "bad", CLASSICAL)
    run.config.write_text("selection: {methodd: 1}")
    scored = make_run(tmp_path, "scored", CLASSICAL)
    scored.metrics.write_text(json.dumps({"oof": {"score": [0.5, 0.4, 0.6], "n_images": 7}}))
    half = make_run(tmp_path, "half", CLASSICAL)
    half.metrics.write_text("{")
    found = {one.run: one for one in list_overviews(tmp_path)}
    assert found["bad"].state == f"damaged: {run.config}"
    assert found["half"].state.startswith(f"damaged: {half.metrics} is damaged")
    assert found["good"].state == "next: classical"
    assert (found["scored"].score, found["scored"].images) == ([0.5, 0.4, 0.6], 7)
    assert json.loads(json.dumps(as_records(list(found.values()))))[0]["run"] in found
    table = overview_table([found["scored"]])
    assert table.rows[0][:4] == ("scored", "next: classical", "0 of 4", "0.5000 (0.4000 to 0.6000)")


def test_a_time_beyond_what_dates_hold_is_the_last_one(tmp_path, monkeypatch):
    Run("a", tmp_path).meta("x").parent.mkdir(parents=True)
    monkeypatch.setattr(Path, "stat", lambda self, **_: SimpleNamespace(st_mtime=1e14, st_mode=stat.S_IFDIR))
    assert find_change(Run("a", tmp_path)).startswith("9999-01-01")


def test_names_choose_and_a_missing_one_is_named(tmp_path):
    for name in ("a", "b"):
        make_run(tmp_path, name, CLASSICAL)
    assert [one.run for one in list_overviews(tmp_path, ["b"])] == ["b"]
    with pytest.raises(UserError, match="no run c in .*; it has a, b"):
        list_overviews(tmp_path, ["c"])
    assert list_overviews(tmp_path / "nowhere") == []


def test_sizes(tmp_path):
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner/a").write_bytes(bytes(1000))
    (tmp_path / "b").hardlink_to(tmp_path / "inner/a")
    (tmp_path / "c").write_bytes(bytes(7))
    assert count_bytes(tmp_path) == 1007
    assert [format_bytes(n) for n in (0, 999, 1000, 45_600, 789_000, 12_300_000_000)] == [
        "0 B",
        "999 B",
        "1.0 kB",
        "45.6 kB",
        "789 kB",
        "12.3 GB",
    ]


def test_what_runs_is_said_before_what_was_stopped():
    assert say_state({"a": FINISHED, "b": STOPPED, "c": RUNNING}) == "running: c"
    assert say_state({"a": STOPPED, "b": NOT_RUN, "c": STOPPED}) == "stopped: a, c"
