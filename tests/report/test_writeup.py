"""A write-up holds the numbers of the artefacts, names what is missing, and asks for what only a person can write."""

import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from finished_run import copy_run, make_config, make_run
from html_page import Page
from safetensors.numpy import save_file

from nuclei.candidates.features import FEATURES
from nuclei.config.load import parse_config
from nuclei.config.schema import Config, SelectionConfig
from nuclei.errors import UserError
from nuclei.pipeline import list_stages, run_stage
from nuclei.report.blocks import Table
from nuclei.report.charts import GRAY, GREEN, VERMILION
from nuclei.report.comparisons import (
    ABLATION_COLUMNS,
    ablations_table,
    draw_ablations,
    judge,
    sort_ablations,
    verdict_table,
)
from nuclei.report.markdown import render_block
from nuclei.report.network_tables import MODEL, TRAINING, augmentation_table, choices_table
from nuclei.report.reader import find_config
from nuclei.report.tables import folds_table, format_time, times_table
from nuclei.report.writeup_making import command_blocks
from nuclei.report.writeup_method import describe_gain, describe_selection, members_table
from nuclei.report.writeup_opening import choose_examples, external_section
from nuclei.report.writeup_results import features_table, simpler_table
from nuclei.runs.files import file_hash, read_json, read_table, write_table
from nuclei.runs.layout import Options, Run, comparison
from nuclei.runs.stage_table import STAGES, TIMES
from nuclei.stages import writeup as stage

GAINS = {
    "no_border": (-0.02, -0.03, -0.01),
    "more_views": (0.004, 0.001, 0.007),
    "no_colour": (0.001, -0.002, 0.004),
    "light": (-0.05, -0.06, -0.04),
}


def make_ablations():
    """Return a table of ablations: a base without a gain, then GAINS."""
    base = ("tiny", None, None, None, "a base", 12, 0.6, 0.5, 0.7, *[None] * 3, None, None, 600)
    rows = [
        (
            name,
            "tiny",
            "retrain" if name == "light" else "post-process",
            f"changed: {name}",
            f"why {name}",
            12,
            0.6 + gain[0],
            0.5,
            0.7,
            *gain,
            1,
            None,
            60,
        )
        for name, gain in GAINS.items()
    ]
    return pd.DataFrame([base, *rows], columns=ABLATION_COLUMNS)


@pytest.fixture(scope="module")
def made(coarse, tmp_path_factory, demo_folder, tiny):
    """Give a trained run and an ensemble of it, ablations beside them, and their write-ups: (run, config, options)."""
    root = tmp_path_factory.mktemp("runs")
    cases = copy_run(tiny, root), make_run(root, demo_folder, "pair", members={"tiny": 2.0})
    weights = {"body.a": np.zeros((3, 4)), "body.b": np.zeros(5), "body.running_mean": np.zeros(9), "mean": np.zeros(3)}
    for fold in (0, 1):
        save_file(weights, cases[0][0].fold(fold) / "weights.safetensors")
    write_table(comparison(root, "ablations"), make_ablations())
    for case in cases:
        stage.main(*case)
    return cases


def read(run, name="writeup.md"):
    return (run.folder / "writeup" / name).read_text()


@pytest.mark.parametrize("case", [0, 1], ids=["trained", "ensemble"])
def test_the_page_stands_alone_and_its_sections_are_linked(made, case):
    run = made[case][0]
    page = Page(read(run, "writeup.html"))
    inside = {link[1:] for link in page.links if link.startswith("#")}
    assert not page.open
    assert inside == set(page.ids)
    assert len(inside) == 16
    assert all(source.startswith("data:image/png;base64,") for source in page.sources)
    assert len(page.sources) == len(list((run.folder / "writeup/figures").iterdir()))
    assert "https://arxiv.org/abs/1611.08303" in page.links
    figures = re.findall(r"\]\(([^)]+)\)", read(run))
    assert figures
    assert all((run.folder / "writeup" / figure).is_file() for figure in figures)


