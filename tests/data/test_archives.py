"""Archives give the same images from zip and folder, and every defect is an error that names the file."""

import hashlib
import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from joblib import Parallel, delayed
from shared_cases import find_case

from nuclei.data import archives
from nuclei.data.archives import (
    MANIFEST_COLUMNS,
    check_disjoint,
    find_archives,
    is_clutter,
    manifest_table,
    open_archive,
    prepare_image,
)
from nuclei.data.image_types import image_type
from nuclei.data.images import decode_image, encode_image_png
from nuclei.errors import UserError

IMAGE = encode_image_png(np.arange(48, dtype=np.uint8).reshape(6, 8))
LEFT, RIGHT = np.zeros((2, 6, 8), np.uint8)
LEFT[1:4, 1:4] = RIGHT[2:5, 5:7] = 255
FILES = {
    "a/images/a.png": IMAGE,
    "a/masks/1.png": encode_image_png(LEFT),
    "a/masks/2.png": encode_image_png(RIGHT),
    "b/images/b.png": IMAGE,
    "b/masks/1.png": encode_image_png(LEFT),
}


def write_zip(path, files):
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items() if isinstance(files, dict) else files:
            archive.writestr(name, data)
    return path


def write_folder(path, files):
    for name, data in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    return path


@pytest.mark.parametrize("write", [write_zip, write_folder])
def test_zip_and_folder_give_images_labels_and_manifest(tmp_path, write):
    archive = open_archive(write(tmp_path / "x", FILES), "train")
    assert archive.image_ids == ["a", "b"]
    image, labels, row = prepare_image(archive, "a")
    np.testing.assert_array_equal(image, decode_image(IMAGE, ""))
    np.testing.assert_array_equal(labels, (LEFT > 0) + 2 * (RIGHT > 0))
    assert row == {
        "image_id": "a",
        "split": "train",
        "height": 6,
        "width": 8,
        "cluster": image_type(image),
        "n_nuclei": 2,
        "overlap_px": 0,
        "empty_masks": 0,
        "wrong_shape_masks": 0,
        "split_masks": 0,
        "duplicate_masks": 0,
        "sha256": hashlib.sha256(IMAGE).hexdigest(),
    }


def test_test_images_have_no_labels_and_the_manifest_keeps_whole_numbers(tmp_path):
    path = write_zip(tmp_path / "x.zip", FILES)
    rows = [prepare_image(open_archive(path, split), "a") for split in ("test", "train")]
    assert rows[0][1] is None
    table = manifest_table([row for _, _, row in rows])
    assert tuple(table.columns) == MANIFEST_COLUMNS
    assert table["split"].tolist() == ["train", "test"]
    assert table.to_csv(index=False).splitlines()[1].startswith(f"a,train,6,8,{rows[1][2]['cluster']},2,0,")
    assert table["n_nuclei"].isna().tolist() == [False, True]


def test_clutter_and_a_folder_around_it_all_do_no_harm(tmp_path):
    files = {f"stage1_train/{name}": data for name, data in FILES.items()}
    names = (
        "__MACOSX/a/images/a.png",
        "stage1_train/a/masks/._1.png",
        "stage1_train/a/masks/Thumbs.db",
        ".DS_Store",
        "read.me",
    )
    clutter = dict.fromkeys(names, b"")
    for write in (write_zip, write_folder):
        archive = open_archive(write(tmp_path / write.__name__, files | clutter), "train")
        assert {i: len(archive.mask_names(i)) for i in archive.image_ids} == {"a": 2, "b": 1}
    dotted = write_zip(tmp_path / "dot.zip", {f"./{name}": data for name, data in FILES.items()})
    assert open_archive(dotted, "train").image_ids == ["a", "b"]


def without(*names):
    return {name: data for name, data in FILES.items() if name not in names}


