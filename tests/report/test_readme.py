"""The README's tree is the source tree, and the generated blocks in their places are those of the published results."""

import hashlib
import json
import re
from pathlib import Path

import pandas as pd
import pytest

from nuclei.evaluation.summary import summarise
from nuclei.report.reader import write_blocks
from nuclei.report.readme import (
    COMPARISONS,
    PLACES,
    PUBLISHED,
    comparison_block,
    find_place,
    floors_table,
    replace_block,
    run_blocks,
    scores_line,
)
from nuclei.runs.files import read_json, read_table

ROOT = Path(__file__).parents[2]
RUNS = sorted(path.parent for path in (ROOT / "ensembles").glob("*/metrics.json"))


def tree() -> str:
    """Return the README's code block that draws the tree."""
    blocks = re.findall(r"```.*?\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    return next(block for block in blocks if "src/nuclei/" in block)


def read_published(folder: Path) -> tuple[dict, dict]:
    metrics, made = (json.loads((folder / f"{name}.json").read_text()) for name in ("metrics", "made"))
    return metrics, made


def read_block(marker: str) -> str:
    """Return what lies between the markers of a name, in the file that has its place."""
    text = (ROOT / find_place(marker)).read_text()
    (block,) = re.findall(rf"<!-- {marker} -->\n(.*?)\n<!-- /{marker} -->", text, re.DOTALL)
    return block


def test_the_tree_names_every_package_and_the_files_beside_them():
    source = ROOT / "src/nuclei"
    below = tree().split("src/nuclei/")[1]
    assert set(re.findall(r"^    ([a-z_]+)/", below, re.MULTILINE)) == {
        path.parent.name for path in source.glob("*/__init__.py")
    }
    assert set(re.findall(r"\w+\.py", below)) == {path.name for path in source.glob("*.py")} - {"__init__.py"}


def test_the_tree_names_nothing_that_is_missing():
    above = tree().split("src/nuclei/")[0]
    named = [name for line in above.splitlines() for name in line[:49].split()]
    assert named
    assert not [name for name in named if not (ROOT / name).exists()]


@pytest.mark.parametrize("folder", RUNS, ids=lambda path: path.name)
def test_the_tables_of_a_run_are_those_of_its_artefacts(folder):
    for marker, table in run_blocks(folder.name, *read_published(folder)).items():
        assert read_block(marker) == table


@pytest.mark.parametrize("kind", COMPARISONS)
def test_the_comparisons_are_those_of_the_artefacts(kind):
    assert read_block(kind) == comparison_block(kind, read_table(ROOT / f"ensembles/{kind}.csv"))


def test_the_line_of_scores_is_that_of_the_best_published_run():
    line = read_block("scores")
    stage1 = read_table(ROOT / "ensembles/stage1_test.csv")
    published = [(folder.name, *read_published(folder)) for folder in RUNS]
    unseen = {path.parent.name: read_json(path) for path in ROOT.glob("ensembles/*/metrics_unseen_kinds.json")}
    assert line == scores_line(published, stage1, unseen)
    best = max(RUNS, key=lambda folder: read_published(folder)[0]["oof"]["score"][0])
    assert f"**{read_published(best)[0]['oof']['score'][0]:.4f} (95 % interval" in line
    told = stage1[stage1["run"] == best.name] if best.name in stage1["run"].tolist() else stage1
    assert "stage1_test" in line
    assert f"**{told['score'].max():.4f}**" in line


def test_the_scores_of_stage1_test_are_of_the_submissions_that_lie_beside_them():
    for row in read_table(ROOT / "ensembles/stage1_test.csv").itertuples():
        submission = ROOT / f"ensembles/{row.run}/submission_stage1_test.csv.gz"
        assert hashlib.sha256(submission.read_bytes()).hexdigest() == row.sha256


def test_every_block_has_one_place_and_every_place_a_block():
    wanted = {marker: find_place(marker) for marker in PLACES}
    wanted |= {f"{folder.name} {kind}": PUBLISHED for folder in RUNS for kind in ("results", "types", "made")}
    found = {
        marker: path.relative_to(ROOT)
        for path in [ROOT / "README.md", *ROOT.glob("*/README.md"), *ROOT.glob("*/*/README.md")]
        for marker in re.findall(r"<!-- (?!/)([\w ]+) -->", path.read_text())
    }
    assert found == wanted


@pytest.mark.parametrize("folder", RUNS, ids=lambda path: path.name)
def test_the_published_score_is_that_of_the_published_images(folder):
    table = pd.read_csv(folder / "per_image.csv", dtype={"image_id": str, "group": str})
    metrics, _ = read_published(folder)
    assert summarise(table)["score"] == metrics["oof"]["score"]
    folds = pd.read_csv(ROOT / "folds/dsb2018.csv", dtype={"image_id": str, "group": str})
    assert set(table["image_id"]) == set(folds["image_id"])


def test_the_line_of_scores_adds_up_minutes_and_names_processors():
    def publish(score, **stages):
        metrics = {"oof": {"score": [score, score - 0.1, score + 0.1], "n_images": 3}}
        return metrics, {"r": {name: {"seconds": n, "processor": p} for name, (n, p) in stages.items()}}

    best = publish(0.5, train_fold0=(60, "A"), train_fold1=(120, "A"), predict=(30, "B"), select=(30, "C"))
    stage1 = pd.DataFrame({"run": ["worse"], "score": [0.3]})
    line = scores_line([("worse", *publish(0.4)), ("better", *best)], stage1)
    assert "`better`: **0.5000 (95 % interval 0.4000 to 0.6000)** out of fold over 3 images, " in line
    assert "not scored on stage1_test, where `worse` has **0.3000** (official truth" in line
    assert "stage1_test" not in scores_line([("better", *best)], stage1[:0])
    assert "**0.3000** on stage1_test" in scores_line([("worse", *publish(0.4))], stage1)
    assert "never seen: not measured" in scores_line([("worse", *publish(0.4))], stage1, {})
    unseen = {"worse": {"oof": {"score": [0.2, 0.1, 0.3]}}}
    told = "on kinds of images that training has never seen: **0.2000 (95 % interval 0.1000 to 0.3000)**."
    assert told in scores_line([("worse", *publish(0.4))], stage1, unseen)
    assert "2 networks trained for 3 minutes (A) in all" in line
    assert "other stages took 1 minutes (B, C)" in line
    del best[1]["r"]["train_fold0"]["processor"], best[1]["r"]["train_fold1"]["processor"]
    assert "trained for 3 minutes in all" in scores_line([("better", *best)], stage1)


def test_a_block_takes_its_place_and_a_missing_place_is_an_error():
    text, path = "before\n<!-- a b -->\nold\n<!-- /a b -->\nafter", Path("some/README.md")
    assert replace_block(text, "a b", "new", path) == "before\n<!-- a b -->\nnew\n<!-- /a b -->\nafter"
    with pytest.raises(ValueError, match=r"some/README.md has no markers <!-- c -->"):
        replace_block(text, "c", "new", path)


def test_blocks_are_written_into_their_files_or_not_at_all(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for path, marker in ((Path("README.md"), "scores"), (PUBLISHED, "r made")):
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"<!-- {marker} -->\n<!-- /{marker} -->\n")
    with pytest.raises(ValueError, match=r"ensembles/README.md has no markers <!-- r types -->"):
        write_blocks({"scores": "high", "r made": "soon", "r types": "six"})
    assert "high" not in Path("README.md").read_text()
    assert write_blocks({"scores": "high", "r made": "soon"}) == [Path("README.md"), PUBLISHED]
    assert "\nhigh\n" in Path("README.md").read_text()
    assert "\nsoon\n" in PUBLISHED.read_text()


def test_the_table_of_floors_says_what_is_met():
    one = {"what": "prepare", "beside": "a decode", "sample": "2 images", "ratio": 1.254, "target": 1.2}
    results = {"ratios": [one | {"faster": False, "met": False}, one | {"faster": True, "met": True}]}
    table = floors_table(results)
    assert [row[3:] for row in table.rows] == [("1.25", "at most 1.2, missed"), ("1.25", "at least 1.2")]
    assert all(len(row) == len(table.columns) for row in table.rows)


def list_pages() -> list[Path]:
    """Return the README files, model cards and configs; LOG.md names files as they were called on its days."""
    below = [
        path for folder in ("configs", "ensembles", "benchmarks", "pretrained") for path in (ROOT / folder).rglob("*")
    ]
    pages = [*ROOT.glob("*.md"), *(path for path in below if path.suffix in (".md", ".yaml"))]
    return [path for path in pages if path.name != "LOG.md" and "bundle" not in path.parts]


def test_every_config_that_a_page_or_a_config_names_is_there():
    placeholders = {"configs/X.yaml", "configs/resnet34.yaml"}
    named = {
        (path.relative_to(ROOT), name)
        for path in list_pages()
        for name in re.findall(r"(?<![\w/])(?:configs|ensembles)/[\w/.-]*\.yaml", path.read_text())
        if name not in placeholders
    }
    assert len(named) > 10
    assert [one for one in sorted(named) if not (ROOT / one[1]).is_file()] == []


def test_every_file_that_a_page_links_to_is_there():
    links = [
        (path.relative_to(ROOT), target)
        for path in list_pages()
        for target in re.findall(r"\]\((?!\w+:)([^)#\s]+)", path.read_text())
    ]
    assert len(links) > 30
    assert [one for one in links if not (ROOT / one[0].parent / one[1]).exists()] == []
