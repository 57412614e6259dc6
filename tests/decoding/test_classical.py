"""The classical recipes find bright and dark nuclei alike; the strong one splits, outlines and sees the dim ones."""

import cv2
import numpy as np
import pytest

from nuclei.config.schema import ClassicalConfig
from nuclei.data.synthetic import KINDS, make_image
from nuclei.decoding.classical import (
    RECIPES,
    Otsu,
    Strong,
    open_disk,
    segment_by_recipe,
    segment_otsu,
    segment_strong,
    split_by_distance,
    trim_edges,
)
from nuclei.evaluation.metric import score_image


def segment(image: np.ndarray, recipe: str, **settings) -> np.ndarray:
    return segment_by_recipe(image, ClassicalConfig(recipe=recipe, settings=settings))


def draw_disks(*disks: tuple[int, int, int]) -> np.ndarray:
    """Draw disks (x, y, radius) as labels 1, 2 …, later ones on top: int32 [96, 96]."""
    labels = np.zeros((96, 96), np.int32)
    for label, (x, y, radius) in enumerate(disks, start=1):
        cv2.circle(labels, (x, y), radius, label, cv2.FILLED)
    return labels


def paint_gray(labels: np.ndarray, *values: int) -> np.ndarray:
    """Give label i the gray values[i], 0 being the background, and noise of one level: uint8 [H, W, 3]."""
    noise = np.random.default_rng(0).integers(-1, 2, labels.shape)
    return np.repeat((np.array(values)[labels] + noise).clip(0, 255).astype(np.uint8)[..., None], 3, axis=2)


APART = draw_disks((25, 25, 12), (70, 60, 12))
TOUCHING = draw_disks((30, 48, 14), (54, 48, 14))


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("values", [(10, 90, 90), (230, 60, 60)], ids=["bright", "dark"])
def test_nuclei_are_found_on_dark_and_on_light(recipe, values):
    labels = segment(paint_gray(APART, *values), recipe)
    assert labels.dtype == np.int32
    assert labels.shape == APART.shape
    assert set(np.unique(labels)) == {0, 1, 2}
    assert score_image(APART, labels)[0] > 0.8


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("value", [0, 7, 128, 255])
def test_an_image_of_one_colour_has_no_nucleus(recipe, value):
    assert not segment(np.full((40, 50, 3), value, np.uint8), recipe).any()


@pytest.mark.parametrize("recipe", RECIPES)
def test_tiny_objects_are_dropped_and_the_rest_numbered_from_1(recipe):
    image = paint_gray(draw_disks((10, 10, 3), (60, 60, 12)), 10, 90, 90)
    assert segment(image, recipe, min_area_px=40).max() == 1
    assert segment(image, recipe, min_area_px=10).max() == 2


def test_an_unknown_recipe_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="'cellprofiler'; valid: otsu, strong"):
        segment(np.zeros((8, 8, 3), np.uint8), "cellprofiler")


def test_opening_cuts_a_bridge():
    labels = APART.copy()
    cv2.line(labels, (25, 25), (70, 60), 1, 2)
    image = paint_gray(labels, 10, 90, 90)
    assert segment_otsu(image, Otsu(opening_px=0)).max() == 1
    assert segment_otsu(image, Otsu(opening_px=3)).max() == 2


def test_only_the_strong_recipe_splits_what_touches():
    image = paint_gray(TOUCHING, 10, 90, 90)
    assert segment_otsu(image, Otsu()).max() == 1
    assert score_image(TOUCHING, segment_strong(image, Strong()))[0] > 0.8


def test_only_the_strong_recipe_sees_the_dim_beside_the_bright():
    image = paint_gray(APART, 10, 60, 250)
    assert segment_otsu(image, Otsu()).max() == 1
    assert score_image(APART, segment_strong(image, Strong()))[0] > 0.8


