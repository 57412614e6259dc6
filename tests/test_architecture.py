"""The structure that the README promises: who may import whom, how long a module may be, what says what it does."""

import ast
import importlib
import re
from pathlib import Path

import pytest

from nuclei.runs.stage_table import STAGES

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src/nuclei"
MODULES = {path.relative_to(SOURCE).as_posix(): path for path in sorted(SOURCE.rglob("*.py"))}
STAGE_FILES = [name for name in MODULES if name.startswith("stages/")]
# What each package, or module where one is named, may import of the project beside its own package, `errors`, `limits`
# and `lifeline`.
# `nuclei.runs` is the disk: everything that may not import it is pure.
MAY_IMPORT = {
    "errors": set(),
    "limits": {"errors"},
    "lifeline": set(),
    "config.schema": set(),
    "config": {"config.schema"},
    "evaluation": set(),
    "data": {"evaluation"},
    "candidates": {"data", "evaluation", "config.schema"},
    "decoding": {"candidates", "data", "evaluation", "config.schema"},
    "networks": {"decoding", "candidates", "data", "config.schema"},
    "training": {"networks", "data", "config.schema"},
    "runs": {"data.images", "data.size", "data.image_ids", "data.fold_table", "data.competition", "config"},
    "inference": {"runs", "training", "networks", "decoding", "candidates", "data", "evaluation", "config"},
    "report": {"training", "networks", "decoding", "candidates", "data", "evaluation", "config.schema"},
    # Of the report these alone read what a run left.
    "report.reader": {
        "report",
        "inference.predictions",
        "runs",
        "candidates",
        "decoding",
        "data",
        "evaluation",
        "config",
    },
    "report.run_report": {"report", "runs", "data", "decoding", "config"},
    "report.writeup_making": {"report", "runs"},
    "report.show": {"report", "runs", "candidates", "decoding", "networks", "data", "evaluation", "config"},
    "report.browser_pictures": {"report", "runs"},
    "stages": {
        "report",
        "inference",
        "runs",
        "training",
        "networks",
        "decoding",
        "candidates",
        "data",
        "evaluation",
        "config",
    },
    "pipeline": {"stages", "training", "networks", "decoding", "candidates", "runs", "config"},
    "experiments": {
        "pipeline",
        "report",
        "evaluation",
        "data.image_types",
        "decoding.methods",
        "networks.kinds",
        "runs",
        "config",
    },
    # Measures images as inference does, to see whether novelty means something.
    "experiments.novelty": {"inference", "data", "runs", "config"},
    "commands": {"pipeline", "experiments", "stages", "report", "inference", "runs", "data", "config"},
    "cli": {"commands", "runs"},
    "__main__": {"cli"},
    "__init__": {"inference.segmenter"},  # when it is asked for
}
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
        f.name
        for f in functions
        if not f.name.startswith("_")
        and f.name != "main"
        and not ast.get_docstring(f)
        and (f.end_lineno or f.lineno) - f.lineno + 1 > SELF_EVIDENT_LINES
    ]


@pytest.mark.parametrize(
    "source",
    [
        "import nuclei.config",
        "import os, nuclei.config as c",
        "from nuclei import rle, config",
        "from nuclei.config import Config",
        "def f():\n    from nuclei.config import Config",
    ],
)
def test_the_rules_see_every_form_of_import(source):
    assert forbidden(source, ["nuclei.config"])
    assert not forbidden(source, ["nuclei.runs", "nuclei.conf"])


def test_the_rules_see_what_lacks_a_docstring():
    body = "\n    a = 1\n    b = 2\n    return a + b\n"
    heads = ["def main():", "def _own():", "def bare():", "def said():\n    'Say.'"]
    source = "".join(head + body for head in heads) + "def short():\n    return 1\n"
    assert undocumented(source) == ["bare"]


def test_the_rules_see_paths_of_one_machine():
    slash = "/"  # apart, so that this file does not contain what it looks for
    assert MACHINE_PATH.search(f"open('{slash}home/me/data.csv')")
    assert MACHINE_PATH.search(f"cd {slash}tmp")
    assert not MACHINE_PATH.search("github.com/home/page src/root/x /workers /homes")


def allowed(module: str) -> set[str]:
    """Return what a module may import of the project by MAY_IMPORT, its own package included."""
    package = module.split(".")[0]
    return MAY_IMPORT.get(module, MAY_IMPORT[package]) | {
        package if module not in MAY_IMPORT or module == package else module,
        "errors",
        "limits",
        "lifeline",
    }


