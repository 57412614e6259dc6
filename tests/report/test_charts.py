"""Figures show what they are given: outlines lie on boundaries, bins add up, the same input gives the same bytes."""

import cv2
import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from nuclei.candidates.tree import make_candidates
from nuclei.config.schema import WatershedConfig
from nuclei.data.images import stretch_contrast
from nuclei.data.labels import count_touching, find_outlines
from nuclei.data.synthetic import make_image
from nuclei.decoding.tuning import Tuned
from nuclei.evaluation.summary import SUMS, bin_predictions, summarise_bins
from nuclei.report import charts
from nuclei.report.pictures import (
    PREDICTION_COLOUR,
    TRUTH_COLOUR,
    Example,
    ImageSteps,
    as_plain,
    best_of_each_node,
    busiest_window,
    draw_gallery,
    draw_overview,
    draw_pipeline,
    enlarge,
    make_tile,
)
from nuclei.training.targets import make_targets

label_images = arrays(np.int32, st.tuples(st.integers(1, 12), st.integers(1, 12)), elements=st.integers(0, 4))


def brute_outlines(labels):
    """Mark the pixels of labels that have a 4-neighbour of another value."""
    padded = np.pad(labels, 1, mode="edge")
    height, width = labels.shape
    shifted = [
        padded[1 + dy : 1 + dy + height, 1 + dx : 1 + dx + width] for dy, dx in ((0, 1), (0, -1), (1, 0), (-1, 0))
    ]
    return (labels > 0) & np.any([s != labels for s in shifted], axis=0)


def decode(png):
    return cv2.cvtColor(cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)


@pytest.fixture(scope="module")
def drawn():
    return make_image("purple_on_white", (96, 120), np.random.default_rng(3))


@given(label_images)
@settings(max_examples=60, deadline=None)
def test_outlines_are_the_pixels_of_labels_beside_another_value(labels):
    np.testing.assert_array_equal(find_outlines(labels), brute_outlines(labels))


@given(label_images)
@settings(max_examples=30, deadline=None)
def test_thicker_outlines_hold_thinner_ones_and_stay_on_labels(labels):
    thin, thick = find_outlines(labels, 1), find_outlines(labels, 2)
    assert not (thin & ~thick).any()
    assert not (thick & (labels == 0)).any()


def test_an_outline_two_pixels_thick_is_two_pixels_thick():
    labels = np.zeros((20, 20), np.int32)
    labels[4:16, 4:16] = 300
    inner = np.zeros(labels.shape, bool)
    inner[6:14, 6:14] = True
    np.testing.assert_array_equal(find_outlines(labels, 2), (labels > 0) & ~inner)


def test_a_tile_has_outlines_where_the_labels_end_and_nowhere_else(drawn):
    image, labels = drawn
    image, labels = image[:, :96], labels[:, :96]
    moved = np.roll(labels, 3, axis=1)
    tile = make_tile(Example(image, "", labels, moved), 96, 96)
    prediction = (tile == PREDICTION_COLOUR).all(axis=2)
    truth = (tile == TRUTH_COLOUR).all(axis=2)
    np.testing.assert_array_equal(prediction, find_outlines(moved))
    np.testing.assert_array_equal(truth, find_outlines(labels, 2) & ~prediction)
    plain = make_tile(as_plain(Example(image, "", labels, moved), ""), 96, 96)
    np.testing.assert_array_equal(plain[~(prediction | truth)], tile[~(prediction | truth)])
    assert not (plain == PREDICTION_COLOUR).all(axis=2).any()


def test_dark_images_are_brightened_and_bright_ones_left_alone():
    rng = np.random.default_rng(0)
    dark = rng.integers(4, 9, (40, 40, 3)).astype(np.uint8)
    dark[10:20, 10:20] += 20
    shown = stretch_contrast(dark)
    assert shown[10:20, 10:20].min() > 150
    assert np.median(shown) < 120
    bright = rng.integers(150, 255, (40, 40, 3)).astype(np.uint8)
    np.testing.assert_array_equal(stretch_contrast(bright), bright)
    assert stretch_contrast(np.zeros((5, 5, 3), np.uint8)).max() == 0


@given(arrays(bool, st.tuples(st.integers(1, 9), st.integers(1, 9))), st.integers(1, 12))
@settings(max_examples=50, deadline=None)
def test_the_busiest_window_holds_the_most_marks(marks, side_px):
    rows, columns = busiest_window(marks, side_px)
    side = min(side_px, *marks.shape)
    assert rows.stop - rows.start == columns.stop - columns.start == side
    counts = [
        marks[y : y + side, x : x + side].sum()
        for y in range(marks.shape[0] - side + 1)
        for x in range(marks.shape[1] - side + 1)
    ]
    assert marks[rows, columns].sum() == max(counts)


