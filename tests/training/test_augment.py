"""Crops are functions of their generator, and image and labels go through the same geometry."""

import random

import albumentations
import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage

from nuclei.data.synthetic import KINDS, make_image
from nuclei.training.augment import (
    GROUPS,
    MIN_PART_PX,
    PRESETS,
    augment,
    build_photometric,
    change_colours,
    cut,
    measure_levels,
    number_parts,
    paste_copies,
    resolve_preset,
    stain,
)

GEOMETRIC = ("crop", "affine", "distort", "mosaic", "dihedral", "copy_paste")
PHOTOMETRIC = tuple(group for group in GROUPS if group not in GEOMETRIC)
EIGHT = np.ones((3, 3))
BACKGROUND, NUCLEUS = 20, 200


def paint(labels):
    """Draw an image that shows its labels."""
    return np.repeat(np.where(labels > 0, NUCLEUS, BACKGROUND).astype(np.uint8)[..., None], 3, axis=2)


def discs(shape, spacing=40, radius=(7, 11), seed=0):
    """Draw labels of discs that stand on a jittered grid, apart from each other and the frame."""
    rng, labels = np.random.default_rng(seed), np.zeros(shape, np.int32)
    y, x = np.mgrid[: shape[0], : shape[1]]
    for top in range(spacing // 2, shape[0] - spacing // 2 + 1, spacing):
        for left in range(spacing // 2, shape[1] - spacing // 2 + 1, spacing):
            center = np.array([top, left]) + rng.uniform(-4, 4, 2)
            labels[np.hypot(y - center[0], x - center[1]) <= rng.uniform(*radius)] = labels.max() + 1
    return labels


def check_numbering(labels):
    """Assert that labels count up from 1 and that each is one 8-connected part of at least 8 px."""
    assert labels.dtype == np.int32
    areas = np.bincount(labels.ravel())
    assert (areas[1:] >= MIN_PART_PX).all()
    for label, box in enumerate(ndimage.find_objects(labels), start=1):
        assert ndimage.label(labels[box] == label, EIGHT)[1] == 1


def same(ours, expected):
    return all(np.array_equal(a, b) for a, b in zip(ours, expected, strict=True))


ALONE = {group: {group: 1.0} for group in GROUPS}
CHOICES = {name: name for name in PRESETS} | ALONE | {"all": dict.fromkeys(GROUPS, 1.0)}


@pytest.mark.parametrize("preset", CHOICES.values(), ids=CHOICES)
@settings(max_examples=12)
@given(
    st.tuples(st.integers(1, 90), st.integers(1, 90)),
    st.sampled_from([8, 32, 48]),
    st.sampled_from(["gray", "color", "empty", "black", "white"]),
    st.integers(0, 2**32),
)
def test_every_preset_and_group_takes_every_image(preset, shape, size, content, seed):
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (*shape, 3), dtype=np.uint8)
    labels = np.kron(rng.integers(0, 4, shape), np.ones((3, 3), np.int64))[: shape[0], : shape[1]].astype(np.uint16)
    if content == "gray":
        image[..., 1:] = image[..., :1]
    elif content == "empty":
        labels[:] = 0
    elif content in ("black", "white"):
        image[:] = 255 * (content == "white")
    before = image.copy(), labels.copy()
    crop, ids = augment(image, labels, preset, size, rng)
    assert (crop.dtype, crop.shape, ids.shape) == (np.uint8, (size, size, 3), (size, size))
    assert crop.flags.c_contiguous
    check_numbering(ids)
    assert same((image, labels), before)
    assert content != "empty" or not ids.any()


@pytest.mark.parametrize("preset", CHOICES.values(), ids=CHOICES)
def test_the_generator_alone_decides_a_crop(preset):
    pairs = [make_image(kind, (90, 70), np.random.default_rng(2)) for kind in KINDS]
    preset = preset if isinstance(preset, str) else preset | {"crop": 1.0}

    def crop(i):
        return augment(*pairs[i % 4], preset, 64, np.random.default_rng(i), lambda: pairs[(i + 1) % 4])

    random.seed(1), np.random.seed(1)
    expected = [crop(i) for i in range(8)]
    random.seed(2), np.random.seed(2)
    assert all(same(crop(i), expected[i]) for i in reversed(range(8)))
    assert not same(expected[0], expected[4])


@pytest.mark.parametrize("groups", [("crop",), ("crop", "dihedral"), ("crop", "mosaic"), (), ("dihedral", "mosaic")])
def test_crops_that_are_not_warped_are_exact(groups):
    labels = discs((150, 170))
    for seed in range(15):
        image, ids = augment(paint(labels), labels, dict.fromkeys(groups, 1.0), 96, np.random.default_rng(seed))
        # Only parts below 8 px, cut off by an edge, are in the image and not in the labels.
        lost, _ = ndimage.label((image[..., 0] == NUCLEUS) & (ids == 0), EIGHT)
        assert (np.bincount(lost.ravel())[1:] < MIN_PART_PX).all()
        assert np.array_equal(image, paint(np.where(lost, 1, ids)))
        assert ids.max() >= 4


@pytest.mark.parametrize("groups", [("affine",), ("distort",), ("affine", "distort")])
def test_labels_are_sampled_at_the_very_points_of_the_image(groups):
    # Each pixel's value is its row or column, and its label tells both.
    y, x = np.mgrid[:200, :200]
    image = np.stack([y, x, 0 * y], axis=-1).astype(np.uint8)
    for seed in range(20):
        preset = resolve_preset(dict.fromkeys(groups, 1.0))
        crop, ids = cut(image, y * 200 + x + 1, 48, 40, preset, np.random.default_rng(seed))
        away = np.stack(np.divmod(ids - 1, 200), axis=-1) - crop[..., :2].astype(float)
        assert np.abs(away).max() <= 1
        assert np.abs(away.mean(axis=(0, 1))).max() < 0.06


@pytest.mark.parametrize("groups", [("affine",), ("distort",), ("dihedral", "affine"), ("mosaic", "affine", "distort")])
def test_warped_nuclei_keep_their_center_of_mass(groups):
    labels = discs((300, 300))
    shifts = []
    for seed in range(40):
        preset = dict.fromkeys(("crop", *groups), 1.0)
        image, ids = augment(paint(labels), labels, preset, 128, np.random.default_rng(seed))
        light = image[..., 0].astype(float) - BACKGROUND
        for label, box in enumerate(ndimage.find_objects(ids), start=1):
            wide = tuple(slice(max(0, s.start - 3), s.stop + 3) for s in box)
            alone, at_frame = set(np.unique(ids[wide])) == {0, label}, any(s.start < 3 or s.stop > 125 for s in box)
            if alone and not at_frame:
                mask = ids[wide] == label
                shifts.append(np.subtract(ndimage.center_of_mass(light[wide]), ndimage.center_of_mass(mask)))
    assert len(shifts) > 100
    assert np.abs(np.mean(shifts, axis=0)).max() < 0.03
    assert np.mean(np.abs(shifts)) < 0.15


def test_a_blur_shifts_nothing():
    labels = discs((128, 128))
    shifts = []
    for seed in range(40):
        image, ids = augment(paint(labels), labels, {"blur": 1.0}, 128, np.random.default_rng(seed))
        assert np.array_equal(ids, number_parts(labels))
        light = image[..., 0].astype(float) - BACKGROUND
        for label, box in enumerate(ndimage.find_objects(ids), start=1):
            wide = tuple(slice(s.start - 4, s.stop + 4) for s in box)
            shifts.append(np.subtract(ndimage.center_of_mass(light[wide]), ndimage.center_of_mass(ids[wide] == label)))
    assert np.abs(np.mean(shifts, axis=0)).max() < 0.01
    assert np.abs(shifts).max() < 0.1


@pytest.mark.parametrize("group", PHOTOMETRIC)
def test_groups_of_light_and_colour_change_the_image_and_not_the_labels(group):
    image, labels = make_image("dark_fluorescence_large", (110, 110), np.random.default_rng(3))
    image[..., 1] //= 2  # some colour to work on
    changed = 0
    for seed in range(6):
        plain = augment(image, labels, {"crop": 1.0}, 96, np.random.default_rng(seed))
        crop, ids = augment(image, labels, {"crop": 1.0, group: 1.0}, 96, np.random.default_rng(seed))
        assert np.array_equal(ids, plain[1])
        changed += not np.array_equal(crop, plain[0])
    assert changed >= 3


@pytest.mark.parametrize("group", PHOTOMETRIC)
def test_dim_nuclei_are_not_erased(group):
    labels = discs((96, 96))
    image = np.where(labels > 0, 24, 6).astype(np.uint8)[..., None].repeat(3, axis=2)
    for seed in range(30):
        crop, ids = augment(image, labels, {group: 1.0}, 96, np.random.default_rng(seed))
        gray = cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY).astype(float)
        contrast = abs(gray[ids > 0].mean() - gray[ids == 0].mean())
        # Emboss keeps only rims; anything else keeps most of the 18 levels.
        assert contrast > (1 if group == "sharpen" else 8)


