"""Settings and names from the command line, and the rehearsal: what would be made and why, with nothing written."""

import hashlib
from pathlib import Path

import pytest
import yaml

from nuclei.config.load import load_config, parse_changes
from nuclei.config.schema import RESERVED
from nuclei.errors import UserError
from nuclei.pipeline import choose_name, plan_runs, rehearse, run_stage, run_stages
from nuclei.runs.cache import RefusedError
from nuclei.runs.files import write_bytes
from nuclei.runs.layout import Options, Run
from nuclei.runs.rehearsal import rehearsal

DATA = {"dataset": "demo", "folds": "runs/data/demo/folds.csv", "n_folds": 2}
NETWORK = {"encoder": "tu-test_resnet", "weights": None, "decoder_channels": [16, 8, 8]}
CONFIGS = {
    "plain": {"data": DATA, "selection": {"method": "classical"}},
    "small": {"data": DATA, "model": NETWORK, "train": {"steps": 4}},
    "pair": {"data": DATA, "members": {"small": 1}},
}
RUNS = Path("runs")


@pytest.fixture(scope="module")
def made(demo_folder, tmp_path_factory):
    """Give a folder with configs, in which the run `plain` has been made."""
    folder = tmp_path_factory.mktemp("plan")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name, content in CONFIGS.items():
            Path(f"{name}.yaml").write_text(yaml.safe_dump(content))
        run_stages("plain", load_config("plain.yaml"), Options(demo_folder, jobs=1), RUNS, skipped=("report",))
    return folder


@pytest.fixture
def project(made, monkeypatch):
    monkeypatch.chdir(made)
    return made


def rehearse_run(name: str, data: Path, capsys, *settings: str, new_name: str | None = None, force=False) -> list[str]:
    """Rehearse a run in the current folder, check that nothing is written, and return what is said."""
    before = look()
    plan = plan_runs([Path(f"{name}.yaml")], parse_changes(settings), new_name)
    capsys.readouterr()
    rehearse(plan, Options(data, jobs=1, force=force), RUNS)
    assert look() == before
    return capsys.readouterr().out.splitlines()


def look() -> dict[Path, tuple[int, str]]:
    files = (path for path in sorted(Path().rglob("*")) if path.is_file())
    return {path: (path.stat().st_mtime_ns, hashlib.sha256(path.read_bytes()).hexdigest()) for path in files}


def test_what_is_made_is_up_to_date_and_the_rest_would_run(project, demo_folder, capsys):
    *rest, report = rehearse_run("plain", demo_folder, capsys)
    assert rest[3:] == [f"plain {stage}: up to date" for stage in ("classical", "submit", "evaluate")]
    assert all(": up to date" in line for line in rest)
    assert report == "plain report: would run (not made yet)"


def test_every_stage_of_a_new_run_and_of_its_members_would_run(project, demo_folder, capsys):
    said = rehearse_run("pair", demo_folder, capsys)
    of_small = [line for line in said if line.startswith("small ")]
    of_pair = [line for line in said if line.startswith("pair ")]
    assert len(of_small) == 11
    assert len(of_pair) == 9
    assert said.index(of_small[-1]) < said.index(of_pair[0])
    assert all(line.endswith("would run (not made yet)") for line in of_small + of_pair)


def test_what_a_stage_would_change_reaches_the_stages_after_it(project, demo_folder, capsys):
    path = sorted(Path("runs/plain/instances/oof").glob("*.png"))[0]
    content = path.read_bytes()
    path.unlink()
    try:
        said = rehearse_run("plain", demo_folder, capsys)
        assert said[3].startswith("plain classical: would run again (oof: runs/plain/instances/oof lacks 1 of 12")
        assert said[4] == "plain submit: up to date"  # the same recipe gives the same nuclei
    finally:
        path.write_bytes(content)
    said = rehearse_run("plain", demo_folder, capsys, "classical.recipe=strong", force=True)
    assert said[3] == "plain classical: would run (--force)"
    with pytest.raises(RefusedError, match="settings.classical.recipe: 'otsu' -> 'strong'"):
        rehearse_run("plain", demo_folder, capsys, "classical.recipe=strong")
    said = rehearse_run("plain", demo_folder, capsys, "classical.recipe=strong", new_name="strong")
    assert said[3:] == [f"strong {s}: would run (not made yet)" for s in ("classical", "submit", "evaluate", "report")]


def test_a_run_of_the_same_recipe_would_be_taken(project, demo_folder, capsys):
    said = rehearse_run("plain", demo_folder, capsys, new_name="again")
    assert said[3] == f"again classical: would take that of {Path('runs/plain')} (not made yet)"


