"""Runs are tabulated in the order of the field's systems, each with all that it took, and only where they compare."""

import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

from nuclei.config.schema import Config
from nuclei.errors import UserError
from nuclei.experiments.leaderboard import compare_runs, publish
from nuclei.pipeline import save_config
from nuclei.report.comparisons import ABLATION_COLUMNS, SYSTEM_COLUMNS, SYSTEMS, sort_systems, systems_table
from nuclei.runs import cache
from nuclei.runs.files import read_json, read_table, write_json, write_table
from nuclei.runs.layout import Run, comparison

INPUTS = {"data": "of the demo", "folds": "two"}


def make_row(system: str, run: str, score: float = 0.5, **changes) -> dict:
    return (
        dict.fromkeys(SYSTEM_COLUMNS, 0.0) | {"system": system, "run": run, "score": score, "weights": "none"} | changes
    )


def finish(run: Run, stage: str, seconds: float, settings: dict | None = None, inputs: dict = INPUTS) -> None:
    """Leave the meta of a stage that took `seconds`, unless another run's with the same settings is shared."""
    with cache.stage(run.meta(stage), settings or {"of": run.name}, inputs, share=True) as needed:
        pass
    if needed:
        write_json(run.meta(stage), read_json(run.meta(stage)) | {"seconds": seconds})


