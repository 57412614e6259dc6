"""What a restructuring of the code may not change: published nuclei, recorded settings, and the demo's scores."""

import hashlib
import json
from pathlib import Path

import pandas as pd
import pytest

from nuclei.config.load import load_config
from nuclei.data.archives import open_archive
from nuclei.data.images import decode_image
from nuclei.evaluation.rle import encode_labels
from nuclei.inference import predictor
from nuclei.inference.bundle import find_published, find_run
from nuclei.networks.hardware import choose_precision
from nuclei.runs.cache import fingerprint
from nuclei.runs.files import read_json
from nuclei.runs.layout import Dataset

ROOT = Path(__file__).parents[1]
GOLDEN = Path(__file__).parent / "golden"
PUBLISHED = ROOT / "ensembles/long_mobilenets"
# Test images of 256 x 256 with 45 and 14 nuclei.
IMAGES = ("0a849e0e", "4727d94c")
CONFIGS = {
    path.relative_to(ROOT).as_posix(): path
    for folder in ("configs", "ensembles")
    for path in (ROOT / folder).rglob("*.yaml")
    if "bundle" not in path.parts
}


def hash_settings(path: Path) -> str:
    """Return a hash of all that stages record of a config, by which finished work is found again."""
    config = load_config(path)
    recorded = [config.record(), config.record_training()]
    return hashlib.sha256(json.dumps(recorded, sort_keys=True, default=str).encode()).hexdigest()[:16]


def test_every_config_records_what_it_recorded():
    expected = json.loads((GOLDEN / "records.json").read_text())
    assert {name: hash_settings(CONFIGS[name]) for name in expected} == expected


def test_the_published_networks_are_found_by_their_settings(monkeypatch):
    monkeypatch.chdir(ROOT)
    for name in ("long_mobilenetv1", "long_mobilenetv2"):
        config = load_config(f"configs/{name}.yaml")
        for fold in range(4):
            found = find_published(config, Dataset(config.data), fold)
            assert found == Path(f"ensembles/long_mobilenets/bundle/{name}/meta/train_fold{fold}.json")
            assert fingerprint(found)


@pytest.mark.parametrize("prefix", IMAGES)
def test_the_published_bundle_finds_the_published_nuclei(real_folder, monkeypatch, prefix):
    # The submission was made in fp32; a processor with bf16 instructions would take those.
    monkeypatch.setattr(predictor, "choose_precision", lambda wanted: "32-true")
    archive = open_archive(real_folder / "stage1_test.zip", "test")
    image_id = next(one for one in archive.image_ids if one.startswith(prefix))
    image = decode_image(archive.read(archive.image_name(image_id)), image_id)
    labels, _ = load_published().segment(image)
    submission = pd.read_csv(PUBLISHED / "submission_stage1_test.csv.gz", keep_default_na=False)
    assert encode_labels(labels) == submission.loc[submission["ImageId"] == image_id, "EncodedPixels"].tolist()


def load_published():
    """Return the Predictor of the published ensemble, loaded once."""
    run = find_run(PUBLISHED)
    return predictor.load_predictor(run.folder, ("golden",))


def test_the_demo_scores_what_it_scored():
    """After `./run_pipeline.sh`; training on another kind of processor rounds otherwise and is not compared."""
    metrics, meta = ROOT / "runs/demo/metrics.json", ROOT / "runs/demo_mobilenetv2/meta/train_fold0.json"
    if not (metrics.is_file() and meta.is_file()):
        pytest.skip("the demo has not been run: ./run_pipeline.sh")
    expected = read_json(GOLDEN / "demo.json")
    machine = [read_json(meta)["processor"], read_json(meta)["cpus"], choose_precision("auto")]
    if machine != expected["machine"]:
        pytest.skip(f"the demo's scores are known for {expected['machine']}, not for {machine}")
    assert read_json(metrics) == expected["metrics"]
