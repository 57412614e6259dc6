"""A bundle or a run that is not whole is refused by the name of what is missing or damaged, and never used silently."""

import runpy
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from nuclei.config.load import load_config
from nuclei.data.synthetic import make_image
from nuclei.errors import UserError
from nuclei.evaluation.metric import score_image
from nuclei.inference.bundle import DEFAULT, FAST, check_bundle, find_default, find_run, write_manifest
from nuclei.inference.contents import list_folds, list_required
from nuclei.inference.predictor import Predictor, load_predictor
from nuclei.runs.files import link, read_json, write_bytes, write_json
from nuclei.runs.layout import Run
from nuclei.runs.outputs import record_file

ROOT = Path(__file__).parents[2]
PUBLISHED = ROOT / "ensembles/long_mobilenets"
NETWORK, BOOSTERS = "long_mobilenetv1/fold2/weights.safetensors", "long_mobilenets/scorer/fold1_seed1.json.gz"
FIRST = "long_mobilenetv1/fold0/weights.safetensors"  # which is loaded before any other


@pytest.fixture
def folder(tmp_path):
    """Give a copy of the published bundle, of the same files: tests replace them and never write into them."""
    shutil.copytree(PUBLISHED / "bundle", tmp_path / "long_mobilenets/bundle", copy_function=link)
    return tmp_path / "long_mobilenets"


def replace(path: Path, content: bytes) -> None:
    path.unlink()
    write_bytes(path, content)


