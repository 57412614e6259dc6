"""Every export, read back by another reader, gives the same masks, and measures say what was drawn."""

import hashlib
import io
import json
import zipfile

import numpy as np
import pandas as pd
import pytest
import shapely
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from roifile import ROI_TYPE, ImagejRoi
from scipy import ndimage
from skimage.draw import polygon2mask
from skimage.measure import regionprops_table

from nuclei.data.images import stretch_contrast
from nuclei.data.labels import find_outlines
from nuclei.data.synthetic import make_image
from nuclei.inference.exports import (
    OUTLINE_COLOURS,
    draw_outlines,
    encode_tiff,
    number_colours,
    to_coco,
    to_coco_results,
    to_geojson,
    to_rois,
)
from nuclei.inference.measures import measure_nuclei
from nuclei.inference.outlines import trace_outlines, unite_pixels

# pycocotools 2.0.11 asks numpy for a copy in the way of numpy 1.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
SHAPE = (24, 40)
label_images = arrays(np.int32, st.tuples(st.integers(1, 8), st.integers(1, 8)), elements=st.integers(0, 3))


def hard_nuclei() -> np.ndarray:
    """Draw two nuclei that touch, one on the frame, one with a hole, one of one pixel and one of two pieces."""
    labels = np.zeros(SHAPE, np.int32)
    labels[3:10, 5:12], labels[3:10, 12:20] = 1, 2
    labels[14:24, 0:6] = 4
    labels[13:20, 20:30] = 5
    labels[15:18, 23:26] = 0
    labels[11, 35] = 7
    labels[2:5, 30:33] = labels[5:7, 33:35] = 300
    return labels


CASES = {
    "hard": hard_nuclei(),
    "drawn": make_image("purple_on_white", (64, 80), np.random.default_rng(3))[1],
    "empty": np.zeros(SHAPE, np.int32),
    "full": np.ones(SHAPE, np.int32),
}


@pytest.fixture(params=CASES)
def labels(request):
    return CASES[request.param]


def fill_rings(rings, shape) -> np.ndarray:
    """Fill rings of x, y along pixel edges by the even-odd rule: a pixel is inside where its centre is."""
    inside = np.zeros(shape, bool)
    for ring in rings:
        inside ^= polygon2mask(shape, np.array(ring)[:, ::-1] - 0.5)
    return inside


def read_geojson(collection: dict, shape) -> np.ndarray:
    labels = np.zeros(shape, np.int32)
    for feature in json.loads(json.dumps(collection, allow_nan=False))["features"]:
        geometry = feature["geometry"]
        polygons = geometry["coordinates"] if geometry["type"] == "MultiPolygon" else [geometry["coordinates"]]
        assert all(ring[0] == ring[-1] and len(ring) >= 5 for polygon in polygons for ring in polygon)
        inside = fill_rings([ring for polygon in polygons for ring in polygon], shape)
        assert not labels[inside].any()
        labels[inside] = int(feature["properties"]["name"])
    return labels


def read_rois(data: bytes) -> dict[str, ImagejRoi]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name: ImagejRoi.frombytes(archive.read(name)) for name in archive.namelist()}


def paint_rois(data: bytes, shape) -> np.ndarray:
    labels = np.zeros(shape, np.int32)
    for name, roi in read_rois(data).items():
        assert name == f"{roi.name}.roi"
        labels[fill_rings(roi.coordinates(multi=True), shape)] = int(roi.name)
    return labels


def paint_coco(coco: COCO, number: int) -> list[np.ndarray]:
    return [coco.annToMask(annotation).astype(bool) for annotation in coco.imgToAnns[number]]


def load_coco(dataset: dict) -> COCO:
    coco = COCO()
    coco.dataset = json.loads(json.dumps(dataset))
    coco.createIndex()
    return coco


def describe(labels_of: dict[str, np.ndarray]) -> list[dict]:
    return [
        {"id": name, "file_name": f"{name}.png", "height": labels.shape[0], "width": labels.shape[1]}
        for name, labels in labels_of.items()
    ]


def test_tiff_holds_the_labels(labels):
    read = tifffile.imread(io.BytesIO(encode_tiff(labels)))
    assert read.dtype == np.uint16
    np.testing.assert_array_equal(read, labels)


