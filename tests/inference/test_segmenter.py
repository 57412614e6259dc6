"""Segmenter gives what predict-images gives, writes nothing, and `import nuclei` brings neither torch nor pandas."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile
from shared_cases import find_case

import nuclei
from nuclei import Segmenter
from nuclei.data.axes import View
from nuclei.data.images import encode_image_png
from nuclei.data.microscope import read_picture
from nuclei.data.synthetic import make_image
from nuclei.errors import UserError
from nuclei.inference.bundle import find_default
from nuclei.inference.image_files import Reading, find_images
from nuclei.inference.segment_files import segment_files
from nuclei.inference.segmenter import as_pixels
from nuclei.runs.files import write_bytes

ENVIRONMENT = os.environ | {"PYTHONPATH": str(Path(nuclei.__file__).parents[1])}


@pytest.fixture(scope="module")
def segmenter():
    return Segmenter()


def assert_same_as_files(segmenter, path, folder, reading, pixels):
    segment_files(find_images([path]), find_default(), folder / "out", reading, jobs=1)
    labels, table = segmenter.segment(pixels, reading.pixel_size_um)
    written = tifffile.imread(folder / f"out/{path.stem}_labels.tif")
    assert labels.dtype == np.int32
    assert labels.max() > 0
    np.testing.assert_array_equal(labels, written)
    read = pd.read_csv(folder / f"out/{path.stem}_nuclei.csv")
    pd.testing.assert_frame_equal(table, read, check_dtype=False)
    assert list(table["label"]) == list(range(1, labels.max() + 1))
    assert table["predicted_iou"].between(0, 1).all()


def test_gray_colour_and_camera_images_give_what_files_give(segmenter, tmp_path):
    colour = make_image("purple_on_white", (64, 80), np.random.default_rng(3))[0]
    dark = make_image("dark_fluorescence_small", (64, 80), np.random.default_rng(1))[0][..., 0]
    camera = (dark.astype(np.uint16) * 9 + 1000).astype(np.uint16)
    write_bytes(tmp_path / "colour.png", encode_image_png(colour))
    tifffile.imwrite(tmp_path / "camera.tif", camera)
    tifffile.imwrite(tmp_path / "real.tif", camera.astype(np.float32) / 7)
    reading = Reading(pixel_size_um=0.4)
    for name, pixels in (("colour.png", colour), ("camera.tif", camera), ("real.tif", camera.astype(np.float32) / 7)):
        assert_same_as_files(segmenter, tmp_path / name, tmp_path, reading, pixels)
    assert not {path.suffix for path in Path.cwd().glob("nuclei_of_images*")}


def test_a_shared_case_gives_what_its_file_gives(segmenter, tmp_path):
    path = find_case("narrow16.png")
    assert_same_as_files(segmenter, path, tmp_path, Reading(), read_picture(path, View()).pixels)


def test_an_image_without_nuclei_gives_an_empty_table_with_all_columns(segmenter):
    labels, table = segmenter.segment(np.zeros((40, 50), np.float64))
    assert labels.shape == (40, 50)
    assert not labels.any()
    assert len(table) == 0
    assert {"label", "area_px", "gray_mean_raw", "predicted_iou"} <= set(table)


@pytest.mark.parametrize("shape", [(0, 5), (5,), (4, 4, 4), (3, 8, 8), (2, 3, 8, 8)])
def test_what_is_no_image_is_refused_by_its_shape(shape):
    with pytest.raises(UserError, match=r"neither gray, \[H, W\], nor RGB"):
        as_pixels(np.zeros(shape))


def test_values_are_read_as_those_of_files_are():
    assert as_pixels(np.array([[True, False]])).tolist() == [[255, 0]]
    assert as_pixels(np.array([[np.nan, 3.0, np.inf, 2.0]])).tolist() == [[2, 3, 2, 2]]
    assert as_pixels(np.zeros((2, 2), np.float16)).dtype == np.float32
    assert as_pixels(np.arange(4, dtype=np.longdouble).reshape(2, 2)).dtype == np.float64
    for kind in "efdgbBhHiIlLqQ?":
        for order in "<>":
            given = np.arange(6).reshape(2, 3).astype(np.dtype(kind).newbyteorder(order))
            pixels = as_pixels(given)
            assert pixels.dtype.isnative
            assert pixels.dtype.itemsize <= 8
            np.testing.assert_array_equal(pixels, given * 255 if kind == "?" else given)


@pytest.mark.parametrize("type_", [complex, "U1", "S1", object, "M8[s]", "m8[s]", [("a", "u1")]])
def test_values_that_are_no_real_numbers_are_refused(type_):
    with pytest.raises(UserError, match="real numbers"):
        as_pixels(np.zeros((2, 2), type_))


@pytest.mark.parametrize(
    "values",
    [
        np.full((2, 2), np.nan),
        np.full((2, 2), -np.inf),
        [[1, 2], [3]],
        np.ma.masked_greater(np.arange(4).reshape(2, 2), 2),
        None,
        "image.png",
    ],
)
def test_what_holds_no_values_or_hides_some_is_refused(values):
    with pytest.raises(UserError):
        as_pixels(values)


@pytest.mark.parametrize("size", [0, -1, float("nan"), float("inf"), "0.5", [1], True + 0j])
def test_a_pixel_of_no_size_is_refused(segmenter, size):
    with pytest.raises(UserError, match="µm is none"):
        segmenter.segment(np.zeros((8, 8)), size)


def test_weights_and_diameters_that_do_not_exist_are_named(tmp_path):
    with pytest.raises(UserError, match="nowhere is no run"):
        Segmenter(tmp_path / "nowhere")
    for diameter in (0, -3.0, "large", float("nan"), [3], {}):
        with pytest.raises(UserError, match="typical diameter in pixels, auto or none"):
            Segmenter(diameter=diameter)
    for tile in (-1, 1, 4096.5, "2080", [4096], True):
        with pytest.raises(UserError, match="or 0 for no tiles"):
            Segmenter(tile=tile)


def test_the_fast_network_is_one_of_its_own(segmenter):
    image, _ = make_image("dark_fluorescence_small", (96, 96), np.random.default_rng(3))
    fast = Segmenter(fast=True)
    assert fast.predictor.run.name == "fast"
    assert fast.segment(image).labels.max() > 0
    with pytest.raises(UserError, match="fast chooses the networks"):
        Segmenter(find_default(), fast=True)


def test_the_package_is_light_until_the_segmenter_is_asked_for():
    code = (
        "import sys, nuclei\n"
        "assert 'Segmenter' in dir(nuclei)\n"
        "heavy = {'torch', 'lightgbm', 'pandas', 'numpy', 'cv2', 'scipy'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
        "from nuclei import Segmenter\n"
        "assert Segmenter.__module__ == 'nuclei.inference.segmenter' and 'torch' in sys.modules\n"
        "try: nuclei.nothing\n"
        "except AttributeError as error: assert 'nothing' in str(error)\n"
        "else: sys.exit('no AttributeError')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
