"""Features of candidates against known answers and against skimage's definitions."""

import cv2
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter
from skimage.measure import label, regionprops
from skimage.morphology import convex_hull_image

from nuclei.candidates.context import CHANNELS, Context, describe_whole
from nuclei.candidates.features import FEATURES, compute_features, feature_group, feature_names, features_table
from nuclei.candidates.geometry import find_runs
from nuclei.candidates.table import Candidates

ALL_COLUMNS = [name for features in FEATURES.values() for name in features]
TURNING = ["area_px", "perimeter_px", "convex_area_px", "euler_number", "box_long_px", "box_short_px"]


def make_candidates(masks, node=None, threshold=None, parent=None):
    """Return Candidates of bool masks, by default each a root and leaf of its own."""
    shape = masks[0].shape
    pixels = [np.flatnonzero(mask) for mask in masks]
    node = np.arange(len(masks)) if node is None else np.asarray(node)
    parent = np.full(node.max() + 1, -1) if parent is None else np.asarray(parent)
    threshold = np.full(len(masks), 0.5) if threshold is None else np.asarray(threshold)
    return Candidates(
        shape=shape,
        indptr=np.append(0, np.cumsum([len(p) for p in pixels])),
        pixels=np.concatenate(pixels).astype(np.int32),
        node=node.astype(np.int32),
        threshold=threshold.astype(np.float32),
        parent=parent.astype(np.int32),
        level=np.linspace(0.1, 0.2, len(parent), dtype=np.float32),
        peak=np.linspace(0.8, 0.9, len(parent), dtype=np.float32),
    )


def draw_disc(shape, centre, radius):
    y, x = np.indices(shape)
    return (y - centre[0]) ** 2 + (x - centre[1]) ** 2 <= radius**2


def draw_blobs(seed, shape=(90, 110), sigma=3.0):
    """Return bool masks of the 8-connected components of thresholded noise, holes and dots included."""
    noise = gaussian_filter(np.random.default_rng(seed).standard_normal(shape), sigma)
    labels = label(noise > noise.std() * 0.5, connectivity=2)
    return [labels == i for i in range(1, labels.max() + 1)]


def draw_scene(seed, shape=(90, 110)):
    """Return blobs as candidates with random maps and image."""
    rng = np.random.default_rng(seed)
    names = ("mask", "border", "center", "disagreement")
    maps = {name: rng.random(shape, dtype=np.float32) for name in names}
    return draw_blobs(seed, shape), maps, rng.integers(0, 256, (*shape, 3), dtype=np.uint8)


def shape_table(masks):
    image = np.zeros((*masks[0].shape, 3), np.uint8)
    return compute_features(make_candidates(masks), {}, image, groups=["shape"])


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), sigma=st.sampled_from([0.7, 1.5, 3.0]))
def test_shape_equals_regionprops(seed, sigma):
    masks = draw_blobs(seed, (50, 60), sigma)
    table = shape_table(masks)
    for row, mask in zip(table.itertuples(), masks, strict=True):
        (region,) = regionprops(mask.astype(int))
        assert row.area_px == region.area
        assert row.major_axis_px == pytest.approx(region.axis_major_length, abs=1e-3)
        assert row.minor_axis_px == pytest.approx(region.axis_minor_length, abs=1e-3)
        assert row.eccentricity == pytest.approx(region.eccentricity, abs=1e-3)
        assert row.extent == pytest.approx(region.extent)
        assert row.perimeter_px == pytest.approx(region.perimeter_crofton)
        assert row.euler_number == region.euler_number
        assert row.equivalent_diameter_px == pytest.approx(region.equivalent_diameter_area)
        height, width = region.image.shape
        assert (row.box_long_px, row.box_short_px) == (max(height, width), min(height, width))


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_hull_counts_the_pixels_with_centres_inside(seed):
    """Unlike regionprops, which pads hulls by half a pixel and so never counts fewer."""
    masks = draw_blobs(seed, (60, 70), 2.0)
    # skimage has no hull of fewer than three points or of points in one line
    masks = [m for m in masks if min(regionprops(m.astype(int))[0].image.shape) > 2]
    for row, mask in zip(shape_table(masks).itertuples(), masks, strict=True):
        assert row.convex_area_px == convex_hull_image(mask, offset_coordinates=False).sum()
        assert row.convex_area_px <= regionprops(mask.astype(int))[0].area_convex
        assert row.area_px <= row.convex_area_px