def test_tiff_is_as_deep_as_the_labels_need_and_compressed():
    for most, depth in ((65535, np.uint16), (65536, np.uint32)):
        labels = np.full((200, 200), most)
        read = tifffile.imread(io.BytesIO(encode_tiff(labels)))
        assert read.dtype == depth
        assert (read == most).all()
        assert len(encode_tiff(labels)) < 1000
    with pytest.raises(ValueError, match=r"-1\.\.0"):
        encode_tiff(np.array([[-1, 0]]))


def test_polygons_filled_again_are_the_nuclei(labels):
    np.testing.assert_array_equal(read_geojson(to_geojson(trace_outlines(labels)), labels.shape), labels)


def test_rois_filled_again_are_the_nuclei(labels):
    np.testing.assert_array_equal(paint_rois(to_rois(trace_outlines(labels)), labels.shape), labels)


def test_what_users_have_opened_is_written_byte_for_byte_again():
    labels = CASES["hard"]
    digest = hashlib.sha256(json.dumps(to_geojson(trace_outlines(labels))).encode())
    with zipfile.ZipFile(
        io.BytesIO(to_rois(trace_outlines(labels)))
    ) as archive:  # unpacked: zlibs compress differently
        for entry in archive.infolist():
            digest.update(f"{entry.filename} {entry.date_time}".encode() + archive.read(entry))
    assert digest.hexdigest()[:16] == "8a6ab653d6ddff52"


@given(label_images)
@settings(max_examples=60)
def test_any_shape_survives_as_polygon_and_as_roi(labels):
    np.testing.assert_array_equal(read_geojson(to_geojson(trace_outlines(labels)), labels.shape), labels)
    np.testing.assert_array_equal(paint_rois(to_rois(trace_outlines(labels)), labels.shape), labels)
    for label, outline in trace_outlines(labels).items():
        assert outline.is_valid
        assert outline.area == (labels == label).sum()


@given(label_images)
@settings(max_examples=150)
def test_outlines_are_the_unions_of_the_pixels_point_by_point(labels):
    united = {
        number: shapely.orient_polygons(unite_pixels(labels, number, window))
        for number, window in enumerate(ndimage.find_objects(labels), start=1)
        if window
    }
    traced = trace_outlines(labels)
    assert list(traced) == list(united)
    assert [one.wkt for one in traced.values()] == [one.wkt for one in united.values()]


def test_nested_rings_belong_to_what_is_around_them():
    labels = np.zeros((15, 15), np.int32)
    for side, value in ((13, 1), (11, 0), (9, 1), (7, 0), (3, 1)):
        start = (15 - side) // 2
        labels[start : start + side, start : start + side] = value
    outline = trace_outlines(labels)[1]
    assert sorted((part.area, len(part.interiors)) for part in outline.geoms) == [(9, 0), (32, 1), (48, 1)]


def test_an_outline_has_corners_only_and_holes_are_inner_rings():
    rings = {f["properties"]["name"]: f["geometry"] for f in to_geojson(trace_outlines(hard_nuclei()))["features"]}
    assert rings["7"]["coordinates"] == [[[35, 11], [36, 11], [36, 12], [35, 12], [35, 11]]]
    outer, hole = rings["5"]["coordinates"]
    assert len(outer) == len(hole) == 5
    assert min(hole) == [23, 15]
    assert max(hole) == [26, 18]
    assert rings["300"]["type"] == "MultiPolygon"


def test_features_have_the_fields_that_qupath_reads():
    labels = hard_nuclei()
    image = np.full((*SHAPE, 3), 7, np.uint8)
    for feature in to_geojson(trace_outlines(labels), measure_nuclei(labels, image), "annotation")["features"]:
        properties = feature["properties"]
        assert feature["type"] == "Feature"
        assert properties["objectType"] == "annotation"
        assert properties["classification"]["name"] == "Nucleus"
        assert len(properties["classification"]["color"]) == 3
        assert properties["measurements"]["area_px"] == (labels == int(properties["name"])).sum()
        assert properties["measurements"]["gray_mean_raw"] == 7
        assert {type(value) for value in properties["measurements"].values()} == {float}
    assert to_geojson(trace_outlines(labels))["features"][0]["properties"]["measurements"] == {"area_px": 49}