@pytest.mark.parametrize("case", [0, 1], ids=["trained", "ensemble"])
def test_nothing_of_the_demo_is_missing_and_no_stage_of_the_competition_is_named(made, case):
    for name in ("writeup.md", "writeup.html"):
        text = read(made[case][0], name)
        assert "missing:" not in text
        assert "a trial on synthetic images" in text
        assert "All images are synthetic" in text
        assert "Synthetic nuclei, segmented one by one" in text
        assert not re.search(r"stage.?[12]|private leaderboard|2018 Data Science Bowl, segmented", text, re.IGNORECASE)
        assert "nuclei demo --data" in text


def test_a_write_up_of_the_competitions_images_compares_with_the_competition(made, tmp_path):
    run, config, options = made[0]
    config = parse_config(
        config.model_dump(mode="json") | {"data": {"dataset": "dsb", "folds": config.data.folds}}, "t"
    )
    bare = Run(run.name, tmp_path)
    bare.meta("evaluate").parent.mkdir(parents=True)
    shutil.copy(run.meta("evaluate"), bare.meta("evaluate"))
    shutil.copy(run.metrics, bare.metrics)
    stage.main(bare, config, options)
    text = read(bare)
    assert "a solution of the 2018 Data Science Bowl" in text
    assert "private leaderboard, stage 2, reached 0.6316" in text
    assert "on stage 1 test" in text
    assert "synthetic" not in text.lower()


def test_numbers_are_those_of_the_artefacts(made):
    run, config, _ = made[1]
    metrics, text, tiny = read_json(run.metrics), read(run), Run("tiny", run.folder.parent)
    mean, low, high = metrics["oof"]["score"]
    assert text.count(f"out-of-fold score {mean:.4f} (95 % interval {low:.4f} to {high:.4f}) over 12 images") == 1
    score = read_json(tiny.metrics)["oof"]["score"][0]
    assert re.search(rf"\| tiny \| 2 \| 100.0 \| {score:.4f} \|", text)
    assert f"{file_hash(run.submission('test'))}  {run.submission('test')}" in text
    table = read_table(Path(config.data.folds))
    counts = [str(n) for n in table.groupby("fold")["n_nuclei"].sum()]
    assert f"| nuclei | {' | '.join(counts)} |" in text
    assert f"| mosaic groups | {' | '.join(str(n) for n in table.groupby('fold')['group'].nunique())} |" in text
    importance = read_json(run.scorer / "features.json")["importance"]
    share = 100 * sum(importance[name] for name in FEATURES["shape"])
    assert re.search(rf"\| shape \| \w+ \| {len(FEATURES['shape'])} \| {share:.1f} \|", text)
    assert "| parameters | 17 |" in text, "buffers are not parameters"


def test_what_only_a_person_can_write_is_asked_for(made):
    text = read(made[0][0])
    asked = re.findall(r"> \*\*to be filled in:\*\* (.*)", text)
    assert len(asked) == 8
    assert all(any(word in line for line in asked) for word in ("team", "background", "licence"))
    assert read(made[0][0], "writeup.html").count('class="fill-in"') == len(asked)


def test_ablations_are_sorted_by_what_they_show(made):
    text = read(made[0][0])
    parts = dict(re.findall(r"### (Changes for the \w+|Undecided changes): \w+\n(.*?)(?=\n###)", text, re.DOTALL))
    found = {title: re.findall(r"^\| (\w+) \| [+-]", part, re.MULTILINE) for title, part in parts.items()}
    assert found == {
        "Changes for the worse": ["light", "no_border"],
        "Changes for the better": ["more_views"],
        "Undecided changes": ["no_colour"],
    }
    assert "| no_border | -0.0200 (-0.0300 to -0.0100) | changed: no_border | why no_border |" in text
    assert "ablations.png" in text