def test_without_data_all_would_run_and_only_what_exists_depends_on_it(demo_folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name, content in CONFIGS.items():
        Path(f"{name}.yaml").write_text(yaml.safe_dump(content))
    said = rehearse_run("pair", demo_folder, capsys)
    assert said[1:3] == ["demo prepare: would run (not made yet)", "demo folds: would run (runs/data/demo/folds.csv)"]
    assert "small train: would run (not made yet)" in said
    assert said[-1] == "pair report: would run (not made yet)"
    assert rehearse_run("plain", tmp_path / "nowhere", capsys)[0].startswith(
        "demo download: would fetch stage1_train.zip"
    )
    meta = Run("plain", RUNS).meta("submit")
    write_bytes(meta, b"{}")
    assert "plain submit: depends on the data, which would change" in rehearse_run("plain", demo_folder, capsys)


def test_new_data_leave_open_what_is_made_of_them(project, demo_folder, tmp_path, capsys):
    for path in demo_folder.iterdir():
        (tmp_path / path.name).symlink_to(path)
    (tmp_path / "stage2_test_final.zip").symlink_to(demo_folder / "stage1_test.zip")
    said = rehearse_run("plain", tmp_path, capsys)
    assert said[1] == "demo prepare: would run again (stage2: not made yet)"
    assert said[3] == "plain classical: depends on the data, which would change"
    assert said[-1] == "plain report: would run (not made yet)"


def test_a_rehearsal_writes_nothing_whatever_is_called(tmp_path):
    with rehearsal(), pytest.raises(AssertionError, match="a rehearsal writes nothing"):
        write_bytes(tmp_path / "a", b"")
    assert not (tmp_path / "a").exists()
    write_bytes(tmp_path / "a", b"")


def test_a_changed_setting_is_recorded_and_a_new_name_makes_another_run(project, demo_folder):
    before = look()
    plan = plan_runs([Path("plain.yaml")], parse_changes(["classical.recipe=strong"]), "stronger")
    assert list(plan) == ["stronger"]
    for stage in ("prepare", "folds", "classical"):
        run_stage(stage, "stronger", plan["stronger"], Options(demo_folder, jobs=1), RUNS)
    assert load_config("runs/stronger/config.yaml") == plan["stronger"]
    assert load_config("runs/stronger/config.yaml").classical.recipe == "strong"
    made = {path for path in look() if path.is_relative_to("runs/stronger")}
    assert {path: value for path, value in look().items() if path not in made} == before


def test_changes_are_of_the_named_configs_alone(project):
    plan = plan_runs([Path("small.yaml"), Path("pair.yaml")], parse_changes(["scorer.rounds=3"]), None)
    assert list(plan) == ["small", "pair"]
    assert {name: config.scorer.rounds for name, config in plan.items()} == {"small": 3, "pair": 3}
    plan = plan_runs([Path("pair.yaml")], parse_changes(["scorer.rounds=3"]), None)
    assert {name: config.scorer.rounds for name, config in plan.items()} == {"small": 150, "pair": 3}
    with pytest.raises(UserError, match="pair.yaml, changed by --set: it trains no network, so --set train changes"):
        plan_runs([Path("pair.yaml")], parse_changes(["train.steps=3"]), None)


def test_what_a_kill_left_of_a_config_is_removed_at_the_next_start(project, demo_folder):
    left, other = (Path(f"runs/plain/.1.partial.{name}") for name in ("config.yaml", "other.csv"))
    for path in (left, other):
        path.touch()
    before = Path("runs/plain/config.yaml").stat()
    run_stage("submit", "plain", load_config("plain.yaml"), Options(demo_folder, jobs=1), RUNS)
    assert not left.exists()
    assert other.exists()
    other.unlink()
    # An equal config is not written again.
    assert Path("runs/plain/config.yaml").stat().st_mtime_ns == before.st_mtime_ns


def test_names_of_runs(project):
    assert choose_name([Path("a.yaml"), Path("b.yaml")], None) == ["a", "b"]
    assert choose_name([Path("a.yaml")], "c") == ["c"]
    for reserved in RESERVED:
        with pytest.raises(UserError, match=f"--name '{reserved}' cannot name a run"):
            choose_name([Path("a.yaml")], reserved)
    for name, words in (("../c", "--name '../c' cannot be a name"), ("c", "--name c: it names one run")):
        with pytest.raises(UserError, match=words):
            choose_name([Path("a.yaml")] * (1 if name == "../c" else 2), name)
    with pytest.raises(UserError, match="--name small: pair.yaml depends on the run of that name"):
        plan_runs([Path("pair.yaml")], {}, "small")
