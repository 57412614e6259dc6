"""Which files of a folder are images, what their results are called, and that results are told from images."""

import os
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st

from nuclei.data.axes import View
from nuclei.data.images import encode_image_png
from nuclei.errors import UserError
from nuclei.inference.image_files import (
    MADE_BY,
    Reading,
    Source,
    check_folder,
    describe_change,
    find_images,
    name_files,
    split_file,
)
from nuclei.runs.files import write_bytes, write_json

PNG = encode_image_png(np.zeros((8, 8), np.uint8))


def fill(folder: Path, *names: str) -> Path:
    """Put a small image under each name into a folder."""
    for name in names:
        write_bytes(folder / name, PNG)
    return folder


def list_names(*args, **options) -> list[str]:
    return [source.name for source in find_images(*args, **options)]


def test_leftovers_and_other_files_are_skipped(tmp_path):
    fill(tmp_path, "b.png", "a.TIF", "._a.png", ".DS_Store", "Thumbs.db", "__MACOSX/x.png", "notes.txt", "n/c.png")
    (tmp_path / "folder.png").mkdir()
    assert list_names([tmp_path]) == ["a", "b"]
    assert list_names([tmp_path], recursive=True) == ["a", "b", "c"]


def test_what_may_never_end_is_not_read(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    for path in (tmp_path / "pipe.png", Path("/dev/zero")):
        with pytest.raises(UserError, match="neither a file nor a folder"):
            find_images([path])
    write_bytes(tmp_path / "a.png", b"content")
    assert [source.name for source in find_images([tmp_path])] == ["a"]


def test_links_that_lead_to_no_file_are_images_that_cannot_be_read(tmp_path):
    fill(tmp_path, "a.png")
    for name, target in (("b.png", "nowhere.png"), ("c.png", "d.tif"), ("d.tif", "c.png"), ("e.zarr", "nowhere")):
        (tmp_path / name).symlink_to(tmp_path / target)
    found = find_images([tmp_path])
    assert [source.name for source in found] == ["a", "b", "c", "d", "e"]
    for source in found[1:]:
        with pytest.raises((UserError, OSError), match=source.path.name):
            split_file(source, Reading())


def test_a_folder_of_folders_says_how_they_are_searched(tmp_path):
    fill(tmp_path, "n/c.png", "exp1/images/a.png")
    with pytest.raises(ValueError, match="no images in .*its folders have some: give --recursive"):
        find_images([tmp_path])
    assert list_names([tmp_path], recursive=True) == ["a", "c"]
    with pytest.raises(ValueError, match="no images in .*looked for"):
        find_images([fill(tmp_path / "empty", "x.txt")])
    with pytest.raises(ValueError, match="no image or folder .*nothing"):
        find_images([tmp_path / "nothing"])


def test_an_extracted_archive_is_no_folder_of_folders(tmp_path):
    fill(tmp_path, "a/images/a.png", "a/masks/m.png", "b/images/b.PNG")
    for recursive in (False, True):
        found = find_images([tmp_path], recursive)
        assert [source.name for source in found] == ["a", "b"]
        assert all(source.archive for source in found)


def test_results_of_this_command_are_no_images_and_those_of_others_are(tmp_path):
    fill(tmp_path, "a.png", "a_outlines.png", "b_labels.tif", "c_outlines.png")
    write_json(tmp_path / "a.json", {"made_by": MADE_BY, "files": ["a_outlines.png"]})
    write_json(tmp_path / "c.json", {"made_by": "another", "files": ["c_outlines.png"]})
    write_bytes(tmp_path / "b.json", b"[1, 2]")
    assert list_names([tmp_path]) == ["a", "b_labels", "c_outlines"]


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["a.png", "b.ome.tif"], ["a", "b"]),
        (["a.png", "a.tif"], ["a_png", "a_tif"]),
        (["x/a.png", "y/a.png", "x/b.png"], ["x_a", "y_a", "b"]),
        (["a.png", "n/a.png"], ["a", "n_a"]),
        (["x/a.png", "x/a.tif", "y/a.png"], ["x_a_png", "x_a_tif", "y_a_png"]),
        (["a.png", "A.png"], ["a_png_2", "A_png"]),
        (["x/a.png", "y/a.png", "x_a.png"], ["x_a_2", "y_a", "x_a"]),
    ],
)
def test_files_of_one_name_get_distinct_ones(tmp_path, paths, names):
    assert name_files([tmp_path / path for path in paths]) == names
    backwards = name_files([tmp_path / path for path in reversed(paths)])
    assert backwards[::-1] == names