def write_run(
    root,
    name: str,
    folds=(0, 1),
    took=(),
    made_by="predict",
    inputs=INPUTS,
    score=0.5,
    n_parameters=1000,
    own=None,
    **config,
) -> Run:
    """Write what a comparison reads of a finished run; `took` are the seconds of its trainings, settings as `own`."""
    run = Run(name, root)
    save_config(run, Config.model_validate(config))
    for fold, seconds in zip(folds, took, strict=False):
        run.fold(fold).mkdir()
        # What is counted in the forward pass is not learned.
        save_file(
            {"w": torch.zeros(n_parameters // 10, 10), "norm.running_mean": torch.zeros(77)},
            run.fold(fold) / "weights.safetensors",
        )
        finish(run, f"train_fold{fold}", seconds, own and own | {"fold": fold}, inputs)
    finish(run, made_by, 30, own, inputs)
    finish(run, "evaluate", 90)
    interval = [score, score - 0.1, score + 0.1]
    write_json(run.metrics, {"oof": {"score": interval, "mean_over_clusters": score / 2}})
    return run


def compare(root, *names) -> pd.DataFrame:
    """Return the file of a comparison, by run, and check that the table to print says the same."""
    printed = compare_runs(list(names), root)
    table = read_table(comparison(root, "leaderboard"))
    assert systems_table(table) == printed
    return table.set_index("run")


def test_the_talks_scores_are_those_of_its_slide():
    table = systems_table(sort_systems([make_row(system, system) for system in SYSTEMS]))
    assert [row[1] for row in table.rows] == ["0.20 – 0.28", "0.25 – 0.42", "0.37 – 0.50", "0.45 – 0.55", "0.65"]
    assert {len(row) for row in table.rows} == {len(table.columns)}


def test_rows_come_in_the_order_of_the_systems_and_then_by_score():
    rows = [
        make_row("", "other", 0.1),
        make_row("full", "full", 0.2),
        make_row("vanilla_unet", "better", 0.4),
        make_row("mask_rcnn", "rcnn", 0.1),
        make_row("vanilla_unet", "worse", 0.3),
        make_row("classical", "otsu", 0.9),
        make_row("deep_watershed", "deep", 0.8),
    ]
    table = sort_systems(rows)
    assert table["run"].tolist() == ["otsu", "worse", "better", "rcnn", "deep", "full", "other"]
    assert tuple(table.columns) == SYSTEM_COLUMNS
    assert systems_table(table).rows[-1][:3] == ("", "", "other")


def test_a_row_says_minutes_per_training_and_millions_of_parameters():
    row = make_row(
        "vanilla_unet",
        "keras",
        0.25,
        score_low=0.2,
        score_high=0.3,
        mean_over_types=0.125,
        trainings=4,
        train_seconds=4 * 90,
        train_budget="80 s",
        rest_seconds=150,
        parameters=1_940_000,
        weights="random",
    )
    untrained = make_row("classical", "otsu", trainings=0, train_budget="none", parameters=0)
    first, second = systems_table(sort_systems([row, untrained])).rows
    assert second[3] == "0.2500 (0.2000 to 0.3000)"
    assert second[7:] == ("0.1250", "4 x 1.5", "80 s", "2.5", "1.9", "random")
    assert first[8:] == ("none", "none", "0.0", "none", "none")


def test_a_row_says_what_was_measured_on_unseen_kinds_and_what_was_not():
    unseen = {"unseen_score": 0.4, "unseen_low": 0.3, "unseen_high": 0.5, "unseen_recall": 0.5}
    rows = [make_row("", "a", 0.2, recall=0.9, offset_percent=-1, unseen_offset_percent=4.25, **unseen)]
    rows.append({key: rows[0][key] for key in SYSTEM_COLUMNS if "unseen" not in key} | {"run": "b", "score": 0.3})
    measured, other = systems_table(sort_systems(rows)).rows
    assert measured[4:7] == ("0.4000 (0.3000 to 0.5000)", "0.900 / 0.500", "-1.0 / +4.2")
    assert other[4:7] == ("not measured", "0.900 / not measured", "-1.0 / not measured")
    old = sort_systems(rows).drop(columns=[key for key in SYSTEM_COLUMNS if "unseen" in key or key == "recall"])
    assert systems_table(old).rows[0][5] == "not measured / not measured"


def test_a_run_is_told_by_its_own_files(tmp_path):
    write_run(
        tmp_path,
        "keras",
        took=(60, 80),
        score=0.3,
        system="vanilla_unet",
        model={"decoder": "KerasUnet", "encoder": None, "weights": None},
    )
    write_run(tmp_path, "otsu", made_by="classical", score=0.2, system="classical", selection={"method": "classical"})
    table = compare(tmp_path, "keras", "otsu", "keras")
    assert table.index.tolist() == ["otsu", "keras"]
    keras, otsu = table.loc["keras"], table.loc["otsu"]
    assert keras[["score", "score_low", "score_high", "mean_over_types"]].tolist() == pytest.approx(
        [0.3, 0.2, 0.4, 0.15]
    )
    assert keras[["trainings", "train_seconds", "rest_seconds", "parameters", "weights"]].tolist() == [
        2,
        140,
        120,
        1000,
        "random",
    ]
    assert otsu[["trainings", "train_seconds", "rest_seconds", "parameters", "weights"]].tolist() == [
        0,
        0,
        120,
        0,
        "none",
    ]
    page = comparison(tmp_path, "leaderboard").with_suffix(".html").read_text()
    assert "vanilla U-Net" in page
    assert "0.3000 (0.2000 to 0.4000)" in page


def test_an_ensemble_adds_up_what_its_members_took_each_once(tmp_path):
    write_run(tmp_path, "a", took=(10, 20), n_parameters=1000, model={"weights": "imagenet"}, train={"seconds": 60})
    write_run(tmp_path, "b", took=(30, 40), n_parameters=500, model={"weights": "pretrained/small.pth"})
    write_run(tmp_path, "pair", made_by="ensemble", members={"a": 1, "b": 1})
    write_run(tmp_path, "pair_and_a", made_by="ensemble", members={"pair": 1, "a": 2}, system="full")
    table = compare(tmp_path, "pair", "pair_and_a")
    for name in ("pair", "pair_and_a"):
        row = table.loc[name]
        assert row[["trainings", "train_seconds", "parameters", "weights"]].tolist() == [
            4,
            100,
            1500,
            "imagenet, small",
        ]
        assert row["train_budget"] == "60 s, no limit"
        assert row["rest_seconds"] == 120 + 2 * 30


def test_work_that_was_shared_counts_as_if_it_had_been_done(tmp_path):
    same = {"steps": 10}
    write_run(tmp_path, "b_first", took=(100, 200), own=same)
    write_run(tmp_path, "a_second", took=(0, 0), own=same)
    write_run(tmp_path, "third", took=(0, 0), own=same)  # takes the second's, which are the first's
    metas = [read_json(Run(name, tmp_path).meta("train_fold1")) for name in ("a_second", "third")]
    assert [meta["shared_with"] for meta in metas] == ["b_first"] * 2
    table = compare(tmp_path, "third", "a_second", "b_first")
    assert table["train_seconds"].tolist() == [300] * 3
    assert table["trainings"].tolist() == [2] * 3
    assert table["rest_seconds"].tolist() == [120] * 3


def test_a_run_of_some_folds_has_parameters_too(tmp_path):
    write_run(tmp_path, "trial", folds=(1,), took=(50,), data={"only_folds": [1]})
    assert compare(tmp_path, "trial").loc["trial", ["parameters", "trainings", "train_seconds"]].tolist() == [
        1000,
        1,
        50,
    ]


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"inputs": INPUTS | {"folds": "four"}}, "folds: 'two' -> 'four'"),
        ({"inputs": INPUTS | {"data": "corrected"}}, "data: 'of the demo' -> 'corrected'"),
        ({"data": {"only_folds": [1]}}, r"only_folds: \[\] -> \[1\]"),
    ],
)
@pytest.mark.parametrize("made_by", ["classical", "predict", "ensemble"])
def test_a_run_scored_on_other_images_is_refused_by_name(tmp_path, made_by, changes, what):
    write_run(tmp_path, "good")
    write_run(tmp_path, "odd", made_by=made_by, **changes)
    with pytest.raises(UserError, match=f"odd and good were scored on other data or folds.*{what}"):
        compare_runs(["good", "odd"], tmp_path)
    assert not comparison(tmp_path, "leaderboard").exists()