DEFECTS = {
    "an image without masks": (without("b/masks/1.png"), "b has an image without masks"),
    "masks without an image": (without("a/images/a.png"), "a has masks without an image"),
    "climbs out": (FILES | {"../a/images/a.png": IMAGE}, "'../a/images/a.png' climbs out"),
    "climbs out inside": (FILES | {"a/../../b.png": IMAGE}, "climbs out"),
    "climbs out, other slash": (FILES | {"..\\b.png": IMAGE}, "climbs out"),
    "absolute": (FILES | {"/etc/images/etc.png": IMAGE}, "'/etc/images/etc.png' climbs out"),
    "drive": (FILES | {"C:/a/images/a.png": IMAGE}, "climbs out"),
    "twice": ([*FILES.items(), ("copy/b/images/b.png", IMAGE)], "b appears twice.*copy/b/images/b.png"),
    "same entry twice": ([*FILES.items(), ("b/images/b.png", IMAGE)], "b appears twice"),
    "no file": (FILES | {"b/images/c.png/": b""}, "b/images/c.png is not a file"),
    "id too long": (FILES | {f"{'c' * 240}/images/{'c' * 240}.png": IMAGE}, "the id c+ has 240 bytes"),
    "id of control characters": (FILES | {"c\n/images/c\n.png": IMAGE}, "cannot be shown: rename it"),
    "twice in two cases": (FILES | {"b/images/b.PNG": IMAGE}, "b appears twice"),
    "other name": (without("a/images/a.png") | {"a/images/z.png": IMAGE}, "a/images/z.png must have"),
    "other case": (without("a/images/a.png") | {"a/images/A.png": IMAGE}, "a/images/A.png must have"),
    "empty": ({"readme.txt": b""}, "is empty"),
}


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("defect", DEFECTS)
def test_a_defect_is_an_error_that_names_archive_and_file(tmp_path, defect):
    files, message = DEFECTS[defect]
    with pytest.raises(ValueError, match=f"(?s)bad.zip.*{message}"):
        open_archive(write_zip(tmp_path / "bad.zip", files), "train")


def test_a_test_archive_may_lack_masks_but_not_images(tmp_path):
    images = without("a/masks/1.png", "a/masks/2.png", "b/masks/1.png")
    assert open_archive(write_zip(tmp_path / "x.zip", images), "test").image_ids == ["a", "b"]
    with pytest.raises(ValueError, match="a has masks without an image"):
        open_archive(write_zip(tmp_path / "y.zip", without("a/images/a.png")), "test")


@pytest.mark.parametrize("share", [0, 0.3, 0.9, 0.99])
def test_a_truncated_zip_is_an_error_that_says_so(tmp_path, share):
    path = write_zip(tmp_path / "cut.zip", FILES)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(ValueError, match=r"cut.zip.*truncated or not a zip.*download it again"):
        open_archive(path, "train")


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_damaged_entry_is_an_error_that_names_it(tmp_path, method):
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w", compression=method) as archive:
        for name, data in FILES.items():
            archive.writestr(name, data)
        start = archive.getinfo("b/images/b.png").header_offset
    data = bytearray(path.read_bytes())
    data[start + 30 + len("b/images/b.png") + 20] ^= 255
    path.write_bytes(data)
    archive = open_archive(path, "train")
    assert prepare_image(archive, "a")[2]["n_nuclei"] == 2
    with pytest.raises(ValueError, match=r"x.zip: b/images/b.png is damaged"):
        prepare_image(archive, "b")


@pytest.mark.parametrize(("method", "name"), [(zipfile.ZIP_BZIP2, "bzip2"), (zipfile.ZIP_LZMA, "lzma")])
def test_an_entry_of_another_compression_is_an_error_that_names_it(tmp_path, method, name):
    path = tmp_path / f"{name}.zip"
    with zipfile.ZipFile(path, "w", compression=method) as archive:
        for entry, data in FILES.items():
            archive.writestr(entry, data)
    with pytest.raises(ValueError, match=f"{name}.zip: a/images/a.png is compressed by method {method}"):
        prepare_image(open_archive(path, "train"), "a")


