"""A report says what the artefacts say, stands alone, names what is missing, and is the same each time."""

import base64
import re
import shutil
from pathlib import Path

import pandas as pd
import pytest
from finished_run import copy_run, make_config, make_run
from html_page import Page
from hypothesis import example, given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from nuclei.errors import UserError
from nuclei.report.blocks import (
    Code,
    Files,
    FillIn,
    Heading,
    Link,
    Missing,
    Paragraph,
    Picture,
    References,
    Subheading,
    Table,
)
from nuclei.report.markdown import as_text, render_markdown
from nuclei.report.page import anchor, render_html
from nuclei.report.reader import RunReader, read_array
from nuclei.report.readme import PUBLISHED
from nuclei.report.sections import Section, choose_overview, compose, overview_picture
from nuclei.report.tables import (
    errors_table,
    settings_table,
    stages_table,
    steps_table,
    versions_table,
    worst_table,
)
from nuclei.runs.files import read_json, read_table
from nuclei.runs.layout import Options, Run
from nuclei.runs.stage_table import STAGES
from nuclei.stages import publish as publish_stage
from nuclei.stages import report as report_stage

PNG = base64.b64decode("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg==")


@pytest.fixture(scope="module")
def made(coarse, tmp_path_factory, demo_folder, tiny):
    """Give a scored run and an ensemble of it that selects by watershed, both with a report: (run, config, options)."""
    root = tmp_path_factory.mktemp("runs")
    pair = {"members": {"tiny": 1.0}, "selection": {"method": "watershed"}}
    cases = copy_run(tiny, root), make_run(root, demo_folder, "pair", **pair)
    for case in cases:
        report_stage.main(*case)
    return cases


def read(run, name):
    return (run.report / name).read_text()


@pytest.mark.parametrize("case", [0, 1], ids=["scored", "ensemble"])
def test_the_page_stands_alone_and_embeds_every_figure(made, case):
    run = made[case][0]
    text = read(run, "report.html")
    page = Page(text)
    assert not page.open
    assert all(link.startswith("#") for link in page.links)
    assert {link[1:] for link in page.links} == set(page.ids)
    assert "url(" not in text
    assert "@import" not in text
    embedded = {base64.b64decode(s.removeprefix("data:image/png;base64,"), validate=True) for s in page.sources}
    assert embedded == {path.read_bytes() for path in (run.report / "figures").iterdir()}
    assert all(png.startswith(b"\x89PNG") for png in embedded)


@pytest.mark.parametrize("case", [0, 1], ids=["scored", "ensemble"])
def test_markdown_refers_to_files_that_are_there_and_to_every_figure(made, case):
    run = made[case][0]
    links = re.findall(r"\]\(([^)]+)\)", read(run, "report.md"))
    assert all((run.report / link).is_file() for link in links)
    assert {link for link in links if link.startswith("figures/")} == {
        f"figures/{path.name}" for path in (run.report / "figures").iterdir()
    }


@pytest.mark.parametrize("case", [0, 1], ids=["scored", "ensemble"])
def test_nothing_of_the_demo_is_missing(made, case):
    assert not re.findall("missing:.*", read(made[case][0], "report.md"))


@pytest.mark.parametrize("case", [0, 1], ids=["scored", "ensemble"])
def test_a_report_of_synthetic_images_says_so_and_names_no_stage_of_the_competition(made, case):
    for name in ("report.md", "report.html"):
        text = read(made[case][0], name)
        assert "on synthetic images" in text.split("\n## ")[0]
        assert "All images are synthetic" in text
        assert "out of fold, synthetic" in text
        assert "test, synthetic" in text
        assert not re.search(r"stage.?[12]|leaderboard", text, re.IGNORECASE)


def test_scores_and_errors_are_those_of_the_artefacts(made):
    run = made[0][0]
    metrics, text = read_json(run.metrics), read(run, "report.md")
    for result in (metrics["oof"], metrics["stage1_solution"]):
        mean, low, high = result["score"]
        assert f"| {result['n_images']} | {mean:.4f} | {low:.4f} to {high:.4f} |" in text
    gain = metrics["steps"][-1]["gain"]
    assert f"| {gain[0]:+.4f} | {gain[1]:+.4f} to {gain[2]:+.4f} |" in text
    for kind, count in metrics["oof"]["errors"].items():
        assert re.search(rf"\| {kind.replace('_', ' ')} \|.*\| {count} \|", text)
    n_candidates = sum(len(read_array(path, "iou")) for path in run.candidates("oof").iterdir())
    assert f"{n_candidates:,} out-of-fold candidates" in text
    assert "nuclei &lt;can> be found" in text
    assert "nuclei &lt;can&gt; be found" in read(run, "report.html")