def test_a_write_up_of_almost_nothing_names_what_is_missing(made, tmp_path, capsys):
    run, config, options = made[1]
    bare = Run(run.name, tmp_path)
    bare.meta("evaluate").parent.mkdir(parents=True)
    shutil.copy(run.meta("evaluate"), bare.meta("evaluate"))
    config = make_config(tmp_path, members={"tiny": 2.0})
    stage.main(bare, config, options)
    text = read(bare)
    missing = set(re.findall(r"\*\*missing:\*\* `([^`]+)`", text))
    assert {
        "pair/metrics.json",
        "folds.csv",
        "data/demo/manifest.csv",
        "comparisons/ablations.csv",
        "tiny/metrics.json",
        "pair/select.json",
        "pair/scorer/features.json",
        "pair/per_image.csv",
        "data/demo/meta",
    } <= missing
    assert text.count("\n## ") == 16
    assert "No images but the competition's" not in text
    assert "Energy" in text
    stage.main(bare, config, options)
    assert "pair writeup: up to date" in capsys.readouterr().out
    write_table(comparison(tmp_path, "ablations"), make_ablations())
    stage.main(bare, config, options)
    assert "pair writeup: running again (inputs.ablations: None -> " in capsys.readouterr().out
    assert "ablations.png" in read(bare)


def test_it_is_the_same_each_time(made):
    run, config, options = made[0]
    before = {path: path.read_bytes() for path in (run.folder / "writeup").rglob("*.*")}
    stage.main(run, config, Options(options.data, jobs=1, force=True))
    assert {path: path.read_bytes() for path in (run.folder / "writeup").rglob("*.*")} == before


def test_a_run_that_was_not_evaluated_has_no_write_up(tmp_path):
    with pytest.raises(UserError, match="evaluate"):
        stage.main(Run("none", tmp_path), make_config(tmp_path), Options())


def test_verdicts_are_those_of_the_intervals():
    table = make_ablations()
    assert judge(table).tolist() == ["base", "worse", "better", "undecided", "worse"]
    assert sort_ablations(table)["ablation"].tolist() == ["tiny", "more_views", "no_colour", "no_border", "light"]
    rows = ablations_table(table).rows
    assert [row[:2] for row in rows[:2]] == [("tiny", "base"), ("more_views", "better")]
    assert rows[0][2] == ""
    assert rows[1][2] == "+0.0040 (+0.0010 to +0.0070)"
    assert rows[1][-1] == "1"
    assert [row[0] for row in verdict_table(table, "worse").rows] == ["light", "no_border"]
    with pytest.raises(ValueError, match="lacks the columns gain_low, gain_high"):
        ablations_table(table.drop(columns=["gain_low", "gain_high"]))


def test_the_forest_plot_shows_every_gain_in_the_colour_of_its_verdict():
    axes = draw_ablations(make_ablations()).axes[0]
    points = [(line.get_xdata()[0], line.get_color()) for line in axes.lines if line.get_marker() in ("o", "D")]
    assert points == [(0.004, GREEN), (0.001, GRAY), (-0.02, VERMILION), (-0.05, VERMILION)]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["more_views", "no_colour", "no_border", "light"]
    spans = [collection.get_segments()[0][:, 0] for collection in axes.collections]
    np.testing.assert_allclose(spans, [(0.001, 0.007), (-0.002, 0.004), (-0.03, -0.01), (-0.06, -0.04)], atol=1e-9)


def test_settings_of_networks_stand_side_by_side():
    first = Config().model_dump(mode="json")
    changed = {"augment": {"crop": 1.0, "noise": 0.3}, "loss": {"bce": 1.0, "lovasz": 0.5}}
    second = first | {"train": first["train"] | changed}
    networks = {"a": first, "b": second}
    rows = {row[0]: row[1:] for row in choices_table(networks, TRAINING, time_of_each_fold={"a": "1 s"}).rows}
    assert rows["loss"] == ("0.5 bce + 0.5 dice", "1 bce + 0.5 lovasz")
    assert rows["time of each fold"] == ("1 s", "not recorded")
    assert ("noise", "0.5", "0.3") in augmentation_table(networks).rows
    assert ("encoder", "mobilenetv2_100", "mobilenetv2_100") in choices_table(networks, MODEL).rows


