"""The kinds of networks, by what they give: KINDS, one entry each, with all that training and prediction need of it."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from numpy.typing import NDArray
from torch.utils.flop_counter import FlopCounterMode

from nuclei.config.schema import Config, ModelConfig, PlainConfig, PredictConfig, TrainConfig
from nuclei.data.size import choose_factor
from nuclei.decoding.detections import make_maps
from nuclei.decoding.methods import METHODS, Labels, Prediction, Setting
from nuclei.errors import UserError
from nuclei.networks.encoder_decoder import Network, build_network, check_weights, find_weights_file
from nuclei.networks.losses import LossOf, map_loss
from nuclei.networks.maps import average_folds
from nuclei.networks.mask_rcnn import build_mask_rcnn, detect, detector_forward, merge_detections
from nuclei.networks.tiling import count_together, freeze, network_forward, predict_alike, predict_maps

Image = NDArray[np.uint8]
Forward = Callable[[torch.Tensor], Any]  # uint8 [B, 3, H, W] -> maps, or detections
# What a glance decodes with: it follows a training and chooses nothing that is reported.
GLANCE = Config(plain=PlainConfig(mask_thresholds=(0.5,)))
GLANCE_VIEWS = PredictConfig(tta="none")
# The first look at an image whose nuclei may be far from the size that its networks learned: at half of the size that
# they would be given it finds nuclei that are too large for them, which at the full size fall to pieces, and still most
# of the small ones.
LOOK = PredictConfig(tta="none", scales=(0.45,))
LOOK_SETTING = {"seed_level": 0.5, "mask_threshold": 0.45}  # of a plain watershed
# Nearer to the wanted size than this factor, networks that learned a range of sizes are left what they are given.
NEAR = 1.35


class Kind(ABC):
    """Say how networks of one kind are built, trained, loaded and applied."""

    @abstractmethod
    def build(self, model: ModelConfig, weights: str | None) -> Network:
        """Build a network with initial `weights`; raise UserError as the builders do."""

    @abstractmethod
    def loss(self, model: ModelConfig, train: TrainConfig) -> LossOf:
        """Return the loss that a network of a config is trained by."""

    @abstractmethod
    def load(self, fabric: Fabric, network: Network, precision: str) -> Forward:
        """Return a network in evaluation mode as a function that `fabric`'s device computes."""

    @abstractmethod
    def predict(self, forwards: Sequence[Forward], images: Sequence[Image], config: Config) -> list[Prediction]:
        """Predict images of one size, uint8 [H, W, 3], by several networks: averages, or detections pooled."""

    @abstractmethod
    def glance(self, fabric: Fabric, network: torch.nn.Module, model: ModelConfig, image: Image) -> Labels:
        """Return labels, int32 [H, W], of an image by a plain decoding with fixed thresholds and a single view."""


class Maps(Kind):
    """Networks that give a map per channel: an encoder and a decoder, or a plain U-Net."""

    def build(self, model: ModelConfig, weights: str | None) -> Network:
        return build_network(model, weights)

    def loss(self, model: ModelConfig, train: TrainConfig) -> LossOf:
        return map_loss(model, train)

    def load(self, fabric: Fabric, network: Network, precision: str) -> Forward:
        frozen = freeze(network) if fabric.device.type == "cpu" and precision == "32-true" else network
        return network_forward(fabric, frozen)

    def predict(self, forwards: Sequence[Forward], images: Sequence[Image], config: Config) -> list[Prediction]:
        if config.predict.diameter_px is not None:
            return [self._predict_sized(forwards, image, config) for image in images]
        together = count_together(images[0].shape, config.model, config.predict, torch.cuda.is_available())
        found = [predict_alike(f, images, config.model, config.predict, together) for f in forwards]
        return [Prediction(average_folds(list(of_image))) for of_image in zip(*found, strict=True)]

    def _predict_sized(self, forwards: Sequence[Forward], image: Image, config: Config) -> Prediction:
        """Predict an image at the size at which its nuclei have predict.diameter_px."""
        look = predict_maps(forwards[0], image, config.model, LOOK)
        labels = decode("watershed", Prediction(look), LOOK_SETTING)
        near = NEAR if config.train.diameter_px is None else 1.0
        factor = choose_factor(labels, config.model.min_side_px, float(config.predict.diameter_px or 0), near)
        scales = tuple(factor * scale for scale in config.predict.scales)
        sized = config.predict.model_copy(update={"scales": scales})
        return Prediction(average_folds([predict_maps(f, image, config.model, sized) for f in forwards]))

    def glance(self, fabric: Fabric, network: torch.nn.Module, model: ModelConfig, image: Image) -> Labels:
        maps = predict_maps(network_forward(fabric, network), image, model, GLANCE_VIEWS)
        return decode("watershed", Prediction(maps), {"seed_level": 0.6, "mask_threshold": 0.5})