def test_a_run_without_candidates_says_so(made):
    run = made[1][0]
    assert "no candidates were scored" in read(run, "report.md")
    names = {path.stem for path in (run.report / "figures").iterdir()}
    assert {"pipeline", "training_tiny", "watershed", "components"} <= names
    assert not names & {"reliability", "importance", "keep"}


def test_what_is_missing_is_named_and_the_rest_is_reported(made, tmp_path, capsys):
    run, config, options = made[0]
    shutil.copytree(run.folder.parent, tmp_path, dirs_exist_ok=True)
    bare = Run(run.name, tmp_path)
    config = make_config(tmp_path)
    for path in (
        bare.per_image("oof"),
        bare.tuned,
        bare.config,
        bare.submission("test"),
        bare.fold(0) / "history.csv",
        bare.scorer / "features.json",
        bare.plain / "watershed.json",
    ):
        path.unlink()
    for folder in (bare.candidates("oof"), bare.report):
        shutil.rmtree(folder)
    bare.meta("report").unlink()
    report_stage.main(bare, config, options)
    text = read(bare, "report.md")
    missing = set(re.findall(r"\*\*missing:\*\* `([^`]+)`", text))
    first = min(read_table(tmp_path / "folds.csv")["image_id"])
    assert missing == {
        "tiny/per_image.csv",
        "tiny/select.json",
        "tiny/config.yaml",
        "tiny/submission.csv",
        "tiny/fold0/history.csv",
        "tiny/scorer/features.json",
        "tiny/plain/watershed.json",
        f"tiny/candidates/oof/{first}.npz",
    }
    assert {path.stem for path in (bare.report / "figures").iterdir()} == {
        "steps",
        "precision",
        "types",
        "components",
        "training_tiny",
    }
    assert read(bare, "report.html").count('class="missing"') == len(re.findall("missing:", text))

    before = {path: path.read_bytes() for path in bare.report.rglob("*.*")}
    report_stage.main(bare, config, options)
    assert "tiny report: up to date" in capsys.readouterr().out
    report_stage.main(bare, config, Options(options.data, jobs=1, force=True))
    assert {path: path.read_bytes() for path in bare.report.rglob("*.*")} == before, "the same each time"


def test_a_run_that_was_not_evaluated_has_no_report(tmp_path):
    with pytest.raises(UserError, match="evaluate"):
        report_stage.main(Run("none", tmp_path), make_config(tmp_path), Options())


def test_a_picture_of_several_runs_shows_each_trained_one(made):
    run = made[1][0]
    config = make_config(run.folder.parent, members={"pair": 1.0, "gone": 1.0})
    reader = RunReader(Run("both", run.folder.parent), config)
    assert reader.parts == {
        "tiny": [],
        "pair": ["tiny"],
        "gone": [],
        "both": ["pair", "gone"],
    }
    assert [network.name for network in reader.networks] == ["tiny", "gone"]


def test_every_block_is_rendered_and_nothing_of_it_is_read_as_markup():
    blocks = [
        Heading("A <b> & C"),
        Paragraph("x < y, R&D, &lt;i&gt;"),
        Table(("a|b", "n"), [("c|d", "1"), (Link("<u>", "../r/report.html"), "2")]),
        Picture("name_of", PNG, "it's <i>", True, alt="what [it] shows"),
        Picture("other", PNG, "a caption <i>", chart=True),
        Files([("settings", "../config.yaml")]),
        Missing("a/<x>.csv"),
        Subheading("D <u>"),
        Code("ls <dir>\nls"),
        FillIn("who <are> you"),
        References([("a <paper>", "https://a.org/b?c&d")]),
    ]
    markdown = render_markdown("T", blocks)
    assert markdown.startswith("# T\n\n## A &lt;b> & C\n")
    assert "x &lt; y, R&D, &amp;lt;i&amp;gt;" in markdown
    assert "| [&lt;u>](../r/report.html) | 2 |" in markdown
    assert r"| a\|b | n |" in markdown
    assert r"| c\|d | 1 |" in markdown
    assert "### D &lt;u>" in markdown
    assert "```\nls <dir>\nls\n```" in markdown
    assert "> **to be filled in:** who &lt;are> you" in markdown
    assert "1. a &lt;paper> <https://a.org/b?c&d>" in markdown
    assert "![what  it  shows](figures/name_of.png)\n\n*it's &lt;i>*" in markdown
    assert "![a caption &lt;i>](figures/other.png)" in markdown
    assert "> **missing:** `a/<x>.csv`" in markdown
    assert "[config.yaml](../config.yaml)" in markdown
    page = Page(render_html("T & U", blocks))
    assert page.alts == ["what  it  shows", "a caption <i>"]
    said = "".join(page.text)
    for text in (
        "A <b> & C",
        "x < y, R&D, &lt;i&gt;",
        "a|b",
        "it's <i>",
        "config.yaml",
        "a/<x>.csv",
        "T & U",
        "D <u>",
        "ls <dir>\nls",
        "who <are> you",
        "a <paper>",
    ):
        assert text in said
    assert page.links == ["#a-b-c", "../r/report.html", "https://a.org/b?c&d"]
    assert anchor("A <b> & C") == "a-b-c"


