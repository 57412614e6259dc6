"""External sets in the layouts they are published in, and in a generic one, become images and labels."""

import cv2
import numpy as np
import pandas as pd
import pytest
import tifffile

from nuclei.data.external import (
    LAYOUTS,
    NOT_STATED,
    PUBLISHED_SETS,
    bring_to_scale,
    describe_set,
    explain_set,
    external_manifest,
    find_images,
    median_area,
    prepare_external,
    read_rights,
)
from nuclei.data.images import encode_image_png, encode_labels_png
from nuclei.errors import UserError

LABELS = np.zeros((24, 30), np.int32)
LABELS[2:8, 3:9], LABELS[2:8, 9:14], LABELS[12:20, 5:16] = 1, 2, 3  # 1 and 2 touch
IMAGE = np.random.default_rng(0).integers(0, 256, (24, 30, 3)).astype(np.uint8)


def write(path, data):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def write_tiff(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(path, array)


def write_sbsst265(folder):
    write_tiff(folder / "dataset/rawimages/Neuroblastoma_0.tif", IMAGE[..., 0])
    write_tiff(folder / "dataset/groundtruth/Neuroblastoma_0.tif", LABELS.astype(np.uint16))
    write(folder / "dataset/image_description.csv", b"Image_Name;Diagnosis\n")
    return "Neuroblastoma_0", LABELS


def write_tnbc(folder):
    write(folder / "TNBC/Slide_01/01_1.png", encode_image_png(IMAGE))
    write(folder / "TNBC/GT_01/01_1.png", encode_image_png((255 * (LABELS > 0)).astype(np.uint8)))
    write(folder / "__MACOSX/TNBC/Slide_01/._01_1.png", b"of an operating system")
    joined = np.where(LABELS == 3, 2, LABELS > 0)  # two that touch are one component
    return "01_1", joined


def write_nuinsseg(folder):
    write(folder / "human brain/tissue images/human_brain_01.png", encode_image_png(IMAGE))
    write_tiff(folder / "human brain/label masks modify/human_brain_01.tif", (10 * LABELS).astype(np.uint16))
    write_tiff(folder / "human brain/label masks/human_brain_01.tif", LABELS[:3].astype(np.uint16))
    return "human_brain_01", LABELS


def write_generic(folder):
    write(
        folder / "images/a.webp", cv2.imencode(".webp", IMAGE[..., ::-1], [cv2.IMWRITE_WEBP_QUALITY, 101])[1].tobytes()
    )
    write(folder / "labels/a.png", encode_labels_png(LABELS))
    return "a", LABELS


def write_masks(folder):
    write(folder / "images/a.png", encode_image_png(IMAGE))
    for label in (1, 2, 3):
        write(folder / f"masks/a/{label}.png", encode_image_png((255 * (label == LABELS)).astype(np.uint8)))
    return "a", LABELS


def same_nuclei(first, second):
    """Return whether two label images have the same nuclei, whatever their numbers."""
    pairs = {tuple(pair) for pair in np.stack([first.ravel(), second.ravel()], 1).tolist()}
    return (
        len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs}) and ((first > 0) == (second > 0)).all()
    )


@pytest.mark.parametrize(
    ("layout", "make"),
    [
        ("sbsst265", write_sbsst265),
        ("tnbc", write_tnbc),
        ("nuinsseg", write_nuinsseg),
        ("generic", write_generic),
        ("generic", write_masks),
    ],
)
def test_each_layout_is_recognised_and_read(tmp_path, layout, make):
    name, expected = make(tmp_path)
    found_layout, (found,) = find_images(tmp_path)
    assert (found_layout, found.name) == (layout, name)
    image, labels, row = prepare_external("some", layout, ("CC0", "me"), 1500, found)
    shown = IMAGE if layout != "sbsst265" else np.dstack([IMAGE[..., 0]] * 3)
    assert (image == shown).all()
    assert same_nuclei(labels, expected)
    assert sorted(np.unique(labels)) == list(range(expected.max() + 1))
    assert (row["height"], row["width"], row["n_nuclei"], row["scale"]) == (24, 30, expected.max(), 1)
    assert (row["set"], row["licence"], row["source"]) == ("some", "CC0", "me")