def crossings(module: str, source: str) -> set[str]:
    """Return the modules and names of the project that a module imports against MAY_IMPORT."""
    ours = {name.removeprefix("nuclei.") for name in imported(source) if name.startswith("nuclei.")}
    # `from nuclei.runs import files` names both runs and runs.files: the longer name decides.
    ours -= {name for name in ours if any(other.startswith(name + ".") for other in ours)}
    parts = allowed(module)
    return {name for name in ours if not any(name == part or name.startswith(part + ".") for part in parts)}


def test_the_table_of_imports_names_every_package_and_no_other():
    packages = {name.split("/")[0].removesuffix(".py") for name in MODULES}
    assert {name.split(".")[0] for name in MAY_IMPORT} == packages


def test_the_rules_see_an_import_against_the_table():
    assert crossings("candidates.tree", "from nuclei.runs.files import read_json") == {"runs.files.read_json"}
    assert crossings("candidates.tree", "from nuclei.runs import files") == {"runs.files"}
    assert crossings("data.images", "from nuclei.evaluation.rle import encode_mask") == set()
    assert crossings("runs.files", "from nuclei.data.folds import COLUMNS") == {"data.folds.COLUMNS"}
    assert crossings("runs.files", "from nuclei.data.images import decode_image") == set()
    assert crossings("report.tables", "from nuclei.runs.layout import Run") == {"runs.layout.Run"}
    assert crossings("report.reader", "from nuclei.runs.layout import Run") == set()


@pytest.mark.parametrize("name", MODULES)
def test_modules_say_what_they_are(name):
    source = MODULES[name].read_text()
    assert ast.get_docstring(ast.parse(source)) or not source, "no docstring"
    assert not undocumented(source), "public functions without a docstring"
    assert not [i for i in imported(source) if i.startswith(".")], "imports are absolute, so that the rules see them"


@pytest.mark.parametrize("name", MODULES)
def test_a_module_imports_what_its_package_may(name):
    module = name.removesuffix(".py").replace("/", ".").removesuffix(".__init__")
    assert not crossings(module, MODULES[name].read_text())


def named_wrongly(source: str) -> list[str]:
    """List the functions of a module whose docstring says ValueError, and which raise UserErrors and none of those."""
    found = []
    for f in ast.walk(ast.parse(source)):
        if isinstance(f, ast.FunctionDef) and "ValueError" in (ast.get_docstring(f) or ""):
            calls = [node.exc for node in ast.walk(f) if isinstance(node, ast.Raise)]
            raised = {ast.unparse(call.func) for call in calls if isinstance(call, ast.Call)}
            found += [f.name] if "UserError" in raised and "ValueError" not in raised else []
    return found


def test_the_rules_see_an_error_that_is_called_by_another_name():
    lines = "def f():\n    'Raises ValueError.'\n    raise {}('x')\n"
    assert named_wrongly(lines.format("UserError")) == ["f"]
    assert not named_wrongly(lines.format("ValueError"))
    assert not named_wrongly(lines.format("UserError").replace("ValueError.", "UserError."))


@pytest.mark.parametrize("name", MODULES)
def test_docstrings_call_errors_by_their_names(name):
    assert not named_wrongly(MODULES[name].read_text())


def read_carelessly(source: str) -> list[str]:
    """List the calls of a module that read or write by the locale's encoding, read what may be a pipe, or resolve."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
            continue
        name, first = node.func.attr, node.args[0] if node.args else None
        mode = first.value if isinstance(first, ast.Constant) else "r" if first is None else "b"  # else no Path's open
        in_words = name in ("read_text", "write_text") or (name == "open" and "b" not in str(mode))
        told = {"encoding", "errors"} & {keyword.arg for keyword in node.keywords}
        if name in ("read_bytes", "resolve") or (in_words and not told):
            found.append(ast.unparse(node))
    return found


def test_the_rules_see_files_that_are_read_carelessly():
    careless = ("p.read_text()", "p.write_text(t)", "p.open()", "p.open('w')", "p.read_bytes()", "p.resolve()")
    assert [read_carelessly(line) for line in careless] == [[line] for line in careless]
    assert not read_carelessly("p.open('rb'), p.read_text(encoding='utf-8'), reader.open(p, 1), os.open(p, 0)")


@pytest.mark.parametrize("name", [name for name in MODULES if name != "limits.py"])
def test_files_are_read_whole_by_limits_and_texts_are_utf_8(name):
    # `resolve` raises a RuntimeError where links lead in a circle; os.path.realpath does not.
    of_the_system = ("(_PROCESSES / f'{number}/stat').read_text()", "Path('/proc/self/status').read_text()")
    assert [call for call in read_carelessly(MODULES[name].read_text()) if call not in of_the_system] == []


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
    assert ROOT / "run_pipeline.sh" in texts
    assert ROOT / ".ci/run" in texts
    found = [f"{p.relative_to(ROOT)}: {m.group()}" for p, text in texts.items() for m in MACHINE_PATH.finditer(text)]
    assert not found
