"""A large image given to predict-images: read, segmented and written piece by piece, with the results of the whole."""

import io
import json

import cv2
import numpy as np
import pandas as pd
import pytest
import shapely
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.measure import label

from nuclei.data.axes import View
from nuclei.data.microscope import measure_size, read_picture
from nuclei.data.slides import Plane, sample_plane, shrink_plane, unpack
from nuclei.errors import UserError
from nuclei.inference import label_zarr
from nuclei.inference import segment_files as module
from nuclei.inference import segment_slide as slides
from nuclei.inference.bundle import find_default
from nuclei.inference.gallery import VIEWS
from nuclei.inference.image_files import Reading, find_images
from nuclei.inference.predictor import Survey
from nuclei.inference.records import check_formats
from nuclei.inference.segment_files import check_failures, segment_files
from nuclei.inference.up_to_date import FAILED, MADE, UP_TO_DATE
from nuclei.runs.files import file_hash

TILE_PX = 256


class Bright:
    """Stand for a Predictor: pixels above half of the range are nuclei."""

    novelty = None
    trained_diameter = 10.0

    def survey(self, parts, middle, n_pixels):  # noqa: ARG002 (as a Predictor takes it)
        return Survey(sample=np.concatenate(parts, axis=1))

    def segment(self, image, of_competition=False, survey=None):  # noqa: ARG002 (as a Predictor takes it)
        labels = label(image[..., 0] > 127, connectivity=1).astype(np.int32)
        return labels, np.linspace(0, 1, labels.max(), dtype=np.float32)


def draw(shape, seed=0):
    rng = np.random.default_rng(seed)
    image = np.full(shape, 100, np.uint16) + rng.integers(0, 20, shape).astype(np.uint16)
    for y, x in zip(rng.integers(0, shape[0], 150), rng.integers(0, shape[1], 150), strict=True):
        cv2.circle(image, (int(x), int(y)), int(rng.integers(3, 12)), 4000, -1)
    return image


@pytest.fixture
def project(tmp_path, monkeypatch):
    """Give a folder with a slide of 600 x 700, in tiles of its own, as `in/slide.tif`."""
    for one in (module, slides):
        monkeypatch.setattr(one, "load_predictor", lambda *key: Bright())
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in").mkdir()
    tifffile.imwrite(tmp_path / "in/slide.tif", draw((600, 700)), tile=(128, 128), compression="zlib")
    return tmp_path


def segment(folder, tile=TILE_PX, **options):
    return segment_files(
        find_images([folder / "in"]), find_default(), folder / "out", Reading(tile=tile), jobs=1, **options
    )


def test_a_slide_has_the_results_of_the_whole_image(project):
    summary = segment(project)
    assert summary["state"].tolist() == [MADE]
    labels = tifffile.imread(project / "out/slide_labels.tif")
    tiled = {path.name: path.read_bytes() for path in (project / "out").iterdir() if path.is_file()}
    with tifffile.TiffFile(project / "out/slide_labels.tif") as tiff:
        assert tiff.pages[0].is_tiled
        assert tiff.pages[0].compression == 8
    whole = segment(project, tile=0)
    assert whole["why"].tolist() == [f"tile: {TILE_PX} -> 0"]
    expected = tifffile.imread(project / "out/slide_labels.tif")
    pairs = np.unique(np.stack([labels.ravel(), expected.ravel()]), axis=1)
    assert pairs.shape[1] == len(np.unique(labels)) == len(np.unique(expected))
    table = pd.read_csv(project / "out/slide_nuclei.csv", index_col="label").drop(columns="predicted_iou")
    assert len(table) == summary["nuclei"][0] == labels.max()
    own = pd.read_csv(io.BytesIO(tiled["slide_nuclei.csv"]), index_col="label").drop(columns="predicted_iou")
    own.index = [dict(pairs.T.tolist())[one] for one in own.index]
    pd.testing.assert_frame_equal(own.sort_index(), table, check_exact=True, check_names=False)
    features = json.loads(tiled["slide.geojson"])["features"]
    assert len(features) == labels.max()
    areas = {int(one["properties"]["name"]): one["properties"]["measurements"]["area_px"] for one in features}
    assert areas == dict(enumerate(np.bincount(labels.ravel())[1:].tolist(), start=1))
    for one in features[::7]:
        shape = shapely.geometry.shape(one["geometry"])
        y, x = np.nonzero(labels == int(one["properties"]["name"]))
        assert shape.area == len(y)
        assert shapely.contains_xy(shape, x + 0.5, y + 0.5).all()
    for key in ("normalisation", "values", "axes"):
        assert summary[key].tolist() == whole[key].tolist()
    assert "slide_rois.zip" not in tiled
    assert (project / "out/slide_rois.zip").is_file()
    segment(project)
    assert not (project / "out/slide_rois.zip").exists()
    assert slides.NO_ROIS in summary["notes"][0]