def test_the_content_of_a_row_sees_image_and_labels(tmp_path):
    def content():
        layout, (found,) = find_images(tmp_path)
        return prepare_external("some", layout, ("", ""), 1500, found)[2]["content"]

    write_generic(tmp_path)
    first = content()
    assert content() == first
    write(tmp_path / "labels/a.png", encode_labels_png(np.where(LABELS == 2, 1, LABELS)))
    second = content()
    write(tmp_path / "images/a.webp", encode_image_png(255 - IMAGE))
    assert len({first, second, content()}) == 3


@pytest.mark.parametrize(("make", "lost"), [(write_tnbc, "TNBC/GT_01/01_1.png"), (write_generic, "labels/a.png")])
def test_an_image_without_truth_is_named(tmp_path, make, lost):
    make(tmp_path)
    (tmp_path / lost).unlink()
    with pytest.raises(UserError, match=f"has no truth: put {tmp_path / lost} there"):
        find_images(tmp_path)


def test_a_folder_of_something_else_is_told_every_layout(tmp_path):
    write(tmp_path / "other/readme.txt", b"")
    with pytest.raises(UserError, match="holds no external images") as error:
        find_images(tmp_path)
    assert all(layout.sign in str(error.value) for layout in LAYOUTS.values())


def test_images_of_one_name_are_told_apart_by_their_folder(tmp_path):
    for organ in ("human brain", "mouse liver"):
        write(tmp_path / organ / "tissue images/01.png", encode_image_png(IMAGE))
        write_tiff(tmp_path / organ / "label masks modify/01.tif", LABELS.astype(np.uint16))
    assert [one.name for one in find_images(tmp_path)[1]] == ["human_brain_01", "mouse_liver_01"]


def test_names_that_only_look_different_are_refused(tmp_path):
    for name in ("a b", "a_b"):
        write(tmp_path / f"images/{name}.png", encode_image_png(IMAGE))
        write(tmp_path / f"labels/{name}.png", encode_labels_png(LABELS))
    with pytest.raises(UserError, match="two images a_b: rename one"):
        find_images(tmp_path)


def test_truth_of_another_size_is_refused(tmp_path):
    for make, truth in ((write_tnbc, "TNBC/GT_01/01_1.png"), (write_masks, "masks/a/1.png")):
        folder = tmp_path / make.__name__
        make(folder)
        write(folder / truth, encode_image_png(np.zeros((5, 5), np.uint8)))
        layout, (found,) = find_images(folder)
        with pytest.raises(UserError, match="size of their image|its image"):
            prepare_external("some", layout, ("", ""), 1500, found)


@pytest.mark.parametrize(("side", "scale"), [(30, 1), (38, 1), (39, 0.5), (77, 0.5), (78, 0.25)])
def test_nuclei_are_halved_until_they_are_of_the_competition_s_size(side, scale):
    labels = np.zeros((160, 240), np.int32)
    labels[20 : 20 + side, 10 : 10 + side], labels[20 : 20 + side, 120 : 120 + side] = 1, 2
    image = np.where(labels[..., None] > 0, 200, 20).astype(np.uint8).repeat(3, 2)
    small, small_labels, found = bring_to_scale(image, labels, 1500)
    assert found == scale
    assert small.shape == (160 * scale, 240 * scale, 3)
    assert small_labels.shape == small.shape[:2]
    assert median_area(small_labels) == pytest.approx(side**2 * scale**2, rel=0.06)
    assert median_area(small_labels) <= 1600
    assert (np.abs(small[..., 0].astype(int) - np.where(small_labels > 0, 200, 20)) <= 180).mean() > 0.99
    if scale == 1:
        assert (small_labels == labels).all()


