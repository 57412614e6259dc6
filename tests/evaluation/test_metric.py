"""The metric equals a literal pairwise reference in exact fractions."""

import tracemalloc
from fractions import Fraction
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from nuclei.evaluation.metric import (
    THRESHOLDS,
    best_iou,
    count_errors,
    count_matches,
    match_counts,
    overlap_masks,
    pair_iou,
    score_image,
)
from nuclei.evaluation.rle import decode_masks, encode_labels

EXACT_THRESHOLDS = [Fraction(k, 20) for k in range(10, 20)]
SPARSE_LABELS = [0, 0, 1, 2, 7, 300, 70_000, 2**31 - 1]


def reference_table(truth_masks, prediction_masks):
    table = []
    for true in truth_masks:
        row = []
        for predicted in prediction_masks:
            union = int((true | predicted).sum())
            row.append(Fraction(int((true & predicted).sum()), union))
        table.append(row)
    return table


def masks_of(labels):
    return [labels == label for label in sorted(set(labels.ravel().tolist()) - {0})]


def reference_counts(truth_masks, prediction_masks):
    table = reference_table(truth_masks, prediction_masks)
    tp, fp, fn = [], [], []
    for threshold in EXACT_THRESHOLDS:
        # Largest set of pairs that uses no nucleus and no prediction twice, found greedily over predictions:
        # exact here, because no nucleus can match two disjoint predictions.
        taken = set()
        for column in range(len(prediction_masks)):
            for row in range(len(truth_masks)):
                if row not in taken and table[row][column] > threshold:
                    taken.add(row)
                    break
        tp.append(len(taken))
        fp.append(len(prediction_masks) - len(taken))
        fn.append(len(truth_masks) - len(taken))
    return tp, fp, fn


def reference_score(truth_masks, prediction_masks):
    precision = []
    for tp, fp, fn in zip(*reference_counts(truth_masks, prediction_masks), strict=True):
        precision.append(Fraction(tp, tp + fp + fn) if tp + fp + fn else Fraction(1))
    return sum(precision) / 10, precision


def check_against_reference(truth, prediction):
    truth_masks, prediction_masks = masks_of(truth), masks_of(prediction)
    counts = match_counts(truth, prediction)
    tp, fp, fn = reference_counts(truth_masks, prediction_masks)
    assert counts["tp"].tolist() == tp
    assert counts["fp"].tolist() == fp
    assert counts["fn"].tolist() == fn
    expected, precision = reference_score(truth_masks, prediction_masks)
    score, ours = score_image(truth, prediction)
    assert score == pytest.approx(float(expected), abs=1e-12)
    assert ours == pytest.approx([float(p) for p in precision], abs=1e-12)
    table = pair_iou(truth, prediction)
    assert table.shape == (len(truth_masks), len(prediction_masks))
    reference = reference_table(truth_masks, prediction_masks)
    assert table.tolist() == [[float(iou) for iou in row] for row in reference]


def label_images(values):
    shapes = hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=7)
    return shapes.flatmap(lambda shape: st.tuples(*[hnp.arrays(np.int64, shape, elements=values)] * 2))


@given(label_images(st.sampled_from(SPARSE_LABELS)))
def test_random_labels_with_gaps_equal_the_reference(pair):
    check_against_reference(*pair)


@given(label_images(st.sampled_from([1, 5, 9])))
def test_images_without_background_equal_the_reference(pair):
    check_against_reference(*pair)


@given(label_images(st.integers(0, 3)), st.integers(0, 48))
def test_nearly_right_predictions_equal_the_reference(pair, n_wrong):
    truth, noise = pair
    prediction = np.where(np.arange(truth.size).reshape(truth.shape) < n_wrong, noise, truth * 11)
    check_against_reference(truth, prediction)


@given(label_images(st.sampled_from(SPARSE_LABELS)))
def test_score_ignores_names_memory_order_and_dtype(pair):
    truth, prediction = pair
    score, precision = score_image(truth, prediction)
    names = np.unique(truth)
    renamed = np.searchsorted(names, truth).astype(np.uint16) + np.uint16(names[0] != 0)
    again, _ = score_image(np.asfortranarray(renamed), prediction[:, ::-1][:, ::-1])
    flipped, _ = score_image(truth[::-1], prediction[::-1])
    assert score == again == flipped
    assert (np.diff(precision) <= 0).all()