def test_what_does_not_fit_geojson_is_refused():
    labels = hard_nuclei()
    with pytest.raises(ValueError, match="detection, annotation"):
        to_geojson(trace_outlines(labels), object_type="cell")
    with pytest.raises(ValueError, match="label 300"):
        to_geojson(
            trace_outlines(labels), measure_nuclei(np.where(labels == 300, 0, labels), np.zeros((*SHAPE, 3), np.uint8))
        )


def test_rois_of_one_piece_are_traced_polygons_and_the_bytes_are_the_same_each_time():
    rois = read_rois(to_rois(trace_outlines(hard_nuclei())))
    assert [name for name, roi in rois.items() if roi.composite] == ["00005.roi", "00300.roi"]
    assert {roi.roitype for roi in rois.values() if not roi.composite} == {ROI_TYPE.TRACED}
    assert to_rois(trace_outlines(hard_nuclei())) == to_rois(trace_outlines(hard_nuclei()))


def test_coco_gives_every_image_its_masks_and_keeps_its_name():
    dataset = to_coco(describe(CASES), [(name, labels, None) for name, labels in CASES.items()])
    coco = load_coco(dataset)
    assert [type(number) for number in coco.imgs] == [int] * len(CASES)
    for number, image in coco.imgs.items():
        labels = CASES[image["file_name"].removesuffix(".png")]
        present = np.unique(labels[labels > 0])
        masks = paint_coco(coco, number)
        assert len(masks) == len(present)
        for mask, label, annotation in zip(masks, present, coco.imgToAnns[number], strict=True):
            np.testing.assert_array_equal(mask, labels == label)
            y, x = np.nonzero(mask)
            assert annotation["area"] == mask.sum()
            assert annotation["iscrowd"] == 0
            assert "score" not in annotation
            assert annotation["bbox"] == [x.min(), y.min(), np.ptp(x) + 1, np.ptp(y) + 1]
    assert len(coco.anns) == len(dataset["annotations"])
    assert [category["name"] for category in coco.cats.values()] == ["nucleus"]


def test_coco_results_are_loaded_beside_the_truth_and_scored_by_it():
    images, truth = describe(CASES), [(name, labels, None) for name, labels in CASES.items()]
    coco = load_coco(to_coco(images, truth))
    hard = CASES["hard"]
    scores = np.linspace(0.1, 0.6, 6)
    results = to_coco_results(images, [("drawn", CASES["drawn"], None), ("hard", hard, scores)])
    loaded = coco.loadRes(json.loads(json.dumps(results)))
    assert [a["score"] for a in loaded.imgToAnns[1]] == pytest.approx(scores)
    assert {a["score"] for a in loaded.imgToAnns[2]} == {1.0}
    for mask, label in zip(paint_coco(loaded, 1), np.unique(hard[hard > 0]), strict=True):
        np.testing.assert_array_equal(mask, hard == label)
    evaluation = COCOeval(coco, loaded, "segm")
    evaluation.params.imgIds = [1, 2]
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    assert evaluation.stats[0] == pytest.approx(1)
    scored = to_coco(images, [("hard", hard, scores)])["annotations"]
    assert [a["score"] for a in scored] == pytest.approx(scores)


@pytest.mark.parametrize(
    ("item", "message"),
    [
        (("other", CASES["hard"], None), "other is not among"),
        (("hard", CASES["hard"][1:], None), "have shape"),
        (("hard", CASES["hard"], [0.5]), "1 scores for 6"),
    ],
)
def test_what_does_not_belong_to_the_dataset_is_refused(item, message):
    with pytest.raises(ValueError, match=message):
        to_coco(describe(CASES), [item])


def test_images_listed_twice_are_refused():
    with pytest.raises(ValueError, match="list each image once"):
        to_coco(describe(CASES) * 2, [])


