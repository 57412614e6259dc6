"""An ablation differs from its base in what it says, is run once, and its gain is the paired difference to its base."""

import os
import shutil
import sys
from contextlib import contextmanager, nullcontext
from pathlib import Path

import dask
import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from distributed import get_client
from forks import open_forks
from safetensors.torch import save_file
from small_project import SMALL, write_project

from nuclei import cli
from nuclei.config.schema import Config
from nuclei.experiments import ablate
from nuclei.experiments.ablate import (
    Ablation,
    Task,
    find_configs,
    list_changes,
    list_waves,
    name_kind,
    plan,
    read_ablation,
    run_tasks,
    with_seed,
)
from nuclei.experiments.gains import compare
from nuclei.report.comparisons import ABLATION_COLUMNS
from nuclei.runs.backends import Cluster, Sequential, open_backend
from nuclei.runs.files import read_json, read_table, write_json, write_table
from nuclei.runs.layout import Options, Run, comparison
from nuclei.runs.parallel import spread

SEQUENTIAL = Cluster("sequential")
DEFAULTS = Config().model_dump(mode="json")
RETRAINED, RESCORED, DECODED = "half_as_long", "no_shape", "plain_watershed"
ABLATIONS = {
    RETRAINED: {
        "base": "../small.yaml",
        "hypothesis": "half the steps do",
        "train": {"steps": SMALL["train"]["steps"] // 2},
    },
    RESCORED: {"base": "../small.yaml", "scorer": {"leave_out": ["shape"]}},
    DECODED: {"base": "../small.yaml", "selection": {"method": "watershed"}},
    "broken": {"base": "../small.yaml", "model": {"weights": "of_another_network.safetensors"}},
    "of_broken": {"base": "broken.yaml", "predict": {"tta": "flips"}},
}


def write_configs(folder: Path) -> Path:
    """Write a small project with ABLATIONS, and the initial weights that one of them fails on; return their folder."""
    write_project(folder)
    save_file({"unknown": torch.zeros(1)}, folder / "of_another_network.safetensors")
    for name, content in ABLATIONS.items():
        write(folder / f"configs/ablations/{name}.yaml", content)
    return folder / "configs/ablations"


def write(path: Path, content: dict) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(content))
    return path


def change(**sections) -> dict:
    """Return the default config, as a mapping, with some keys of some sections changed, and some values replaced."""
    return {
        key: value | sections.get(key, {}) if isinstance(value, dict) and key != "members" else sections.get(key, value)
        for key, value in DEFAULTS.items()
    }


def make_scores(values, ids="abcd", groups=None) -> pd.DataFrame:
    return pd.DataFrame({"image_id": list(ids), "group": list(groups or ids), "score": values})


# What was changed


@pytest.mark.parametrize(
    ("own", "expected"),
    [
        (change(), []),
        (change(hypothesis="another"), []),
        (change(train={"steps": 7}), ["train.steps: 1000 -> 7"]),
        (change(train={"leave_out": ["noise", "blur"]}), ["train.leave_out: none -> noise, blur"]),
        (change(model={"weights": None}), ["model.weights: imagenet -> none"]),
        (change(members={"a": 1.0, "b": 2.0}), ["members: none -> a 1.0, b 2.0"]),
        (change(train={"loss": {"bce": 1.0}}), ["train.loss: bce 0.5, dice 0.5 -> bce 1.0"]),
        (change(scorer={"seeds": 3}, model={"decoder": "FPN"}), ["model.decoder: Unet -> FPN", "scorer.seeds: 2 -> 3"]),
    ],
    ids=lambda value: " ".join(value) or "nothing" if isinstance(value, list) else "",
)
def test_changes_are_listed_with_old_and_new_value(own, expected):
    assert list_changes(DEFAULTS, own) == expected


