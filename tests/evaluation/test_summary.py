"""Summaries say what the rows say, and each step is compared with the right one."""

import numpy as np
import pandas as pd
import pytest

from nuclei.evaluation.submission import SCORE_COLUMNS
from nuclei.evaluation.summary import (
    ERRORS,
    compare_steps,
    format_gain,
    format_interval,
    format_score,
    judge_gain,
    score_labels,
    summarise,
)


def make_table(n: int = 12) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    table = pd.DataFrame(rng.random((n, 11)), columns=SCORE_COLUMNS[1:])
    return table.assign(
        image_id=[str(i) for i in range(n)], group=[str(i // 2) for i in range(n)], cluster=["a"] * 9 + ["b"] * 3
    )


def test_summary_has_the_means_of_the_rows():
    table = make_table()
    summary = summarise(table)
    score, low, high = summary["score"]
    assert score == pytest.approx(table["score"].mean(), abs=1e-5)
    assert low < score < high
    assert summary["by_threshold"]["0.75"] == pytest.approx(table["p75"].mean(), abs=1e-5)
    assert summary["by_cluster"]["b"]["n_images"] == 3
    expected = np.mean([table["score"][:9].mean(), table["score"][9:].mean()])
    assert summary["mean_over_clusters"] == pytest.approx(expected, abs=1e-5)
    assert "errors" not in summary


def test_errors_are_counted_where_the_table_has_them():
    table = make_table().assign(**{name: i for i, name in enumerate(ERRORS)})
    assert summarise(table)["errors"] == {name: 12 * i for i, name in enumerate(ERRORS)}


def test_steps_compare_with_the_step_before_and_an_ensemble_with_the_same_method():
    scores = [pd.Series(np.full(6, v)) for v in (0.1, 0.3, 0.6, 0.2, 0.7, 0.9)]
    names = [(run, method) for run in ("one", "many") for method in ("components", "watershed", "scored")]
    steps = compare_steps([(*name, s) for name, s in zip(names, scores, strict=True)], np.arange(6))
    assert [step["over"] for step in steps] == [
        None,
        ["one", "components"],
        ["one", "watershed"],
        ["one", "components"],
        ["one", "watershed"],
        ["one", "scored"],
    ]
    assert [step["gain"] and step["gain"][0] for step in steps] == [
        None,
        *(pytest.approx(g) for g in (0.2, 0.3, 0.1, 0.4, 0.3)),
    ]


def test_a_score_is_written_with_its_interval():
    assert format_interval([0.62896, 0.6004, 0.6563]) == ("0.6290", "0.6004 to 0.6563")
    assert format_score([0.6, 0.5, 0.70004]) == "0.6000 (0.5000 to 0.7000)"
    assert format_score([0.6, 0.5, 0.7], spelled_out=True) == "0.6000 (95 % interval 0.5000 to 0.7000)"


def test_a_gain_has_its_sign_and_zero_is_not_negative():
    assert format_gain([0.01, -0.02, 0.04]) == "+0.0100 (-0.0200 to +0.0400)"
    assert format_gain([-0.00001, -0.00004, 0.0]) == "+0.0000 (+0.0000 to +0.0000)"
    assert format_gain([0.01, -0.02, 0.04], spelled_out=True) == "+0.0100 (95 % interval -0.0200 to +0.0400)"


def draw_discs(radii_px, size=60):
    """Draw one disc of each radius in a row, int32 [size, size · n]."""
    y, x = np.mgrid[:size, : size * len(radii_px)]
    labels = np.zeros(y.shape, np.int32)
    for i, radius in enumerate(radii_px):
        labels[(y - size / 2) ** 2 + (x - size * (i + 0.5)) ** 2 <= radius**2] = i + 1
    return labels


def test_an_image_is_scored_with_what_went_wrong_and_how_its_nuclei_are_outlined():
    row = score_labels(draw_discs([10, 20, 15]), draw_discs([9, 18, 5]))  # the last one is no match
    assert (row["n_true"], row["n_pred"], row["matched"], row["badly_outlined"], row["found"]) == (3, 3, 2, 1, 2)
    assert row["offset_px"] == pytest.approx(1.5, abs=0.15)
    assert row["offset_percent"] == pytest.approx(10, abs=1)
    assert score_labels(draw_discs([9]), draw_discs([10]))["offset_px"] == pytest.approx(-1, abs=0.15)
    assert np.isnan(score_labels(draw_discs([10]), np.zeros((60, 60), np.int32))["offset_px"])


def test_finding_is_summed_over_nuclei_and_outlines_averaged_over_images_that_have_them():
    found = {"n_true": [10, 30, 0], "n_pred": [5, 25, 2], "matched": [5, 15, 0]}
    offsets = {"offset_px": [1.0, -0.5, np.nan], "offset_percent": [10.0, -4.0, np.nan]}
    table = make_table().head(3).assign(**found, **offsets, kind=["x", "y", "y"], **dict.fromkeys(ERRORS, 1))
    summary = summarise(table)
    values = {name: summary[name][0] for name in ("recall", "precision", "offset_px", "offset_percent")}
    assert values == pytest.approx({"recall": 0.5, "precision": 0.625, "offset_px": 0.25, "offset_percent": 3})
    of_y = summary["by_kind"]["y"]
    assert (of_y["n_images"], of_y["recall"][0], of_y["offset_px"][0], of_y["errors"]["missed"]) == (2, 0.5, -0.5, 2)
    nothing = summarise(table.assign(n_true=0, n_pred=0, matched=0))
    assert not {"recall", "precision", "offset_px"} & set(nothing)


def test_images_of_one_group_have_no_interval_and_equal_results_are_identical():
    images = make_table().assign(group="one")
    score = summarise(images)["score"]
    assert format_interval(score)[1] == "none"
    assert format_score(score).endswith(" (no interval)")
    gain = compare_steps([("a", "m", images["score"]), ("a", "n", images["score"])], make_table()["group"].to_numpy())
    assert format_gain(gain[1]["gain"]) == "+0.0000 (identical)"
    assert format_interval(gain[1]["gain"], "+") == ("+0.0000", "identical")


@pytest.mark.parametrize(
    ("gain", "verdict"),
    [
        ([0.02, 0.01, 0.03], "better"),
        ([-0.02, -0.03, -0.01], "worse"),
        ([0.02, -0.01, 0.03], "undecided"),
        ([0.02, 0.02, 0.02], "undecided"),
        ([0.0, 0.0, 0.0], "identical"),
        ([0.0, -0.01, 0.01], "undecided"),
    ],
)
def test_a_gain_is_judged_by_its_interval(gain, verdict):
    assert judge_gain(gain) == verdict