# What regionprops_table calls what is measured.
REFERENCE = {
    "label": "label",
    "centroid-0": "centroid_y_px",
    "centroid-1": "centroid_x_px",
    "area": "area_px",
    "equivalent_diameter_area": "equivalent_diameter_px",
    "axis_major_length": "major_axis_px",
    "axis_minor_length": "minor_axis_px",
    "eccentricity": "eccentricity",
    "solidity": "solidity",
    "perimeter": "perimeter_px",
    "orientation": "orientation_rad",
    "bbox-0": "box_top_px",
    "bbox-1": "box_left_px",
    "bbox-2": "box_bottom_px",
    "bbox-3": "box_right_px",
    "intensity_mean-0": "gray_mean_raw",
    "intensity_std-0": "gray_std_raw",
    "intensity_mean-1": "red_mean_raw",
    "intensity_mean-2": "green_mean_raw",
    "intensity_mean-3": "blue_mean_raw",
}


def assert_as_regionprops(labels, gray):
    """Compare measures with skimage's, on which they are defined, to the last digits that rounding leaves alone."""
    properties = sorted({name.split("-")[0] for name in REFERENCE})
    expected = pd.DataFrame(regionprops_table(labels, np.dstack([gray] * 4), properties))
    expected = expected[list(REFERENCE)].rename(columns=REFERENCE)
    found = measure_nuclei(labels, gray)
    assert list(found)[: len(expected.columns)] == list(expected)
    # Rounding decides which way a nucleus points that is as long as it is wide.
    pointed = expected["major_axis_px"] - expected["minor_axis_px"] > 1e-5
    for name in expected:
        if name == "orientation_rad":  # −π/2 is π/2
            turned = np.sin(found[name] - expected[name])[pointed]
            np.testing.assert_allclose(turned, 0, atol=1e-8)
            continue
        tolerance = 1e-6 if name in ("minor_axis_px", "eccentricity") else 1e-9  # roots of what rounding leaves of 0
        np.testing.assert_allclose(found[name], expected[name], 1e-9, tolerance, err_msg=name)


@given(arrays(np.int32, st.tuples(st.integers(1, 14), st.integers(1, 14)), elements=st.integers(0, 2)))
@settings(max_examples=150)
def test_measures_of_any_shape_are_those_of_regionprops(labels):
    assert_as_regionprops(labels, np.arange(labels.size).reshape(labels.shape).astype(np.uint16))


@pytest.mark.parametrize("kind", ["dark_fluorescence_small", "purple_on_white"])
def test_measures_of_nuclei_are_those_of_regionprops(kind):
    image, labels = make_image(kind, (160, 200), np.random.default_rng(7))
    assert labels.max() > 10
    assert_as_regionprops(labels, image[..., 1])
    assert_as_regionprops(labels * 1000, image[..., 1].astype(np.float64) / 7)


def test_measures_are_those_of_the_drawn_nuclei():
    labels = hard_nuclei()
    image = np.random.default_rng(0).integers(0, 256, (*SHAPE, 3)).astype(np.uint8)
    table = measure_nuclei(labels, image).set_index("label")
    assert list(table.index) == [1, 2, 4, 5, 7, 300]
    for label, row in table.iterrows():
        y, x = np.nonzero(labels == label)
        assert row["area_px"] == len(y)
        assert (row["centroid_y_px"], row["centroid_x_px"]) == pytest.approx((y.mean(), x.mean()))
        box = row[["box_top_px", "box_left_px", "box_bottom_px", "box_right_px"]]
        assert list(box) == [y.min(), x.min(), y.max() + 1, x.max() + 1]
        assert list(row[["red_mean_raw", "green_mean_raw", "blue_mean_raw"]]) == pytest.approx(
            list(image[y, x].mean(axis=0))
        )
        gray = image[y, x] @ [0.299, 0.587, 0.114]
        assert row["gray_mean_raw"] == pytest.approx(gray.mean(), abs=0.5)
        assert row["gray_std_raw"] == pytest.approx(gray.std(), abs=0.5)
    assert list(table.index[table["touches_frame"]]) == [4]
    assert table.loc[1, "solidity"] == 1 > table.loc[5, "solidity"]
    assert abs(table.loc[2, "orientation_rad"]) == pytest.approx(np.pi / 2)
    assert table.loc[2, "major_axis_px"] == pytest.approx(4 * np.arange(8).std())
    assert table.loc[7, "equivalent_diameter_px"] == pytest.approx(np.sqrt(4 / np.pi))


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "uint32", "float32", "float64"])
def test_intensities_are_in_the_units_of_the_image_whatever_its_type(dtype):
    labels = hard_nuclei()
    gray = np.random.default_rng(0).integers(0, 120, SHAPE).astype(dtype)
    table = measure_nuclei(labels, gray).set_index("label")
    for label in table.index:
        inside = gray[labels == label]
        assert table.loc[label, "gray_mean_raw"] == table.loc[label, "blue_mean_raw"] == pytest.approx(inside.mean())
    colours = measure_nuclei(labels, np.dstack([gray, gray, gray])).set_index("label")
    np.testing.assert_allclose(colours["gray_mean_raw"], table["gray_mean_raw"], rtol=1e-6)