def test_a_run_that_has_not_finished_is_refused_by_name(tmp_path):
    write_run(tmp_path, "good")
    write_run(tmp_path, "half").meta("evaluate").unlink()
    with pytest.raises(UserError, match=r"half.*evaluate.json is missing"):
        compare_runs(["good", "half"], tmp_path)


def test_published_ablations_stay_unless_their_base_has_changed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    readme = tmp_path / "configs/ablations/README.md"
    readme.parent.mkdir(parents=True)
    readme.write_text("<!-- ablations -->\n<!-- /ablations -->\n")

    def publish_table(**scores):
        rows = [
            dict.fromkeys(ABLATION_COLUMNS, 0.0)
            | {
                "ablation": name,
                "base": name[0],
                "kind": "post-process",
                "changed": "a",
                "hypothesis": "b",
                "score": score,
                "seed_spread": None,
            }
            for name, score in scores.items()
        ]
        write_table(comparison(tmp_path, "ablations"), pd.DataFrame(rows, columns=ABLATION_COLUMNS))
        publish(tmp_path, "ablations")
        table = read_table(tmp_path / "ensembles/ablations.csv")
        assert all(f"| {name} |" in readme.read_text() for name in table["ablation"])
        return dict(zip(table["ablation"], table["score"], strict=True))

    assert publish_table(a=0.5, a_x=0.25) == {"a": 0.5, "a_x": 0.25}
    assert publish_table(b=0.75, b_x=0.125) == {"a": 0.5, "a_x": 0.25, "b": 0.75, "b_x": 0.125}
    assert publish_table(a=0.5, a_y=0.375) == {"a": 0.5, "a_x": 0.25, "a_y": 0.375, "b": 0.75, "b_x": 0.125}
    assert publish_table(b=0.625, b_y=0.5) == {"a": 0.5, "a_x": 0.25, "a_y": 0.375, "b": 0.625, "b_y": 0.5}
    assert publish_table() == {"a": 0.5, "a_x": 0.25, "a_y": 0.375, "b": 0.625, "b_y": 0.5}


def test_a_row_leads_to_the_report_of_its_run_where_there_is_one(tmp_path):
    for name in ("shown", "bare"):
        write_run(tmp_path, name)
    (Run("shown", tmp_path).report).mkdir()
    (Run("shown", tmp_path).report / "report.html").touch()
    compare_runs(["shown", "bare"], tmp_path)
    page = comparison(tmp_path, "leaderboard").with_suffix(".html")
    assert '<a href="../shown/report/report.html">shown</a>' in page.read_text()
    assert (page.parent / "../shown/report/report.html").is_file()
    assert "bare/report" not in page.read_text()
    assert "| [shown](../shown/report/report.html) |" in page.with_suffix(".md").read_text()


def test_runs_of_synthetic_images_are_not_set_beside_the_competition(tmp_path):
    write_run(tmp_path, "real")
    write_run(tmp_path, "drawn", data={"dataset": "demo"})
    for name, synthetic in (("real", False), ("drawn", True)):
        table = compare_runs([name], tmp_path)
        text = comparison(tmp_path, "leaderboard").with_suffix(".md").read_text()
        assert ("All images are synthetic" in text) == synthetic
        assert ("leaderboard's images" in text) != synthetic
        assert ("in the talk" in table.columns) != synthetic
        assert {len(row) for row in table.rows} == {len(table.columns)}