@pytest.mark.parametrize("flag", [12, 14, 99])
def test_an_entry_whose_method_is_wrong_is_an_error_that_names_it(tmp_path, flag):
    path = write_zip(tmp_path / "x.zip", FILES)
    data = path.read_bytes()
    # The method is two bytes at 10 of a directory's entry.
    start = data.index(b"PK\x01\x02") + 10
    path.write_bytes(data[:start] + flag.to_bytes(2, "little") + data[start + 2 :])
    with pytest.raises(ValueError, match=r"x\.zip: a/images/a\.png"):
        prepare_image(open_archive(path, "train"), "a")


@given(st.data())
@settings(max_examples=300)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_no_damage_of_a_zip_raises_anything_but_an_error_that_names_it(tmp_path_factory, data):
    path = write_zip(tmp_path_factory.getbasetemp() / "damaged.zip", FILES)
    content = bytearray(path.read_bytes())
    # Mostly in the directory of the zip, at its end, where bytes have the most meanings.
    start = data.draw(st.sampled_from([0, content.index(b"PK\x01\x02")]))
    for place in data.draw(st.lists(st.integers(start, len(content) - 1), min_size=1, max_size=3)):
        content[place] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    try:
        archive = open_archive(path, "train")
        for image_id in archive.image_ids:
            prepare_image(archive, image_id)
    except ValueError as error:
        assert str(path) in str(error)  # noqa: PT017 (no damage is right, too: some bytes have no meaning)


def test_what_is_no_file_is_an_error_that_names_it(tmp_path):
    folder = write_folder(tmp_path / "x", FILES)
    for make in (Path.mkdir, os.mkfifo):
        wrong = folder / "a/masks/3.png"
        make(wrong)
        with pytest.raises(ValueError, match=r"x: a/masks/3.png is not a file but a folder or a pipe"):
            open_archive(folder, "train")
        wrong.rmdir() if wrong.is_dir() else wrong.unlink()
    os.mkfifo(tmp_path / "pipe.zip")
    with pytest.raises(ValueError, match=r"pipe\.zip is neither a file nor a folder"):
        open_archive(tmp_path / "pipe.zip", "train")


@pytest.mark.parametrize("write", [write_zip, write_folder])
def test_a_file_above_the_limit_is_refused_unread(tmp_path, monkeypatch, write):
    archive = open_archive(write(tmp_path / "x.zip", FILES), "train")
    monkeypatch.setattr(archives, "MAX_FILE_BYTES", len(IMAGE))
    assert archive.read("a/images/a.png") == IMAGE
    monkeypatch.setattr(archives, "MAX_FILE_BYTES", len(IMAGE) - 1)
    monkeypatch.setattr(zipfile.ZipFile, "read", None)
    monkeypatch.setattr(Path, "read_bytes", None)
    with pytest.raises(ValueError, match=rf"x\.zip: a/images/a\.png is refused: {len(IMAGE)} bytes, more than"):
        prepare_image(archive, "a")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("._a.png", True),
        (".DS_Store", True),
        ("Thumbs.db", True),
        ("thumbs.db", True),
        ("__MACOSX/a/images/a.png", True),
        ("a/.ipynb_checkpoints/a.png", True),
        ("a.png", False),
        ("./a/images/a.png", False),
        ("../a.png", False),
        ("a/images/a.b.png", False),
        ("MACOSX/Thumbs.png", False),
    ],
)
def test_clutter_is_told_by_its_name(name, expected):
    assert is_clutter(name) == expected


def test_an_id_in_two_archives_is_an_error_that_names_both(tmp_path):
    only_a = {name: data for name, data in FILES.items() if name[0] == "a"}
    train = open_archive(write_zip(tmp_path / "train.zip", FILES), "train")
    test, other = (
        open_archive(write_zip(tmp_path / f"{name}.zip", files), "test")
        for name, files in {"test": only_a, "other": {"c/images/c.png": IMAGE}}.items()
    )
    check_disjoint([train, other])
    with pytest.raises(ValueError, match=r"the id a is in both .*train\.zip and .*test\.zip"):
        check_disjoint([train, other, test])