def test_measures_are_also_in_micrometres_where_the_pixel_size_is_known():
    labels, image = hard_nuclei(), np.zeros(SHAPE, np.uint16)
    in_px, in_um = measure_nuclei(labels, image), measure_nuclei(labels, image, 0.5)
    np.testing.assert_allclose(in_um["area_um2"], in_px["area_px"] / 4)
    np.testing.assert_allclose(in_um["major_axis_um"], in_px["major_axis_px"] / 2)
    added = {"area_um2", *(f"{n}_um" for n in ("centroid_y", "centroid_x", "equivalent_diameter", "perimeter"))}
    assert set(in_um) - set(in_px) == added | {"major_axis_um", "minor_axis_um"}


def test_an_image_without_nuclei_has_a_table_with_the_same_columns():
    image = np.zeros((*SHAPE, 3), np.uint8)
    empty, some = measure_nuclei(CASES["empty"], image), measure_nuclei(hard_nuclei(), image)
    assert len(empty) == 0
    assert list(empty.columns) == list(some.columns)
    with pytest.raises(ValueError, match="of their size"):
        measure_nuclei(hard_nuclei(), image[1:])


def test_outlines_are_drawn_on_the_nuclei_alone_and_the_image_is_brightened():
    image, labels = make_image("dark_fluorescence_small", (80, 96), np.random.default_rng(1))
    before = image.copy()
    drawn = draw_outlines(image, labels)
    edge = find_outlines(labels)
    assert drawn.shape == image.shape
    assert drawn.dtype == np.uint8
    np.testing.assert_array_equal(image, before)
    np.testing.assert_array_equal(drawn[~edge], stretch_contrast(image)[~edge])
    for label in np.unique(labels[labels > 0]):
        colours = np.unique(drawn[edge & (labels == label)], axis=0)
        assert len(colours) == 1
        assert colours[0] in OUTLINE_COLOURS
    np.testing.assert_array_equal(draw_outlines(image, 0 * labels), stretch_contrast(image))


def test_nuclei_that_do_not_quite_touch_have_different_colours_too():
    colours = number_colours(np.repeat(np.int32([[1, 1, 0, 0, 0, 0, 2, 2, 2, 0, 0, 5]]), 4, axis=0))
    assert colours[1] != colours[2]
    assert colours[2] != colours[5]


@given(st.integers(0, 10_000))
@settings(max_examples=20)
def test_neighbours_have_different_colours(seed):
    rng = np.random.default_rng(seed)
    places = rng.integers(0, 40, (30, 2))
    rows, columns = np.indices((40, 40))
    distance = np.hypot(rows[..., None] - places[:, 0], columns[..., None] - places[:, 1])
    numbers = 1 + rng.permutation(60)[:30]
    labels = numbers[distance.argmin(axis=2)] * (rng.random((40, 40)) < 0.98)
    colours = number_colours(labels)[labels]
    for a, b in ((np.s_[:, :-1], np.s_[:, 1:]), (np.s_[:-1], np.s_[1:])):
        meet = (labels[a] != labels[b]) & (labels[a] > 0) & (labels[b] > 0)
        assert meet.any()
        assert (colours[a] != colours[b])[meet].all()
