"""Synthetic images look like their kind, and need touching nuclei separated."""

import cv2
import numpy as np
import pytest
from scipy import ndimage

from nuclei.data.image_types import image_type
from nuclei.data.synthetic import KINDS, MIN_AREA_PX, make_image
from nuclei.evaluation.metric import score_image


def draw(kind, seed, shape=(192, 224)):
    return make_image(kind, shape, np.random.default_rng(seed))


def touching(labels):
    """List the labels with another label beside them."""
    pairs = [(labels[1:], labels[:-1]), (labels[:, 1:], labels[:, :-1])]
    meet = [np.stack([a, b])[:, (a != b) & (a > 0) & (b > 0)] for a, b in pairs]
    return np.unique(np.concatenate(meet, axis=1))


@pytest.mark.parametrize("kind", KINDS)
def test_an_image_and_its_truth_fit_together(kind):
    image, labels = draw(kind, 0)
    assert image.shape == (192, 224, 3)
    assert image.dtype == np.uint8
    assert labels.shape == (192, 224)
    assert labels.dtype == np.int32
    area_px = np.bincount(labels.ravel())
    assert len(area_px) > 5
    assert area_px[1:].min() >= MIN_AREA_PX
    contrast = image[labels > 0].mean() - image[labels == 0].mean()
    assert contrast > 8 if kind.startswith("dark") else contrast < -40


@pytest.mark.parametrize("kind", KINDS)
def test_kinds_are_recognised_as_what_they_are(kind):
    types = [image_type(draw(kind, seed)[0]) for seed in range(6)]
    assert types.count(kind) >= 5


@pytest.mark.parametrize("kind", KINDS)
def test_many_nuclei_touch_and_none_is_in_pieces(kind):
    n_touching = n_nuclei = n_parts = 0
    for seed in range(6):
        labels = draw(kind, seed)[1]
        n_touching += len(touching(labels))
        n_nuclei += labels.max()
        n_parts += sum(
            cv2.connectedComponents((labels == n).astype(np.uint8))[0] - 1 for n in range(1, labels.max() + 1)
        )
    assert 0.2 < n_touching / n_nuclei < 0.7
    assert n_parts < 1.03 * n_nuclei


def test_components_are_not_enough_even_with_a_perfect_mask():
    scores = {"threshold": [], "perfect mask": []}
    for kind in KINDS:
        for seed in range(4):
            image, labels = draw(kind, seed)
            signal = image.max(2) if kind.startswith("dark") else 255 - image[..., 0]
            found = cv2.threshold(cv2.GaussianBlur(signal, (0, 0), 1), 0, 1, cv2.THRESH_OTSU)[1]
            for name, mask in (("threshold", found), ("perfect mask", labels > 0)):
                scores[name].append(score_image(labels, ndimage.label(mask)[0])[0])
    assert 0.2 < np.mean(scores["threshold"]) < 0.5
    assert 0.4 < np.mean(scores["perfect mask"]) < 0.75


def test_the_seed_decides_and_unknown_kinds_are_errors():
    one, same, other = (draw("purple_on_white", seed)[0] for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert (one != other).any()
    with pytest.raises(ValueError, match="choose from dark_fluorescence_small, "):
        draw("brightfield", 0)