@pytest.mark.parametrize("name", ["zip_test_mac.zip", "zip_test_upper.zip"])
def test_a_shared_archive_that_was_zipped_again_is_read(name):
    archive = open_archive(find_case(name), "test")
    assert archive.image_ids == [f"{n:064d}" for n in (1, 2)]
    for image_id in archive.image_ids:
        image, labels, row = prepare_image(archive, image_id)
        assert labels is None
        assert (row["height"], row["width"]) == image.shape[:2]


def test_a_broken_png_is_an_error_that_names_it(tmp_path):
    for name in ("a/images/a.png", "a/masks/2.png"):
        folder = write_folder(tmp_path / name[2:4], FILES | {name: FILES[name][:50]})
        with pytest.raises(ValueError, match=f"{folder}: {name} is a broken PNG"):
            prepare_image(open_archive(folder, "train"), "a")


def test_worker_processes_open_the_archive_themselves(demo_folder):
    archive = open_archive(demo_folder / "stage1_train.zip", "train")
    here = [prepare_image(archive, i) for i in archive.image_ids]
    there = Parallel(n_jobs=2)(delayed(prepare_image)(archive, i) for i in archive.image_ids)
    for (image, labels, row), (other_image, other_labels, other_row) in zip(here, there, strict=True):
        np.testing.assert_array_equal(image, other_image)
        np.testing.assert_array_equal(labels, other_labels)
        assert row == other_row


def test_a_process_opens_an_archive_once_unless_it_was_replaced(tmp_path):
    path = write_zip(tmp_path / "x.zip", FILES)
    sent = pickle.dumps(open_archive(path, "train"))
    assert len(sent) < 500
    assert pickle.loads(sent) is pickle.loads(sent)
    write_zip(path, {name: data for name, data in FILES.items() if name[0] == "a"})
    assert pickle.loads(pickle.dumps(open_archive(path, "train"))).image_ids == ["a"]


def test_official_files_are_found_and_missing_ones_listed(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"(?s)stage1_train.zip.*stage1_test.zip"):
        find_archives(tmp_path)
    write_folder(tmp_path / "stage1_train", FILES)
    with pytest.raises(FileNotFoundError) as error:
        find_archives(tmp_path)
    assert "stage1_test.zip" in str(error.value)
    assert "stage1_train" not in str(error.value)
    write_zip(tmp_path / "stage1_test.zip", FILES)
    (tmp_path / "stage1_solution.csv").write_text("")
    assert find_archives(tmp_path) == {
        "stage1_train": tmp_path / "stage1_train",
        "stage1_test": tmp_path / "stage1_test.zip",
        "stage1_solution": tmp_path / "stage1_solution.csv",
    }
    write_zip(tmp_path / "stage1_train.zip", FILES)
    assert find_archives(tmp_path)["stage1_train"] == tmp_path / "stage1_train.zip"
    with pytest.raises(FileNotFoundError, match="nowhere"):
        open_archive(tmp_path / "nowhere", "train")


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo, lambda path: path.symlink_to(path.with_name("nowhere"))])
def test_an_optional_file_that_is_none_is_not_taken_for_a_missing_one(tmp_path, make):
    for name in ("stage1_train", "stage1_test"):
        (tmp_path / name).mkdir()
    make(tmp_path / "stage1_solution.csv")
    with pytest.raises(UserError, match=r"stage1_solution\.csv is no file, or a link that leads to none"):
        find_archives(tmp_path)


def test_the_real_archives_hold_what_is_known_of_them(real_folder):
    found = find_archives(real_folder)
    train, test = open_archive(found["stage1_train"], "train"), open_archive(found["stage1_test"], "test")
    assert len(train.image_ids) == 664
    assert len(test.image_ids) == 65
    assert sum(len(train.mask_names(i)) for i in train.image_ids) == 28986
    for image_id in train.image_ids[:3]:
        image, labels, row = prepare_image(train, image_id)
        assert image.shape == (*labels.shape, 3) == (row["height"], row["width"], 3)
        assert row["n_nuclei"] == len(train.mask_names(image_id)) == len(np.unique(labels)) - 1
    assert prepare_image(test, test.image_ids[0])[1] is None
