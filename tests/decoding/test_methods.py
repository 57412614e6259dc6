"""Every way to get nuclei is an entry: its settings decode alike alone and together; what cannot be is refused."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nuclei.config.schema import Config, ModelConfig, PlainConfig, SelectionConfig
from nuclei.data.synthetic import make_image
from nuclei.decoding.methods import METHODS, Prediction, check_method, list_steps, plain_methods
from nuclei.training.targets import make_targets

CHANNELS = ("mask", "border", "center")
IMAGE, LABELS = make_image("dark_fluorescence_small", (96, 128), np.random.default_rng(7))
MAPS = dict(zip(CHANNELS, make_targets(LABELS, CHANNELS), strict=True))
DETECTOR = ModelConfig(decoder="MaskRCNN", channels=())
PREDICTION = Prediction(
    MAPS,
    {
        "boxes": np.array([[3, 4, 23, 24], [40, 30, 60, 45]], np.float32),
        "scores": np.array([0.9, 0.35], np.float32),
        "masks": np.full((2, 28, 28), 200, np.uint8),
    },
)
DECODING = [name for name, method in METHODS.items() if method.decode]


def make_config(method: str = "scored", **sections) -> Config:
    return Config(selection=SelectionConfig(method=method), **sections)


@pytest.mark.parametrize("name", DECODING)
def test_settings_tried_together_decode_as_they_do_alone(name):
    config = make_config(plain=PlainConfig(mask_thresholds=(0.3, 0.6), seed_levels=(0.4, 0.7), scores=(0.3, 0.5)))
    settings = METHODS[name].options(config)
    together = list(METHODS[name].decode(PREDICTION, config, settings))
    assert len(together) == len(settings) > 1
    for setting, labels in zip(settings, together, strict=True):
        alone = next(METHODS[name].decode(PREDICTION, config, [setting]))
        np.testing.assert_array_equal(alone, labels)
        assert labels.shape == LABELS.shape
        assert labels.dtype == np.int32
        assert labels.max() > 0


def test_perfect_maps_give_the_nuclei_by_watershed_and_merge_those_that_touch_by_components():
    by = {name: next(METHODS[name].decode(PREDICTION, make_config(), [{"seed_level": 0.6, "mask_threshold": 0.5}]))
          for name in ("components", "watershed")}  # fmt: skip
    large = (np.bincount(LABELS.ravel())[1:] >= make_config().watershed.min_area_px).sum()
    assert by["watershed"].max() == large > by["components"].max()


@pytest.mark.parametrize(
    ("config", "steps"),
    [
        (make_config(), ("components", "watershed", "scored")),
        (make_config("watershed"), ("components", "watershed")),
        (make_config("components"), ("components",)),
        (make_config("classical"), ("classical",)),
        (make_config("labels"), ("labels",)),
        (make_config("detections", model=DETECTOR), ("detections",)),
        (make_config("scored", model=DETECTOR), ("detections", "scored")),
    ],
)
def test_a_run_is_scored_by_the_plain_decodings_of_what_its_network_gives(config, steps):
    check_method(config)
    assert list_steps(config) == steps
    assert set(plain_methods(config)) == {s for s in steps if METHODS[s].needs in ("maps", "detections")} | (
        {"watershed"} if steps == ("components",) else set()
    )


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (
            make_config("watershed", model=DETECTOR),
            "watershed is not for MaskRCNN, which gives detections; valid: classical, labels, detections, scored",
        ),
        (
            make_config("detections"),
            "detections is not for Unet, which gives maps; valid: classical, labels, components, watershed, scored",
        ),
        (make_config("stardist"), "unknown method 'stardist'; valid: classical, labels, components, watershed, scored"),
    ],
)
def test_a_method_that_is_not_for_the_network_is_refused_with_those_that_are(config, said):
    with pytest.raises(ValueError, match=f"^selection.method: {said}$"):
        check_method(config)


@given(st.sampled_from(sorted(METHODS)))
def test_an_entry_says_what_it_is(name):
    method = METHODS[name]
    assert method.title
    assert method.sentence.endswith(".")
    assert (method.segment is not None) == (method.needs == "image")
    assert (method.decode is not None) == (method.needs in ("maps", "detections"))
