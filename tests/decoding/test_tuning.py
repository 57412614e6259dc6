"""What is chosen for a fold was chosen on the others, is kept with its curve, and comes back from JSON as it was."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from nuclei.decoding.tuning import Tuned, choose_per_fold, tune

FOLD = np.array([0, 0, 1, 1, 2, 2])
OPTIONS = [{"keep": value} for value in (0.1, 0.2, 0.3)]
GRIDS = arrays(np.float64, (6, 3), elements=st.floats(0, 1))


@given(GRIDS, GRIDS)
def test_the_images_of_a_fold_have_no_say_in_its_choice(grid, other):
    before, _ = choose_per_fold(grid, FOLD)
    after, _ = choose_per_fold(np.where(FOLD[:, None] == 1, other, grid), FOLD)
    assert after[1] == before[1]


@given(GRIDS)
def test_each_image_is_scored_under_the_choice_of_its_fold(grid):
    tuned, scores = tune(OPTIONS, grid, FOLD)
    for row, fold, score in zip(grid, FOLD.tolist(), scores, strict=True):
        assert score == row[OPTIONS.index(tuned.setting(fold))]
    assert tuned.setting(None) == OPTIONS[grid.mean(axis=0).argmax()]
    assert tuned.curve == grid.mean(axis=0).round(5).tolist()
    assert Tuned.from_json(json.loads(json.dumps(tuned.as_json())), "select.json") == tuned


def test_the_first_of_equal_options_is_taken():
    assert choose_per_fold(np.ones((6, 3)), FOLD) == ({0: 0, 1: 0, 2: 0}, 0)


@given(GRIDS, st.floats(0, 1))
def test_of_options_within_the_tolerance_the_first_is_taken(grid, tolerance):
    chosen, overall = choose_per_fold(grid, FOLD, tolerance)
    for own, images in [*((chosen[k], k != FOLD) for k in chosen), (overall, FOLD >= 0)]:
        mean = grid[images].mean(axis=0)
        assert mean[own] >= mean.max() - tolerance
        assert (mean[:own] < mean.max() - tolerance).all()


def test_one_fold_has_no_others_to_choose_on():
    with pytest.raises(ValueError, match="at least two folds are needed"):
        tune(OPTIONS, np.ones((6, 3)), np.zeros(6, int))


@pytest.mark.parametrize("content", [{}, [], {"options": [], "curve": [], "fold": {"a": {}}, "test": {}}, {"fold": 3}])
def test_what_is_no_choice_is_an_error_that_names_the_file(content):
    with pytest.raises(ValueError, match=r"select\.json is damaged .*: delete it and run the stage that made it again"):
        Tuned.from_json(content, "select.json")