def test_what_is_the_same_on_both_sides_is_no_change():
    own = change(members={"a": 1.0, "b": 2.0}, scorer={"seeds": 3})
    assert list_changes(own, own) == []
    assert list_changes(own, own | {"members": {"a": 1.0}}) == ["members: a 1.0, b 2.0 -> a 1.0"]


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        (["train.steps: 1 -> 2"], "retrain"),
        (["model.encoder: a -> b"], "retrain"),
        (["data.only_folds: none -> 0"], "retrain"),
        (["scorer.seeds: 1 -> 2", "train.seed: 1 -> 2"], "retrain"),
        (["members: a 1.0 -> b 1.0"], "post-process"),
        (["predict.tta: none -> flips"], "post-process"),
        (["scorer.leave_out: none -> train.loss: model"], "post-process"),
    ],
)
def test_what_makes_other_networks_is_a_retraining(changes, kind):
    assert name_kind(changes) == kind


def test_a_repetition_differs_in_its_seeds_alone():
    before = Config().model_dump(mode="json")
    assert with_seed(before, 0) == before
    assert list_changes(before, with_seed(before, 2)) == ["train.seed: 2018 -> 2020", "scorer.seed: 2018 -> 2020"]
    assert before == DEFAULTS


# What it gains


def test_the_gain_is_paired_by_image_whatever_the_order_of_rows():
    base = make_scores([0.1, 0.9, 0.4, 0.6])
    row = compare([make_scores([0.8, 0.6, 0.3, 1.1], "dcab")], [base])
    assert row["score"] == pytest.approx(0.7)
    assert row["n_images"] == 4
    assert row["seeds"] == 1
    # Every image gains 0.2, so there is no doubt about the gain, though the scores vary.
    assert (row["gain"], row["gain_low"], row["gain_high"]) == pytest.approx((0.2, 0.2, 0.2))
    assert row["score_low"] < 0.6 < 0.8 < row["score_high"]
    assert row["seed_spread"] is None


def test_the_interval_holds_the_gain_and_lies_between_the_worst_and_the_best_group():
    gains = np.array([-0.1, 0.0, 0.3, 0.2])
    base = np.array([0.5, 0.2, 0.4, 0.1])
    row = compare([make_scores(base + gains)], [make_scores(base)])
    assert row["gain"] == pytest.approx(0.1)
    assert -0.1 <= row["gain_low"] < 0.05
    assert 0.15 < row["gain_high"] <= 0.3
    # Two mosaics whose images gain 0.1 on average: drawn whole, they leave no doubt.
    row = compare([make_scores(base + gains, groups="xyxy")], [make_scores(base, groups="xyxy")])
    assert (row["gain"], row["gain_low"], row["gain_high"]) == pytest.approx((0.1, 0.1, 0.1))


def test_a_run_gains_nothing_over_itself():
    table = make_scores([0.3, 0.5, 0.1, 0.8])
    row = compare([table], [table])
    assert (row["gain"], row["gain_low"], row["gain_high"]) == (0, 0, 0)


def test_seeds_are_averaged_and_their_spread_is_the_standard_deviation():
    base = [make_scores([0.2, 0.4, 0.2, 0.4]), make_scores([0.4, 0.6, 0.4, 0.6])]
    own = [make_scores([0.3, 0.5, 0.3, 0.5]), make_scores([0.7, 0.9, 0.7, 0.9])]
    row = compare(own, base)
    assert row["score"] == pytest.approx(0.6)
    assert row["gain"] == pytest.approx(0.2)
    assert row["seeds"] == 2
    assert row["seed_spread"] == pytest.approx(np.sqrt(2) * 0.1)  # of gains of 0.1 and 0.3
    row = compare(own, None)
    assert row["seed_spread"] == pytest.approx(np.sqrt(2) * 0.2)
    assert "gain" not in row


def test_scores_of_other_images_are_refused():
    table, other = make_scores([0.1, 0.2, 0.3, 0.4]), make_scores([0.1, 0.2, 0.3, 0.4], "abce")
    with pytest.raises(ValueError, match="the two have scores of different images"):
        compare([table], [other])
    with pytest.raises(ValueError, match="the two have scores of different images"):
        compare([table], [table[:3]])
    with pytest.raises(ValueError, match="the seeds have scores of different images"):
        compare([table, other], None)


# What there is to run