@pytest.mark.parametrize("k", range(10, 20))
@pytest.mark.parametrize("scale", [1, 3, 7, 1000])
def test_an_iou_exactly_at_a_threshold_does_not_match(k, scale):
    truth = np.ones((1, 20 * scale), dtype=np.int32)
    prediction = np.zeros_like(truth)
    prediction[:, : k * scale] = 4
    assert match_counts(truth, prediction)["tp"].tolist() == [int(k > j) for j in range(10, 20)]
    if scale == 1000:
        prediction[:, k * scale] = 4
        assert match_counts(truth, prediction)["tp"].tolist() == [int(k >= j) for j in range(10, 20)]


def test_thresholds_are_the_ten_of_the_competition():
    assert THRESHOLDS.tolist() == [0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95]


@pytest.mark.parametrize("shape", [(4, 5), (0, 0), (0, 3)])
def test_both_empty_score_one(shape):
    empty = np.zeros(shape, dtype=np.uint16)
    assert score_image(empty, empty)[0] == 1
    check_against_reference(empty, empty)


def test_exactly_one_empty_scores_zero():
    empty, full = np.zeros((4, 5), dtype=int), np.full((4, 5), 3)
    assert score_image(empty, full)[0] == score_image(full, empty)[0] == 0
    check_against_reference(empty, full)
    check_against_reference(full, empty)


def test_a_perfect_prediction_scores_one_whatever_its_labels():
    truth = np.arange(12).reshape(3, 4)
    assert score_image(truth, truth)[0] == 1
    assert score_image(truth, np.where(truth > 0, 5000 - 13 * truth, 0))[0] == 1


def test_one_of_two_nuclei_found_with_one_false_scores_a_third():
    truth = np.array([[1, 1, 0, 2, 2, 0, 0, 0]])
    prediction = np.array([[1, 1, 0, 0, 0, 0, 3, 3]])
    assert score_image(truth, prediction)[0] == pytest.approx(1 / 3)


def test_bool_masks_count_as_one_nucleus():
    mask = np.array([[True, False]])
    assert score_image(mask, mask.astype(np.uint8))[0] == 1


@pytest.mark.parametrize(
    ("prediction", "message"),
    [
        (np.zeros((2, 3), int), "shape"),
        (np.zeros((3, 3)), "integers"),
        (np.full((3, 3), -1), "-1"),
        (np.full((3, 3), 2**31), "2147483648"),
    ],
)
def test_bad_labels_are_named(prediction, message):
    with pytest.raises(ValueError, match=message):
        score_image(np.zeros((3, 3), int), prediction)


def join_masks(draw_masks):
    masks = [np.flatnonzero(mask) for mask in draw_masks]
    indptr = np.cumsum([0, *map(len, masks)])
    return indptr, np.concatenate([np.zeros(0, int), *masks]).astype(np.int32)


@given(
    hnp.arrays(np.int32, (5, 6), elements=st.sampled_from([0, 2, 3, 90])),
    hnp.arrays(bool, st.tuples(st.integers(0, 5), st.just(30))),
)
def test_best_iou_of_overlapping_candidates_equals_the_reference(truth, masks):
    iou, label = best_iou(truth, *join_masks(masks))
    assert iou.dtype == np.float32
    assert iou.shape == label.shape == (len(masks),)
    for mask, ours, name in zip(masks, iou, label, strict=True):
        options = {0: Fraction(0)}
        for nucleus in sorted(set(truth.ravel().tolist()) - {0}):
            inside = (truth == nucleus).ravel()
            options[nucleus] = Fraction(int((inside & mask).sum()), int((inside | mask).sum()))
        best = max(options.values())
        assert ours == np.float32(float(best))
        assert name == min(nucleus for nucleus, value in options.items() if value == best)


