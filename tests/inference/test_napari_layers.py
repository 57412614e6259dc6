"""Layers of napari hold the image, its labels and a row of features for each; without napari its extra is named."""

import signal
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import tifffile
import yaml
from typer.testing import CliRunner

from nuclei.cli import app
from nuclei.data.axes import Picture
from nuclei.data.images import encode_image_png
from nuclei.data.synthetic import make_image
from nuclei.errors import UserError
from nuclei.inference import napari_layers as module
from nuclei.inference.bundle import find_default
from nuclei.inference.exports import FORMATS
from nuclei.inference.image_files import Reading, find_images
from nuclei.inference.napari_layers import (
    build_layers,
    image_layer,
    labels_layer,
    load_napari,
    read_labels,
    wait_until_closed,
)
from nuclei.inference.segment_files import segment_files
from nuclei.inference.segmenter import Segmentation
from nuclei.runs.files import write_bytes

LABELS = np.array([[0, 1, 1], [2, 2, 0]], np.int32)
TABLE = pd.DataFrame({"label": [1, 2], "area_px": [2, 2], "predicted_iou": [0.5, 0.75]})


def test_features_have_a_row_for_each_label_and_the_background():
    data, settings, kind = labels_layer(Segmentation(LABELS, TABLE), "a nuclei", 0.5)
    assert (kind, settings["name"], settings["scale"]) == ("labels", "a nuclei", (0.5, 0.5))
    np.testing.assert_array_equal(data, LABELS)
    features = settings["features"]
    assert features["index"].tolist() == [0, 1, 2]
    assert features.columns[:2].tolist() == ["index", "predicted_iou"]
    assert features["predicted_iou"].tolist()[1:] == [0.5, 0.75]
    assert features["area_px"].isna().tolist() == [True, False, False]


@pytest.mark.parametrize("shape", [(4, 5), (4, 5, 3)])
def test_an_image_is_shown_in_its_own_values(shape):
    pixels = np.arange(np.prod(shape), dtype=np.uint16).reshape(shape)
    data, settings, kind = image_layer(Picture(pixels, "YX"), "a")
    assert data is pixels
    assert (kind, settings) == ("image", {"name": "a", "rgb": len(shape) == 3})


def test_a_gray_image_stored_as_rgb_is_shown_as_gray():
    gray = np.arange(20, dtype=np.uint8).reshape(4, 5)
    data, settings, _ = image_layer(Picture(np.dstack([gray] * 3), "YXS"), "a")
    np.testing.assert_array_equal(data, gray)
    assert not settings["rgb"]


def test_layers_of_a_file_and_those_read_from_its_results_are_alike(tmp_path):
    image = make_image("dark_fluorescence_small", (64, 80), np.random.default_rng(1))[0]
    write_bytes(tmp_path / "a.png", encode_image_png(image))
    shown, nuclei = build_layers(tmp_path / "a.png", find_default(), Reading())
    np.testing.assert_array_equal(shown[0], image[..., 0])  # a gray one
    assert nuclei[0].max() > 0
    assert nuclei[1]["features"]["index"].tolist() == list(range(nuclei[0].max() + 1))
    assert nuclei[1]["features"]["predicted_iou"][1:].between(0, 1).all()
    segment_files(find_images([tmp_path / "a.png"]), find_default(), tmp_path / "out", jobs=1)
    path = str(tmp_path / "out/a_labels.tif")
    read = read_labels(path)
    assert read is not None
    (layer,) = read(path)
    np.testing.assert_array_equal(layer[0], nuclei[0])
    pd.testing.assert_frame_equal(layer[1]["features"], nuclei[1]["features"], check_dtype=False)


def test_only_results_of_this_command_are_read(tmp_path):
    tifffile.imwrite(tmp_path / "b_labels.tif", LABELS)
    assert read_labels(str(tmp_path / "b_labels.tif")) is None
    assert read_labels([str(tmp_path / "b.png")]) is None


def test_the_manifest_names_what_exists():
    manifest = yaml.safe_load((Path(module.__file__).parents[1] / "napari.yaml").read_text())
    (command,) = manifest["contributions"]["commands"]
    package, _, name = command["python_name"].partition(":")
    assert getattr(sys.modules[package], name) is read_labels
    (reader,) = manifest["contributions"]["readers"]
    assert reader["command"] == command["id"]
    assert {pattern.lstrip("*") for pattern in reader["filename_patterns"]} <= set(FORMATS)


def test_without_napari_its_extra_is_named_before_anything_is_segmented(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "napari", None)
    with pytest.raises(UserError, match=r"pip install 'nuclei\[napari\]'"):
        load_napari()
    write_bytes(tmp_path / "a.png", encode_image_png(np.zeros((8, 8), np.uint8)))
    monkeypatch.setattr(module, "build_layers", lambda *_: pytest.fail("segmented"))
    result = CliRunner().invoke(app, ["napari", str(tmp_path / "a.png")])
    assert isinstance(result.exception, UserError)


def test_a_signal_ends_the_window_whose_loop_would_take_an_exception_for_a_message(monkeypatch):
    numbers = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
    before = {number: signal.signal(number, lambda *_: pytest.fail("handled")) for number in numbers}
    signal.signal(numbers[-1], signal.SIG_IGN)  # as SIGHUP is below nohup
    at_work: list[object] = []
    run = SimpleNamespace(run=lambda: at_work.extend(map(signal.getsignal, numbers)))
    monkeypatch.setitem(sys.modules, "napari", run)
    try:
        wait_until_closed()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert at_work == [*[signal.SIG_DFL] * (len(numbers) - 1), signal.SIG_IGN]
