"""The README's tree is the source tree, and its tables are those of the published results."""

import json
import re
from pathlib import Path

import pandas as pd
import pytest

from nuclei.evaluation.summary import summarise
from nuclei.report.readme import blocks, comparison_block, replace_block
from nuclei.runs.files import read_table

ROOT = Path(__file__).parents[2]


def tree() -> str:
    """Return the README's code block that draws the tree, with `{a,b}.py` written out."""
    blocks = re.findall(r"```.*?\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    block = next(b for b in blocks if "src/nuclei/" in b)
    return re.sub(r"\{([\w,\s]+)\}\.py", lambda m: " ".join(f"{n.strip()}.py" for n in m[1].split(",")), block)


def test_the_tree_names_every_file_of_the_source():
    named = set(re.findall(r"[\w]+\.py", tree()))
    source = {path.name for path in (ROOT / "src/nuclei").rglob("*.py")} - {"__init__.py", "__main__.py"}
    assert not source - named


def test_the_tree_names_no_file_that_is_not_there():
    existing = {path.name for folder in ("src", "tests", "benchmarks") for path in (ROOT / folder).rglob("*.py")}
    assert not set(re.findall(r"[\w]+\.py", tree())) - existing


@pytest.mark.parametrize("folder", sorted(path.parent for path in (ROOT / "ensembles").glob("*/metrics.json")), ids=str)
def test_the_tables_are_those_of_the_artefacts(folder):
    metrics, made = (json.loads((folder / f"{name}.json").read_text()) for name in ("metrics", "made"))
    text = (ROOT / "README.md").read_text()
    for name, table in blocks(folder.name, metrics, made).items():
        assert f"<!-- {name} -->\n{table}\n<!-- /{name} -->" in text


@pytest.mark.parametrize("path", sorted((ROOT / "ensembles").glob("*.csv")), ids=lambda path: path.name)
def test_the_comparisons_are_those_of_the_artefacts(path):
    block = comparison_block(path.stem, read_table(path))
    assert f"<!-- {path.stem} -->\n{block}\n<!-- /{path.stem} -->" in (ROOT / "README.md").read_text()


@pytest.mark.parametrize("folder", sorted(path.parent for path in (ROOT / "ensembles").glob("*/metrics.json")), ids=str)
def test_the_published_score_is_that_of_the_published_images(folder):
    table = pd.read_csv(folder / "per_image.csv", dtype={"image_id": str, "group": str})
    metrics = json.loads((folder / "metrics.json").read_text())
    assert summarise(table)["score"] == metrics["oof"]["score"]
    folds = pd.read_csv(ROOT / "folds/dsb2018.csv", dtype={"image_id": str, "group": str})
    assert set(table["image_id"]) == set(folds["image_id"])


def test_a_table_takes_its_place_and_a_missing_place_is_an_error():
    text = "before\n<!-- a b -->\nold\n<!-- /a b -->\nafter"
    assert replace_block(text, "a b", "new") == "before\n<!-- a b -->\nnew\n<!-- /a b -->\nafter"
    with pytest.raises(ValueError, match="no markers <!-- c -->"):
        replace_block(text, "c", "new")
