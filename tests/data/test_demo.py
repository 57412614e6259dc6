"""The demo is a data set in the official layout, with its truth, and the same bytes each time."""

import io
import shutil
import zipfile

import numpy as np
import pandas as pd
import pytest

from nuclei.data.archives import find_archives, open_archive, prepare_image
from nuclei.data.demo import FILES, RECORD, draw_images, write_demo
from nuclei.data.folds import mosaic_groups
from nuclei.errors import UserError
from nuclei.evaluation.rle import decode_labels


def test_the_demo_is_an_official_data_set_with_its_truth(demo_folder):
    found = find_archives(demo_folder)
    train, test = open_archive(found["stage1_train"], "train"), open_archive(found["stage1_test"], "test")
    assert len(train.image_ids) == 12
    assert len(test.image_ids) == 4
    rows = pd.DataFrame([prepare_image(train, image_id)[2] for image_id in train.image_ids])
    assert set(rows["width"]) == {128, 160}
    assert rows["n_nuclei"].min() > 0
    assert rows["overlap_px"].sum() > 0
    assert not rows[["empty_masks", "wrong_shape_masks", "duplicate_masks"]].to_numpy().any()
    depths = {train.read(train.image_name(image_id))[25] for image_id in train.image_ids}
    assert depths == {0, 2, 6}, "gray, RGB and RGBA"

    solution = pd.read_csv(found["stage1_solution"])
    assert list(solution.columns) == ["ImageId", "EncodedPixels", "Height", "Width", "Usage"]
    assert set(solution["ImageId"]) == set(test.image_ids)
    truth = {image_id: labels for _, image_id, _, labels in draw_images(4, 0, 128, (2018, 1))}
    for image_id, nuclei in solution.groupby("ImageId"):
        shape = prepare_image(test, image_id)[0].shape[:2]
        assert set(zip(nuclei["Height"], nuclei["Width"], strict=True)) == {shape}
        np.testing.assert_array_equal(decode_labels(list(nuclei["EncodedPixels"]), shape), truth[image_id])


def test_the_demo_has_the_same_bytes_each_time(tmp_path, demo_folder):
    assert write_demo(tmp_path, 12, 4, 128, 2018)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "demo.json",
        "stage1_solution.csv",
        "stage1_test.zip",
        "stage1_train.zip",
    ]
    for path in tmp_path.iterdir():
        assert path.read_bytes() == (demo_folder / path.name).read_bytes()


def empty_zip() -> bytes:
    buffer = io.BytesIO()
    zipfile.ZipFile(buffer, "w").close()
    return buffer.getvalue()


def hash_all(folder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("beside", ["nothing", "a whole demo"])
@pytest.mark.parametrize("content", ["nothing", "half an archive", "empty", "others", "a folder", "a link"])
def test_what_the_demo_did_not_write_it_neither_replaces_nor_uses(tmp_path, demo_folder, name, beside, content):
    if beside == "a whole demo":
        for path in demo_folder.iterdir():
            shutil.copy(path, tmp_path)
        (tmp_path / name).unlink()
    if content == "a folder":
        (tmp_path / name).mkdir()
    elif content == "a link":
        (tmp_path / name).symlink_to(tmp_path / "elsewhere")
    else:
        kinds = {"nothing": b"", "half an archive": b"PK half", "empty": empty_zip(), "others": zip_of_others()}
        (tmp_path / name).write_bytes(kinds[content])
    before = hash_all(tmp_path)
    with pytest.raises(UserError, match=rf"{name} is not of the demo"):
        write_demo(tmp_path, 12, 4, 128, 2018)
    assert hash_all(tmp_path) == before
    assert (tmp_path / name).is_symlink() == (content == "a link")


@pytest.mark.parametrize("lost", [*FILES, None])
def test_a_demo_that_was_stopped_is_made_whole_and_a_whole_one_is_kept(tmp_path, lost):
    assert write_demo(tmp_path, 1, 1, 64, 0)
    whole = hash_all(tmp_path)
    if lost:
        (tmp_path / lost).unlink()
    assert write_demo(tmp_path, 1, 1, 64, 0) == (lost is not None)
    assert hash_all(tmp_path) == whole


@pytest.mark.parametrize("settings", [(2, 1, 64, 0), (1, 2, 64, 0), (1, 1, 65, 0), (1, 1, 64, 1)])
def test_a_demo_of_other_settings_is_not_taken_for_this_one(tmp_path, settings):
    write_demo(tmp_path, 1, 1, 64, 0)
    whole = hash_all(tmp_path)
    with pytest.raises(UserError, match=rf"{tmp_path.name} holds a demo of other settings"):
        write_demo(tmp_path, *settings)
    assert hash_all(tmp_path) == whole


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b"\xff", b"[" * 9000, b'{"settings": {}, "sha256": 1}'])
def test_a_record_that_is_none_is_refused(tmp_path, content):
    (tmp_path / RECORD).write_bytes(content)
    with pytest.raises(UserError, match=rf"{RECORD} is no record of the demo"):
        write_demo(tmp_path, 1, 1, 64, 0)


def zip_of_others() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(zipfile.ZipInfo("a/images/a.png", date_time=(2018, 1, 16, 12, 0, 0)), b"an image")
    return buffer.getvalue()


def test_quarters_of_a_field_are_found_again():
    images = list(draw_images(36, 3, 160, (0, 0)))
    groups = mosaic_groups({image_id: image for _, image_id, image, _ in images})
    for field in (images[0:4], images[4:8], images[8:12]):
        assert len({groups[image_id] for _, image_id, _, _ in field}) == 1
    assert len(set(groups.values())) > 20, "the other 24 images are no quarters"