class Detections(Kind):
    """Networks that detect instances: Mask R-CNN."""

    def build(self, model: ModelConfig, weights: str | None) -> Network:
        return build_mask_rcnn(model, weights)

    def loss(self, model: ModelConfig, train: TrainConfig) -> LossOf:  # noqa: ARG002 (the losses are the network's)
        return lambda network, image, labels: network(image, labels)

    def load(self, fabric: Fabric, network: Network, precision: str) -> Forward:  # noqa: ARG002 (not frozen)
        return detector_forward(fabric, network)

    def predict(self, forwards: Sequence[Forward], images: Sequence[Image], config: Config) -> list[Prediction]:
        return [self._predict_one(forwards, image, config) for image in images]

    def _predict_one(self, forwards: Sequence[Forward], image: Image, config: Config) -> Prediction:
        detections = merge_detections([detect(f, image, config.predict) for f in forwards])
        return Prediction(make_maps(detections, image.shape[:2]), detections)

    def glance(self, fabric: Fabric, network: torch.nn.Module, model: ModelConfig, image: Image) -> Labels:  # noqa: ARG002
        detections = detect(detector_forward(fabric, network), image, GLANCE_VIEWS)
        prediction = Prediction(make_maps(detections, image.shape[:2]), detections)
        return decode("detections", prediction, {"score": 0.5, "mask_threshold": 0.5})


def decode(method: str, prediction: Prediction, setting: Setting) -> Labels:
    """Decode a prediction as a glance does."""
    decoded = METHODS[method].decode
    assert decoded is not None, f"{method} decodes no prediction"
    return next(decoded(prediction, GLANCE, [setting]))


# By what they give, as ModelConfig.gives says it.
KINDS: dict[str, Kind] = {"maps": Maps(), "detections": Detections()}


def build(model: ModelConfig, weights: str | None) -> Network:
    """Build the network of a config's model section with initial `weights`; raise UserError as its builders do."""
    return KINDS[model.gives].build(model, weights)


def make_loss(model: ModelConfig, train: TrainConfig) -> LossOf:
    """Return the function network, images, targets -> loss, a scalar."""
    return KINDS[model.gives].loss(model, train)


@lru_cache(maxsize=64)
def check_model(model: ModelConfig) -> None:
    """Raise UserError if the network of a config cannot be built, or if its initial weights are unknown or missing."""
    try:
        with torch.device("meta"):  # shapes alone, without memory
            build(model, None)
    except UserError:
        raise
    except Exception as error:  # libraries raise anything
        raise UserError(f"model: no network can be built of these settings: {error or type(error).__name__}") from error
    if find_weights_file(model.weights, "imagenet") is None and model.gives == "maps" and model.encoder:
        check_weights(model.encoder, model.weights)


def count_flops(model: ModelConfig, crop_px: int) -> int:
    """Return the floating point operations that learning from one crop takes: three times those of the forward pass.

    Backward takes twice the products of forward; torch's own count of it is wrong for depthwise convolutions.
    """
    network = build(model, None).eval()
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        network(torch.zeros(1, 3, crop_px, crop_px, dtype=torch.uint8))
    return 3 * int(counter.get_total_flops())
