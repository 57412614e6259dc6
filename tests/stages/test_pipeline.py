"""The whole pipeline in small: it ends in a valid scored submission, is up to date then, and survives being killed."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from safetensors.torch import load_file
from small_project import list_tasks, run_all, run_one, write_project

from nuclei.candidates.features import FEATURES
from nuclei.config.load import load_config, merge
from nuclei.config.schema import Config, DataConfig
from nuclei.data.demo import write_demo
from nuclei.data.images import decode_labels_png
from nuclei.data.novelty import Novelty
from nuclei.errors import UserError
from nuclei.evaluation.metric import score_image
from nuclei.evaluation.submission import read_solution, read_submission, score_submission, validate_submission
from nuclei.experiments.climb import climb
from nuclei.inference.bundle import MAX_MB, find_published, find_run, write_bundle
from nuclei.inference.image_files import find_images
from nuclei.inference.predictor import Predictor
from nuclei.inference.segment_files import segment_files
from nuclei.pipeline import list_runs, run_stage
from nuclei.runs.files import read_arrays, read_image, read_json, read_labels, read_table, write_bytes, write_table
from nuclei.runs.layout import Dataset, Options, Run, comparison
from nuclei.stages.train import read_checkpoint

ROOT = Path(__file__).parents[2]
ENVIRONMENT = os.environ | {"PYTHONPATH": f"{ROOT / 'src'}:{ROOT / 'tests'}", "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def project(finished, tmp_path_factory):
    """Give the folder of a project whose ensemble and members have been run whole."""
    return shutil.copytree(finished / "project", tmp_path_factory.mktemp("pipeline") / "project")


def test_what_a_killed_write_left_of_a_fold_table_is_removed(project, demo_folder, monkeypatch):
    monkeypatch.chdir(project)
    left, other = (Path(f"runs/data/demo/.1.partial.{name}.csv") for name in ("folds", "other"))
    for path in (left, other):
        path.touch()
    config = load_config("configs/small.yaml")
    run_stage("folds", "small", config, Options(demo_folder), Path("runs"))
    assert other.exists()
    assert not left.exists()
    other.unlink()


@pytest.mark.parametrize("name", ["small", "other", "pair"])
def test_every_run_ends_in_a_valid_scored_submission(project, demo_folder, name):
    run = Run(name, project / "runs")
    manifest = read_table(project / "runs/data/demo/manifest.csv")
    shapes = {row.image_id: (row.height, row.width) for row in manifest[manifest["split"] == "test"].itertuples()}
    assert len(shapes) == 4
    assert validate_submission(run.submission("test"), shapes) == []
    scores = score_submission(
        read_submission(run.submission("test")), read_solution(demo_folder / "stage1_solution.csv")
    )
    metrics = read_json(run.metrics)
    assert metrics["stage1_solution"]["score"][0] == pytest.approx(scores["score"].mean(), abs=1e-5)


def test_out_of_fold_scores_are_those_of_the_label_images(project):
    run, dataset = Run("pair", project / "runs"), Dataset(DataConfig(dataset="demo"), project / "runs")
    table = read_table(run.per_image("oof"))
    assert len(table) == 12
    for row in table.itertuples():
        paths = dataset.labels(row.image_id), run.instances("oof") / f"{row.image_id}.png"
        truth, prediction = (decode_labels_png(p.read_bytes(), "") for p in paths)
        assert score_image(truth, prediction)[0] == pytest.approx(row.score)
    assert read_json(run.metrics)["oof"]["score"][0] == pytest.approx(table["score"].mean(), abs=1e-5)


def test_steps_lead_from_the_best_member_to_the_ensemble(project):
    steps = read_json(Run("pair", project / "runs").metrics)["steps"]
    assert [step["method"] for step in steps] == 2 * ["components", "watershed", "scored"]
    assert steps[-1]["run"] == "pair"
    assert steps[-1]["over"] == [steps[0]["run"], "scored"]
    assert steps[2]["gain"][0] == pytest.approx(steps[2]["score"][0] - steps[1]["score"][0], abs=2e-5)


def test_a_bundle_makes_the_submission_again_from_the_official_archive(project, demo_folder, tmp_path):
    run, folder = Run("pair", project / "runs"), tmp_path / "pair"
    assert "4 networks" in write_bundle(run, folder)
    assert find_run(folder).folder == folder / "bundle/pair"
    found = segment_files(
        find_images([demo_folder / "stage1_test.zip"]),
        folder,
        tmp_path / "out",
        submission=tmp_path / "again.csv",
        jobs=1,
    )
    assert (tmp_path / "again.csv").read_bytes() == run.submission("test").read_bytes()
    with zipfile.ZipFile(demo_folder / "stage1_test.zip") as file:
        file.extractall(tmp_path / "stage1_test")
    again = segment_files(
        find_images([tmp_path / "stage1_test"]),
        project / "runs/pair",
        tmp_path / "other",
        submission=tmp_path / "other.csv",
        jobs=1,
    )
    assert (tmp_path / "other.csv").read_bytes() == run.submission("test").read_bytes()
    same = ["image", "state", "nuclei", "values", "normalisation"]
    pd.testing.assert_frame_equal(found[same], again[same])


def test_outlines_move_in_images_of_another_acquisition_alone(project, demo_folder, tmp_path, monkeypatch):
    """As selection.grow in the run itself and in new images, and as one of submit.growths beside the submission."""
    shutil.copytree(project, tmp_path / "project")
    monkeypatch.chdir(tmp_path / "project")
    monkeypatch.setattr(Novelty, "is_other_acquisition", lambda _novelty, image, _by_size: int(image.sum()) % 2 == 0)
    run = Run("pair", Path("runs"))
    dataset = Dataset(load_config("ensembles/pair.yaml").data)
    images = {path.stem: read_image(path) for path in sorted((dataset.folder / "images").glob("*.png"))}
    plain = {split: read_instances(run, split) for split in ("oof", "test")}
    content = yaml.safe_load(Path("ensembles/pair.yaml").read_text()) | {"submit": {"growths": ["2px", "25%"]}}
    Path("ensembles/pair.yaml").write_text(yaml.safe_dump(content))
    run_one(Path("ensembles/pair.yaml"), "submit", demo_folder)
    beside = {growth: read_submission(run.submission("test", growth)) for growth in ("2px", "25%")}

    content |= {"selection": {"grow": "2px"}}
    Path("ensembles/pair.yaml").write_text(yaml.safe_dump(content))
    config = dict(list_runs(Path("ensembles/pair.yaml")))[Path("ensembles/pair.yaml")]
    for name in ("select", "submit"):
        run_stage(name, "pair", config, Options(demo_folder, jobs=1, force=True), Path("runs"))
    moved = {split: read_instances(run, split) for split in ("oof", "test")}
    assert read_submission(run.submission("test")).equals(beside["2px"])
    assert not beside["25%"].equals(beside["2px"])
    predictor = Predictor(run)
    sizes = {True: [], False: []}
    for split, labels in moved.items():
        for image_id, own in labels.items():
            other, before = int(images[image_id].sum()) % 2 == 0, plain[split][image_id]
            assert (own[before > 0] == before[before > 0]).all()
            sizes[other].append((own > 0).sum() - (before > 0).sum())
            if split == "test":
                assert (predictor.segment(images[image_id])[0] == own).all()
    assert sum(sizes[True]) > 100
    assert sizes[False]
    assert not any(sizes[False])


def read_instances(run, split):
    return {path.stem: read_labels(path) for path in sorted(run.instances(split).glob("*.png"))}


def test_published_networks_are_taken_instead_of_training(project, demo_folder, tmp_path, monkeypatch, capsys):
    write_bundle(Run("pair", project / "runs"), tmp_path / "ensembles/pair")
    write_project(tmp_path)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs/data").symlink_to(project / "runs/data")
    monkeypatch.chdir(tmp_path)
    config = load_config("configs/other.yaml")
    assert config.train.pool
    assert find_published(config, Dataset(config.data), 1)
    for published in (True, False):  # once taken they are as good as trained
        for name in ("crops", "train", "predict"):
            run_stage(name, "other", config, Options(demo_folder, jobs=1, published=published), Path("runs"))
        assert not Path("runs/other/crops").exists()
    assert "the same as that of ensembles/pair/bundle/other" in capsys.readouterr().out
    for file in ("fold0/weights.safetensors", "fold1/weights.safetensors"):
        assert Path("runs/other", file).read_bytes() == (project / "runs/other" / file).read_bytes()
    # What training took, not copying.
    took = [read_json(root / "runs/other/meta/train_fold0.json")["seconds"] for root in (project, Path())]
    assert took[0] == took[1]
    for path in (project / "runs/other/maps").rglob("*.npz"):
        ours, theirs = (read_arrays(p) for p in (tmp_path / path.relative_to(project), path))
        assert all((ours[key] == theirs[key]).all() for key in theirs)


@pytest.mark.parametrize(
    "change", [{"train": {"steps": 25}}, {"data": {"folds": "others.csv"}}, {"predict": {"checkpoint": "best"}}]
)
def test_published_networks_of_other_settings_or_folds_are_none(project, tmp_path, monkeypatch, change):
    write_bundle(Run("pair", project / "runs"), tmp_path / "ensembles/pair")
    table = read_table(project / "runs/data/demo/folds.csv")
    write_table(project / "others.csv", table.assign(fold=1 - table["fold"]))
    monkeypatch.setattr("nuclei.inference.bundle.PUBLISHED", tmp_path / "ensembles")
    monkeypatch.chdir(project)
    config = load_config("configs/other.yaml")
    assert find_published(config, Dataset(config.data), 0)
    other = Config.model_validate(merge(config.model_dump(), change))
    assert find_published(other, Dataset(other.data), 0) is None


def test_networks_too_large_to_publish_are_no_bundle(project, tmp_path, monkeypatch):
    monkeypatch.setattr("nuclei.inference.bundle.MAX_MB", 0)
    assert "no bundle: 4 networks" in write_bundle(Run("pair", project / "runs"), tmp_path)
    assert not list(tmp_path.iterdir())
    assert MAX_MB == 60


def test_the_climb_goes_from_step_to_step(project, monkeypatch):
    monkeypatch.chdir(project)
    climb(["small:components", "small", "pair"], Path("runs"))
    table = read_table(comparison(Path("runs"), "climb"))
    assert table["method"].tolist() == ["components", "scored", "scored"]
    assert table["networks"].tolist() == [2, 2, 4]
    assert table["gain"].tolist()[1:] == pytest.approx(table["score"].diff().tolist()[1:], abs=2e-5)
    assert table["training_pflop"].notna().all()
    with pytest.raises(UserError, match="small has no scores of detections; it has components, watershed, scored"):
        climb(["small:detections"], Path("runs"))
    with pytest.raises(UserError, match="no scores of smal in runs"):
        climb(["smal"], Path("runs"))


def test_a_second_run_does_nothing(project, demo_folder, monkeypatch):
    monkeypatch.chdir(project)

    def state():
        return {p: p.stat().st_mtime_ns for p in project.rglob("*") if p.is_file() and p.name != "config.yaml"}

    before = state()
    run_all(project / "ensembles/pair.yaml", demo_folder)
    assert state() == before


@pytest.fixture(scope="module")
def before_truth(project, demo_folder, tmp_path_factory):
    """Give a copy of the project, made before DIR had the truth of the test images, beside its DIR, `data`."""
    folder = tmp_path_factory.mktemp("before_truth")
    shutil.copytree(project, folder / "project")
    (folder / "data").mkdir()
    for name in ("stage1_train.zip", "stage1_test.zip"):
        shutil.copy2(demo_folder / name, folder / "data")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder / "project")
        shutil.rmtree("runs/data/demo/meta")
        Path("runs/data/demo/stage1_solution.csv").unlink()
        run_everything(folder / "data", ("prepare", "evaluate"))
        run_one(Path("configs/small.yaml"), "report", folder / "data")
        assert not any("stage1_solution" in read_json(Run(run).metrics) for run in RUNS)
    return folder


@pytest.fixture
def grown(before_truth, tmp_path, monkeypatch):
    """Give the DIR of a project that was made before DIR had the truth, in a copy that is the current folder."""
    shutil.copytree(before_truth, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path / "project")
    return tmp_path / "data"


RUNS = ("small", "other", "pair")


def run_everything(data: Path, only: tuple[str, ...] = ()) -> None:
    """Run all stages of all runs, or some stages only; of reports, which take long, that of one run."""
    for path, name in list_tasks(Path("ensembles/pair.yaml")):
        if (not only or name in only) and (name != "report" or path.stem == "small"):
            run_one(path, name, data)


def state_of_files() -> dict[str, tuple[int, int]]:
    paths = (p for p in Path("runs").rglob("*.*") if p.is_file() and p.name != "config.yaml" and p.suffix != ".lock")
    return {str(p): (p.stat().st_ino, p.stat().st_mtime_ns) for p in paths}


def list_changes(before: dict[str, tuple[int, int]]) -> tuple[set[str], set[str]]:
    """Return the files that are other ones than `before`, and those that are new; reports as their folders."""
    after = state_of_files()
    assert before.keys() <= after.keys()
    changed = {name for name in before if after[name] != before[name]}
    return (
        {name for name in changed if "/report/" not in name},
        {name for name in after.keys() - before.keys() if "/report/" not in name},
    )


def test_a_solution_added_after_training_is_scored_and_nothing_else_is_made(grown, demo_folder):
    before = state_of_files()
    shutil.copy2(demo_folder / "stage1_solution.csv", grown)
    run_everything(grown)
    changed, new = list_changes(before)
    evaluated = ("metrics.json", "per_image.csv", "meta/evaluate.json")
    assert changed == {
        "runs/data/demo/meta/prepare.json",
        "runs/small/meta/report.json",
        *(f"runs/{run}/{name}" for run in RUNS for name in evaluated),
    }
    assert new == {"runs/data/demo/stage1_solution.csv", *(f"runs/{run}/per_image_test.csv" for run in RUNS)}
    assert all("stage1_solution" in read_json(Run(run).metrics) for run in RUNS)


def test_stage_2_added_after_training_is_predicted_and_scored_and_nothing_is_trained_again(grown, tmp_path, capsys):
    before, oof = state_of_files(), read_json(Run("pair").metrics)["oof"]
    write_demo(tmp_path / "second", n_train=1, n_test=3, size=96, seed=2)
    shutil.copy2(tmp_path / "second/stage1_test.zip", grown / "stage2_test_final.zip")
    shutil.copy2(tmp_path / "second/stage1_solution.csv", grown / "stage2_solution_final.csv")
    run_everything(grown)
    changed, new = list_changes(before)
    evaluated = {"metrics.json", "per_image.csv"}
    metas = {
        run: {f"meta/{name}.json" for name in ("candidates", "score", "select", "submit", "evaluate", maker)}
        for run, maker in {"small": "predict", "other": "predict", "pair": "ensemble"}.items()
    }
    data = {"runs/data/demo/meta/prepare.json", "runs/data/demo/manifest.csv", "runs/small/meta/report.json"}
    assert changed == data | {f"runs/{run}/{name}" for run in RUNS for name in evaluated | metas[run]}
    manifest = read_table(Path("runs/data/demo/manifest.csv"))
    stage2 = manifest.loc[manifest["split"] == "stage2", "image_id"].tolist()
    assert len(stage2) == 3
    assert new == {
        "runs/data/demo/stage2_solution_final.csv",
        *(f"runs/data/demo/images/{i}.png" for i in stage2),
        *(
            f"runs/{run}/{folder}/stage2/{i}.npz"
            for run in RUNS
            for folder in ("maps", "candidates", "scorer")
            for i in stage2
        ),
        *(f"runs/{run}/instances/stage2/{i}.png" for run in RUNS for i in stage2),
        *(f"runs/{run}/{name}_stage2.csv" for run in RUNS for name in ("submission", "per_image")),
    }
    metrics = read_json(Run("pair").metrics)
    assert metrics["oof"] == oof
    scores = score_submission(
        read_submission(Run("pair").submission("stage2")), read_solution(grown / "stage2_solution_final.csv")
    )
    assert metrics["stage2_solution_final"]["score"][0] == pytest.approx(scores["score"].mean(), abs=1e-5)
    assert "pair select: running again (stage2: not made yet)" in capsys.readouterr().out
    run_everything(grown)
    assert "running" not in capsys.readouterr().out


def test_another_feature_makes_candidates_and_what_follows_anew(grown, monkeypatch, capsys):
    before = state_of_files()
    monkeypatch.setitem(FEATURES["shape"], "always_one", lambda c: np.ones(len(c.candidates)))
    (config,) = (config for path, config in list_runs(Path("configs/small.yaml")))
    assert run_rest(config, grown) == ["candidates", "score", "select", "submit", "evaluate"]
    assert "small candidates: running again (oof, test: code.features: with 'always_one')" in capsys.readouterr().out
    changed, new = list_changes(before)
    assert not new
    assert {Path(name).parts[2] for name in changed} >= {"candidates", "scorer", "meta"}
    kept = ("maps", "fold0", "fold1", "plain")
    assert not [name for name in changed if Path(name).parts[2] in kept or Path(name).parts[1] != "small"]
    image = next(Path("runs/small/candidates/test").iterdir())
    assert (read_arrays(image)["features"] == 1).all(axis=0).any()


def run_rest(config: Config, data: Path) -> list[str]:
    """Run what follows the maps of the run `small`, and return the stages that did something."""
    did = []
    for name in ("candidates", "score", "select", "submit", "evaluate"):
        before = Run("small").meta(name).stat().st_mtime_ns
        run_stage(name, "small", config, Options(data=data, jobs=1), Path("runs"))
        did += [name] if Run("small").meta(name).stat().st_mtime_ns != before else []
    return did


def test_an_ensemble_refuses_members_of_other_folds(project, demo_folder, monkeypatch):
    monkeypatch.chdir(project)
    table = read_table(Path("runs/data/demo/folds.csv"))
    crossing = table["group"].rank(method="dense") % 2
    assert table.groupby(crossing)["fold"].nunique().max() == 2
    write_table(Path("others.csv"), table.assign(fold=crossing.astype(int)))
    content = Path("ensembles/pair.yaml").read_text().replace("runs/data/demo/folds.csv", "others.csv")
    Path("ensembles/leaking.yaml").write_text(content)
    with pytest.raises(UserError, match="was trained on other folds"):
        run_one(project / "ensembles/leaking.yaml", "ensemble", demo_folder)


def test_a_training_resumes_with_the_threads_that_it_was_begun_with(
    project, demo_folder, tmp_path, monkeypatch, capsys
):
    """And is the training that was never stopped, bit for bit; its threads are in its fingerprint."""
    own = torch.get_num_threads()
    shutil.copytree(project, tmp_path / "project")
    monkeypatch.chdir(tmp_path / "project")
    path, run = Path("configs/small.yaml"), Run("small", Path("runs"))
    config = load_config(path)

    def train_anew(threads, force=True):
        torch.set_num_threads(threads)
        monkeypatch.setenv("NUCLEI_THREADS", str(threads))
        try:
            run_stage("train", "small", config, Options(demo_folder, fold=0, jobs=1, force=force), Path("runs"))
            meta = read_json(run.meta("train_fold0"))
            return run.fold(0).joinpath("weights.safetensors").read_bytes(), meta["threads"], meta["fingerprint"]
        finally:
            torch.set_num_threads(own)

    one, two = train_anew(1), train_anew(2)
    assert (one[1], two[1]) == (1, 2)
    assert one[2] != two[2]
    assert one[0] != two[0]
    # Other cores make nothing stale.
    assert train_anew(1, force=False) == two
    assert "train: up to date" in capsys.readouterr().out

    def die(path, data, write=write_bytes):
        write(path, data)
        if path.name == "last.ckpt":
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("nuclei.stages.train.write_bytes", die)
        with pytest.raises(KeyboardInterrupt):
            train_anew(2)
    assert train_anew(1, force=False) == two
    assert "begun with 2 threads, now 1; the threads are kept" in capsys.readouterr().out


@pytest.fixture(scope="module")
def finer(project, demo_folder):
    """Add a run on halves of the folds of `small`, whose networks go on from its and learn next to nothing."""
    content = {
        "base": "small.yaml",
        "data": {"folds": "finer.csv", "n_folds": 4, "split_folds": "runs/data/demo/folds.csv"},
        "train": {"start": "small", "steps": 2, "learning_rate": 1e-9},
    }
    path = project / "configs/finer.yaml"
    path.write_text(yaml.safe_dump(content))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(project)
        assert [p.stem for p, _ in list_runs(path)] == ["small", "finer"]
        for name in ("folds", "train", "predict"):
            run_one(path, name, demo_folder)
    return path


@pytest.mark.usefixtures("finer")
def test_training_goes_on_from_the_network_that_saw_nothing_of_the_fold(project):
    held = {fold: set(own["image_id"]) for fold, own in read_table(project / "finer.csv").groupby("fold")}
    coarse = {
        fold: set(own["image_id"]) for fold, own in read_table(project / "runs/data/demo/folds.csv").groupby("fold")
    }
    assert len(held) == 4
    for fold, images in held.items():
        (other,) = (k for k, theirs in coarse.items() if images < theirs)
        ours, *theirs = (
            load_file(project / f"runs/{path}/weights.safetensors")
            for path in (f"finer/fold{fold}", "small/fold0", "small/fold1")
        )
        name = next(key for key in ours if key.endswith("conv1.0.weight"))
        same = [torch.allclose(ours[name].float(), weights[name].float(), atol=1e-4) for weights in theirs]
        assert same == [other == 0, other == 1]


@pytest.mark.usefixtures("finer")
def test_an_ensemble_takes_members_of_finer_folds(project, demo_folder, monkeypatch):
    monkeypatch.chdir(project)
    path = Path("ensembles/mixed.yaml")
    path.write_text(Path("ensembles/pair.yaml").read_text().replace("other: 2", "finer: 2"))
    run_one(path, "ensemble", demo_folder)
    assert len(list(Path("runs/mixed/maps/oof").iterdir())) == len(read_table(Path("finer.csv")))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": {"decoder_channels": [16, 8, 4]}}, "whose model differs: decoder_channels"),
        (
            {"data": {"folds": "others.csv", "split_folds": None}},
            "fold 0 must lie in one fold of the coarser table; it has images of 0 and 1",
        ),
        ({"train": {"start": "finer"}}, "fold0.json is missing"),
    ],
)
@pytest.mark.usefixtures("finer")
def test_training_does_not_go_on_from_what_does_not_fit(project, demo_folder, monkeypatch, change, message):
    monkeypatch.chdir(project)
    table = read_table(Path("finer.csv"))
    write_table(Path("others.csv"), table.assign(fold=(table["group"].rank(method="dense") % 2).astype(int)))
    if "train" in change:
        Path("runs/finer/meta/train_fold0.json").rename("away.json")
    Path("configs/unfit.yaml").write_text(yaml.safe_dump({"base": "finer.yaml"} | change))
    try:
        with pytest.raises(UserError, match=message):
            run_one(Path("configs/unfit.yaml"), "train", demo_folder)
    finally:
        if "train" in change:
            Path("away.json").rename("runs/finer/meta/train_fold0.json")


def test_what_was_damaged_on_disk_is_named_and_made_again(project, demo_folder, monkeypatch, capsys):
    monkeypatch.chdir(project)
    run, ensemble = Run("small"), Path("configs/small.yaml")
    image_id = Dataset(load_config(ensemble).data).splits()["oof"][0]
    cases = {
        "submit": (run.submission("test"), b"ImageId,EncodedPixels\n"),
        "evaluate": (run.per_image("oof"), None),
        "select": (run.tuned, b"{}"),
        "score": (run.scorer / "fold0_seed0.json.gz", b""),
        "candidates": (run.candidates("oof") / f"{image_id}.npz", b"damaged"),
        "predict": (run.maps("oof") / f"{image_id}.npz", None),
    }
    for stage, (path, content) in cases.items():
        before, metas = path.read_bytes(), {p: p.read_bytes() for p in path.parent.glob("*") if p.is_file()}
        path.unlink()
        if content is not None:
            path.write_bytes(content)
        capsys.readouterr()
        run_one(ensemble, stage, demo_folder)
        said = capsys.readouterr().out
        assert f"small {stage}: running again (" in said
        assert str(path if path.suffix not in (".npz", ".png") else path.parent) in said
        assert path.read_bytes() == before
        assert {p: p.read_bytes() for p in metas} == metas
        run_one(ensemble, stage, demo_folder)
        assert f"small {stage}: up to date" in capsys.readouterr().out


def test_damage_to_a_trained_network_is_an_error_that_names_it(project, demo_folder, monkeypatch):
    monkeypatch.chdir(project)
    path = Run("small").fold(1) / "weights.safetensors"
    before = path.read_bytes()
    path.unlink()  # another run may have the same file
    path.write_bytes(before[:-1])
    try:
        with pytest.raises(UserError, match=rf"what small train_fold1 made is no longer whole:\n  {path} is damaged"):
            run_one(Path("configs/small.yaml"), "train", demo_folder)
    finally:
        path.write_bytes(before)
    run_one(Path("configs/small.yaml"), "train", demo_folder)


def test_a_damaged_checkpoint_is_named(tmp_path):
    for content in (b"", b"no zip", bytes(1000)):
        (tmp_path / "last.ckpt").write_bytes(content)
        with pytest.raises(UserError, match=r"last.ckpt is damaged .*: delete it and run the stage train again"):
            read_checkpoint(tmp_path / "last.ckpt")


@pytest.mark.parametrize("method", ["components", "watershed"])
def test_plain_decodings_end_in_a_submission_too(project, demo_folder, monkeypatch, method):
    monkeypatch.chdir(project)
    path = Path(f"ensembles/{method}.yaml")
    path.write_text(Path("ensembles/pair.yaml").read_text() + f"\nselection: {{method: {method}}}\n")
    for config, name in list_tasks(path):
        run_one(config, name, demo_folder)
    run = Run(method)
    table = read_table(run.per_image("oof"))
    # What select decoded again is what plain had scored under the thresholds of the other folds.
    pd.testing.assert_series_equal(table["score"], table[method], check_names=False)
    assert run.submission("test").is_file()


def test_two_processes_train_one_network(project, tmp_path):
    """`--devices 2` on a machine without GPUs: two CPU processes through the command line, as a user starts them."""
    write_project(tmp_path)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs/data").symlink_to(project / "runs/data")
    command = [sys.executable, "-m", "nuclei", "train", "configs/small.yaml", "--devices", "2", "--fold", "0"]
    done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    one, two = (read_table(root / "runs/small/fold0/history.csv") for root in (project, tmp_path))
    assert "MEMBER: 2/2" in done.stdout + done.stderr
    # The same batches, halved: only what batch norm sees, and rounding, differ.
    assert two["step"].tolist() == one["step"].tolist()
    assert two["loss"].to_numpy() == pytest.approx(one["loss"].to_numpy(), rel=0.2)