def test_what_is_up_to_date_is_not_made_again_and_what_is_damaged_is(project):
    segment(project)
    assert segment(project)["state"].tolist() == [UP_TO_DATE]
    assert not list((project / "out").glob(".*.tiles"))
    for file in ("slide_labels.tif", "slide_nuclei.csv", f"{VIEWS}/slide.js"):
        path = project / "out" / file
        whole = path.read_bytes()
        path.write_bytes(whole[:-20])
        summary = segment(project)
        assert summary["why"].tolist() == [f"{file} is damaged or was changed"]
        assert path.read_bytes() == whole


def test_a_killed_call_goes_on_at_the_tile_where_it_was_stopped(project, monkeypatch):
    seen = []

    def die_at_fifth(predictor, slide, tile):
        if len(seen) == 4:
            raise KeyboardInterrupt
        seen.append(tile)
        return find(predictor, slide, tile)

    find = slides.segment_tile
    monkeypatch.setattr(slides, "segment_tile", die_at_fifth)
    with pytest.raises(KeyboardInterrupt):
        segment(project)
    again = []
    monkeypatch.setattr(slides, "segment_tile", lambda *given: again.append(given[2]) or find(*given))
    assert segment(project)["why"].tolist() == ["unfinished"]
    assert len(seen) == 4
    assert len(again) == 9 - 4
    assert not {str(tile) for tile in seen} & {str(tile) for tile in again}
    # What they have in common is taken in anew where it was damaged since.
    del seen[:], again[:]
    monkeypatch.setattr(slides, "segment_tile", die_at_fifth)
    with pytest.raises(KeyboardInterrupt):
        segment(project, force=True)
    for name in ("pixels.npy", "common.json"):
        path = project / "out/.slide.tiles" / name
        path.write_bytes(path.read_bytes()[:-100])
    monkeypatch.setattr(slides, "segment_tile", lambda *given: again.append(given[2]) or find(*given))
    assert segment(project)["state"].tolist() == [MADE]
    assert len(again) == 9 - 4
    # Tiles of another image, or of other settings, are not taken.
    del seen[:]
    tifffile.imwrite(project / "in/slide.tif", draw((600, 700), 1), tile=(128, 128))
    monkeypatch.setattr(slides, "segment_tile", die_at_fifth)
    with pytest.raises(KeyboardInterrupt):
        segment(project)
    tifffile.imwrite(project / "in/slide.tif", draw((600, 700), 2), tile=(128, 128))
    del again[:]
    monkeypatch.setattr(slides, "segment_tile", lambda *given: again.append(given[2]) or find(*given))
    segment(project)
    assert len(again) == 9