@pytest.fixture
def configs(tmp_path):
    """Give the folder of ablations of a small project: a run `small`, an ensemble `pair` of it and `other`."""
    folder = write_configs(tmp_path)
    write(folder / "greedy.yaml", {"base": "../../ensembles/pair.yaml", "selection": {"search": "greedy"}})
    return folder


def test_configs_are_those_of_files_and_folders(configs, tmp_path):
    write(configs / "bases/deeper.yaml", {})
    (configs / "notes.txt").write_text("")
    found = find_configs([configs / "no_shape.yaml", configs])
    assert [path.stem for path in found] == [
        "no_shape",
        "broken",
        "greedy",
        "half_as_long",
        "of_broken",
        "plain_watershed",
    ]
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=f"no .*yaml in {tmp_path / 'empty'}"):
        find_configs([configs, tmp_path / "empty"])


def test_an_ablation_knows_its_base_and_what_it_changes(configs):
    found = read_ablation(configs / f"{RETRAINED}.yaml")
    assert (found.name, found.base, found.changed) == (RETRAINED, "small", ("train.steps: 24 -> 12",))
    assert found.config.train.steps == 12
    assert found.config.hypothesis == "half the steps do"


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ({"external": {"tnbc": 2}}, "data.external: none -> tnbc 2.0"),
        ({"external_area_px": 900}, "data.external_area_px: 1500.0 -> 900.0"),
    ],
)
def test_external_images_are_learned_from_and_so_may_be_what_an_ablation_is_about(configs, setting, said):
    path = write(configs / "case.yaml", {"base": "../small.yaml", "data": setting})
    assert read_ablation(path).changed == (said,)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"train": {"steps": 3}}, "case.yaml has no base to be compared with"),
        ({"base": "../gone.yaml", "train": {"steps": 3}}, "no config .*gone.yaml"),
        ({"base": "../small.yaml", "hypothesis": "nothing"}, "case.yaml differs from its base .*small.yaml in nothing"),
        ({"base": "../small.yaml", "train": {"steps": 24}}, "case.yaml differs from its base .*small.yaml in nothing"),
        (
            {"base": "../small.yaml", "data": {"only_folds": [0]}},
            "case.yaml and its base .*small.yaml have other data or folds",
        ),
        ({"base": "../small.yaml", "train": {"stepz": 3}}, "train.stepz: unknown key"),
    ],
)
def test_what_is_no_ablation_is_refused(configs, content, said):
    with pytest.raises(ValueError, match=said):
        read_ablation(write(configs / "case.yaml", content))


def test_bases_and_members_are_run_before_an_ablation_and_each_once(configs):
    found, tasks = plan([configs / f"{name}.yaml" for name in (RETRAINED, "greedy", RESCORED)], seeds=1)
    assert [(one.name, one.base) for one in found] == [(RETRAINED, "small"), ("greedy", "pair"), (RESCORED, "small")]
    needs = {task.name: set(task.needs) for task in tasks}
    assert len(needs) == len(tasks)
    assert needs == {
        "small": set(),
        RETRAINED: {"small"},
        RESCORED: {"small"},
        "other": set(),
        "pair": {"small", "other"},
        "greedy": {"small", "other", "pair"},
    }
    place = {name: i for i, name in enumerate(needs)}
    assert all(place[need] < place[name] for name in needs for need in needs[name])
    configs_of = {task.name: task.config for task in tasks}
    assert configs_of["greedy"].selection.search == "greedy"
    assert configs_of["pair"].selection.search == "exact"
    assert configs_of["other"].train.seed == 1
    assert configs_of["small"].train.seed == 2018


def test_ablation_and_base_are_repeated_with_other_seeds_but_not_their_members(configs):
    found, tasks = plan([configs / "greedy.yaml"], seeds=2)
    assert [one.name for one in found] == ["greedy"]
    seeds = {task.name: (task.config.train.seed, task.config.scorer.seed) for task in tasks}
    assert seeds == {
        "small": (2018, 2018),
        "other": (1, 2018),
        "pair": (2018, 2018),
        "pair_seed1": (2019, 2019),
        "greedy": (2018, 2018),
        "greedy_seed1": (2019, 2019),
    }
    needs = {task.name: set(task.needs) for task in tasks}
    assert needs["greedy_seed1"] == {"small", "other", "pair_seed1"}
    assert needs["pair_seed1"] == {"small", "other"}