def test_only_the_strong_recipe_tells_nuclei_from_gray_cytoplasm():
    cells = draw_disks((28, 30, 24), (66, 62, 27), (28, 30, 7), (66, 62, 7))
    nuclei = np.maximum(cells - 2, 0)
    image = paint_gray(cells, 235, 150, 150, 60, 60)
    assert score_image(nuclei, segment_otsu(image, Otsu()))[0] == 0
    assert score_image(nuclei, segment_strong(image, Strong()))[0] > 0.6


def test_in_stained_tissue_a_nucleus_stands_out_from_its_surroundings():
    cells = draw_disks((0, 48, 60), (25, 48, 10))
    image = np.array([(215, 200, 225), (160, 105, 190), (90, 30, 150)], np.uint8)[cells]
    labels = segment_strong(image, Strong())
    found, nucleus = labels == labels[48, 25], cells == 2
    assert (found & nucleus).sum() > 0.8 * (found | nucleus).sum()


def test_a_neck_is_cut_where_the_distance_rises_enough_on_both_sides():
    foreground = (TOUCHING > 0).astype(np.uint8)
    halves = split_by_distance(foreground, smooth_px=1, depth_px=1)
    assert halves.max() == 2
    assert ((halves > 0) == foreground).all()
    assert np.unique(halves[:, :40]).size == 2, "the cut is at the neck"
    assert split_by_distance(foreground, smooth_px=1, depth_px=10).max() == 1


def test_what_the_frame_cuts_to_a_sliver_is_not_lost():
    foreground = np.zeros((40, 40), np.uint8)
    foreground[:2, 10:30] = 1
    foreground[20:36, 10:30] = 1
    assert split_by_distance(foreground, smooth_px=1, depth_px=1).max() == 2


def test_each_nucleus_is_outlined_at_half_of_its_own_height():
    """Blur leaves an edge where it was at half the height: bright and dim disks keep their size."""
    height = np.array([0, 40, 200], np.float32)[APART]
    signal = 10 + cv2.GaussianBlur(height, (0, 0), 2)
    generous = cv2.dilate(APART.astype(np.uint8), np.ones((7, 7), np.uint8)).astype(np.int32)
    trimmed = trim_edges(generous, signal, background=10, edge=0.5)
    assert score_image(APART, generous)[0] < 0.5
    assert score_image(APART, trimmed)[0] > 0.7


def test_trimming_keeps_one_part_without_holes():
    labels = np.ones((20, 20), np.int32)
    signal = np.zeros((20, 20), np.float32)
    signal[2:14, 2:14] = 100
    signal[17:19, 17:19] = 100
    signal[7, 7] = 0
    signal[:, 0] = 60
    trimmed = trim_edges(labels, signal, background=-100, edge=1)
    expected = np.zeros_like(labels)
    expected[2:14, 2:14] = 1
    assert np.array_equal(trimmed, expected)


def test_an_opening_of_radius_0_changes_nothing():
    mask = (np.random.default_rng(0).random((30, 30)) > 0.5).astype(np.uint8)
    assert np.array_equal(open_disk(mask, 0), mask)
    assert open_disk(mask, 2).sum() < mask.sum()


@pytest.mark.parametrize("kind", KINDS)
def test_strong_beats_otsu_on_every_kind_of_synthetic_image(kind):
    rng = np.random.default_rng(3)
    pairs = [make_image(kind, (192, 192), rng) for _ in range(3)]
    otsu, strong = (
        np.mean([score_image(truth, segment(image, recipe))[0] for image, truth in pairs]) for recipe in RECIPES
    )
    assert strong > otsu


def test_a_setting_that_a_recipe_does_not_have_is_refused_with_those_it_has():
    with pytest.raises(ValueError, match="otsu has no setting edge; valid: min_area_px, opening_px"):
        segment(np.zeros((8, 8, 3), np.uint8), "otsu", edge=0.5)


def test_pixels_may_be_given_as_yaml_gives_them():
    image = paint_gray(TOUCHING, 10, 90, 90)
    np.testing.assert_array_equal(segment(image, "otsu", opening_px=3.0), segment_otsu(image, Otsu(opening_px=3)))
