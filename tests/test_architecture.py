"""The structure that the README promises: who may import whom, how long a module may be, what says what it does."""

import ast
import importlib
import re
from pathlib import Path

import pytest

from nuclei.stages import STAGES

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src/nuclei"
MODULES = {path.relative_to(SOURCE).as_posix(): path for path in sorted(SOURCE.rglob("*.py"))}
STAGE_FILES = [name for name in MODULES if name.startswith("stages/")]
CONDUCTORS = ["__main__.py", "pipeline.py"]  # they alone know the stages
WITH_DISK = ["config.py", "runs.py", "artefacts.py", "ablate.py", "leaderboard.py", "predictor.py", "segment_files.py",
             "inspection.py", "crops.py", "bundle.py",
             "climb.py"]
PURE = [name for name in MODULES if name not in STAGE_FILES + CONDUCTORS + WITH_DISK]
MAX_LINES = 320
SELF_EVIDENT_LINES = 3  # a public function of so few lines may do without a docstring
WRITTEN_BY_HAND = (".py", ".sh", ".md", ".yaml", ".toml", ".txt")
# Without the leading slash, so that this file does not contain what it looks for.
FOLDERS_OF_A_MACHINE = "|".join(["work", "root", "home", "tmp", "opt"])
MACHINE_PATH = re.compile(rf"(?<![\w.])/({FOLDERS_OF_A_MACHINE})\b")


def imported(source: str) -> set[str]:
    """Return every module that a source names in an import, and `module.name` for each `from module import name`."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            names |= {module} | {f"{module}.{alias.name}" for alias in node.names}
    return names


def forbidden(source: str, packages: list[str]) -> set[str]:
    """Return what a source imports of `packages` or of modules below them."""
    return {name for name in imported(source) for p in packages if name == p or name.startswith(p + ".")}


def undocumented(source: str) -> list[str]:
    """List the public functions of a module, `main` aside, that need a docstring and have none."""
    functions = [node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)]
    return [
        f.name for f in functions
        if not f.name.startswith("_") and f.name != "main" and not ast.get_docstring(f)
        and f.end_lineno - f.lineno + 1 > SELF_EVIDENT_LINES
    ]


@pytest.mark.parametrize("source", [
    "import nuclei.config", "import os, nuclei.config as c", "from nuclei import rle, config",
    "from nuclei.config import Config", "def f():\n    from nuclei.config import Config",
])
def test_the_rules_see_every_form_of_import(source):
    assert forbidden(source, ["nuclei.config"])
    assert not forbidden(source, ["nuclei.runs", "nuclei.conf"])


def test_the_rules_see_what_lacks_a_docstring():
    body = "\n    a = 1\n    b = 2\n    return a + b\n"
    heads = ["def main():", "def _own():", "def bare():", "def said():\n    'Say.'"]
    source = "".join(head + body for head in heads) + "def short():\n    return 1\n"
    assert undocumented(source) == ["bare"]


def test_the_rules_see_paths_of_one_machine():
    assert MACHINE_PATH.search("open('/" "home/me/data.csv')") and MACHINE_PATH.search("cd /" "tmp")
    assert not MACHINE_PATH.search("github.com/home/page src/root/x /workers /homes")


@pytest.mark.parametrize("name", MODULES)
def test_modules_are_short_and_say_what_they_are(name):
    source = MODULES[name].read_text()
    assert len(source.splitlines()) < MAX_LINES
    assert ast.get_docstring(ast.parse(source)), "no docstring"
    assert not undocumented(source), "public functions without a docstring"
    assert not [i for i in imported(source) if i.startswith(".")], "imports are absolute, so that the rules see them"


@pytest.mark.parametrize("name", PURE)
def test_pure_modules_know_no_config_and_no_disk_layout(name):
    assert not forbidden(MODULES[name].read_text(), ["nuclei.config", "nuclei.runs", "nuclei.stages"])


@pytest.mark.parametrize("name", [name for name in MODULES if name not in CONDUCTORS])
def test_only_the_conductors_import_stages(name):
    assert not forbidden(MODULES[name].read_text(), ["nuclei.stages", "nuclei.__main__"])


def test_every_stage_has_a_module_with_a_main_and_every_module_is_a_stage():
    modules = {Path(name).stem for name in STAGE_FILES} - {"__init__"}
    assert modules == set(STAGES)
    for name in STAGES:
        assert callable(importlib.import_module(f"nuclei.stages.{name}").main)


def test_no_file_names_a_path_of_one_machine():
    folders = ["src", "tests", "benchmarks", "configs", "ensembles", "pretrained", "folds", ".ci"]
    files = [p for folder in folders for p in (ROOT / folder).rglob("*") if p.is_file()]
    files += [p for p in ROOT.iterdir() if p.is_file()]
    texts = {p: p.read_text() for p in files if p.suffix in WRITTEN_BY_HAND or p.parent.name == ".ci"}
    assert ROOT / "run_pipeline.sh" in texts and ROOT / ".ci/run" in texts
    found = [f"{p.relative_to(ROOT)}: {m.group()}" for p, text in texts.items() for m in MACHINE_PATH.finditer(text)]
    assert not found