def spoil(path: Path) -> None:
    """Change one byte in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    replace(path, bytes(content))


def test_the_published_bundle_is_what_its_manifest_says(tmp_path):
    check_bundle(PUBLISHED / "bundle")
    manifest = read_json(PUBLISHED / "bundle/manifest.json")
    assert manifest["runs"]["long_mobilenetv1"] == {"members": [], "folds": [0, 1, 2, 3], "boosters": []}
    shutil.copytree(PUBLISHED / "bundle", tmp_path / "bundle", copy_function=link)
    (tmp_path / "bundle/manifest.json").unlink()
    write_manifest(tmp_path / "bundle")
    assert read_json(tmp_path / "bundle/manifest.json") == manifest


def test_an_installed_package_has_the_bundles_that_are_taken_unasked():
    packed = runpy.run_path(str(ROOT / "hatch_build.py"))["PUBLISHED"]
    assert packed == {f"ensembles/{name}/bundle": f"nuclei/published/{name}/bundle" for name in (DEFAULT, FAST)}
    assert all((ROOT / folder).is_dir() for folder in packed)


def test_the_fast_bundle_is_one_network_and_one_set_of_boosters():
    folder = find_default(fast=True)
    check_bundle(folder / "bundle")
    predictor = Predictor(find_run(folder))
    (member, _), *others = predictor.members
    assert (len(member.forwards), len(predictor.boosters), others) == (1, 1, [])
    image, truth = make_image("dark_fluorescence_small", (192, 192), np.random.default_rng(1))
    labels, iou = predictor.segment(image)
    assert labels.max() == len(iou)
    assert score_image(truth, labels)[0] > 0.8


@pytest.mark.parametrize("name", [NETWORK, BOOSTERS, "long_mobilenets/select.json", "long_mobilenetv2/config.yaml"])
@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (Path.unlink, "is missing"),
        (spoil, "is damaged or was changed: its sha256 differs"),
        (lambda path: replace(path, path.read_bytes()[:-1]), "is damaged: .* bytes, not"),
    ],
)
def test_a_bundle_that_is_not_whole_is_refused_by_the_name_of_the_file(folder, name, damage, said):
    check_bundle(folder / "bundle")
    damage(folder / "bundle" / name)
    with pytest.raises(UserError, match=rf"bundle is not whole:\n  .*/{name} {said}(.|\n)*fetch it anew"):
        find_run(folder)


def test_a_missing_fold_or_member_is_named(folder):
    shutil.rmtree(folder / "bundle/long_mobilenetv1/fold2")
    with pytest.raises(UserError, match=rf"{NETWORK} is missing"):
        find_run(folder)
    shutil.rmtree(folder / "bundle/long_mobilenetv2")
    with pytest.raises(UserError, match=r"long_mobilenetv2/config.yaml is missing(.|\n)*and \d+ more"):
        find_run(folder)


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"{}", b'{"files": {"a": 1}, "runs": {}}', b'{"files": [], "runs": {}}'),
        b'{"files": {"long_mobilenets/select.json": {"bytes": "many"}}, "runs": {}}',
    ],
)
def test_a_damaged_manifest_is_named_and_the_fix_is_that_of_a_bundle(folder, content):
    replace(folder / "bundle/manifest.json", content)
    with pytest.raises(UserError, match=r"manifest.json is damaged .*: fetch it anew"):
        find_run(folder)


def test_a_manifest_of_other_contents_is_refused(folder):
    manifest = read_json(folder / "bundle/manifest.json")
    manifest["runs"]["long_mobilenetv1"]["folds"].append(4)
    (folder / "bundle/manifest.json").unlink()
    write_json(folder / "bundle/manifest.json", manifest)
    with pytest.raises(UserError, match=r"asks for other contents:\n  long_mobilenetv1.folds"):
        find_run(folder)


def test_a_bundle_without_its_manifest_is_refused_however_it_is_named(folder):
    for path in (folder, folder / "bundle/long_mobilenets"):
        find_run(path)
    spoil(folder / "bundle" / BOOSTERS)
    with pytest.raises(UserError, match=rf"{BOOSTERS} is damaged"):
        find_run(folder / "bundle/long_mobilenets")
    (folder / "bundle/manifest.json").unlink()
    with pytest.raises(UserError, match=r"bundle/manifest\.json is missing.*: fetch it anew"):
        find_run(folder)


@pytest.mark.parametrize("name", [NETWORK, BOOSTERS, "long_mobilenets/select.json"])
def test_what_is_missing_is_named_where_no_manifest_is_asked(folder, name):
    run = Run("long_mobilenets", folder / "bundle")
    (folder / "bundle" / name).unlink()
    with pytest.raises(UserError, match=rf"is not whole: .*/{name} is missing: run the stage .* of a bundle, fetch it"):
        load_predictor(run.folder, (hash(name),))


def test_a_fold_is_missed_by_its_meta_its_folder_or_its_thresholds(folder):
    run = Run("long_mobilenetv1", folder / "bundle")
    assert list_folds(run) == [0, 1, 2, 3]
    shutil.rmtree(run.fold(1))
    run.meta("train_fold2").unlink()
    assert list_folds(run) == [0, 1, 2, 3]
    run.meta("train_fold1").unlink()
    assert list_folds(run) == [0, 2, 3]
    shutil.copy(folder / "bundle/long_mobilenets/select.json", run.tuned)
    assert list_folds(run) == [0, 1, 2, 3]
    ensemble = Run("long_mobilenets", folder / "bundle")
    required = list_required(ensemble, load_config(ensemble.config))
    assert [path for path in required if not path.is_file()] == [run.fold(1) / "weights.safetensors"]


def spoil_weights(path: Path, change) -> None:
    """Write the weights of a file as `change` leaves them."""
    state = load_file(path)
    change(state)
    path.unlink()
    save_file(state, path)


def make_nan(state) -> None:
    state[next(key for key in state if state[key].ndim == 4)][0] = np.nan


def drop_one(state) -> None:
    del state[next(key for key in state if state[key].ndim == 4)]


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda path: spoil_weights(path, make_nan), "holds weights that are not finite, e.g. "),
        (lambda path: spoil_weights(path, drop_one), "is for another network than that of .*config.yaml .*Missing key"),
        (lambda path: replace(path, path.read_bytes()[:-1000]), "is damaged, or no .safetensors file of weights"),
        (lambda path: replace(path, b""), "is damaged, or no .safetensors file of weights"),
    ],
)
def test_weights_that_cannot_be_used_are_named(folder, damage, said):
    damage(folder / "bundle" / FIRST)
    with pytest.raises(UserError, match=rf"{FIRST} {said}"):
        Predictor(Run("long_mobilenetv1", folder / "bundle"))


@pytest.mark.parametrize("damage", [spoil, lambda path: replace(path, path.read_bytes()[:5000])])
def test_boosters_that_are_damaged_are_named(folder, damage):
    damage(folder / "bundle" / BOOSTERS)
    predictor = Predictor.__new__(Predictor)  # without its networks
    predictor.run = Run("long_mobilenets", folder / "bundle")
    predictor.config = load_config(predictor.run.config)
    with pytest.raises(UserError, match=rf"{BOOSTERS} is damaged"):
        assert predictor.boosters


@pytest.mark.parametrize(
    "name", ["student/fold0/weights.safetensors", "fast/scorer/whole_seed0.json.gz", "fast/select.json"]
)
def test_what_is_not_as_its_stage_left_it_is_named(tmp_path, name):
    folder = tmp_path / "fast"  # whose one network is loaded in no time
    shutil.copytree(find_default(fast=True) / "bundle", folder / "bundle", copy_function=link)
    run = Run("fast", folder / "bundle")
    path = folder / "bundle" / name
    part, below = name.split("/", 1)
    meta = folder / "bundle" / part / "meta/test.json"
    empty = {"fingerprint": "", "settings": {}, "inputs": {}}
    write_json(meta, empty | {"files": {below: record_file(path)}})
    load_predictor(run.folder, (hash(name), "whole"))
    spoil(path)
    with pytest.raises(UserError, match=rf"{name} is damaged or was changed: its sha256 differs: put the file back"):
        load_predictor(run.folder, (hash(name), "spoiled"))
    meta.unlink()
    write_json(meta, empty | {"files": []})
    with pytest.raises(UserError, match=r"test.json is damaged"):
        load_predictor(run.folder, (hash(name), "another kind"))