def test_labels_are_enlarged_without_new_values():
    labels = np.random.default_rng(0).integers(0, 70000, (7, 7))
    large = enlarge(labels, 21, smooth=False)
    np.testing.assert_array_equal(large, labels.repeat(3, 0).repeat(3, 1))


def test_touching_labels_are_counted():
    labels = np.zeros((6, 9), int)
    labels[1:3, 1:3], labels[1:3, 3:5], labels[3:5, 5:7] = 1, 2, 3
    assert count_touching(labels) == 2
    labels[3, 4] = 7
    assert count_touching(labels) == 4
    assert count_touching(np.zeros((3, 3), int)) == 0


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), max_size=40), st.integers(1, 12))
@settings(max_examples=60, deadline=None)
def test_bins_equal_what_brute_force_sums(pairs, n_bins):
    predicted, true = np.array(pairs).reshape(-1, 2).T
    sums = bin_predictions(predicted, true, n_bins)
    expected = np.zeros((len(SUMS), n_bins))
    for p, t in pairs:
        expected[:, min(int(p * n_bins), n_bins - 1)] += [1, p, t, t**2, (p - t) ** 2]
    np.testing.assert_allclose(sums, expected, atol=1e-9)
    assert sums[0].sum() == len(pairs)
    half = len(pairs) // 2
    parts = bin_predictions(predicted[:half], true[:half], n_bins) + bin_predictions(
        predicted[half:], true[half:], n_bins
    )
    np.testing.assert_allclose(parts, sums, atol=1e-9)


def test_bins_are_summarised_by_mean_and_spread():
    summary = summarise_bins(bin_predictions([0.1, 0.2, 0.9], [0.2, 0.6, 1.0], 2))
    assert summary["count"].tolist() == [2, 1]
    np.testing.assert_allclose(summary["true"], [0.4, 1.0])
    np.testing.assert_allclose(summary["predicted"], [0.15, 0.9])
    np.testing.assert_allclose(summary["spread"], [0.2, 0], atol=1e-7)
    assert np.isnan(summarise_bins(bin_predictions([0.1], [0.2], 2))["true"][1])


@pytest.mark.parametrize(("predicted", "true", "message"), [([0.1], [], "equally long"), ([1.2], [0.1], "0..1")])
def test_bad_pairs_are_refused(predicted, true, message):
    with pytest.raises(ValueError, match=message):
        bin_predictions(np.array(predicted), np.array(true))


def test_a_tuning_is_split_into_its_curves_with_what_was_chosen():
    options = [{"seed_level": s, "mask_threshold": t} for s in (0.4, 0.6) for t in (0.3, 0.5)]
    tuned = Tuned(options, [0.1, 0.2, 0.3, 0.4], {0: options[1], 1: options[3]}, options[2])
    curves, folds, test = charts.split_curve(tuned, "mask_threshold", "seed_level")
    assert curves == {0.4: ([0.3, 0.5], [0.1, 0.2]), 0.6: ([0.3, 0.5], [0.3, 0.4])}
    assert folds == {0: (0.5, 0.2), 1: (0.5, 0.4)}
    assert test == (0.3, 0.3)


def draw_all():
    """Draw every chart from small input, by name."""
    thresholds = {"0.50": 0.9, "0.75": 0.7, "0.95": 0.1}
    types = {
        "purple_on_white": {"n_images": 3, "score": [0.5, 0.4, 0.6]},
        "new_type": {"n_images": 1, "score": [1, 1, 1]},
    }
    steps = [
        {"run": "a", "method": "components", "score": [0.4, 0.3, 0.5], "gain": None, "over": None},
        {
            "run": "a",
            "method": "scored",
            "score": [0.6, 0.5, 0.7],
            "gain": [0.2, 0.1, 0.3],
            "over": ["a", "components"],
        },
    ]
    kinds = ("merged", "split", "badly_outlined", "missed", "false")
    history = pd.DataFrame({"step": [20, 40], "loss": [1, 0.5], "score": [np.nan, 0.3]})
    keep, drop = {"keep": 0.0}, {"keep": 0.1}
    tuned = Tuned([keep, drop], [0.5, 0.6], {0: drop}, keep)
    clusters = {"out of fold": types, "test": {"new_type": types["new_type"]}}
    return {
        "precision": charts.draw_precision({"out of fold": thresholds}),
        "types": charts.draw_types(clusters, ("purple_on_white",)),
        "steps": charts.draw_steps(["components", "candidate scoring"], steps),
        "importance": charts.draw_importance({"area_px": 0.6, "solidity": 0.4}),
        "reliability": charts.draw_reliability(**summarise_bins(bin_predictions([0.1, 0.9], [0.2, 0.8]))),
        "threshold": charts.draw_threshold("t", "x", tuned, "keep"),
        "training": charts.draw_training("t", {"0": history}),
        "errors": charts.draw_errors({"all images": dict.fromkeys(kinds, 2) | {"n_true": 50}}, kinds),
    }