@given(st.text(alphabet='<>[]()!&;#\\`*:/" \nab|', max_size=60))
@example("[a](javascript:alert(1))")
@example("![a](//b/c.png)")
@example("[a]: b\n\n[a]")
@example("<script>alert(1)</script>")
@example("<https://a.b>")
def test_no_text_becomes_a_tag_a_link_or_a_picture_in_markdown(text):
    tokens = MarkdownIt().parse(as_text(text))
    kinds = {token.type for one in tokens for token in [one, *(one.children or [])]}
    assert not kinds & {"html_block", "html_inline", "link_open", "image"}


@given(st.text(alphabet="<>&;#`|[]\\n ab/3", max_size=12), st.sampled_from([Heading, Paragraph, FillIn, Missing]))
def test_markdown_holds_no_markup_of_names_and_texts(text, kind):
    """Every `<` that is left stands in code, whose fence no backtick of the text closes."""
    rendered = render_markdown("t", [kind(text), Table((text,), [(text,)]), Picture("p", PNG, text)])
    outside = re.sub(r"> \*\*missing:\*\* (`+)( ?).*?(?<!`)\1(?!`)", "", rendered)
    assert "<" not in outside
    assert not re.search(r"&(?!amp;|lt;)#?\w+;", outside)


def test_tables_are_marked_for_those_who_do_not_see_them():
    table = Table(("what", "n"), [("a", "1"), ("b", "2"), ("c", "3")])
    html = render_html("T", [table])
    assert html.count('<th scope="col"') == 2
    assert html.count('<th scope="row"') == 3
    assert '<table class="sortable">' in html
    assert '<table class="sortable">' not in render_html("T", [Table(table.columns, table.rows[:1])])


def test_tables_hold_what_they_are_given():
    steps = [
        {"run": "a", "method": "components", "score": [0.4, 0.3, 0.5], "gain": None, "over": None},
        {
            "run": "a",
            "method": "scored",
            "score": [0.6, 0.5, 0.7],
            "gain": [0.2, -0.1, 0.3],
            "over": ["a", "components"],
        },
    ]
    assert steps_table(steps).rows == [
        ("components", "a", "", "0.4000", "0.3000 to 0.5000", "", ""),
        ("candidate scoring", "a", "components", "0.6000", "0.5000 to 0.7000", "+0.2000", "-0.1000 to +0.3000"),
    ]
    errors = {"found": 6, "merged": 1, "split": 1, "badly_outlined": 1, "missed": 1, "false": 5}
    assert [row[2:] for row in errors_table(errors).rows] == [("6", "60.0"), *[("1", "10.0")] * 4, ("5", "50.0")]
    images = pd.DataFrame(
        {
            "image_id": ["b" * 64, "a" * 64, "c" * 64],
            "cluster": "x_y",
            "score": [0.5, 0.5, 0.1],
            "p50": 0.5,
            "p75": 0.4,
            "n_true": 3,
            "n_pred": 2,
            **dict.fromkeys(errors, 1),
        }
    )
    assert [row[0] for row in worst_table(images, 2).rows] == ["c" * 8, "a" * 8]
    configs = [{"train": {"steps": steps, "seed": 1}, "members": {}} for steps in (5, 9)]
    assert settings_table({"r": configs[0]}, configs[1]).rows == [("r", "train.steps", "5", "9")]
    metas = [
        {"stage": name, "seconds": 1.25, "commit": "0123456789ab", "dirty": True, "cpus": 2}
        for name in ("evaluate", "train_fold1", "train_fold0", "prepare")
    ]
    rows = stages_table({"r": metas}, tuple(STAGES)).rows
    assert [row[1] for row in rows] == ["prepare", "train_fold0", "train_fold1", "evaluate", ""]
    assert rows[0][2:] == ("0123456789 + changes", "2 CPU cores", "1.2")
    assert rows[-1][-1] == "5.0"


