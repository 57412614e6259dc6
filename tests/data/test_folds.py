"""Tiles of one field are found again, groups stay in one fold, image types are what they look like."""

import io
import zipfile
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nuclei.data.fold_table import check_folds, read_folds
from nuclei.data.folds import (
    assign_folds,
    fold_table,
    match_folds,
    mosaic_groups,
    split_folds,
)
from nuclei.data.image_types import IMAGE_TYPES, image_type

ROOT = Path(__file__).parents[2]
ARCHIVES = ROOT.parent / "shared/data/bbbc038"


def draw_field(seed, height=200, width=240, background=8, nucleus=120, radius_px=9, n_nuclei=150):
    """Draw bright blurred discs on a dark noisy background, uint8 [H, W, 3]."""
    rng = np.random.default_rng(seed)
    field = np.full((height, width), background, np.float32)
    for _ in range(n_nuclei):
        centre = int(rng.integers(width)), int(rng.integers(height))
        radius, brightness = radius_px * rng.uniform(0.8, 1.2), nucleus * rng.uniform(0.6, 1)
        cv2.circle(field, centre, int(radius), brightness, -1)
    field = cv2.GaussianBlur(field, (0, 0), 3) + rng.normal(0, 0.3, field.shape)
    return np.repeat(field.clip(0, 255).astype(np.uint8)[..., None], 3, axis=2)


def cut(field, rows, columns):
    return [t for band in np.split(field, rows) for t in np.split(band, columns, axis=1)]


def as_partition(groups):
    members = {}
    for image_id, group in groups.items():
        members.setdefault(group, set()).add(image_id)
    return sorted(map(sorted, members.values()))


@pytest.mark.parametrize("background", [8, 120])
def test_tiles_of_one_field_are_found_among_strangers(background):
    fields = [cut(draw_field(seed, background=background), 2, 2) for seed in range(5)]
    fields += [cut(draw_field(100 + seed, 100, 120, background), 1, 1) for seed in range(12)]
    fields += [cut(draw_field(200, 90, 90, background), 1, 1)]
    order = np.random.default_rng(0).permutation(sum(map(len, fields)))
    names = iter(f"{i:03d}" for i in order)
    images, expected = {}, []
    for tiles in fields:
        ids = [next(names) for _ in tiles]
        images.update(zip(ids, tiles, strict=True))
        expected.append(sorted(ids))
    groups = mosaic_groups(images)
    assert as_partition(groups) == sorted(expected)
    assert all(group == min(i for i in groups if groups[i] == group) for group in groups.values())
    assert mosaic_groups(iter(reversed(images.items()))) == groups


def test_larger_and_incomplete_fields_are_one_group():
    large = cut(draw_field(1, 400, 240, n_nuclei=300), 4, 2)
    incomplete = cut(draw_field(2), 2, 2)[:3]
    strangers = [draw_field(seed, 100, 120) for seed in range(10, 20)]
    images = {f"{i:02d}": tile for i, tile in enumerate(large + incomplete + strangers)}
    sizes = Counter(mosaic_groups(images).values())
    assert sizes["00"] == 8
    assert sizes["08"] == 3
    assert len(sizes) == 12


def test_square_is_found_though_an_inner_border_is_nearly_empty():
    field = draw_field(3)
    field[:80, 100:140] = 8
    images = dict(zip("abcd", cut(field, 2, 2), strict=True))
    images |= {f"s{i}": draw_field(i, 100, 120) for i in range(30, 40)}
    assert len({mosaic_groups(images)[i] for i in "abcd"}) == 1


@pytest.mark.parametrize("value", [0, 7, 255])
def test_flat_borders_do_not_continue_each_other(value):
    images = {}
    for i in range(8):
        image = draw_field(i, 100, 120)
        image[:12] = image[-12:] = image[:, :12] = image[:, -12:] = value
        images[f"{i}"] = image
    assert len(set(mosaic_groups(images).values())) == 8


def test_group_names_are_as_short_as_they_may_be():
    images = {"a" * 20 + str(i): draw_field(i, 100, 120) for i in range(3)}
    assert set(mosaic_groups(images).values()) == set(images)
    images = {str(i) + "a" * 20: draw_field(i, 100, 120) for i in range(3)}
    assert set(mosaic_groups(images).values()) == {i[:8] for i in images}
    assert mosaic_groups({}) == {}


def test_repeated_image_is_refused():
    image = draw_field(0, 100, 120)
    with pytest.raises(ValueError, match="twice: b"):
        mosaic_groups([("a", image), ("b", image), ("b", image)])


def paint(background, nucleus, radius_px=10, n_nuclei=25):
    image = np.full((256, 320, 3), background, np.uint8)
    rng = np.random.default_rng(0)
    for _ in range(n_nuclei):
        cv2.circle(image, (int(rng.integers(320)), int(rng.integers(256))), radius_px, nucleus, -1)
    noise = rng.normal(0, 2, image.shape[:2])[..., None]
    return (cv2.GaussianBlur(image, (0, 0), 1.5) + noise).clip(0, 255).astype(np.uint8)


