"""An exported network gives what torch's gives, at any size, and says what it takes."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric

from nuclei.config.load import load_config
from nuclei.errors import UserError
from nuclei.inference.bundle import find_run
from nuclei.inference.onnx_file import PRODUCER, export_onnx
from nuclei.inference.predictor import load_network
from nuclei.runs.files import check_target
from nuclei.runs.layout import Run

PUBLISHED = Path(__file__).parents[2] / "ensembles/outside_mobilenets"  # whose bundle has networks of all folds


def test_the_exported_network_gives_what_torch_gives_at_two_sizes(tmp_path):
    pytest.importorskip("onnx", reason="the extra onnx is not installed")
    runtime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    path = export_onnx(PUBLISHED, 2, "outside_mobilenetv2", tmp_path / "a.onnx")
    assert [one.name for one in tmp_path.iterdir()] == ["a.onnx"]
    check_target(path, PRODUCER)  # an export may be replaced by the next
    (tmp_path / "b.onnx").write_bytes(b"others'")
    with pytest.raises(UserError, match=r"b\.onnx is not of this command"):
        export_onnx(PUBLISHED, 2, "outside_mobilenetv2", tmp_path / "b.onnx")
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    said = session.get_modelmeta().custom_metadata_map
    assert said["channels"] == "mask,border,center"
    assert (said["stride"], said["source"]) == ("32", "outside_mobilenetv2, fold 2")
    assert "0..255" in said["input"]
    run = Run("outside_mobilenetv2", find_run(PUBLISHED).folder.parent)
    network = load_network(Fabric(accelerator="cpu", devices=1), run, load_config(run.config), 2)
    for shape in ((1, 3, 96, 160), (2, 3, 192, 128)):
        image = np.random.default_rng(0).integers(0, 256, shape).astype(np.float32)
        with torch.inference_mode():
            expected = network(torch.from_numpy(image)).sigmoid().numpy()
        (found,) = session.run(["maps"], {"image": image})
        assert found.shape == (shape[0], 3, *shape[2:])
        assert expected.std() > 0.01
        np.testing.assert_allclose(found, expected, atol=1e-4)


def test_what_there_is_no_network_of_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("nuclei.inference.onnx_file.load_onnx", lambda: None)
    with pytest.raises(UserError, match="choose whose network by --member, outside_mobilenetv2 or outside_mobilenetv1"):
        export_onnx(PUBLISHED, 0)
    with pytest.raises(UserError, match="no network of fold 7: choose --fold, one of 0, 1, 2, 3"):
        export_onnx(PUBLISHED, 7, "outside_mobilenetv1")
    with pytest.raises(UserError, match="nowhere is no run"):
        export_onnx(tmp_path / "nowhere", 0)


def test_without_the_extra_its_name_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(UserError, match=r"pip install 'nuclei\[onnx\]'"):
        export_onnx(PUBLISHED, 0, "outside_mobilenetv1")