def test_a_package_counts_as_missing_only_where_no_stage_had_it():
    metas = {
        "one": [{"python": "3.11", "versions": {"timm": "1.0", "ray": None}}],
        "other": [{"python": "3.12", "versions": {"timm": None, "ray": None}}],
    }
    rows = versions_table(metas).rows
    assert rows == [("python", "3.11, 3.12"), ("ray", "not installed"), ("timm", "1.0")]


def test_a_section_ends_at_the_first_missing_file_and_the_next_is_made(tmp_path):
    def broken(reader):
        yield Paragraph("before")
        yield Paragraph(str(reader.metrics))

    def whole(reader):
        yield Paragraph(reader.run.name)

    reader = RunReader(Run("none", tmp_path), make_config(tmp_path))
    blocks = list(compose([Section("A", broken), Section("B", whole)], reader, numbered=True))
    assert blocks == [
        Heading("1. A"),
        Paragraph("before"),
        Missing("none/metrics.json"),
        Heading("2. B"),
        Paragraph("none"),
    ]


def test_a_file_is_read_once(made):
    run, config, _ = made[0]
    reader = RunReader(run, config)
    assert reader.metrics is reader.metrics
    assert reader.per_image is reader.per_image


def test_the_overview_shows_typical_images_of_each_type_and_the_one_with_most_touching_nuclei(made):
    run, config, _ = made[0]
    reader = RunReader(run, config)
    images, chosen = reader.per_image, choose_overview(reader)
    assert chosen["image_id"].is_unique
    typical, clumps = chosen[chosen["note"] == ""], chosen[chosen["note"] != ""]
    assert len(clumps) <= 1, "none if all images near the median are there as typical ones"
    assert typical["cluster"].is_unique
    assert set(typical["cluster"]) == set(images["cluster"])
    for row in typical.itertuples():
        own = images[images["cluster"] == row.cluster]
        own = own[own["n_true"] >= 8] if (own["n_true"] >= 8).any() else own
        median = images.loc[images["cluster"] == row.cluster, "score"].median()
        assert abs(row.score - median) == (own["score"] - median).abs().min()
    assert set(clumps["image_id"]) <= set(images["image_id"])
    assert overview_picture(reader) == overview_picture(reader), "the same each time"


def test_a_run_is_published_with_its_report_its_overview_and_its_tables(made, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(publish_stage, "write_bundle", lambda run, folder: f"{folder}/bundle of {run.name}")
    PUBLISHED.parent.mkdir()
    places = {Path("README.md"): ("scores",), PUBLISHED: ("pair results", "pair types", "pair made")}
    for path, markers in places.items():
        path.write_text("".join(f"<!-- {marker} -->\n<!-- /{marker} -->\n" for marker in markers))
    run, config, options = made[1]
    theirs = tmp_path / "ensembles/pair/metrics.json"
    theirs.parent.mkdir(parents=True)
    theirs.write_text("of others")
    with pytest.raises(UserError, match="ensembles/pair is not the folder of a published run"):
        publish_stage.main(run, config, options)
    assert theirs.read_text() == "of others"
    theirs.unlink()
    publish_stage.main(run, config, options)
    files = {path: path.read_bytes() for path in tmp_path.rglob("*.*") if path.is_file()}
    folder = tmp_path / "ensembles/pair"
    for own in (run.report / "report.html", run.report / "figures/pipeline.png", run.metrics):
        assert files[folder / own.name] == own.read_bytes()
    assert not (folder / "writeup.html").exists()
    assert files[folder / "gallery.png"].startswith(b"\x89PNG")
    mean = read_json(run.metrics)["oof"]["score"][0]
    assert f"`pair`: **{mean:.4f} (" in Path("README.md").read_text()
    assert f"| pair: watershed | {mean:.4f} (" in PUBLISHED.read_text()
    publish_stage.main(run, config, options)
    assert files == {path: path.read_bytes() for path in tmp_path.rglob("*.*") if path.is_file()}, "the same each time"