DRAWN = {
    "dark_fluorescence_small": ((6, 6, 6), (90, 90, 90), 7),
    "dark_fluorescence_large": ((6, 6, 6), (90, 90, 90), 26, 8),
    "black_on_white": ((228, 228, 228), (60, 60, 60), 10),
    "purple_on_white": ((210, 212, 215), (110, 40, 140), 10),
    "purple_on_purple": ((182, 160, 208), (80, 40, 160), 10),
    "pink_and_purple": ((225, 140, 200), (130, 50, 130), 10),
}


def test_every_image_type_is_drawn():
    assert set(DRAWN) == set(IMAGE_TYPES)


@pytest.mark.parametrize("name", DRAWN)
def test_image_type_is_what_was_drawn_at_any_orientation_and_crop(name):
    image = paint(*DRAWN[name])
    for view in (image, image[::-1], np.rot90(image), image[:128, :160]):
        assert image_type(view) == name


def test_touching_nuclei_stay_small():
    assert image_type(paint((6, 6, 6), (90, 90, 90), 7, n_nuclei=250)) == "dark_fluorescence_small"


@pytest.mark.parametrize("value", [0, 255])
def test_image_without_nuclei_has_a_type(value):
    assert image_type(np.full((30, 40, 3), value, np.uint8)) in IMAGE_TYPES


@st.composite
def tables(draw):
    sizes = draw(st.lists(st.integers(1, 6), min_size=1, max_size=40))
    clusters = [draw(st.sampled_from("xyz")) for _ in sizes]
    rows = [(f"g{g}", clusters[g]) for g, size in enumerate(sizes) for _ in range(size)]
    table = pd.DataFrame(rows, columns=["group", "cluster"])
    table["image_id"] = [f"i{k:03d}" for k in draw(st.permutations(range(len(table))))]
    table["n_nuclei"] = draw(st.lists(st.integers(0, 300), min_size=len(table), max_size=len(table)))
    return table


@settings(deadline=None, max_examples=60)
@given(tables(), st.integers(2, 5), st.integers(0, 9))
def test_groups_stay_whole_and_clusters_even(table, n_folds, seed):
    folds = assign_folds(table, n_folds, seed)
    check_folds(folds)
    assert folds["fold"].between(0, n_folds - 1).all()
    assert folds["image_id"].tolist() == sorted(table["image_id"])
    # Dealt largest first to the emptiest fold, no two folds differ by more than the largest group.
    for _, rows in folds.groupby("cluster"):
        counts = np.bincount(rows["fold"], minlength=n_folds)
        assert counts.max() - counts.min() <= rows["group"].value_counts().max()
    shuffled = table.sample(frac=1, random_state=seed)
    pd.testing.assert_frame_equal(assign_folds(shuffled, n_folds, seed)[folds.columns], folds)


def make_table(n_images, group_size=1, seed=0):
    rng = np.random.default_rng(seed)
    ids = [f"i{k:03d}" for k in range(n_images)]
    groups = {i: f"g{k // group_size}" for k, i in enumerate(ids)}
    clusters = {i: "common" if k < 0.9 * n_images else "rare" for k, i in enumerate(ids)}
    return fold_table(groups, clusters, {i: int(rng.integers(1, 100)) for i in ids}, 4, seed)


def test_single_images_are_even_to_one_per_cluster_and_in_nuclei():
    table = make_table(202)
    counts = pd.crosstab(table["cluster"], table["fold"])
    assert ((counts.max(axis=1) - counts.min(axis=1)) <= 1).all()
    nuclei = table.groupby("fold")["n_nuclei"].sum()
    assert nuclei.max() < 1.25 * nuclei.min()


def test_seed_decides_the_folds():
    assert make_table(100, 2, 1).equals(make_table(100, 2, 1))
    assert not make_table(100, 2, 1)["fold"].equals(make_table(100, 2, 2)["fold"])