def test_charts_are_titled_and_their_axes_say_what_they_show():
    for name, figure in draw_all().items():
        axes = figure.axes
        assert any(a.get_title(loc="left") for a in axes), name
        assert all(a.get_xlabel() or a.get_shared_x_axes().get_siblings(a)[1:] for a in axes), name


def test_the_same_input_gives_the_same_bytes_whatever_the_users_settings_are():
    first = {name: charts.render_png(figure) for name, figure in draw_all().items()}
    with mpl.rc_context({"font.size": 30, "lines.linewidth": 9, "axes.grid": False}):
        second = {name: charts.render_png(figure) for name, figure in draw_all().items()}
    assert first == second
    assert all(b"Software" not in png for png in first.values())


def test_a_gallery_of_few_colours_is_smaller_and_keeps_those_of_the_outlines(drawn):
    image, labels = drawn
    examples = [[Example(image, "a\nb", labels, np.roll(labels, 2, 0))] * 2]
    figure = draw_gallery(examples, 128, 96)
    full, few = charts.render_png(figure), charts.render_png(figure, (TRUTH_COLOUR, PREDICTION_COLOUR))
    assert len(few) < len(full)
    for png in (full, few):
        pixels = decode(png)
        assert (pixels == PREDICTION_COLOUR).all(axis=2).sum() > 100
        assert (pixels == TRUTH_COLOUR).all(axis=2).sum() > 100
    assert len(np.unique(decode(few).reshape(-1, 3), axis=0)) <= 256


def test_an_overview_has_rows_of_three_and_is_small_with_few_colours(drawn):
    image, labels = drawn
    figure = draw_overview([Example(image, "a\nb", labels, labels)] * 6)
    width, height = figure.get_size_inches() * figure.dpi
    assert width == pytest.approx(1500)
    assert height == pytest.approx(44 + 2 * (484 + 52))
    png = charts.render_png(figure, (TRUTH_COLOUR, PREDICTION_COLOUR), 96)
    assert len(np.unique(decode(png).reshape(-1, 3), axis=0)) <= 96
    assert len(png) < 600_000


def test_only_the_best_candidate_of_a_node_is_outlined(drawn):
    _, labels = drawn
    maps = dict(zip(("mask", "border", "center"), make_targets(labels, ("mask", "border", "center")), strict=True))
    maps = {name: cv2.GaussianBlur(value, (0, 0), 1) for name, value in maps.items()}
    candidates = make_candidates(maps, WatershedConfig(mask_thresholds=(0.3, 0.5, 0.7)))
    score = np.random.default_rng(0).random(len(candidates))
    best = best_of_each_node(candidates, score)
    assert (np.diff(score[best]) >= 0).all()
    assert sorted(candidates.node[best]) == sorted(set(candidates.node.tolist()))
    for i in best:
        assert score[i] == score[candidates.node == candidates.node[i]].max()
    steps = ImageSteps(drawn[0], labels, maps, candidates=candidates, predicted_iou=score)
    png = charts.render_png(draw_pipeline(steps, side_px=64))
    assert decode(png).shape[1] <= 1600
    assert len(png) < 500_000
    without = draw_pipeline(ImageSteps(drawn[0], labels, maps, energy=maps["center"]), size_px=64)
    titles = [a.get_title(loc="left")[3:] for a in without.axes]
    assert titles == ["image", "mask map", "border map", "center map", "energy", "nuclei"]


def test_nothing_at_all_can_be_drawn(drawn):
    image, labels = drawn
    nothing = np.zeros_like(labels)
    maps = {name: np.zeros(labels.shape, np.float32) for name in ("mask", "border", "center")}
    none = make_candidates(maps, WatershedConfig(mask_thresholds=(0.5,)))
    assert len(none) == 0
    shown = [
        draw_pipeline(ImageSteps(image, nothing, maps, candidates=none, predicted_iou=np.zeros(0, np.float32))),
        draw_gallery([[Example(image, "", nothing, nothing), Example(image, "")]], 64, 64),
        charts.draw_reliability(**summarise_bins(bin_predictions([], []))),
        charts.draw_importance({"area_px": 0.0}),
    ]
    assert all(charts.render_png(figure).startswith(b"\x89PNG") for figure in shown)