def make_tasks(**needs) -> list[Task]:
    return [Task(name, Config(), tuple(of)) for name, of in needs.items()]


def test_a_wave_needs_only_those_before_it():
    tasks = make_tasks(top=["left", "right"], left=["base"], base=[], alone=["elsewhere"], right=["base"])
    assert [[task.name for task in wave] for wave in list_waves(tasks)] == [
        ["base", "alone"],
        ["left", "right"],
        ["top"],
    ]
    assert list_waves([]) == []


def test_runs_that_wait_for_each_other_are_refused():
    with pytest.raises(ValueError, match=r"these runs wait for each other: a, b, c$"):
        list_waves(make_tasks(a=["b"], free=[], b=["a"], c=["b"]))


# Running it


def test_a_failure_is_said_and_fails_only_what_depends_on_it(monkeypatch, tmp_path):
    made = []

    def run_stages(name, config, options, folder, skipped):
        assert (config, options, folder, skipped) == (Config(), Options(jobs=1), tmp_path, ("report",))
        if name == "bad":
            raise KeyError("mask")
        if name == "exits":
            sys.exit(3)
        made.append(name)

    monkeypatch.setattr(ablate, "run_stages", run_stages)
    tasks = make_tasks(good=[], bad=[], of_bad=["good", "bad"], of_good=["good"], over=["of_bad"], exits=["good"])
    failed = run_tasks(tasks, Options(jobs=1), tmp_path, SEQUENTIAL)
    unrun = "not run: a run it depends on failed"
    assert failed == {"bad": "KeyError: 'mask'", "of_bad": unrun, "over": unrun, "exits": "SystemExit: 3"}
    assert made == ["good", "of_good"]


def test_the_first_run_prepares_the_data_alone_and_the_others_of_a_wave_run_side_by_side(monkeypatch):
    batches = []

    class Recorder(Sequential):
        room = 9

        def submit(self, function, tasks, needs):
            batches.append([task.name for _, _, calls in tasks for _, (task, *_) in calls])
            return super().submit(function, tasks, needs)

    monkeypatch.setattr(ablate, "open_backend", lambda _: nullcontext(Recorder()))
    monkeypatch.setattr(ablate, "run_task", lambda *_: None)
    run_tasks(make_tasks(a=[], b=[], c=[], d=["a"], e=["b"]), Options(), Path("runs"), SEQUENTIAL)
    assert batches == [["a"], ["b", "c"], ["d", "e"]]


def test_cores_are_shared_by_the_runs_made_side_by_side(monkeypatch, configs, tmp_path):
    jobs = []
    monkeypatch.setattr(ablate, "run_tasks", lambda _, options, *__: jobs.append((options.jobs, options.threads)))
    monkeypatch.setenv("NUCLEI_THREADS", "8")
    for wanted, workers in ((-1, 1), (-1, 3), (-1, 9), (5, 3)):
        ablate.ablate([configs / f"{RESCORED}.yaml"], 1, Options(jobs=wanted), tmp_path, Cluster("loky", workers))
    assert jobs == [(-1, 0), (2, 2), (1, 1), (5, 5)]
    # What never ran is not in the table.
    assert read_table(comparison(tmp_path, "ablations")).empty


def test_an_unknown_backend_is_an_error_of_the_command_line_before_anything_runs(monkeypatch, configs, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match=r"^error: unknown backend spark; valid: loky, dask, ray, slurm, "):
        call(monkeypatch, "ablate", configs, "--backend", "spark")
    assert not (tmp_path / "runs").exists()


def call(monkeypatch, *words) -> None:
    """Call the command line as a user does, but in this process."""
    monkeypatch.setattr(sys, "argv", ["nuclei", *map(str, words)])
    cli.main()


# The table


def write_run(root: Path, name: str, values, seconds=(1.0,)) -> None:
    """Write what the table reads of a finished run."""
    run = Run(name, root)
    write_table(run.per_image("oof"), make_scores(values))
    for i, n in enumerate(seconds):
        write_json(run.meta(f"stage{i}"), {"seconds": n})