@given(
    hnp.arrays(np.int32, (4, 5), elements=st.sampled_from([0, 2, 3, 90])),
    hnp.arrays(bool, st.tuples(st.integers(0, 4), st.just(20))),
)
def test_truth_masks_that_overlap_equal_the_reference(prediction, masks):
    counts = count_matches(overlap_masks(*join_masks(masks), prediction))
    truth_masks = [mask.reshape(prediction.shape) for mask in masks]
    table = reference_table(truth_masks, masks_of(prediction))
    for j, threshold in enumerate(EXACT_THRESHOLDS):
        pairs = [(r, c) for r, row in enumerate(table) for c, iou in enumerate(row) if iou > threshold]
        size = max(
            n
            for n in range(len(pairs) + 1)
            for chosen in combinations(pairs, n)
            if len({r for r, _ in chosen}) == len({c for _, c in chosen}) == n
        )
        assert counts["tp"][j] == size
        assert counts["fn"][j] == len(truth_masks) - size
        assert counts["fp"][j] == (len(table[0]) if table else len(masks_of(prediction))) - size


def test_masks_from_rle_score_as_labels_do():
    rng = np.random.default_rng(1)
    truth = np.kron(rng.integers(0, 6, (5, 5)), np.ones((4, 3), int))
    prediction = np.where(rng.random(truth.shape) < 0.2, 0, truth)
    from_masks = count_matches(overlap_masks(*decode_masks(encode_labels(truth), truth.shape), prediction))
    from_labels = match_counts(truth, prediction)
    assert 0 < from_labels["tp"].sum() < 50
    assert all((from_masks[name] == from_labels[name]).all() for name in from_labels)


def rows(text):
    return np.array([[int(letter) for letter in text.replace(".", "0")]])


@pytest.mark.parametrize(
    ("kind", "truth", "prediction", "n", "false"),
    [
        ("found", "11111111..", "11111111..", 1, 0),
        ("found", "11111111..", "1111111...", 1, 0),
        ("badly_outlined", "11111111..", "111111....", 1, 0),
        ("badly_outlined", "11111111..", "11........", 1, 0),
        ("badly_outlined", "11........", "11111.....", 1, 0),
        ("missed", "11111111..", "..........", 1, 0),
        ("missed", "1111......", "..11111111", 1, 1),
        ("merged", "1111.2222.", "111111111.", 2, 0),
        ("split", "11111111..", "11112222..", 1, 0),
        ("split", "11111111..", "1111112...", 1, 0),
    ],
)
def test_each_error_kind_is_counted(kind, truth, prediction, n, false):
    counts = count_errors(rows(truth), rows(prediction))
    assert counts.pop("false") == false
    assert counts.pop(kind) == n
    assert not any(counts.values())


@pytest.mark.parametrize(("area_px", "kind"), [(15, "badly_outlined"), (16, "found")])
def test_found_needs_more_than_an_iou_of_three_quarters(area_px, kind):
    truth = np.ones((1, 20), int)
    assert count_errors(truth, truth * (np.arange(20) < area_px))[kind] == 1


def test_a_small_nucleus_swallowed_by_a_well_found_one_is_merged():
    counts = count_errors(rows("1111111112"), rows("1111111111"))
    assert (counts["found"], counts["merged"], counts["missed"], counts["false"]) == (1, 1, 0, 0)


@given(label_images(st.integers(0, 5)))
def test_every_nucleus_has_one_error_kind(pair):
    truth, prediction = pair
    counts = count_errors(truth, prediction)
    false = counts.pop("false")
    assert list(counts) == ["found", "merged", "split", "badly_outlined", "missed"]
    assert sum(counts.values()) == len(masks_of(truth))
    assert counts["found"] == match_counts(truth, prediction)["tp"][5]
    assert 0 <= false <= len(masks_of(prediction)) - counts["found"]


def test_large_images_need_no_table_of_all_pairs():
    truth = np.kron(np.arange(1, 2501).reshape(50, 50), np.ones((20, 20), np.int32))
    prediction = np.roll(truth, 2, axis=1)
    tracemalloc.start()
    score_image(truth, prediction)
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # 2,500 x 2,500 pairs would be 50 MB as a table of float64; 9 MB were seen.
    assert peak_bytes < 25e6