@given(st.lists(st.from_regex(r"([ab]/){0,2}(a|A|a_a|b)\.(png|tif)", fullmatch=True), unique=True, max_size=12))
def test_names_are_distinct_in_any_case_of_letters(paths):
    names = name_files([Path("folder") / path for path in paths])
    assert len({name.casefold() for name in names}) == len(paths)


@pytest.mark.parametrize("name", ["a\nb.png", "a\x1b[2Jb.png", "a\u2028b.png", "a\x9bb.png", "a\rb.png"])
def test_control_codes_of_names_reach_no_name_or_line_of_ours(tmp_path, name):
    (source,) = find_images([fill(tmp_path, name)])
    assert all("\x1b" not in text and len(text.splitlines()) == 1 for text in (source.name, source.file))
    assert source.name in ("a?b", "a?[2Jb")
    assert source.path.is_file()


def test_a_file_that_is_named_twice_counts_once(tmp_path):
    fill(tmp_path, "a.png")
    assert list_names([tmp_path, tmp_path / "a.png", tmp_path / "../" / tmp_path.name]) == ["a"]


def test_a_time_series_is_one_image_per_time_point(tmp_path):
    stack = np.random.default_rng(0).integers(0, 9000, (3, 2, 8, 8)).astype(np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", stack, imagej=True, metadata={"axes": "TCYX"})
    reading = Reading(View("1"))
    times = split_file(*find_images([tmp_path]), reading)
    assert [one.name for one in times] == ["a_t000", "a_t001", "a_t002"]
    for number, one in enumerate(times):
        np.testing.assert_array_equal(one.read(reading)[0].pixels, stack[number, 1])


def test_a_name_that_is_too_long_for_results_is_refused(tmp_path):
    fill(tmp_path, f"{'a' * 220}.png")
    with pytest.raises(ValueError, match="220 bytes, more than 200: shorten it"):
        split_file(*find_images([tmp_path]), Reading())


def test_a_given_pixel_size_goes_before_that_of_the_file(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", np.eye(8), resolution=(4, 4), imagej=False, metadata=None)
    source = Source("a", str(tmp_path / "a.tif"))
    assert source.read(Reading())[0].pixel_size_um is None
    assert source.read(Reading(pixel_size_um=0.3))[0].pixel_size_um == 0.3


def test_a_folder_that_cannot_be_written_to_is_refused(tmp_path):
    fill(tmp_path, "file")
    for path in (tmp_path / "file", tmp_path / "file/below"):
        with pytest.raises(ValueError, match="nothing can be written to .*--output"):
            check_folder(path)
    check_folder(tmp_path / "new/below")
    assert not list((tmp_path / "new/below").iterdir())


def test_every_change_is_a_reason():
    wanted = {"image_sha256": "1", "weights_sha256": "2", "version": 1, "settings": Reading().record()}
    record = {"finished": True, "made_from": wanted}
    assert not describe_change(record, wanted)
    assert describe_change(None, wanted) == "no results yet"
    assert describe_change(record | {"finished": False}, wanted) == "unfinished"
    assert describe_change(record, wanted | {"image_sha256": "3"}) == "the image has changed"
    assert describe_change(record, wanted | {"weights_sha256": "3"}) == "other weights"
    other = wanted | {"settings": Reading(View("DAPI"), normalise=False).record()}
    assert describe_change(record, other) == 'channel: null -> "DAPI"; normalise: true -> false'