@pytest.mark.parametrize("draw", [np.eye(5, dtype=bool), np.ones((1, 7), bool), np.ones((6, 1), bool),
                                  np.ones((1, 1), bool), np.ones((4, 9), bool)])  # fmt: skip
def test_thin_and_full_candidates_are_convex(draw):
    mask = np.pad(draw, ((3, 8), (5, 2)))
    row = shape_table([mask]).iloc[0]
    assert row.solidity == 1
    assert 0.9 < row.convexity < 1.35
    assert np.isfinite(row.to_numpy()).all()


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6), dy=st.integers(0, 30), dx=st.integers(0, 30))
def test_shape_ignores_place_and_quarter_turns(seed, dy, dx):
    masks = [np.pad(m, 1) for m in draw_blobs(seed, (50, 60), 2.0)]
    still = shape_table(masks)
    moved = shape_table([np.pad(m, ((dy, 3), (dx, 5))) for m in masks])
    turned = shape_table([np.rot90(m) for m in masks])
    np.testing.assert_allclose(moved, still, atol=1e-6)
    np.testing.assert_array_equal(turned[TURNING], still[TURNING])
    np.testing.assert_allclose(turned, still, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("radius", [4.5, 8.5, 15.5, 30.5])  # whole radii draw a lone pixel at each pole
def test_disc_is_round_and_solid(radius):
    row = shape_table([draw_disc((80, 80), (40, 39), radius)]).iloc[0]
    # lengths come from four directions, so a small disc, an octagon on the grid, is up to 4 % off
    assert row.circularity == pytest.approx(1, abs=0.08)
    assert row.solidity == pytest.approx(1, abs=0.005)
    assert row.convexity == pytest.approx(1, abs=0.08)
    assert row.eccentricity == pytest.approx(0, abs=1e-3)
    assert row.ellipse_fill == pytest.approx(1, abs=0.02)
    assert row.inscribed_radius_px == pytest.approx(radius + 0.5, rel=0.06)


def test_nested_candidates_keep_their_own_holes():
    disc, hole = draw_disc((60, 60), (30, 30), 12), draw_disc((60, 60), (30, 30), 4)
    table = shape_table([disc, disc & ~hole, hole])
    assert table.euler_number.tolist() == [1, 0, 1]
    assert table.area_px.tolist() == [disc.sum(), (disc & ~hole).sum(), hole.sum()]
    assert table.perimeter_px[1] > table.perimeter_px[0] + table.perimeter_px[2] * 0.9


def test_neighbours_on_a_grid():
    centres = [(y, x) for y in range(60, 300, 60) for x in range(60, 300, 60)]
    radii = [5 + 7 * i % 16 for i in range(len(centres))]  # all different, so a wrong median shows
    masks = [draw_disc((320, 320), c, r) for c, r in zip(centres, radii, strict=True)]
    area = np.array([m.sum() for m in masks])
    # every disc at two thresholds: a location must count once, and never itself
    table = compute_features(
        make_candidates(masks * 2, node=list(range(16)) * 2, threshold=[0.3] * 16 + [0.6] * 16),
        {}, np.zeros((320, 320, 3), np.uint8), groups=["neighbours"],
    )  # fmt: skip
    distance = np.hypot(*(np.array(centres)[:, None] - np.array(centres)[None]).transpose(2, 0, 1))
    for radius in (50, 100, 150, 200):
        near = (distance <= radius) & (distance > 0)
        assert table[f"neighbours_{radius}px"].tolist() == near.sum(1).tolist() * 2
        for i in range(32):
            median = np.median(area[near[i % 16]]) if near[i % 16].any() else np.nan
            expected = [median, area[i % 16] / median]
            columns = [f"neighbour_area_{radius}px", f"area_over_neighbours_{radius}px"]
            np.testing.assert_allclose(table.loc[i, columns].astype(float), expected, rtol=1e-6)


def clump_with_two_parts():
    """Return a clump (node 2) of two discs (nodes 0, 1), all at two thresholds, and a lone disc (node 3)."""
    shape = (80, 120)
    low = [draw_disc(shape, c, 10) for c in [(40, 30), (40, 51), (40, 100)]]
    high = [draw_disc(shape, c, 8) for c in [(40, 30), (40, 51), (40, 100)]]
    masks = [m for a in (low, high) for m in (a[0], a[1], a[0] | a[1], a[2])]
    node, threshold = [0, 1, 2, 3] * 2, [0.3] * 4 + [0.6] * 4
    return masks, make_candidates(masks, node, threshold, parent=[2, 2, -1, -1])


def test_place_in_the_tree():
    masks, candidates = clump_with_two_parts()
    area = np.array([m.sum() for m in masks])
    table = compute_features(candidates, {}, np.zeros((80, 120, 3), np.uint8))
    assert table.depth.tolist() == [1, 1, 0, 0] * 2
    assert table.leaves_below.tolist() == [1, 1, 2, 1] * 2
    assert table.siblings.tolist() == [1, 1, 0, 0] * 2
    assert table.is_leaf.tolist() == [1, 1, 0, 1] * 2
    assert table.is_root.tolist() == [0, 0, 1, 1] * 2
    np.testing.assert_allclose(table.persistence, 0.7, rtol=1e-6)
    nan = np.nan
    np.testing.assert_allclose(table.area_over_parent[:4], [*area[:2] / area[2], nan, nan], rtol=1e-6)
    np.testing.assert_allclose(table.area_over_parent[4:], [*area[4:6] / area[6], nan, nan], rtol=1e-6)
    of_children = area[2] / area[:2].sum()
    np.testing.assert_allclose(table.area_over_children[:4], [nan, nan, of_children, nan], rtol=1e-6)
    np.testing.assert_allclose(table.area_over_lower, [*[nan] * 4, *area[4:] / area[:4]], rtol=1e-6)
    np.testing.assert_allclose(table.area_over_higher, [*area[:4] / area[4:], *[nan] * 4], rtol=1e-6)
    # the clump's own parts are no neighbours of it, but of one another
    assert table.neighbours_50px.tolist() == [1, 2, 0, 1] * 2
    assert table.neighbours_100px.tolist() == [2, 2, 1, 2] * 2
    assert set(table.image_leaves) == {3}
    # leaves stand at the middle threshold, of two the lower
    np.testing.assert_allclose(table.image_leaf_area_px, np.median(area[[0, 1, 3]]))


def test_statistics_of_inside_rim_and_ring():
    disc = draw_disc((60, 60), (30, 30), 9)
    rim = disc & ~cv2.erode(disc.astype(np.uint8), np.uint8([[0, 1, 0], [1, 1, 1], [0, 1, 0]])).astype(bool)
    distance = cv2.distanceTransform((~disc).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    ring = (distance > 0) & (distance <= 3.2)
    mask = np.select([rim, disc, ring], [0.6, 0.9, 0.2], 0.45).astype(np.float32)
    center = np.zeros((60, 60), np.float32)
    center[30, 30], center[27, 36], center[2, 2] = 0.9, 0.5, 0.7
    image = np.full((60, 60, 3), 7, np.uint8)
    image[disc] = (200, 100, 50)
    image[ring] = (20, 10, 5)
    row = compute_features(make_candidates([disc]), {"mask": mask, "center": center}, image).iloc[0]
    expected = {
        "mask_mean": mask[disc].mean(),
        "mask_std": mask[disc].std(),
        "mask_rim": 0.6,
        "mask_ring": 0.2,
        "mask_min": 0.6,
        "mask_contrast": mask[disc].mean() - 0.2,
        "mask_rim_contrast": 0.4,
        "mask_share_above_0.5": 1,
        "mask_share_above_0.7": 1 - rim.sum() / disc.sum(),
        "center_peak_sum": 1.4,
        "red_mean": 200 / 255,
        "red_contrast": 180 / 255,
        "blue_std": 0,
        "saturation_mean": 0.75,
        "green_over_foreground": 0,
        "image_foreground_share": disc.mean(),
    }
    for name, value in expected.items():
        assert row[name] == pytest.approx(value, abs=3e-3 if "saturation" in name else 1e-5), name
    assert row.gray_gradient_rim > 5 * row.gray_gradient_mean * rim.mean()


def test_an_image_edge_on_the_rim_shows():
    disc = draw_disc((60, 60), (30, 30), 9)
    grown = draw_disc((60, 60), (30, 30), 14)
    image = np.where(disc[..., None], 200, 20).astype(np.uint8).repeat(3, axis=2)
    table = compute_features(make_candidates([disc, grown]), {}, image, groups=["colour"])
    assert table.gray_gradient_rim[0] > 0.1
    assert table.gray_gradient_rim[1] == 0


@pytest.mark.parametrize("channel", [None, 0, 1, 2])
def test_an_image_without_colour_has_the_features_that_all_its_channels_give(monkeypatch, channel):
    """Channels that are alike are measured once; one gray level more in any channel, and they are not alike."""
    masks, maps, image = draw_scene(4)
    image[...] = image[..., :1]
    if channel is not None:
        image[30, 40, channel] ^= 1
    candidates = make_candidates(masks)
    context = Context(candidates, maps, image)
    assert bool(context.alike) == (channel is None)
    table = compute_features(candidates, maps, image)
    monkeypatch.setattr(Context, "alike", {})
    pd.testing.assert_frame_equal(compute_features(candidates, maps, image), table, check_exact=True)


def test_channels_that_are_alike_in_gray_images_are_measured_at_the_same_places():
    for channel in CHANNELS.values():
        if channel.when_gray:
            other = CHANNELS[channel.when_gray]
            assert (channel.source, channel.around, channel.spread) == (other.source, other.around, other.spread)
            assert other.when_gray is None


def test_rings_do_not_wrap_at_the_frame():
    """A candidate on the left frame must not see the right one, nor one at the top the bottom."""
    shape = (40, 50)
    value = np.full(shape, 0.25, np.float32)
    value[:, 25:] = value[20:] = 0.75
    corner = np.zeros(shape, bool)
    corner[:6, :8] = True
    whole = np.ones(shape, bool)
    image = np.zeros((*shape, 3), np.uint8)
    for turn in range(4):
        table = compute_features(
            make_candidates([np.rot90(corner, turn), np.rot90(whole, turn)]),
            {"mask": np.rot90(value, turn).copy()}, np.rot90(image, turn).copy(),
        )  # fmt: skip
        assert table.mask_ring[0] == pytest.approx(0.25)
        assert np.isnan(table.mask_ring[1])
        assert table.touches_frame.tolist() == [1, 1]


def test_each_side_of_the_frame_counts():
    at_top, off_top = np.zeros((2, 12, 15), bool)
    at_top[0:3, 5:8] = off_top[1:4, 5:8] = True
    for turn in range(4):
        table = shape_table([np.rot90(at_top, turn), np.rot90(off_top, turn)])
        assert table.touches_frame.tolist() == [1, 0]


@given(st.integers(0, 2**31), st.sampled_from([0.3, 0.7, 1.0]), st.integers(1, 5))
def test_runs_are_the_pixels_row_by_row(seed, share, n):
    rng = np.random.default_rng(seed)
    masks = rng.random((n, 4, 5)) <= share
    masks[:, 1, 2] = True  # none is empty; where all is inside, rows follow one another without a gap
    candidates = make_candidates(list(masks))
    runs = find_runs(candidates)
    drawn = np.zeros(masks.shape, int)
    for owner, y, x, n_pixels in zip(runs.owner, runs.y, runs.x, runs.n_pixels, strict=True):
        drawn[owner, y, x : x + n_pixels] += 1
        assert x + n_pixels == masks.shape[2] or not masks[owner, y, x + n_pixels]
    assert (drawn == masks).all()
    assert runs.owner[runs.first].tolist() == list(range(n))
    assert (np.diff(runs.owner) >= 0).all()


def test_no_candidates_give_an_empty_table_with_all_columns():
    none = np.zeros(0)
    candidates = Candidates((30, 40), np.zeros(1, np.int64), none.astype(np.int32), none.astype(np.int32),
                            none.astype(np.float32), none.astype(np.int32), none, none)  # fmt: skip
    maps, image = {"mask": np.zeros((30, 40), np.float32)}, np.zeros((30, 40, 3), np.uint8)
    table = compute_features(candidates, maps, image)
    assert table.shape == (0, len(ALL_COLUMNS))
    assert list(table.columns) == ALL_COLUMNS


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_permuted_candidates_give_permuted_rows(seed):
    masks, maps, image = draw_scene(seed)
    table = compute_features(make_candidates(masks), maps, image)
    order = np.random.default_rng(seed).permutation(len(masks))
    permuted = compute_features(make_candidates([masks[i] for i in order], node=order), maps, image)
    np.testing.assert_allclose(permuted, table.iloc[order], rtol=1e-5, atol=1e-6)


def test_columns_groups_and_missing_maps():
    masks, maps, image = draw_scene(3)
    candidates = make_candidates(masks)
    full = compute_features(candidates, maps, image)
    assert list(full.columns) == ALL_COLUMNS
    assert len(set(ALL_COLUMNS)) == len(ALL_COLUMNS)
    assert (full.dtypes == np.float32).all()
    for group, features in FEATURES.items():
        part = compute_features(candidates, maps, image, groups=[group])
        np.testing.assert_array_equal(part, full[list(features)])
        assert {feature_group(name) for name in part} == {group}
    without = compute_features(candidates, {n: maps[n] for n in ("mask", "border")}, image)
    missing = [name for name in ALL_COLUMNS if "center" in name or "disagreement" in name]
    assert without[missing].isna().all(axis=None)
    np.testing.assert_array_equal(without.drop(columns=missing), full.drop(columns=missing))


def test_features_are_named_without_the_groups_left_out():
    assert feature_names() == ALL_COLUMNS
    left = feature_names(iter(("colour", "tree")))
    assert left == [name for name in ALL_COLUMNS if feature_group(name) not in ("colour", "tree")]
    with pytest.raises(ValueError, match="feature group color; valid: shape, neighbours"):
        feature_names(("color", "tree"))


def test_stored_features_get_their_names_back():
    masks, maps, image = draw_scene(4)
    table = compute_features(make_candidates(masks), maps, image)
    again = features_table(table.to_numpy(np.float32), list(table.columns))
    pd.testing.assert_frame_equal(again, table)
    with pytest.raises(ValueError, match=r"\(3, 2\) are not the 1 named"):
        features_table(np.zeros((3, 2), np.float32), ["area_px"])


def test_wrong_input_is_refused():
    candidates = make_candidates([np.ones((5, 6), bool)])
    image = np.zeros((5, 6, 3), np.uint8)
    with pytest.raises(ValueError, match="known: shape, neighbours"):
        compute_features(candidates, {}, image, groups=["form"])
    with pytest.raises(ValueError, match=r"mask is .* px"):
        compute_features(candidates, {"mask": np.zeros((6, 5), np.float32)}, image)
    with pytest.raises(ValueError, match="without pixels"):
        compute_features(make_candidates([np.zeros((5, 6), bool)]), {}, image)
    with pytest.raises(KeyError, match="area_px"):
        feature_group("aera")


@pytest.mark.parametrize("names", [("mask", "border", "center", "disagreement"), ("mask",), ()])
def test_a_part_that_is_the_whole_image_has_the_features_of_the_whole(names):
    masks, maps, image = draw_scene(5)
    maps, candidates = {name: maps[name] for name in names}, make_candidates(masks)
    whole = describe_whole([Context(candidates, maps, image)], image.shape[0] * image.shape[1])
    expected = compute_features(candidates, maps, image)
    pd.testing.assert_frame_equal(compute_features(candidates, maps, image, whole=whole), expected)


def test_parts_are_pooled_and_their_leaves_counted_by_area():
    masks, maps, image = draw_scene(6, (90, 120))
    halves = [np.s_[:, :60], np.s_[:, 60:]]
    parts = [
        Context(
            make_candidates([mask[half] for mask in masks if mask[half].any()]),
            {name: values[half] for name, values in maps.items()},
            np.ascontiguousarray(image[half]),
        )
        for half in halves
    ]
    whole, joined = Context(make_candidates(masks), maps, image), describe_whole(parts, 3 * image.shape[0] * 120)
    for name in ("mask", "gray", "saturation", "mask_above_0.5", "disagreement"):
        summary = whole.channel(name)
        assert joined.pictures[name] == pytest.approx((summary.foreground, summary.image, summary.image_std))
    assert joined.n_leaves == 3 * sum(len(part.leaf_area_px) for part in parts)
    assert joined.leaf_area_px == np.median(np.concatenate([part.leaf_area_px for part in parts]))


def test_what_a_channel_does_not_measure_is_no_feature():
    masks, maps, image = draw_scene(6, (90, 120))
    context = Context(make_candidates(masks), maps, image)
    for name, region in (("mask_above_0.5", "rim"), ("disagreement", "inside_std")):
        with pytest.raises(KeyError, match=region):
            getattr(context.channel(name), region)