def test_a_damaged_slide_is_listed_and_the_others_are_done(project):
    data = (project / "in/slide.tif").read_bytes()
    (project / "in/cut.tif").write_bytes(data[: len(data) // 2])
    summary = segment(project)
    assert dict(zip(summary["image"], summary["state"], strict=True)) == {"cut": FAILED, "slide": MADE}
    with pytest.raises(UserError, match="cut.tif"):
        check_failures(summary)


def test_memory_is_asked_for_by_tiles_alone(project, monkeypatch):
    sizes = []
    read = Plane.__getitem__

    def note(plane, window):
        found = read(plane, window)
        sizes.append(found.shape[0] * found.shape[1])
        return found

    monkeypatch.setattr(Plane, "__getitem__", note)
    monkeypatch.setattr("nuclei.data.slides.BLOCK_PX", 10_000)
    monkeypatch.setattr("nuclei.inference.slide.MARGIN_PX", 40)
    monkeypatch.setattr("nuclei.inference.slide.WINDOW_PX", 100)
    monkeypatch.setattr("nuclei.inference.segment_slide.LABELS_TILE_PX", 64)
    segment(project)
    assert max(sizes) <= max((TILE_PX + 80) ** 2, 512**2, 64 * 700)


RNG = np.random.default_rng(0)
GRAY = RNG.integers(0, 60000, (100, 120)).astype(np.uint16)
COLOURS = RNG.integers(0, 255, (100, 120, 3)).astype(np.uint8)
REAL = RNG.normal(size=(100, 120)).astype(np.float32)
REAL[3, 4], REAL[50, 60] = np.nan, np.inf
TIFFS = {
    "tiles": (GRAY, View(), {"tile": (32, 32), "compression": "zlib"}),
    "strips": (GRAY, View(), {"rowsperstrip": 7, "compression": "lzw"}),
    "big endian": (GRAY, View(), {"byteorder": ">"}),
    "RGB": (COLOURS, View(), {"tile": (64, 64), "photometric": "rgb"}),
    "one colour": (COLOURS, View("red"), {"tile": (64, 64), "photometric": "rgb"}),
    "planes of colours": (
        COLOURS.transpose(2, 0, 1).copy(),
        View(),
        {"photometric": "rgb", "planarconfig": "separate"},
    ),
    "hyperstack": (
        RNG.integers(0, 255, (4, 2, 100, 120)).astype(np.uint8),
        View("1"),
        {"imagej": True, "metadata": {"axes": "ZCYX"}},
    ),
    "OME": (
        RNG.integers(0, 255, (2, 4, 100, 120)).astype(np.uint8),
        View("1", "2"),
        {"ome": True, "tile": (32, 32), "metadata": {"axes": "CZYX"}},
    ),
    "real numbers": (REAL, View(), {"tile": (32, 32)}),
    "half precision": (REAL.astype(np.float16), View(), {"tile": (32, 32)}),
    "white is 0": (GRAY, View(), {"photometric": "miniswhite", "tile": (32, 32)}),
    "one bit": (GRAY > 30000, View(), {}),
    "palette": (COLOURS[..., 0], View(), {"colormap": RNG.integers(0, 65535, (3, 256)).astype(np.uint16)}),
    "CMYK": (RNG.integers(0, 255, (100, 120, 4)).astype(np.uint8), View(), {"photometric": "separated"}),
}


@pytest.mark.parametrize("name", TIFFS)
def test_a_tiff_is_unpacked_as_it_is_read(tmp_path, name):
    array, view, options = TIFFS[name]
    path = tmp_path / "x.tif"
    tifffile.imwrite(path, array, **options)
    whole, empty = read_picture(path, view), unpack(path, view, tmp_path / "x.npy")
    pixels = Plane(tmp_path / "x.npy")
    assert np.array_equal(whole.pixels, pixels[:, :])
    assert pixels.dtype == whole.pixels.dtype == empty.pixels.dtype
    assert measure_size(path, view) == pixels.shape[:2] == (100, 120)
    for key in ("axes", "channel", "plane", "pixel_size_um", "notes"):
        assert getattr(empty, key) == getattr(whole, key)


def test_the_first_level_of_a_pyramid_is_unpacked(tmp_path):
    with tifffile.TiffWriter(tmp_path / "p.ome.tif", ome=True) as tiff:
        tiff.write(GRAY, tile=(32, 32), subifds=1, metadata={"axes": "YX"})
        tiff.write(GRAY[::2, ::2], tile=(32, 32), subfiletype=1)
    unpack(tmp_path / "p.ome.tif", View(), tmp_path / "x.npy")
    assert np.array_equal(Plane(tmp_path / "x.npy")[:, :], GRAY)


def test_limits_hold_for_images_that_are_decoded_whole_and_for_segments(tmp_path, monkeypatch):
    monkeypatch.setattr("nuclei.data.axes.MAX_PIXELS", 2000)
    tifffile.imwrite(tmp_path / "tiles.tif", GRAY, tile=(32, 32))
    unpack(tmp_path / "tiles.tif", View(), tmp_path / "x.npy")
    tifffile.imwrite(tmp_path / "strip.tif", GRAY, compression="zlib", rowsperstrip=100)
    cv2.imwrite(str(tmp_path / "image.png"), GRAY)
    for name in ("strip.tif", "image.png"):
        with pytest.raises(UserError, match=f"{name} cannot be read: .*more than 2,000: save it as a tiled TIFF"):
            unpack(tmp_path / name, View(), tmp_path / "x.npy")
    monkeypatch.setattr("nuclei.data.axes.MAX_SLIDE_PIXELS", 10_000)
    with pytest.raises(UserError, match="more than 10,000: raise NUCLEI_MAX_SLIDE_PIXELS"):
        unpack(tmp_path / "tiles.tif", View(), tmp_path / "x.npy")


@settings(deadline=None, max_examples=20)
@given(shape=st.tuples(st.integers(1, 60), st.integers(1, 60)), longer=st.integers(1, 70))
def test_an_overview_is_the_means_of_squares(tmp_path_factory, shape, longer):
    path = tmp_path_factory.mktemp("plane") / "x.npy"
    image = RNG.integers(0, 255, shape).astype(np.uint8)
    plane = Plane.create(path, shape, np.uint8)
    plane[:, :] = image
    step = max(1, -(-max(shape) // longer))
    overview = shrink_plane(plane, shape, longer, lambda block: np.dstack([block] * 3))
    assert overview.shape[:2] == tuple(-(-n // step) for n in shape) == sample_plane(plane, step).shape
    assert np.array_equal(sample_plane(plane, step), image[::step, ::step])
    if not any(n % step for n in shape):
        means = image.reshape(shape[0] // step, step, shape[1] // step, step).mean(axis=(1, 3))
        assert np.abs(overview[..., 0] - means).max() <= 1


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_an_ome_zarr_is_read_as_the_tiff_of_its_values(project, version):
    zarr = pytest.importorskip("zarr")
    image = tifffile.imread(project / "in/slide.tif")
    stack = np.stack([image // 3, image])[None]  # C, Z, Y, X: the maximum is the image
    stack = np.concatenate([np.zeros_like(stack), stack])
    group = zarr.open_group(project / "in/z.zarr", mode="w", zarr_format=2 if version == "0.4" else 3)
    group.create_array("0", data=stack, chunks=(1, 1, 100, 150))
    scales = [{"type": "scale", "scale": [1, 1, 0.5, 0.5]}]
    units = [{"name": "c", "type": "channel"}, *({"name": n, "type": "space", "unit": "micrometer"} for n in "zyx")]
    described = {
        "multiscales": [{"axes": units, "datasets": [{"path": "0", "coordinateTransformations": scales}]}],
        "omero": {"channels": [{"label": "actin"}, {"label": "DAPI"}]},
    }
    group.attrs.update(described if version == "0.4" else {"ome": described})
    found = find_images([project / "in"])
    assert [source.name for source in found] == ["slide", "z"]
    reading = Reading(View("dapi"), tile=TILE_PX)
    summary = segment_files([found[1]], find_default(), project / "out", reading, jobs=1)
    assert summary["state"].tolist() == [MADE]
    assert summary["plane"].tolist() == ["max of 2"]
    assert summary["channel"].tolist() == ["1 DAPI"]
    assert summary["pixel_size_um"].tolist() == [0.5]
    tiled = tifffile.imread(project / "out/z_labels.tif")
    whole = segment_files([found[1]], find_default(), project / "out", Reading(View("dapi"), tile=0), jobs=1)
    assert whole["nuclei"].tolist() == summary["nuclei"].tolist() == [tiled.max()]
    segment(project)
    assert np.array_equal(tifffile.imread(project / "out/slide_labels.tif") > 0, tiled > 0)


def test_labels_as_ome_zarr_are_those_of_the_tiff_and_are_read_back(project, monkeypatch):
    zarr = pytest.importorskip("zarr")
    monkeypatch.setattr(label_zarr, "BLOCK_PX", 128)
    path = project / "out/slide_labels.zarr"
    reading = Reading(pixel_size_um=0.5, tile=TILE_PX, formats=("zarr",))

    def segment_as_zarr():
        return segment_files(find_images([project / "in"]), find_default(), project / "out", reading, jobs=1)

    assert segment_as_zarr()["state"].tolist() == [MADE]
    labels = tifffile.imread(project / "out/slide_labels.tif")
    group = zarr.open_group(path, mode="r")
    described = group.attrs["multiscales"][0]
    assert "image-label" in group.attrs
    assert [axis["name"] for axis in described["axes"]] == ["y", "x"]
    for number, level in enumerate(described["datasets"]):
        array, step = group[level["path"]], 2**number
        assert array.dtype == labels.dtype == np.uint16
        assert np.array_equal(array[:], labels[::step, ::step])
        assert level["coordinateTransformations"] == [{"type": "scale", "scale": [0.5 * step, 0.5 * step]}]
    assert max(array.shape) <= 128
    assert (path / "0/1/2").is_file()  # blocks are named by "/"
    picture = read_picture(path, View())
    assert np.array_equal(picture.pixels, labels)
    assert picture.pixel_size_um == 0.5
    # It is a result as all others: known by its content, mended where it was damaged, no image of its own.
    assert segment_as_zarr()["state"].tolist() == [UP_TO_DATE]
    before = file_hash(path)
    (path / "0/1/2").write_bytes(b"")
    assert segment_as_zarr()["why"].tolist() == ["slide_labels.zarr is damaged or was changed"]
    assert file_hash(path) == before
    (path / "1/0/0").unlink()
    assert segment_as_zarr()["why"].tolist() == ["slide_labels.zarr is damaged or was changed"]
    with pytest.raises(UserError, match="no images in"):
        find_images([project / "out"])
    # Not asked for any more it stays until the image is made again.
    assert segment(project)["why"].tolist() == ["pixel_size_um: 0.5 -> null"]
    assert not path.exists()


def test_an_ome_zarr_is_whole_or_is_not_there(project, monkeypatch):
    pytest.importorskip("zarr")
    reading = Reading(tile=TILE_PX, formats=("zarr",))
    given = find_images([project / "in"]), find_default(), project / "out", reading
    describe = label_zarr.describe_levels
    monkeypatch.setattr(label_zarr, "describe_levels", lambda *_: interrupt())
    with pytest.raises(KeyboardInterrupt):
        segment_files(*given, jobs=1)
    assert not list((project / "out").glob("*.zarr"))
    # What a kill leaves is removed by the next call.
    (project / "out/.1.partial.slide_labels.zarr/0").mkdir(parents=True)
    monkeypatch.setattr(label_zarr, "describe_levels", describe)
    assert segment_files(*given, jobs=1)["state"].tolist() == [MADE]
    assert [path.name for path in (project / "out").glob("*.zarr")] == ["slide_labels.zarr"]
    assert not list((project / "out").glob(".*.zarr"))


def interrupt():
    raise KeyboardInterrupt


def test_an_image_in_one_piece_has_the_same_ome_zarr(project):
    pytest.importorskip("zarr")
    for tile in (0, TILE_PX):
        reading = Reading(tile=tile, formats=("zarr",))
        segment_files(find_images([project / "in"]), find_default(), project / "out", reading, jobs=1)
        labels = tifffile.imread(project / "out/slide_labels.tif")
        assert np.array_equal(read_picture(project / "out/slide_labels.zarr", View()).pixels, labels)


def test_an_unknown_format_is_refused():
    with pytest.raises(UserError, match="unknown format 'n5'; valid: zarr"):
        check_formats(["zarr", "n5"])


def test_more_nuclei_than_16_bits_hold_are_written_with_32(tmp_path, monkeypatch):
    zarr = pytest.importorskip("zarr")
    monkeypatch.setattr(label_zarr, "BLOCK_PX", 64)
    labels = np.arange(300 * 230, dtype=np.uint32).reshape(300, 230)
    label_zarr.write_label_zarr(tmp_path / "x.zarr", labels, labels.shape, int(labels.max()), None)
    group = zarr.open_group(tmp_path / "x.zarr", mode="r")
    assert group["0"].dtype == np.uint32
    assert np.array_equal(group["2"][:], labels[::4, ::4])
    assert "unit" not in group.attrs["multiscales"][0]["axes"][0]
    assert "micrometer" not in str(group.attrs.asdict())
