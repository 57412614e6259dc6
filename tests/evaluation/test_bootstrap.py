"""Bootstrap intervals cover what they promise, and groups widen them."""

import numpy as np
import pytest

from nuclei.evaluation.bootstrap import bootstrap_mean, bootstrap_ratio, paired_difference


def scores_of_mosaics(rng, n_groups=60, tiles=4, between=0.1, within=0.02):
    values = rng.normal(0.6, between, n_groups).repeat(tiles) + rng.normal(0, within, n_groups * tiles)
    return values, np.arange(n_groups).repeat(tiles)


def test_interval_covers_the_true_mean_about_95_times_in_100():
    rng = np.random.default_rng(5)
    n_trials = 400
    covered = 0
    for trial in range(n_trials):
        values, groups = scores_of_mosaics(rng)
        _, low, high = bootstrap_mean(values, groups, n=600, seed=trial)
        covered += low <= 0.6 <= high
    # 4.5 standard errors of a proportion around 0.945.
    assert 0.89 < covered / n_trials < 0.995


def test_groups_widen_the_interval():
    values, groups = scores_of_mosaics(np.random.default_rng(0))
    _, low, high = bootstrap_mean(values, groups)
    _, low_alone, high_alone = bootstrap_mean(values, np.arange(len(values)))
    # Four nearly equal tiles carry the information of one: sqrt(4) times the width.
    assert 1.7 < (high - low) / (high_alone - low_alone) < 2.3


def test_interval_of_independent_values_is_the_normal_one():
    values = np.random.default_rng(2).normal(0, 1, 1000)
    mean, low, high = bootstrap_mean(values, np.arange(1000))
    half_width = 1.96 * values.std() / np.sqrt(1000)
    assert mean == pytest.approx(values.mean())
    assert low == pytest.approx(mean - half_width, abs=0.1 * half_width)
    assert high == pytest.approx(mean + half_width, abs=0.1 * half_width)


def test_images_count_alike_in_groups_of_different_size():
    mean, low, high = bootstrap_mean([0, 0, 0, 1], ["a", "a", "a", "b"])
    assert (mean, low, high) == (0.25, 0, 1)
    draws = [bootstrap_mean([0, 0, 0, 1], ["a", "a", "a", "b"], n=1, seed=seed)[1] for seed in range(40)]
    assert set(draws) == {0, 0.25, 1}


def test_the_same_seed_gives_the_same_interval():
    values, groups = scores_of_mosaics(np.random.default_rng(0))
    assert bootstrap_mean(values, groups, seed=1) == bootstrap_mean(values, groups, seed=1)
    assert bootstrap_mean(values, groups, seed=1) != bootstrap_mean(values, groups, seed=2)


def test_chunks_cover_every_resample():
    n_groups = 3000
    _, low, high = bootstrap_mean(np.full(n_groups, 0.7), np.arange(n_groups), n=2500)
    assert low == pytest.approx(0.7)
    assert high == pytest.approx(0.7)


def test_pairing_sees_a_gain_that_hardness_hides():
    rng = np.random.default_rng(3)
    baseline, groups = scores_of_mosaics(rng)
    better = baseline + 0.01 + rng.normal(0, 0.01, len(baseline))
    mean, low, high = paired_difference(better, baseline, groups)
    assert low > 0
    assert low < mean < high
    assert mean == pytest.approx(better.mean() - baseline.mean())
    assert bootstrap_mean(better, groups)[1] < baseline.mean()
    reverse = paired_difference(baseline, better, groups)
    assert reverse == pytest.approx((-mean, -high, -low), abs=2e-4)


@pytest.mark.parametrize(
    ("values", "groups", "message"),
    [([1, 2], [1], "equally long"), ([], [], "not empty"), ([1, np.nan], [1, 2], "finite")],
)
def test_bad_input_is_named(values, groups, message):
    with pytest.raises(ValueError, match=message):
        bootstrap_mean(values, groups)


def test_a_difference_needs_the_same_images():
    with pytest.raises(ValueError, match="same images"):
        paired_difference([1, 2, 3], [1], [1, 2, 3])


def test_a_ratio_of_equal_wholes_is_a_mean_and_nuclei_count_alike_in_images_of_many_and_few():
    values, groups = scores_of_mosaics(np.random.default_rng(0))
    assert bootstrap_ratio(7 * values, np.full(len(values), 7), groups) == pytest.approx(bootstrap_mean(values, groups))
    assert bootstrap_ratio([90, 0], [100, 20], ["a", "b"])[0] == 0.75
    low, high = bootstrap_ratio([90, 0, 0], [100, 20, 0], ["a", "b", "c"])[1:]
    assert (low, high) == (0, 0.9)  # that of draws with one of the first two alone
    with pytest.raises(ValueError, match="must be finite and not empty"):
        bootstrap_ratio([0, 0], [0, 0], ["a", "b"])