def test_a_halved_image_is_the_mean_of_its_pixels_and_labels_have_no_gaps():
    image = np.random.default_rng(1).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    labels = np.zeros((64, 64), np.int32)
    labels[:, :32], labels[0, 40], labels[10:60, 40:64] = 1, 2, 3
    small, small_labels, scale = bring_to_scale(image, labels, 1100)
    assert scale == 0.5
    means = image.reshape(32, 2, 32, 2, 3).mean((1, 3))
    assert np.abs(small - means).max() <= 1
    assert np.unique(small_labels).tolist() in ([0, 1, 2], [0, 1, 2, 3])


def test_no_nuclei_are_never_too_large():
    empty = np.zeros((20, 20), np.int32)
    image, labels, scale = bring_to_scale(np.zeros((20, 20, 3), np.uint8), empty, 10)
    assert (image.shape, labels.max(), scale) == ((20, 20, 3), 0, 1)


def test_rights_come_from_the_index_else_from_the_published_set_else_from_nobody(tmp_path):
    assert read_rights("mine", tmp_path / "mine")("a") == (NOT_STATED, NOT_STATED)
    tnbc = PUBLISHED_SETS["tnbc"].licence, PUBLISHED_SETS["tnbc"].source
    assert read_rights("tnbc", tmp_path / "tnbc")("a") == tnbc
    write(tmp_path / "index.csv", b'name,data_set,licence,source\na,mine,CC0,"me, 2026"\na,tnbc,,there\n')
    assert read_rights("mine", tmp_path / "mine")("a") == ("CC0", "me, 2026")
    assert read_rights("mine", tmp_path / "mine")("b") == (NOT_STATED, NOT_STATED)
    assert read_rights("tnbc", tmp_path / "tnbc")("a") == (tnbc[0], "there")
    write(tmp_path / "mine/index.csv", b"name,licence,source\nb,MIT,you\n")
    assert read_rights("mine", tmp_path / "mine")("b") == ("MIT", "you")


def test_a_set_is_described_by_its_manifest():
    rows = [{"image_id": name, "n_nuclei": n, "licence": "CC0", "source": name} for name, n in (("b", 2), ("a", 3))]
    manifest = external_manifest(rows)
    assert manifest["image_id"].tolist() == ["a", "b"]
    assert describe_set(manifest) == {"images": 2, "nuclei": 5, "licence": "CC0", "source": "a; b"}


def test_what_to_put_where_is_said(tmp_path):
    text = explain_set("tnbc", tmp_path / "tnbc")
    assert f"{tmp_path / 'tnbc'}.zip, from {PUBLISHED_SETS['tnbc'].url} (CC BY 4.0)" in text
    assert "Slide_XX" in text
    assert ".zip" not in explain_set("mine", tmp_path / "mine")


@pytest.mark.parametrize("name", ["sbsst265", "tnbc", "nuinsseg"])
def test_published_samples_have_the_labels_of_their_generic_form(real_external, name):
    layout, samples = find_images(real_external / "original_layout_samples" / name)
    assert layout == name
    generic_layout, generic = find_images(real_external / name)
    assert generic_layout == "generic"
    index = pd.read_csv(real_external / "index.csv")
    assert {one.name for one in generic} == set(index.loc[index["data_set"] == name, "name"])
    of_name = {one.name: one for one in generic}
    rights = read_rights(name, real_external / name)
    compared = 0
    for one in samples:
        image, labels, row = prepare_external(name, layout, ("", ""), 1500, one)
        assert row["n_nuclei"] == labels.max() > 5
        other = of_name.get(one.name) or of_name.get(f"{name}_{one.name}")
        if not other:
            continue
        compared += 1
        again, other_labels, _ = prepare_external(name, "generic", rights(other.name), 1500, other)
        assert (image == again).all()
        assert same_nuclei(labels, other_labels)
        expected = index[(index["name"] == other.name) & (index["data_set"] == name)].iloc[0]
        assert (row["n_nuclei"], row["height"]) == (expected["n_nuclei"], expected["height"] * row["scale"])
    assert compared, [one.name for one in samples]
