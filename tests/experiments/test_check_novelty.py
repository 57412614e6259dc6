"""What is told apart perfectly has an area of 1, what is not of a half; kinds that are left out are new."""

import numpy as np
import pandas as pd
import pytest

from nuclei.experiments.novelty import (
    DEFINITIONS,
    UNSEEN,
    area_under_roc,
    compare_definition,
    fit_fifth_nearest,
    fit_mahalanobis,
    measure_held_out,
)

N, WIDTH = 120, 6


@pytest.fixture
def two_kinds():
    """Return features [N, F] of images of two kinds far apart, and both fold tables: usual, and by kind."""
    rng = np.random.default_rng(0)
    kind = np.arange(N) % 2
    described = rng.normal(0, 1, (N, WIDTH)) + 20 * kind[:, None]
    table = pd.DataFrame({"group": [f"g{i // 4}" for i in range(N)], "kind": np.array(["p", "q"])[kind]})
    return described, (table.assign(fold=np.arange(N) // 4 % 3), table.assign(fold=kind))


def test_the_area_is_a_chance():
    low, high, ones = np.arange(10.0), np.arange(10.0) + 20, np.ones(10)
    alone = np.arange(10)
    assert area_under_roc(high, alone, low, alone) == (1, 1, 1)
    assert area_under_roc(low, alone, high, alone)[0] == 0
    assert area_under_roc(ones, alone, ones, alone)[0] == 0.5
    assert area_under_roc(np.array([1.0, 3.0]), alone[:2], np.array([2.0]), alone[:1])[0] == 0.5


def test_images_of_one_mosaic_do_not_narrow_the_interval():
    rng = np.random.default_rng(1)
    new, known = rng.normal(1, 1, 20), rng.normal(0, 1, 20)
    once = area_under_roc(new, np.arange(20), known, np.arange(20))
    often = area_under_roc(new.repeat(5), np.arange(20).repeat(5), known.repeat(5), np.arange(20).repeat(5))
    assert often[0] == pytest.approx(once[0])
    assert often[2] - often[1] == pytest.approx(once[2] - once[1], rel=0.1)


def test_an_image_is_measured_by_the_other_folds_alone():
    described, folds = np.array([[0.0], [0.0], [5.0], [9.0]]), np.array([0, 1, 0, 1])

    def fit(known, groups):
        assert groups.tolist() in ([10, 12], [11, 13])
        return lambda new: np.abs(new - known.T).min(1)

    assert measure_held_out(fit, described, np.array([10, 11, 12, 13]), folds).tolist() == [0, 0, 4, 4]


@pytest.mark.parametrize("name", [name for name, (made_of, _) in DEFINITIONS.items() if made_of == "statistics"])
def test_kinds_that_are_left_out_and_images_from_outside_are_new(two_kinds, name):
    described, tables = two_kinds
    outside = {"far": described[:10] - 30, "near": described[:10]}
    rows = compare_definition(name, DEFINITIONS[name][1], described, tables, outside)
    auc = {row["images_of"]: row["auc"] for row in rows}
    assert auc[UNSEEN] > 0.99
    assert auc["p"] > 0.99
    assert auc["far"] > 0.99
    assert auc["near"] < 0.6
    assert {row["images_of"]: row["n_images"] for row in rows} == {UNSEEN: N, "p": 60, "q": 60, "far": 10, "near": 10}


def test_distances_are_in_standard_deviations():
    rng = np.random.default_rng(2)
    described = rng.normal(0, 1, (5000, 2)) * [1, 1000]
    far = fit_mahalanobis(described, np.arange(5000))(np.array([[3.0, 0.0], [0.0, 3000.0]]))
    assert far == pytest.approx([3 / np.sqrt(1.1)] * 2, rel=0.05)
    line = np.arange(20.0)[:, None]
    assert fit_fifth_nearest(line, np.arange(20))(np.array([[0.0]])) == pytest.approx(4 / line.std())
