"""What training and prediction need of a network, whether it gives maps or detections.

`model` is an object with the fields of config.ModelConfig, `train` one with those of config.TrainConfig.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from nuclei.candidates.tree import make_energy
from nuclei.decoding.detections import decode_detections
from nuclei.decoding.plain import cut_basins, flood_seeds
from nuclei.networks.encoder_decoder import Network, build_network
from nuclei.networks.losses import map_loss
from nuclei.networks.mask_rcnn import build_mask_rcnn, detect, detector_forward
from nuclei.networks.tiling import network_forward, predict_maps

DETECTOR = "MaskRCNN"
# Thresholds of the quick look during training, which chooses nothing that is reported.
SEED_LEVEL, THRESHOLD, MIN_AREA_PX = 0.6, 0.5, 12


def build(model, weights: str | None) -> Network:
    """Build the network of a config's model section with initial `weights`; raise ValueError as its builders do."""
    if model.decoder == DETECTOR:
        return build_mask_rcnn(
            model.encoder, weights, model.mean, model.std, width=model.width, box_batch=model.box_batch
        )
    return build_network(
        model.decoder,
        model.encoder,
        weights,
        model.decoder_channels,
        len(model.channels),
        model.mean,
        model.std,
        model.output_stride,
    )


def make_loss(model, train) -> Callable:
    """Return the function network, images, targets -> loss, a scalar."""
    if model.decoder == DETECTOR:
        return lambda network, image, labels: network(image, labels)
    return map_loss(train.loss, [train.channel_weights.get(channel, 1.0) for channel in model.channels])


def count_flops(model, crop_px: int) -> int:
    """Return the floating point operations that learning from one crop takes: three times those of the forward pass.

    Backward takes twice the products of forward; torch's own count of it is wrong for depthwise convolutions.
    """
    network = build(model, None).eval()
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        network(torch.zeros(1, 3, crop_px, crop_px, dtype=torch.uint8))
    return 3 * counter.get_total_flops()


def segment_quickly(fabric, network: Network, model, image: np.ndarray) -> np.ndarray:
    """Return labels, int32 [H, W], of an image by a plain decoding with fixed thresholds and without augmentation."""
    if model.decoder == DETECTOR:
        detections = detect(detector_forward(fabric, network), image, 1280, 128)
        return decode_detections(detections, image.shape[:2], THRESHOLD, THRESHOLD, MIN_AREA_PX)
    maps = predict_maps(
        network_forward(fabric, network), image, model.channels, tta="none", min_side_px=model.min_side_px
    )
    energy, mask = make_energy(maps, 0.5), maps["mask"]
    return cut_basins(flood_seeds(energy, SEED_LEVEL, mask > THRESHOLD), mask, THRESHOLD, MIN_AREA_PX)
