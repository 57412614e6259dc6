"""Labelled images are found, brought to scale, scored, and not scored twice."""

import numpy as np
import pytest
from skimage.filters import threshold_otsu
from skimage.measure import label

from nuclei.data.images import encode_image_png, encode_labels_png
from nuclei.data.synthetic import make_image
from nuclei.errors import UserError
from nuclei.inference import score_images as module
from nuclei.inference.bundle import find_default
from nuclei.inference.score_images import find_labelled, halve_large, score_images
from nuclei.runs.files import read_json, read_table, write_bytes


class Threshold:
    """Stand for a Predictor: bright components are nuclei, and images are counted."""

    seen = 0

    def novelty(self, image):
        return float(image.mean())

    def segment(self, image):
        Threshold.seen += 1
        gray = image[..., 0]
        return label(gray > threshold_otsu(gray)).astype(np.int32), None


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Give a folder with a set of two labelled images and one of a single image."""
    monkeypatch.setattr(module, "load_predictor", lambda *key: Threshold())
    monkeypatch.setattr(module, "hash_weights", lambda run: "w")
    monkeypatch.setattr(Threshold, "seen", 0)
    for seed, name in enumerate(("one/images/a", "one/images/b", "two/images/a")):
        image, labels = make_image("dark_fluorescence_small", (64, 80), np.random.default_rng(seed))
        write_bytes(tmp_path / f"in/{name}.png", encode_image_png(image))
        write_bytes(tmp_path / f"in/{name.replace('images', 'labels')}.png", encode_labels_png(labels))
    return tmp_path


def score(folder, **options):
    return score_images(find_labelled(folder / "in"), find_default(), folder / "out", jobs=1, **options)


def test_every_image_has_a_row_and_every_set_its_scores(folder):
    table, metrics = score(folder)
    assert table[["data_set", "image_id"]].to_numpy().tolist() == [["one", "a"], ["one", "b"], ["two", "a"]]
    found = metrics["images"]
    assert found["n_images"] == 3
    assert found["by_cluster"]["one"]["n_images"] == 2
    assert found["recall"][0] == pytest.approx(table["matched"].sum() / table["n_true"].sum(), abs=1e-5)
    assert found["score"][0] == pytest.approx(table["score"].mean(), abs=1e-5)
    assert (table["novelty"] > 0).all()
    assert read_json(folder / "out/metrics.json") == metrics
    assert read_table(folder / "out/scores.csv")["score"].tolist() == table["score"].tolist()


def test_an_image_is_scored_again_only_when_it_or_the_settings_have_changed(folder):
    first, _ = score(folder)
    again, _ = score(folder)
    assert Threshold.seen == 3
    assert again.equals(first)
    image = folder / "in/one/images/a.png"
    image.write_bytes((folder / "in/two/images/a.png").read_bytes())
    score(folder)
    assert Threshold.seen == 4
    table, _ = score(folder, halved_above_px=10)
    assert Threshold.seen == 7
    assert set(table["scale"]) == {0.5}


@pytest.mark.parametrize("name", ["scores.csv", "metrics.json", "one/a.json"])
def test_files_of_others_are_not_replaced(folder, name):
    write_bytes(folder / "out" / name, b'{"oof": 1}')
    with pytest.raises(UserError, match=rf"out/{name} is not of this command"):
        score(folder)
    assert (folder / "out" / name).read_bytes() == b'{"oof": 1}'


def test_a_set_may_lie_in_the_folder_itself_or_below_external(folder):
    assert {one.data_set for one in find_labelled(folder / "in/one")} == {"one"}
    (folder / "in").rename(folder / "external")
    assert {one.data_set for one in find_labelled(folder)} == {"one", "two"}


def test_what_has_no_labels_is_said(folder):
    with pytest.raises(UserError, match=r"has no labelled images: put them into .*images"):
        find_labelled(folder / "out")
    (folder / "in/one/labels/b.png").unlink()
    with pytest.raises(UserError, match=r"must have one label image of b"):
        find_labelled(folder / "in")


def test_large_nuclei_are_halved_and_the_rule_can_be_switched_off():
    image = np.zeros((80, 90, 3), np.uint8)
    truth = np.zeros((80, 90), np.int32)
    truth[10:50, 10:60] = 1
    truth[60:78, 60:80] = 2
    truth[5, 5] = 3  # too small to survive
    small, labels, scale = halve_large(image, truth, 300)
    assert (small.shape, labels.shape, scale) == ((40, 45, 3), (40, 45), 0.5)
    assert np.bincount(labels.ravel())[1:].tolist()[:2] == [500, 90]
    assert halve_large(image, truth, 400)[2] == 1  # the median is 360
    assert halve_large(image, truth, 0)[2] == 1
    assert halve_large(image, np.zeros_like(truth), 10)[2] == 1
