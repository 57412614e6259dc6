"""Label images of other tools are found by image id, read however they number, and refused if they are none."""

import cv2
import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from nuclei.data.label_folder import LabelFolder, check_labels

SHAPE = (6, 8)
LABELS = np.zeros(SHAPE, np.int32)
LABELS[1:3, 1:3], LABELS[1:3, 3:6], LABELS[4, 4:7] = 7, 300, 12
NUMBERED = np.select([LABELS == 7, LABELS == 12, LABELS == 300], [1, 2, 3], 0)


@pytest.mark.parametrize("name", ["abc.png", "abc_labels.tif", "abc_cp_masks.png", "abc-mask.tiff", "deep/er/abc.TIF"])
def test_labels_are_found_by_the_id_and_numbered_from_one(tmp_path, name):
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".png":
        cv2.imwrite(str(path), LABELS.astype(np.uint16))
    else:
        tifffile.imwrite(path, LABELS.astype(np.uint32))
    (tmp_path / "abcd.png").write_bytes(b"another image's")
    (tmp_path / "._abc.png").write_bytes(b"what a Mac leaves")
    labels = LabelFolder(str(tmp_path)).read("abc", SHAPE)
    assert labels.dtype == np.int32
    np.testing.assert_array_equal(labels, NUMBERED)


def test_a_name_that_is_the_id_wins_over_one_that_begins_with_it(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", LABELS)
    tifffile.imwrite(tmp_path / "a_2.tif", np.zeros_like(LABELS))
    folder = LabelFolder(str(tmp_path))
    assert folder.read("a", SHAPE).max() == 3
    assert folder.read("a_2", SHAPE).max() == 0


def test_what_is_missing_or_ambiguous_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"labels\.folder: no folder .*gone; name the folder"):
        LabelFolder(str(tmp_path / "gone")).read("a", SHAPE)
    with pytest.raises(ValueError, match=r"labels\.folder: no label images in"):
        LabelFolder(str(tmp_path)).read("a", SHAPE)
    tifffile.imwrite(tmp_path / "a_one.tif", LABELS)
    tifffile.imwrite(tmp_path / "a_two.tif", LABELS)
    with pytest.raises(ValueError, match=r"one label image of a, a\.png or \.tif; it has a_one\.tif, a_two\.tif"):
        LabelFolder(str(tmp_path)).read("a", SHAPE)
    with pytest.raises(ValueError, match="one label image of b.* it has none"):
        LabelFolder(str(tmp_path)).read("b", SHAPE)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (LABELS[:-1], r"is \(5, 8\), its image \(6, 8\)"),
        (np.dstack([LABELS] * 3), r"is \(6, 8, 3\), its image"),
        (LABELS * 0.5, "holds fractions"),
        (np.where(LABELS > 0, np.nan, 0.0), "holds fractions"),
        (-LABELS, "holds int32 from -300: labels are whole numbers from 0 on"),
        (255 * (LABELS > 0).astype(np.uint8), "is a mask: its 2 objects all have the value 255"),
        ((LABELS > 0).astype(np.uint8), "is a mask: its 2 objects all have the value 1"),
    ],
)
def test_what_are_no_labels_is_refused_by_name(values, said):
    with pytest.raises(ValueError, match="file.tif " + said):
        check_labels(values, SHAPE, "file.tif")


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_a_damaged_file_is_named(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    if suffix == ".png":
        cv2.imwrite(str(path), LABELS.astype(np.uint16))
    else:
        tifffile.imwrite(path, LABELS, compression="zlib")
    whole = path.read_bytes()
    for part in (whole[: len(whole) // 2], b"", b"not an image at all"):
        path.write_bytes(part)
        with pytest.raises(ValueError, match=f"a{suffix}"):
            LabelFolder(str(tmp_path)).read("a", SHAPE)


@given(arrays(np.int64, SHAPE, elements=st.sampled_from([0, 1, 5, 65536, 2**40])))
def test_nuclei_stay_the_same_whatever_their_numbers(values):
    labels = check_labels(np.where(values == 0, 0, values + 1), SHAPE, "")
    assert sorted(np.unique(labels[labels > 0])) == list(range(1, labels.max() + 1))
    assert ((labels == 0) == (values == 0)).all()
    for value in np.unique(values):
        assert len(np.unique(labels[values == value])) == 1


def test_a_hash_changes_with_any_name_or_byte(tmp_path):
    def hash_now():
        return LabelFolder(str(tmp_path)).hash_files()

    tifffile.imwrite(tmp_path / "a.tif", LABELS)
    first = hash_now()
    assert hash_now() == first
    tifffile.imwrite(tmp_path / "b.tif", LABELS)
    second = hash_now()
    (tmp_path / "b.tif").rename(tmp_path / "c.tif")
    third = hash_now()
    tifffile.imwrite(tmp_path / "c.tif", np.zeros_like(LABELS))
    assert len({first, second, third, hash_now()}) == 4
