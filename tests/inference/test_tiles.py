"""An image that is cut into tiles has the nuclei that it has in one piece, those on seams included."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from skimage.draw import ellipse
from skimage.measure import label

from nuclei.config.schema import ClassicalConfig
from nuclei.data.normalisation import choose_rule
from nuclei.decoding.classical import segment_by_recipe
from nuclei.errors import UserError
from nuclei.inference.arguments import check_tile
from nuclei.inference.measures import measure_nuclei
from nuclei.inference.predictor import Survey
from nuclei.inference.slide import choose_tile, examine, find_in_tiles, segment_tile
from nuclei.inference.tiles import Tile, cut_tiles, pick_nuclei, spread_windows, stitch


class Bright:
    """Stand for a Predictor whose maps are perfect: pixels above half are nuclei, those that touch apart by value."""

    novelty = None
    trained_diameter = 10.0

    def survey(self, parts, middle, n_pixels):
        self.seen = parts, middle, n_pixels
        return Survey(sample=np.concatenate(parts, axis=1))

    def segment(self, image, survey=None):  # noqa: ARG002 (as a Predictor takes it)
        labels = label(image[..., 0] * (image[..., 0] > 127), connectivity=1).astype(np.int32)
        return labels, (np.bincount(labels.ravel())[1:] % 97 / 97).astype(np.float32)


def draw(shape, nuclei):
    image = np.zeros(shape, np.uint8)
    for number, (y, x, tall, wide, turn) in enumerate(nuclei):
        rows, columns = ellipse(y * shape[0], x * shape[1], tall, wide, shape=shape, rotation=turn)
        image[rows, columns] = 128 + number % 100
    return image


def equal_up_to_numbers(one, other):
    pairs = np.unique(np.stack([one.ravel(), other.ravel()]), axis=1)
    return len(np.unique(pairs[0])) == len(np.unique(pairs[1])) == pairs.shape[1]


def in_one_piece(image):
    labels, iou = Bright().segment(image[..., None])
    table = measure_nuclei(labels, image)
    table["predicted_iou"] = iou
    return labels, table


places = st.floats(0, 1, width=32)
ellipses = st.tuples(places, places, st.integers(1, 24), st.integers(1, 24), st.floats(0, 3))


@settings(max_examples=40, deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate])
@given(
    shape=st.tuples(st.integers(30, 220), st.integers(30, 220)),
    nuclei=st.lists(ellipses, max_size=40),
    tile=st.integers(40, 130),
)
def test_tiles_give_the_nuclei_of_the_whole(shape, nuclei, tile):
    image = draw(shape, nuclei)
    whole, measured = in_one_piece(image)
    if measured[["box_bottom_px", "box_right_px"]].to_numpy().size:
        extent = measured[["box_bottom_px", "box_right_px"]].to_numpy() - measured[["box_top_px", "box_left_px"]]
        assert extent.to_numpy().max() < 160, "the margin holds a nucleus"
    labels, table = find_in_tiles(Bright(), image, choose_rule(lambda: [image]), tile)
    assert equal_up_to_numbers(whole, labels)
    assert table["label"].tolist() == list(range(1, whole.max() + 1))
    order = {int(labels[whole == one][0]): one for one in range(1, whole.max() + 1)}
    again = measured.set_index("label").loc[[order[one] for one in table["label"]]].reset_index(drop=True)
    pd.testing.assert_frame_equal(table.drop(columns="label"), again, check_exact=True)


@settings(max_examples=50, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 300), st.integers(1, 300)),
    tile=st.integers(25, 120),
    margin=st.integers(0, 50),
    align=st.integers(1, 25),
)
def test_cores_cover_an_image_once_and_windows_hold_their_margin(shape, tile, margin, align):
    covered = np.zeros(shape, int)
    for one in cut_tiles(shape, tile, margin, align):
        covered[one.core] += 1
        for core, window, length in zip(one.core, one.window, shape, strict=True):
            assert 0 < core.stop - core.start <= tile
            assert core.start % align == 0
            assert window == slice(max(0, core.start - margin), min(length, core.stop + margin))
    assert (covered == 1).all()


@settings(max_examples=50, deadline=None)
@given(shape=st.tuples(st.integers(1, 300), st.integers(1, 300)), side=st.integers(1, 120), per_axis=st.integers(1, 4))
def test_windows_are_spread_inside_an_image_without_overlap(shape, side, per_axis):
    covered = np.zeros(shape, int)
    windows = spread_windows(shape, side, per_axis)
    assert 1 <= len(windows) <= per_axis**2
    for window in windows:
        covered[window] += 1
        assert covered[window].shape == tuple(min(side, length) for length in shape)
    assert covered.max() == 1


# Two tiles side by side, which each see the whole of an image of 10 x 20.
LEFT = Tile((slice(0, 10), slice(0, 10)), (slice(0, 10), slice(0, 20)), (False,) * 4)
RIGHT = Tile((slice(0, 10), slice(10, 20)), (slice(0, 10), slice(0, 20)), (False,) * 4)


def stitch_two(first, second):
    found = [
        pick_nuclei(labels, np.full(labels.max(), 0.5, np.float32), tile)
        for labels, tile in ((first, LEFT), (second, RIGHT))
    ]
    labels = np.zeros((10, 20), np.int32)
    placed = list(stitch([LEFT, RIGHT], found.__getitem__, labels))
    return labels, [(one.tile, one.first, one.n) for one in placed]


def columns(*spans):
    labels = np.zeros((10, 20), np.int32)
    for number, (start, stop) in enumerate(spans, start=1):
        labels[3:7, start:stop] = number
    return labels


def test_of_two_that_disagree_the_earlier_keeps_its_pixels_and_the_later_what_is_left():
    labels, placed = stitch_two(columns((5, 12)), columns((10, 18)))
    assert np.array_equal(labels, columns((5, 12), (12, 18)))
    assert placed == [(0, 1, 1), (1, 2, 1)]


def test_a_nucleus_that_is_mostly_another_ones_is_dropped():
    labels, placed = stitch_two(columns((4, 14)), columns((9, 15)))
    assert np.array_equal(labels, columns((4, 14)))
    assert placed == [(0, 1, 1)]


def test_a_nucleus_that_each_places_in_the_other_ones_core_is_kept_once():
    labels, placed = stitch_two(columns((6, 18)), columns((2, 14)))
    assert np.array_equal(labels, columns((6, 18)))
    assert placed == [(0, 1, 0), (0, 1, 1)]  # the first tile is named, which owns none


def test_of_what_is_left_the_largest_part_is_kept():
    ring = np.zeros((10, 20), np.int32)
    ring[0:9, 9:18] = 1
    labels, _ = stitch_two(columns((8, 11)), ring)
    bar = np.zeros((10, 20), np.int32)
    bar[4:6, 6:13] = 1
    second = np.zeros((10, 20), np.int32)
    second[1:9, 11:13] = 1
    labels, _ = stitch_two(bar, second)
    assert (labels == 2).sum() in (6, 12)
    assert len(np.unique(label(labels == 2))) == 2


def test_a_nucleus_that_a_window_cuts_is_marked():
    tile = Tile((slice(0, 10), slice(0, 10)), (slice(0, 10), slice(0, 14)), (False, False, False, True))
    found = pick_nuclei(columns((1, 4), (8, 14))[:, :14], None, tile)
    assert found.cut.tolist() == [False, True]
    assert found.owned.tolist() == [True, False]


@pytest.mark.parametrize("diameter", [5.0, 20.0])
def test_tiles_are_of_the_resized_image(diameter):
    rng = np.random.default_rng(0)
    image = draw((300, 400), [(*rng.random(2), *rng.integers(4, 12, 2), rng.random()) for _ in range(60)])
    predictor = Bright()
    slide = examine(predictor, image, image.shape, choose_rule(lambda: [image]), diameter)
    assert slide.factor == 10 / diameter
    tiles = slide.tiles(100)
    assert max(tile.core[0].stop - tile.core[0].start for tile in tiles) <= 100 / slide.factor
    sizes = []
    segment = predictor.segment
    predictor.segment = lambda image, survey: sizes.append(image.shape) or segment(image)
    for tile in tiles:
        segment_tile(predictor, slide, tile)
    assert max(max(size[:2]) for size in sizes) <= 100 + 2 * 160 + 1


def test_what_depends_on_the_whole_is_asked_for_once_and_of_all_of_it():
    image = np.arange(3000 * 40, dtype=np.uint32).reshape(3000, 40).astype(np.float32)
    predictor = Bright()
    rule = choose_rule(lambda: (image[top : top + 100] for top in range(0, 3000, 100)))
    slide = examine(predictor, image, image.shape, rule)
    parts, middle, n_pixels = predictor.seen
    assert n_pixels == image.size
    assert middle.shape == (512, 40, 3)
    assert [part.shape for part in parts] == [(1024, 40, 3)] * 2
    assert parts[0].mean() < middle.mean() < parts[1].mean()
    assert slide.survey.sample.shape == (1024, 80, 3)


def test_large_images_are_tiled_unasked_and_others_where_a_tile_is_smaller():
    assert [choose_tile((4096, side), None) for side in (4096, 4097)] == [0, 2080]
    assert [choose_tile((100, side), 300) for side in (300, 301)] == [0, 300]
    assert choose_tile((50_000, 50_000), 0) == 0


@pytest.mark.parametrize("tile", [1, 255, -256])
def test_a_tile_too_small_is_refused(tile):
    with pytest.raises(UserError, match=f"a tile of {tile} pixels is none: give a side of 256"):
        check_tile(tile)
    assert [check_tile(good) for good in (None, 0, 256)] == [None, 0, 256]


def test_what_a_recipe_without_networks_takes_from_the_whole_is_that_of_its_sample():
    rng = np.random.default_rng(0)
    dim, bright = (rng.normal(level, 3, (200, 200, 1)).clip(0, 255).astype(np.uint8) for level in (20, 180))
    dim, bright = (np.repeat(picture, 3, axis=2) for picture in (dim, bright))
    for recipe in ("otsu", "strong"):
        config = ClassicalConfig(recipe=recipe)
        # Alone each is split by its own noise; of both the threshold lies between them.
        assert segment_by_recipe(dim, config, np.concatenate([dim, dim, bright])).max() == 0
        assert segment_by_recipe(dim, config, dim).max() == segment_by_recipe(dim, config).max()
