"""Which texts are ids of images: such as name a file of their folder and no formula."""

from pathlib import Path, PureWindowsPath

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from nuclei.data.fold_table import read_folds
from nuclei.data.image_ids import MAX_ID_BYTES, find_id_fault
from nuclei.errors import UserError


@given(st.text(max_size=250))
@example("..")
@example("a/../../b")
@example("..\\b")
@example("A:")
@example("=1+1")
@example("é" * 101)
@example("a\x00")
def test_what_is_an_id_names_a_file_of_its_folder_and_is_no_formula(text):
    if find_id_fault(text) is None:
        for kind in (Path, PureWindowsPath):
            path = kind("folder") / f"{text}.png"
            assert path.parent == kind("folder")
            assert len(path.name.encode()) < 256
        assert text[0] not in "=+-@\uff1d\uff0b\uff0d\uff20.\t\r"
        assert len(text.encode()) <= MAX_ID_BYTES


@pytest.mark.parametrize("image_id", ["0", "07af", "a b", "A-b_c.d", "ä", "a" * MAX_ID_BYTES])
def test_plain_texts_are_ids(image_id):
    assert find_id_fault(image_id) is None


@pytest.mark.parametrize("image_id", ["../x", "a/b", ".x", "=cmd()", "-1", "@x", "+x", "C:x", "\uff1d1", "x" * 201])
def test_a_fold_table_has_ids_only(tmp_path, image_id):
    path = tmp_path / "folds.csv"
    path.write_text(f"image_id,group,cluster,n_nuclei,fold,weight\na,a,gray,1,0,1\n{image_id},b,gray,1,1,1\n")
    with pytest.raises(UserError, match=r"folds\.csv, row 3: the id .* correct it or delete the row"):
        read_folds(path)
