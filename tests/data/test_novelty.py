"""What is like training images is known, what is unlike them is not, and no fold is compared with itself."""

import numpy as np
import pytest

from nuclei.data.novelty import LIMIT_PERCENTILE, Novelty, describe_training
from nuclei.data.statistics import STATISTICS, describe_image

N = 300


@pytest.fixture(scope="module")
def training():
    """Return 300 descriptions around 0, standard deviations 1, each a mosaic of its own, in 3 folds."""
    described = np.random.default_rng(0).normal(0, 1, (N, len(STATISTICS)))
    return describe_training(list(described), [f"group{i}" for i in range(N)], [i % 3 for i in range(N)])


def draw_image(seed, background=10, nucleus=160):
    rng = np.random.default_rng(seed)
    image = rng.normal(background, 2, (64, 64, 3))
    image[rng.random((64, 64)) > 0.8] += nucleus
    return image.clip(0, 255).astype(np.uint8)


def test_a_training_image_is_not_new_and_one_in_a_hundred_is_beyond_the_limit(training):
    novelty = training.novelty()
    assert novelty.of(training.described) == pytest.approx(np.zeros(N))
    others = np.array(
        [
            Novelty(np.delete(training.described, i, 0), np.arange(N - 1)).of(training.described[[i]])[0]
            for i in range(0, N, 10)
        ]
    )
    assert 0.4 < np.median(others) < 1
    assert (others > 1).mean() <= 0.1
    fresh = np.random.default_rng(1).normal(0, 1, (2000, len(STATISTICS)))
    assert abs((novelty.of(fresh) > 1).mean() - (1 - LIMIT_PERCENTILE / 100)) < 0.02


def test_what_is_far_from_all_is_new_and_is_called_so(training):
    novelty = training.novelty()
    far = novelty.of(np.full((1, len(STATISTICS)), 8.0))[0]
    assert far > 3
    assert novelty.describe(far) == "unlike any training image"
    assert novelty.describe((novelty.edge + 1) / 2) == "unlike most training images"
    assert novelty.describe(0.0) == "like training"


def test_a_fold_is_compared_with_the_others_and_what_has_no_fold_is_known_to_all(training):
    own = training.described[training.folds == 1]
    assert (training.novelty(1).of(own) > 0.1).all()
    assert training.novelty(0).of(own) == pytest.approx(np.zeros(len(own)))
    outside = describe_training(list(training.described), list(map(str, range(N))), [-1] * N)
    assert outside.novelty(1).of(own) == pytest.approx(np.zeros(len(own)))


def test_tiles_of_one_mosaic_do_not_vouch_for_each_other(training):
    """Each image twice, as tiles of one mosaic: the limit stays that of the single images."""
    twice = np.repeat(training.described, 2, axis=0)
    pairs, alone = Novelty(twice, np.repeat(np.arange(N), 2)), training.novelty()
    far = np.full((1, len(STATISTICS)), 5.0)
    assert pairs.of(far) == pytest.approx(alone.of(far), rel=0.02)
    assert Novelty(twice, np.arange(2 * N)).of(far) > 1000 * alone.of(far)


def test_images_are_compared_by_what_they_look_like():
    described = [describe_image(draw_image(seed)) for seed in range(20)]
    novelty = describe_training(described, list(map(str, range(20))), [0] * 20).novelty()
    assert novelty(draw_image(99)) < 2
    assert novelty(255 - draw_image(99)) > 10


def test_training_images_of_one_mosaic_and_equal_ones_have_a_finite_novelty(training):
    for groups in (np.zeros(N), np.arange(N)):
        novelty = Novelty(np.zeros((N, len(STATISTICS))), groups)
        assert np.isfinite(novelty.of(training.described)).all()
        assert novelty.of(np.zeros((1, len(STATISTICS)))) == [0]


def test_a_size_that_training_hardly_has_is_another_acquisition():
    images = [draw_image(seed) for seed in range(200)]
    sizes = [(64, 64)] * 199 + [(100, 50)]
    described = [describe_image(image) for image in images]
    novelty = describe_training(described, list(map(str, range(200))), [0] * 200, sizes).novelty()
    assert not novelty.is_other_acquisition(images[0])
    assert novelty.is_other_acquisition(np.ascontiguousarray(images[0][:60]))
    assert not novelty.is_other_acquisition(np.ascontiguousarray(images[0][:60]), by_size=False)
    assert novelty.is_other_acquisition(np.resize(images[0], (50, 100, 3)))  # one in two hundred, turned
    assert novelty.is_other_acquisition(255 - images[0])
    unknown = describe_training(described, list(map(str, range(200))), [0] * 200).novelty()
    assert not unknown.is_other_acquisition(images[0])
