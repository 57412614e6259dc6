"""Kinds are found again, whole and by the same names, and no fold has seen any of another's."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from nuclei.data.fold_table import COLUMNS, read_folds
from nuclei.data.kinds import find_kinds, kind_fold_table, kinds_table, name_kinds
from nuclei.data.statistics import STATISTICS, describe_image
from nuclei.errors import UserError

FOLDS = Path(__file__).parents[2] / "folds"
TRUE_KINDS = {"dark": 9, "bright": 6, "gray": 3}  # images of each


@pytest.fixture
def three_kinds():
    """Return described, shapes, groups and true kinds of 18 images; each mosaic group has three images."""
    rng = np.random.default_rng(4)
    described, shapes, groups, true = {}, {}, {}, {}
    for number, (kind, n) in enumerate(TRUE_KINDS.items()):
        for i in range(n):
            name = f"{kind}{i}"
            described[name] = 5.0 * number + rng.normal(0, 1, len(STATISTICS))
            shapes[name], groups[name], true[name] = (256, 256), f"{kind}_group{i // 3}", kind
    return described, shapes, groups, true


def draw_table(groups, kinds):
    return pd.DataFrame(
        {"image_id": i, "group": g, "cluster": "black_on_white", "n_nuclei": 3, "kind": kinds[i]}
        for i, g in groups.items()
    )


def test_kinds_that_differ_are_told_apart(three_kinds):
    described, shapes, groups, true = three_kinds
    found = pd.crosstab(pd.Series(find_kinds(described, shapes, groups, 3)), pd.Series(true))
    assert sorted(found.to_numpy()[found.to_numpy() > 0].tolist()) == sorted(TRUE_KINDS.values())


def test_sizes_tell_images_apart_that_look_alike(three_kinds):
    described, shapes, groups, _ = three_kinds
    alike = {name: np.ones(len(STATISTICS)) for name in described}
    shapes |= {name: (512, 640) for name in shapes if name.startswith("gray")}
    found = find_kinds(alike, shapes, groups, 2)
    assert {name for name in found if found[name] == found["gray0"]} == {"gray0", "gray1", "gray2"}


def test_kinds_do_not_depend_on_the_order_of_images(three_kinds):
    described, shapes, groups, _ = three_kinds
    backwards = dict(reversed(described.items()))
    assert find_kinds(described, shapes, groups, 3) == find_kinds(backwards, shapes, groups, 3)


def test_a_mosaic_group_is_never_split(three_kinds):
    described, shapes, groups, _ = three_kinds
    described["bright0"] = described["gray0"].copy()  # its two neighbours stay bright
    found = find_kinds(described, shapes, groups, 3)
    assert found["bright0"] == found["bright1"] == found["bright2"]


def test_folds_hold_whole_kinds_and_are_as_equal_as_these(three_kinds):
    _, _, groups, true = three_kinds
    table = kind_fold_table(draw_table(groups, true), 2)
    assert list(table) == [*COLUMNS, "kind"]
    assert (table.groupby("kind")["fold"].nunique() == 1).all()
    assert sorted(table["fold"].value_counts()) == [9, 9]
    with pytest.raises(UserError, match="3 kinds of images cannot be dealt into 4 folds"):
        kind_fold_table(draw_table(groups, true), 4)


def test_kinds_are_named_by_type_and_size_and_told_apart_by_a_letter(three_kinds):
    _, _, groups, true = three_kinds
    table = draw_table(groups, {i: list(TRUE_KINDS).index(kind) for i, kind in true.items()})
    table = table.assign(height=256, width=256)
    table.loc[table["kind"] == 2, "width"] = 320
    names = name_kinds(table)
    assert names == {0: "black_on_white_256x256_a", 1: "black_on_white_256x256_b", 2: "black_on_white_256x320"}


def test_the_nearest_of_another_fold_is_named(three_kinds):
    described, shapes, groups, true = three_kinds
    about = kinds_table(kind_fold_table(draw_table(groups, true), 2), shapes, described).set_index("kind")
    assert about["images"].to_dict() == TRUE_KINDS
    assert about.loc["dark", "nearest_unlike"] == "bright"
    assert about.loc["gray", "nearest_unlike"] == "dark"  # bright, which is nearer, is in its own fold


def test_an_image_is_described_alike_however_it_is_turned():
    image = np.random.default_rng(1).integers(0, 255, (96, 128, 3), np.uint8)
    turned = np.ascontiguousarray(np.rot90(image))
    assert np.isfinite(describe_image(image)).all()
    assert np.allclose(describe_image(image), describe_image(turned), atol=0.02)


@pytest.mark.parametrize("value", [0, 128, 255])
def test_an_image_of_one_colour_is_described(value):
    assert np.isfinite(describe_image(np.full((40, 50, 3), value, np.uint8))).all()


def test_the_committed_folds_are_of_the_same_images_and_hold_whole_kinds():
    kinds, usual = read_folds(FOLDS / "dsb2018_kinds.csv"), read_folds(FOLDS / "dsb2018.csv")
    same = ["image_id", "group", "cluster", "n_nuclei", "weight"]
    pd.testing.assert_frame_equal(kinds[same], usual[same])
    whole = pd.read_csv(FOLDS / "dsb2018_kinds.csv")
    about = pd.read_csv(FOLDS / "dsb2018_kinds_about.csv").set_index("kind")
    assert (whole.groupby("kind")["fold"].nunique() == 1).all()
    assert about["images"].sort_index().to_dict() == whole["kind"].value_counts().sort_index().to_dict()
    assert about["fold"].sort_index().to_dict() == whole.groupby("kind")["fold"].first().to_dict()