def test_times_are_summed_by_parts_of_the_pipeline():
    stages = {
        "prepare": 10,
        "crops": 0,
        "train_fold0": 60,
        "train_fold1": 3600,
        "predict": 30,
        "select": 5,
        "evaluate": 2,
    }
    metas = [{"stage": name, "seconds": n, "cpu_seconds": 2 * n, "cpus": 2} for name, n in stages.items()]
    rows = times_table({"data": metas[:1], "r": metas[1:], "gone": []}, TIMES).rows
    assert rows[0][2:] == ("10 s", "–", "–", "–", "–", "10 s", "20 s")
    assert rows[1][2:] == ("–", "61 min", "30 s", "5 s", "2 s", "62 min", "2 h 03 min")
    assert rows[2][1:] == ("not recorded", *["–"] * 6, "not recorded")
    assert rows[3][-2] == "62 min"
    assert [format_time(s) for s in (0.2, 99, 100, 6000)] == ["0 s", "99 s", "2 min", "1 h 40 min"]


def test_making_crops_counts_as_training_and_every_stage_that_runs_has_its_part():
    metas = [{"stage": name, "seconds": 5.0} for name in ("crops", "train_fold0")]
    row, _ = times_table({"r": metas}, TIMES).rows
    assert row[2:] == ("–", "10 s", "–", "–", "–", "10 s", "not recorded")
    assert set(TIMES) == {name for name, entry in STAGES.items() if entry.time != "report"}
    assert not {"report", "writeup", "publish"} & set(TIMES)


def test_folds_and_examples_are_those_of_the_table():
    table = pd.DataFrame(
        {
            "image_id": list("abcde"),
            "group": list("xxyyz"),
            "cluster": ["q", "q", "q", "p", "p"],
            "n_nuclei": [5, 1, 3, 2, 9],
            "fold": [1, 1, 0, 0, 0],
        }
    )
    assert folds_table(table, ("p", "q")).rows == [
        ("images", "3", "2"),
        ("mosaic groups", "2", "1"),
        ("nuclei", "14", "6"),
        ("p", "2", "0"),
        ("q", "1", "2"),
    ]
    assert choose_examples(table, ("q", "p"))["image_id"].tolist() == ["c", "d"]


def test_an_ensemble_is_compared_with_its_best_member():
    steps = [
        {"run": "a", "method": "scored", "score": [0.5, 0.4, 0.6], "gain": None, "over": None},
        {
            "run": "both",
            "method": "scored",
            "score": [0.55, 0.4, 0.6],
            "gain": [0.05, 0.01, 0.09],
            "over": ["a", "scored"],
        },
    ]
    table = members_table({"a": 1.0, "b": 3.0}, {"a": [0.5, 0.4, 0.6]})
    (said,) = describe_gain("both", steps)
    assert table.rows == [("a", "1", "25.0", "0.5000", "0.4000 to 0.6000"), ("b", "3", "75.0", "missing", "")]
    assert "+0.0500 (95 % interval +0.0100 to +0.0900) over the best member, a," in said
    assert "worked" in said
    assert [row[-1] for row in simpler_table(steps).rows] == ["90.9", "100.0"]


def test_left_out_features_are_not_counted():
    rows = {row[0]: row for row in features_table(("image",), {"area_px": 0.3, "solidity": 0.6, "red_mean": 0.1}).rows}
    assert rows["image"] == ("image", "left out", "0", "", "")
    assert rows["shape"] == ("shape", "solidity", str(len(FEATURES["shape"])), "90.0", "60.0")


