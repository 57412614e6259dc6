"""The README's tree is the source tree."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]


def tree() -> str:
    """Return the README's code block that draws the tree, with `{a,b}.py` written out."""
    blocks = re.findall(r"```.*?\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    block = next(b for b in blocks if "src/nuclei/" in b)
    return re.sub(r"\{([\w,\s]+)\}\.py", lambda m: " ".join(f"{n.strip()}.py" for n in m[1].split(",")), block)


def test_the_tree_names_every_file_of_the_source():
    named = set(re.findall(r"[\w]+\.py", tree()))
    source = {path.name for path in (ROOT / "src/nuclei").rglob("*.py")} - {"__init__.py"}
    assert not source - named


def test_the_tree_names_no_file_that_is_not_there():
    existing = {path.name for folder in ("src", "tests", "benchmarks") for path in (ROOT / folder).rglob("*.py")}
    assert not set(re.findall(r"[\w]+\.py", tree())) - existing