def test_images_continue_by_reflection():
    image, labels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8), np.zeros((20, 30), int)
    crop, _ = augment(image, labels, {}, 64, np.random.default_rng(0))
    rows, columns = (np.pad(np.arange(n), (64 - n) // 2, mode="symmetric") for n in (20, 30))
    assert np.array_equal(crop, image[np.ix_(rows, columns)])


def test_a_reflected_nucleus_is_another_nucleus():
    labels = np.zeros((20, 20), np.int32)
    labels[6:14, 6:14] = 1
    _, ids = augment(paint(labels), labels, {}, 60, np.random.default_rng(0))
    assert ids.max() == 9
    assert (np.bincount(ids.ravel())[1:] == 64).all()


def test_only_nuclei_cut_by_the_edge_join_their_mirror_image():
    y, x = np.mgrid[:40, :40]
    half_disc, slanted = np.hypot(y - 20, x) <= 8, (np.abs(y - 2 * x - 4) <= 3) & (x < 14)
    _, ids = augment(paint(half_disc), half_disc.astype(int), {}, 60, np.random.default_rng(0))
    assert ids[30, 10] == ids[30, 9] > 0
    _, ids = augment(paint(slanted), slanted.astype(int), {}, 60, np.random.default_rng(0))
    assert ids[14, 10] != ids[14, 9]
    assert min(ids[14, 10], ids[14, 9]) > 0


def test_a_touching_mirror_image_of_two_nuclei_keeps_them_apart():
    labels = np.zeros((40, 40), np.int32)
    labels[10:20, :10], labels[20:30, :10] = 1, 2
    _, ids = augment(paint(labels), labels, {}, 60, np.random.default_rng(0))
    assert ids[25, 12] == ids[25, 8] != ids[35, 12] == ids[35, 8]


def test_windows_are_spread_over_the_image_and_central_without_the_group_crop():
    image = np.mgrid[:100, :100][1].astype(np.uint8)[..., None].repeat(3, axis=2)
    labels = np.zeros((100, 100), int)
    starts = [augment(image, labels, "none", 32, np.random.default_rng(i))[0][0, 0, 0] for i in range(400)]
    assert (min(starts), max(starts)) == (0, 68)
    assert np.mean(starts) == pytest.approx(34, abs=3)
    assert augment(image, labels, {}, 32, np.random.default_rng(0))[0][0, 0, 0] == 34


def test_mosaics_are_of_the_partners():
    image, labels = np.full((40, 50, 3), 10, np.uint8), np.zeros((40, 50), int)
    others = iter([(np.full((30, 60, 3), value, np.uint8), np.ones((30, 60), int)) for value in (20, 30, 40, 50)])
    crop, ids = augment(image, labels, {"mosaic": 1.0}, 64, np.random.default_rng(1), lambda: next(others))
    corners = crop[[0, 0, -1, -1], [0, -1, 0, -1], 0]
    assert corners.tolist() == [10, 20, 30, 40]
    assert set(np.unique(crop)) == {10, 20, 30, 40}
    labels_at_corners = ids[[0, 0, -1, -1], [0, -1, 0, -1]]
    assert labels_at_corners[0] == 0
    assert len(set(labels_at_corners.tolist())) == 4


def test_the_generator_draws_all_eight_views():
    labels = discs((64, 64), spacing=20, radius=(3, 6))
    crops = (augment(paint(labels), labels, {"dihedral": 1.0}, 64, np.random.default_rng(i)) for i in range(99))
    assert len({ids.tobytes() for _, ids in crops}) == 8


def test_pasted_copies_leave_nuclei_as_they_were_and_look_like_them():
    labels = discs((128, 128), spacing=42)
    image, n_pasted, gaps = paint(labels), 0, []
    for seed in range(30):
        pasted, ids = paste_copies(image, labels, np.random.default_rng(seed))
        assert np.array_equal(ids[labels > 0], labels[labels > 0])
        assert np.array_equal(pasted[labels > 0], image[labels > 0])
        new = (ids > 0) & (labels == 0)
        assert np.abs(pasted[new].astype(int) - NUCLEUS).max(initial=0) <= 12
        distance = ndimage.distance_transform_edt(ids == 0)
        assert np.abs(pasted[distance > 5].astype(int) - BACKGROUND).max() == 0
        assert 0 <= ids.max() - labels.max() <= 8
        n_pasted += ids.max() - labels.max()
        for label in range(labels.max() + 1, ids.max() + 1):
            others = (ids > 0) & (ids < label)
            gaps.append(ndimage.distance_transform_edt(~others)[ids == label].min() - 1)
    assert n_pasted > 60
    assert min(gaps) < 0.5
    assert max(gaps) < 6


def test_nothing_is_pasted_on_a_busy_background():
    labels = discs((96, 96))
    noise = np.random.default_rng(0).integers(0, 256, (96, 96, 3), dtype=np.uint8)
    for seed in range(5):
        image, ids = paste_copies(noise, labels, np.random.default_rng(seed))
        assert same((image, ids), (noise, labels))


@given(hnp.arrays(np.int32, st.tuples(*[st.integers(1, 12)] * 2), elements=st.sampled_from([0, 3, 3, 900])))
def test_numbering_equals_a_reference(labels):
    ours = number_parts(labels)
    check_numbering(ours)
    for label in (3, 900):
        parts, n = ndimage.label(labels == label, EIGHT)
        for part in range(1, n + 1):
            found = np.unique(ours[parts == part])
            assert len(found) == 1
            assert (found[0] > 0) == ((parts == part).sum() >= MIN_PART_PX)
            assert found[0] == 0 or (ours == found[0]).sum() == (parts == part).sum()
    assert not ours[labels == 0].any()


def test_only_dark_images_are_stained():
    fluorescence, labels = make_image("dark_fluorescence_large", (96, 96), np.random.default_rng(1))
    purple, _ = make_image("purple_on_white", (96, 96), np.random.default_rng(1))
    for seed in range(10):
        stained = stain(fluorescence, np.random.default_rng(seed))
        assert (stained.dtype, stained.shape) == (np.uint8, fluorescence.shape)
        assert stained[labels == 0].mean() > 150
        assert stained[labels > 0].mean() < stained[labels == 0].mean() - 20
        assert stain(purple, np.random.default_rng(seed)) is purple


def test_absent_groups_are_off():
    assert resolve_preset({"blur": 0.5}) == dict.fromkeys(GROUPS, 0.0) | {"blur": 0.5}
    assert all(set(groups) <= set(GROUPS) for groups in PRESETS.values())
    assert set(PRESETS["full"]) == set(GROUPS)


@pytest.mark.parametrize(
    ("preset", "message"),
    [
        ("heavy", "unknown augmentation preset 'heavy'; valid: none, light, full"),
        ({"colour": 0.5}, "unknown augmentation group 'colour', did you mean color?"),
        ({"zzz": 0.5}, "unknown augmentation group 'zzz'; valid: crop, .*, noise"),
        ({"blur": 1.5}, "augmentation group blur: probability 1.5 is not in 0..1"),
        ({"blur": float("nan")}, "augmentation group blur: probability nan is not in 0..1"),
    ],
)
def test_wrong_presets_are_answered_with_the_right_ones(preset, message):
    image = np.zeros((8, 8, 3), np.uint8)
    with pytest.raises(ValueError, match=message.replace("?", r"\?")):
        augment(image, image[..., 0], preset, 8, np.random.default_rng(0))


def test_colours_change_as_one_composition_of_albumentations_changes_them():
    image, groups = make_image("purple_on_white", (32, 32), np.random.default_rng(0))[0], PRESETS["full"]
    low, _, high = measure_levels(image)
    composed = albumentations.Compose(build_photometric(tuple(groups.items()), 1 << int(high - low).bit_length()))
    changed = 0
    for seed in range(40):
        composed.set_random_seed(int(np.random.default_rng(seed).integers(2**31)))
        expected = composed(image=image)["image"]
        ours = change_colours(image, groups, np.random.default_rng(seed))
        np.testing.assert_array_equal(ours, expected)
        changed += not np.array_equal(ours, image)
    assert 0 < changed < 40