def test_the_table_holds_every_base_once_and_each_ablation_below_its_own(tmp_path):
    found = [
        Ablation("a", Path("x.yaml"), Config(hypothesis="why a"), ("train.steps: 1 -> 2",)),
        Ablation("b", Path("y.yaml"), Config(), ("scorer.seeds: 1 -> 2", "predict.tta: none -> flips")),
        Ablation("c", Path("x.yaml"), Config(), ("model.decoder: Unet -> FPN",)),
        Ablation("lost", Path("x.yaml"), Config(), ("x: 1 -> 2",)),
        Ablation("d", Path("gone.yaml"), Config(), ("x: 1 -> 2",)),
    ]
    for i, name in enumerate("xyabcd"):
        write_run(tmp_path, name, [0.1 * i, 0.2, 0.3, 0.4], seconds=(i, 2))
        write_run(tmp_path, f"{name}_seed1", [0.1 * i, 0.4, 0.3, 0.4], seconds=(3,))
    write_run(tmp_path, "lost", [0.5] * 4)  # its second seed is missing
    table = ablate.tabulate(found, 2, tmp_path)
    assert tuple(table.columns) == ABLATION_COLUMNS
    assert table["ablation"].tolist() == ["x", "a", "c", "y", "b"]
    assert table["base"].tolist() == [
        "x",
        "x",
        "x",
        "y",
        "y",
    ]
    assert table["kind"].tolist() == ["base", "retrain", "retrain", "base", "post-process"]
    assert table["changed"].tolist() == [
        "",
        "train.steps: 1 -> 2",
        "model.decoder: Unet -> FPN",
        "",
        "scorer.seeds: 1 -> 2; predict.tta: none -> flips",
    ]
    assert table["hypothesis"].tolist() == ["", "why a", "", "", ""]
    assert table["seconds"].tolist() == [5, 7, 9, 6, 8]
    assert table["seeds"].tolist() == [2] * 5
    np.testing.assert_allclose(table["gain"], [np.nan, 0.05, 0.1, np.nan, 0.05])
    np.testing.assert_allclose(table["score"], [0.25, 0.3, 0.35, 0.275, 0.325])


# All of it, on two workers of Dask


@pytest.fixture(scope="module")
def project(finished, tmp_path_factory):
    """Give the small project whose ablations ran on a Dask cluster of two workers, what failed, and the workers."""
    folder = tmp_path_factory.mktemp("ablated") / "project"
    # Of what is there already an ablation may take any run's: that of its base is asked for below.
    shutil.copytree(finished / "project", folder, ignore=shutil.ignore_patterns("other", "pair", "report*"))
    write_configs(folder)
    workers = {}

    @contextmanager
    def open_watched(cluster):
        with open_backend(cluster) as engine:
            workers["threads"] = list(get_client().ncores().values())
            found = spread(os.getpid, [()] * 4, list("abcd"), "pids", engine)
            workers["processes"] = [pid for _, pid, _ in found]
            yield engine

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(ablate, "open_backend", open_watched)
        open_forks()
        options = Options(data=finished / "data", jobs=1)
        with dask.config.set({"distributed.worker.multiprocessing-method": "forkserver"}):  # without their imports
            failed = ablate.ablate([Path("configs/ablations")], 1, options, Path("runs"), Cluster("dask", 2))
    return folder, failed, workers


def read_scores(folder: Path, name: str) -> pd.DataFrame:
    return read_table(Run(name, folder / "runs").per_image("oof")).set_index("image_id")


def test_the_work_was_done_by_the_workers(project):
    _, _, workers = project
    assert workers["threads"] == [1, 1]
    assert os.getpid() not in workers["processes"]


def test_a_failed_ablation_is_reported_and_the_others_are_in_the_table(project):
    folder, failed, _ = project
    assert failed.keys() == {"broken", "of_broken"}
    assert failed["broken"].startswith("of_another_network.safetensors lacks")
    assert failed["of_broken"] == "not run: a run it depends on failed"
    table = read_table(comparison(folder / "runs", "ablations"))
    assert table["ablation"].tolist() == ["small", RETRAINED, RESCORED, DECODED]
    page = comparison(folder / "runs", "ablations").with_suffix(".html").read_text()
    assert all(name in page for name in table["ablation"])
    assert "broken" not in page


