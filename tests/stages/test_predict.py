"""The stage predict: images of one size are given to the networks together, and give what each gives alone."""

import numpy as np
import pytest
import torch

from nuclei.config.schema import Config, ModelConfig, PredictConfig
from nuclei.inference.predictor import predict_images
from nuclei.stages.predict import group_alike

SHAPES = {"a": (64, 96), "b": (64, 96), "c": (96, 64), "d": (64, 96), "e": (64, 96)}
FOLDS = {"a": (0,), "b": (1,), "c": (0,), "d": (0,), "e": (0,)}
CONFIG = Config(
    model=ModelConfig(channels=("mask",)), predict=PredictConfig(batch_images=2, tile_px=128, overlap_px=16)
)


@pytest.mark.parametrize(
    ("on_gpu", "groups"),
    [(False, [("a",), ("d",), ("e",), ("b",), ("c",)]), (True, [("a", "d"), ("e",), ("b",), ("c",)])],
)
def test_groups_are_of_one_size_and_the_same_folds_and_of_one_image_on_a_cpu(monkeypatch, on_gpu, groups):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: on_gpu)
    assert group_alike(list(SHAPES), SHAPES, FOLDS, CONFIG) == groups


def test_images_together_give_what_each_gives_alone(monkeypatch):
    rng, sizes = np.random.default_rng(0), []
    images = [rng.integers(0, 255, (64, 96, 3)).astype(np.uint8) for _ in range(3)]

    def forward(batch):
        sizes.append(len(batch))
        return batch[:, :1].float() / 255

    alone = [predict_images([forward], [image], CONFIG)[0].maps for image in images]
    assert set(sizes) == {4}  # the views of one image
    del sizes[:]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    together = [prediction.maps for prediction in predict_images([forward], images, CONFIG)]
    assert sizes == [8, 4]
    for one, other in zip(together, alone, strict=True):
        assert np.array_equal(one["mask"], other["mask"])
        assert np.array_equal(one["disagreement"], other["disagreement"])
