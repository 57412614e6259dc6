"""Nuclei of any size are brought to the trained one and back: sizes survive, large ones are found, limits are named."""

import shutil
from types import SimpleNamespace

import cv2
import numpy as np
import pandas as pd
import pytest
from skimage.filters import threshold_otsu
from skimage.measure import label

from nuclei.config.schema import Config
from nuclei.data.images import encode_labels_png
from nuclei.data.size import equivalent_diameters
from nuclei.data.synthetic import make_image
from nuclei.errors import UserError
from nuclei.inference import scale as module
from nuclei.inference.arguments import parse_diameter
from nuclei.inference.bundle import find_default, find_run
from nuclei.inference.scale import (
    describe_trained,
    estimate_diameter,
    measure_trained,
    segment_at,
    trained_diameter,
)
from nuclei.inference.segmenter import Segmenter
from nuclei.runs.files import write_bytes, write_table
from nuclei.runs.layout import Dataset, Run


def draw_disks(radius, side=200, step=50):
    """Draw 9 bright disks: image, uint8 [side, side, 3], and labels."""
    y, x = np.indices((side, side))
    labels = np.zeros((side, side), np.int32)
    for number in range(9):
        cy, cx = step * (1 + number // 3), step * (1 + number % 3)
        labels[np.hypot(y - cy, x - cx) <= radius] = number + 1
    return np.dstack([np.where(labels > 0, 200, 10).astype(np.uint8)] * 3), labels


def threshold(image):
    labels = label(image[..., 0] > threshold_otsu(image[..., 0])).astype(np.int32)
    return labels, np.linspace(0.5, 1, labels.max(), dtype=np.float32)


@pytest.mark.parametrize("factor", [0.25, 1 / 3, 0.5, 1, 1.7, 3])
def test_labels_come_back_at_the_size_of_the_image_and_of_its_nuclei(factor):
    image, truth = draw_disks(15)
    seen = []

    def segment(resized):
        seen.append(resized.shape[:2])
        return threshold(resized)

    labels, iou = segment_at(segment, image, factor)
    assert seen == [(round(200 * factor), round(200 * factor))]
    assert labels.shape == truth.shape
    assert len(iou) == labels.max() == 9
    np.testing.assert_allclose(equivalent_diameters(labels), equivalent_diameters(truth), rtol=0.08)
    assert (labels > 0)[truth > 0].mean() > 0.93
    for number in range(1, 10):  # no shift
        a, b = (np.argwhere(one == number).mean(0) for one in (labels, truth))
        np.testing.assert_allclose(a, b, atol=0.6)


def test_a_nucleus_without_a_pixel_of_its_own_is_dropped_with_its_iou():
    def segment(resized):
        labels = np.zeros(resized.shape[:2], np.int32)
        labels[:40, :40], labels[50, 50], labels[60:90, 60:90] = 1, 2, 3
        return labels, np.float32([0.1, 0.2, 0.3])

    labels, iou = segment_at(segment, np.zeros((10, 10, 3), np.uint8), 10)
    assert np.unique(labels).tolist() == [0, 1, 2]
    assert iou.tolist() == pytest.approx([0.1, 0.3])
    assert segment_at(lambda image: (segment(image)[0], None), np.zeros((10, 10, 3), np.uint8), 10)[1] is None


def test_an_image_that_would_be_too_large_is_refused(monkeypatch):
    monkeypatch.setattr(module, "MAX_PIXELS", 1000)
    with pytest.raises(UserError, match="enlarged 4 times, to 80 x 40 pixels.*larger --diameter"):
        segment_at(threshold, np.zeros((10, 20, 3), np.uint8), 4)


def test_a_diameter_is_a_positive_number_or_a_word():
    given = [None, "none", "auto", "unlike", "12.5", 7]
    assert [parse_diameter(one) for one in given] == [None, None, "auto", "unlike", 12.5, 7]
    for wrong in ("", "wide", "0", "-1", "inf", "nan"):
        with pytest.raises(UserError, match="typical diameter"):
            parse_diameter(wrong)


def test_the_estimate_is_where_most_is_found_with_trust():
    image, truth = draw_disks(15)
    expected = equivalent_diameters(truth)[0]

    def networks(learned_px):
        """Stand for networks that find nuclei of one size surely and others hardly: by the size in what they see."""

        def segment(resized):
            labels, iou = threshold(resized)
            size = np.median(equivalent_diameters(labels))
            return labels, np.full_like(iou, np.exp(-abs(np.log2(size / learned_px))))

        return segment

    for learned in (8, 15, 30, 60):
        assert estimate_diameter(networks(learned), image) == pytest.approx(expected, rel=0.1)
    assert estimate_diameter(lambda image: (np.zeros(image.shape[:2], np.int32), None), image) is None


def test_the_trained_diameter_is_the_median_over_all_training_nuclei(tmp_path):
    config = Config()
    dataset, run = Dataset(config.data, tmp_path), Run("a", tmp_path)
    assert measure_trained(run, config) is None
    with pytest.raises(UserError, match="a does not say how large the nuclei are"):
        trained_diameter(run, config)
    sides = {"a": [10, 20], "b": [30], "test": [90]}
    rows = []
    for name, squares in sides.items():
        labels = np.zeros((100, 100), np.uint16)
        for number, side in enumerate(squares):
            labels[:side, 40 * number : 40 * number + side] = 2 * number + 1
        write_bytes(dataset.labels(name), encode_labels_png(labels))
        rows.append((name, "test" if name == "test" else "train", 100, 100, len(squares)))
    write_table(dataset.manifest, pd.DataFrame(rows, columns=["image_id", "split", "height", "width", "n_nuclei"]))
    assert measure_trained(run, config) == {"nuclei": 3, "median_diameter_px": pytest.approx(22.57)}
    assert trained_diameter(run, config) == pytest.approx(22.57)
    with pytest.raises(UserError, match="no nuclei"):
        describe_trained([np.zeros((3, 3), int)])


def test_the_published_bundle_knows_the_size_of_its_nuclei(tmp_path):
    run = find_run(find_default())
    assert 15 < trained_diameter(run, Config()) < 25
    shutil.copytree(run.folder, tmp_path / "a")
    (tmp_path / "a/nuclei.json").unlink()
    with pytest.raises(UserError, match="does not say how large"):
        trained_diameter(Run("a", tmp_path), Config())


def test_nuclei_three_times_as_large_are_found_and_measured_in_the_image_s_own_pixels():
    image, truth = make_image("dark_fluorescence_small", (96, 96), np.random.default_rng(1))
    large = cv2.resize(image, None, fx=3, fy=3, interpolation=cv2.INTER_CUBIC)
    diameter = 3 * float(np.median(equivalent_diameters(truth)))
    segmenter = Segmenter(diameter=diameter)
    predictor, seen = segmenter.predictor, []

    def segment(resized):
        seen.append(resized.shape[0])
        return predictor.segment(resized)

    segmenter.predictor = SimpleNamespace(trained_diameter=predictor.trained_diameter, segment=segment)
    labels, table = segmenter.segment(large)
    assert seen == [round(288 * predictor.trained_diameter / diameter)]
    assert labels.shape == large.shape[:2]
    assert labels.max() == truth.max()
    assert np.median(equivalent_diameters(labels)) == pytest.approx(diameter, rel=0.1)
    assert table["area_px"].tolist() == np.bincount(labels.ravel())[1:].tolist()