def test_the_numbers_of_the_table_are_those_of_the_runs(project):
    folder, _, _ = project
    table = read_table(comparison(folder / "runs", "ablations")).set_index("ablation")
    base = read_scores(folder, "small")
    assert base["score"].mean() > 0
    assert (table["n_images"] == 12).all()
    assert (table["base"] == "small").all()
    assert table["kind"].to_dict() == {
        "small": "base",
        RETRAINED: "retrain",
        RESCORED: "post-process",
        DECODED: "post-process",
    }
    assert table.loc[RETRAINED, "changed"] == "train.steps: 24 -> 12"
    assert table.loc[RETRAINED, "hypothesis"] == "half the steps do"
    assert np.isnan(table.loc["small", "gain"])
    for name, row in table.iterrows():
        own = read_scores(folder, name)
        metas = [read_json(path) for path in (folder / "runs" / name / "meta").glob("*.json")]
        assert row["score"] == pytest.approx(own["score"].mean())
        own_seconds = [meta["seconds"] for meta in metas if "shared_with" not in meta]
        assert row["seconds"] == pytest.approx(sum(own_seconds), abs=0.06)
        if name != "small":
            assert row["gain"] == pytest.approx((own["score"] - base["score"]).mean())
            assert row["gain_low"] <= row["gain"] <= row["gain_high"]
    # The base had decoded its own maps by watershed already, under thresholds of the same folds.
    pd.testing.assert_series_equal(read_scores(folder, DECODED)["score"], base["watershed"], check_names=False)


@pytest.mark.parametrize(
    ("name", "shared"),
    [
        (DECODED, {"novelty", "train_fold0", "train_fold1", "predict", "plain"}),
        (RESCORED, {"novelty", "train_fold0", "train_fold1", "predict", "plain", "candidates"}),
        (RETRAINED, {"novelty"}),
    ],
)
def test_stages_in_common_with_the_base_are_made_once(project, name, shared):
    folder, _, _ = project
    own, base = (Run(one, folder / "runs") for one in (name, "small"))
    metas = {path.stem: read_json(path) for path in own.meta("x").parent.glob("*.json")}
    assert {stage for stage, meta in metas.items() if "shared_with" in meta} == shared
    assert {"select", "submit", "evaluate"} <= metas.keys() - shared
    assert "report" not in metas
    assert not ABLATIONS.keys() & {read_json(path).get("shared_with") for path in base.meta("x").parent.glob("*.json")}
    weights, maps = (
        [run.fold(0) / "weights.safetensors" for run in (own, base)],
        [run.maps("oof") for run in (own, base)],
    )
    same_networks = "train_fold0" in shared
    assert weights[0].samefile(weights[1]) == same_networks
    assert all(path.samefile(maps[1] / path.name) == same_networks for path in maps[0].iterdir())


def test_a_second_call_runs_nothing_again_and_ends_with_what_failed(project, demo_folder, monkeypatch, capsys):
    folder, failed, _ = project
    monkeypatch.chdir(folder)

    def state():
        files = (path for path in Path("runs").rglob("*") if path.is_file() and path.name != "config.yaml")
        files = (path for path in files if path.suffix != ".begun")  # what failed is begun again
        return {path: path.stat().st_mtime_ns for path in files if path.parts[1] != "comparisons"}

    before, table = state(), comparison(Path("runs"), "ablations").read_bytes()
    with pytest.raises(SystemExit, match=r"(?s)error: these runs failed and are not in the table:.*broken: ") as error:
        call(monkeypatch, "ablate", "configs/ablations", "--data", demo_folder, "--backend", "sequential", "--jobs", 1)
    assert str(error.value).splitlines()[1:] == [f"  {name}: {said}" for name, said in failed.items()]
    assert state() == before
    assert comparison(Path("runs"), "ablations").read_bytes() == table
    printed = capsys.readouterr().out
    assert "half_as_long evaluate: up to date" in printed
    assert "ablations: runs/comparisons/ablations.html" in printed
