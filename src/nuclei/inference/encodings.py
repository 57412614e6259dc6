"""What the encoder of a run's networks makes of an image, pooled into one vector."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from numpy.typing import NDArray

from nuclei.config.load import load_config
from nuclei.data.statistics import crop_middle
from nuclei.inference.contents import list_folds
from nuclei.inference.predictor import load_network
from nuclei.networks.encoder_decoder import STRIDE, Network
from nuclei.networks.hardware import one_thread
from nuclei.networks.kinds import build
from nuclei.runs.layout import Run

Encode = Callable[[NDArray[np.uint8]], NDArray[np.float32]]


def load_encoders(run: Run) -> dict[str, Encode]:
    """Return two encoders of a run as functions of an image: its first network's, and the one that it started from."""
    config = load_config(run.config)
    fabric = Fabric(accelerator="cpu", devices=1)
    trained = load_network(fabric, run, config, list_folds(run)[0])
    initial = build(config.model, config.model.weights).eval()
    return {"trained encoder": _encoder(trained), "initial encoder": _encoder(initial)}


def _encoder(network: Network) -> Encode:
    def encode(image: NDArray[np.uint8]) -> NDArray[np.float32]:
        return pool_features(network, image)

    return encode


def pool_features(network: Any, image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return mean and standard deviation of every channel of every level of a network's encoder, float32 [F].

    image: uint8 [H, W, 3]; the middle that describe_image measures is encoded.
    """
    middle = crop_middle(image)
    height, width = middle.shape[:2]
    padded = np.pad(middle, ((0, -height % STRIDE), (0, -width % STRIDE), (0, 0)), mode="symmetric")
    batch = torch.from_numpy(padded).permute(2, 0, 1)[None].float()
    with torch.inference_mode(), one_thread():
        levels = network.body.encoder(network.normalise(batch))[1:]
        pooled = torch.cat([pool((2, 3))[0] for level in levels for pool in (level.mean, level.std)])
    return np.asarray(pooled.numpy(), np.float32)