def test_the_config_is_the_one_that_is_there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_config("pair", is_ensemble=True) == "ensembles/pair.yaml"
    assert find_config("pair", is_ensemble=False) == "configs/pair.yaml"
    place = tmp_path / "configs/systems/pair.yaml"
    place.parent.mkdir(parents=True)
    place.touch()
    assert {find_config("pair", is_ensemble) for is_ensemble in (True, False)} == {"configs/systems/pair.yaml"}


@pytest.mark.parametrize("dirty", [False, True])
def test_commands_name_a_commit_only_if_there_is_one(dirty):
    metas = {"r": [{"stage": "evaluate", "commit": "0123456789abcdef", "dirty": dirty}]}
    code, *rest = command_blocks("configs/r.yaml", metas)
    assert ("git checkout 0123456789" in code.text) != dirty
    assert "./run_pipeline.sh configs/r.yaml" in code.text
    assert len(rest) == (3 if dirty else 1)


@pytest.fixture(scope="module")
def classical(coarse, tmp_path_factory, demo_folder):
    """Give a run without networks that has both its report and its write-up: (run, config, options)."""
    root = tmp_path_factory.mktemp("runs")
    config = make_config(root, selection={"method": "classical"})
    case = Run("otsu", root), config, Options(demo_folder, jobs=1)
    for name in list_stages(config):
        if name != "download":
            run_stage(name, "otsu", config, case[2], root)
    stage.main(*case)
    return case


def test_a_run_without_networks_has_its_sections_too(classical):
    run = classical[0]
    text, report = read(run), (run.report / "report.md").read_text()
    assert text.count("\n## ") == 16
    assert "No images but the competition's" not in text
    assert "No network: a classical recipe on the image itself." in text
    assert "which uses no features" in text
    assert "Thresholds chosen out of fold" not in text
    assert "nuclei are those of its classical recipe: no candidates were scored" in report
    assert "No threshold of this run was chosen by its score" in report
    assert "missing:" not in report


@pytest.mark.parametrize("sets", [{}, {"tnbc": 0.0}, {"tnbc": 4.0, "mine": 2.0, "gone": 0.0}])
def test_external_data_are_named_with_licence_and_source_or_said_to_be_none(sets):
    said = {"tnbc": {"images": 50, "nuclei": 4028, "licence": "CC BY 4.0", "source": "Naylor et al."}}
    configs = {"one": {"data": {"external": sets}}, "two": {"data": {"external": {}}}}
    metas = {"one": [{"stage": "crops"}, {"stage": "train_fold0", "external": said}]}
    blocks = list(external_section(SimpleNamespace(network_configs=configs, metas=metas, networks=[])))
    text = "\n".join(map(render_block, blocks))
    if not any(sets.values()):
        assert "No images but the competition's" in text
        assert "tnbc" not in text
        return
    table = next(block for block in blocks if isinstance(block, Table))
    assert table.rows == [
        ("tnbc", "Naylor et al.", "CC BY 4.0", "50", "4028", "4"),
        ("mine", "?", "?", "?", "?", "2"),
    ]
    assert "mine" in text.split("weight of an image")[1]
    assert "gone" not in text


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"keep_grid": (-0.3, 0.15)}, "the one of -0.3, 0.15 that is best on the other folds"),
        ({"tolerance": 0.012}, "whose score on the other folds is within 0.012 of the best"),
        ({"keep_other": -0.35}, ", and -0.35 in images unlike those of training."),
        ({"grow": "15%"}, "by 15% in images unlike those of training and by 0px in the others."),
        ({"grow_familiar": "0.5px"}, "by 0px in images unlike those of training and by 0.5px in the others."),
    ],
    ids=str,
)
def test_what_is_set_of_the_selection_is_told_and_nothing_else(changed, told):
    assert told in describe_selection(SelectionConfig(**changed))
    assert told not in describe_selection(SelectionConfig())