def test_split_folds_are_even_and_keep_what_was_held_out_together():
    table = make_table(203, 3)
    fine = split_folds(table, 8, 5)
    check_folds(fine)
    assert match_folds(fine, table) == {fold: fold // 2 for fold in range(8)}
    assert fine.drop(columns="fold").equals(table.drop(columns="fold"))
    counts = pd.crosstab(fine["cluster"], fine["fold"])
    assert all((counts[2 * k] - counts[2 * k + 1]).abs().max() <= 3 for k in range(4))  # a group has three images


def test_folds_that_are_not_finer_are_refused():
    table = make_table(40)
    with pytest.raises(ValueError, match="must be a multiple"):
        split_folds(table, 6, 0)
    with pytest.raises(ValueError, match="fold 0 must lie in one fold of the coarser table; it has images of 0 and 1"):
        match_folds(table.assign(fold=0), table[table["fold"] < 2])
    with pytest.raises(ValueError, match="1 that are missing from it"):
        match_folds(table, table[1:])


def test_rare_clusters_weigh_more_but_at_most_four_times():
    def weights(counts):
        clusters = np.repeat(list(counts), list(counts.values()))
        ids = [f"{k:04d}" for k in range(len(clusters))]
        table = pd.DataFrame({"image_id": ids, "group": ids, "cluster": clusters, "n_nuclei": 1})
        return assign_folds(table, 2, 0).groupby("cluster")["weight"].first().to_dict()

    assert weights({"a": 400, "b": 100, "c": 10}) == {"a": 1, "b": 2, "c": 4}


def test_check_names_what_is_wrong():
    table = make_table(20, 2)
    with pytest.raises(ValueError, match="lacks cluster, weight"):
        check_folds(table.drop(columns=["cluster", "weight"]))
    with pytest.raises(ValueError, match="i003 twice"):
        check_folds(pd.concat([table, table.iloc[3:4]]))
    crossing = table.assign(fold=table["fold"].where(table["image_id"] != "i005", 9))
    with pytest.raises(ValueError, match="group g2 crosses folds"):
        check_folds(crossing)
    with pytest.raises(ValueError, match="given for b"):
        fold_table({"a": "a", "b": "b"}, {"a": "x", "b": "x"}, {"a": 1}, 2, 0)


def read_archive(name):
    if not (ARCHIVES / name).exists():
        pytest.skip(f"{name} is not at ../shared/data/bbbc038")
    images, n_nuclei = {}, Counter()
    with zipfile.ZipFile(ARCHIVES / name) as archive:
        for entry in archive.namelist():
            image_id, *rest = entry.split("/")
            if entry.endswith(".png") and rest[0] == "images":
                pixels = cv2.imdecode(np.frombuffer(archive.read(entry), np.uint8), cv2.IMREAD_COLOR)
                images[image_id] = cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)
            n_nuclei[image_id] += entry.endswith(".png") and rest[0] == "masks"
    return images, n_nuclei


def test_committed_folds_are_those_of_the_real_archive():
    images, n_nuclei = read_archive("stage1_train.zip")
    groups = mosaic_groups(images)
    sizes = Counter(Counter(groups.values()).values())
    assert sizes == {1: 99, 2: 4, 3: 3, 4: 116, 8: 6, 12: 3}
    clusters = {image_id: image_type(image) for image_id, image in images.items()}
    table = fold_table(groups, clusters, n_nuclei, n_folds=4, seed=2018)
    written = io.StringIO()
    table.to_csv(written, index=False, lineterminator="\n")
    assert written.getvalue() == (ROOT / "folds/dsb2018.csv").read_bytes().decode()


def test_types_of_the_real_test_images():
    images, _ = read_archive("stage1_test.zip")
    types = Counter(map(image_type, images.values()))
    assert types["purple_on_white"] == 8
    assert types["pink_and_purple"] == 4
    assert types["dark_fluorescence_small"] + types["dark_fluorescence_large"] == 53


def test_committed_folds_are_sound():
    table = pd.read_csv(ROOT / "folds/dsb2018.csv")
    check_folds(table)
    assert len(table) == 664
    assert set(table["cluster"]) == set(IMAGE_TYPES)


@pytest.mark.parametrize("name", ["dsb2018.csv", "dsb2018_8.csv"])
def test_committed_folds_are_read_as_by_pandas(name):
    dtypes = {"image_id": str, "group": str}
    plain = pd.read_csv(ROOT / "folds" / name, dtype=dtypes, float_precision="round_trip")
    pd.testing.assert_frame_equal(read_folds(ROOT / "folds" / name), plain, check_exact=True)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("b,b,gray,1,x,1", "row 3, image b: fold is 'x', not a whole number from 0 on"),
        ("b,b,gray,-1,0,1", "row 3, image b: n_nuclei is '-1', not a whole number from 0 on"),
        ("b,b,gray,1,0,nan", "row 3, image b: weight is 'nan', not a number above 0"),
        ("b, ,gray,1,0,1", "row 3: no image_id or no group"),
        ("a,a,gray,1,0,1", "names image a twice"),
        ("b,a,gray,1,1,1", "group a crosses folds"),
        ("b,b,gray", "row 3: 3 columns instead of 6"),
    ],
)
def test_a_broken_fold_table_is_refused_by_its_name(tmp_path, row, message):
    path = tmp_path / "folds.csv"
    path.write_text(f"image_id,group,cluster,n_nuclei,fold,weight\na,a,gray,1,0,1.5\n{row}\n")
    with pytest.raises(ValueError, match=f"folds.csv.*{message}"):
        read_folds(path)


def test_a_fold_table_without_rows_is_refused(tmp_path):
    path = tmp_path / "folds.csv"
    path.write_text("image_id,group,cluster,n_nuclei,fold,weight\n")
    with pytest.raises(ValueError, match="folds.csv has no rows"):
        read_folds(path)
