"""Mask R-CNN (He et al. 2017) of torchvision for nuclei: the network, its detections, and what is made of them.

Boxes are (x0, y0, x1, y1) in pixels, where pixel i reaches from i to i + 1: a nucleus in columns 3 to 5 has x0 = 3 and
x1 = 6. The detections of an image are arrays in descending order of score: boxes float32 [N, 4], scores float32 [N] and
masks uint8 [N, M, M], which divide a box into M × M cells and hold the probability of each in steps of 1/255.
"""

from collections.abc import Callable
from itertools import product
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from lightning_utilities.core.apply_func import apply_to_collection
from safetensors.torch import load_file
from torch import nn
from torchvision.models import get_weight
from torchvision.models.detection import MaskRCNN, maskrcnn_resnet50_fpn_v2
from torchvision.models.detection._utils import overwrite_eps
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.ops import FeaturePyramidNetwork, FrozenBatchNorm2d, masks_to_boxes, nms
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool
from torchvision.ops.poolers import LevelMapper

from nuclei.networks.encoder_decoder import (
    STRIDE,
    Network,
    build_network,
    check_encoder,
    input_statistics,
    load_encoder,
)
from nuclei.networks.tiling import tile_starts

PUBLISHED = {
    "resnet50_fpn": "MaskRCNN_ResNet50_FPN_Weights.COCO_V1",
    "resnet50_fpn_v2": "MaskRCNN_ResNet50_FPN_V2_Weights.COCO_V1",
}
PUBLISHED_WIDTH = 256
LEVELS = (2, 3, 4, 5)  # of the pyramid: level k has a stride of 2^k
N_CLASSES = 2  # background, nucleus
MIN_TARGET_AREA_PX = 4  # what a crop's edge leaves of a nucleus below this teaches nothing
_EDGE_PX = 2  # a box that ends so near the edge of its tile may have been cut there


class Pyramid(nn.Module):
    """Put a feature pyramid (Lin et al. 2017) on an encoder of smp: LEVELS, and one more that subsamples the last."""

    def __init__(self, encoder: nn.Module, width: int):
        super().__init__()
        self.body = encoder
        self.fpn = FeaturePyramidNetwork(encoder.out_channels[-len(LEVELS) :], width, extra_blocks=LastLevelMaxPool())
        self.out_channels = width

    def forward(self, image):
        return self.fpn({str(i): level for i, level in enumerate(self.body(image)[-len(LEVELS) :])})


class Stages(nn.Module):
    """Run the two stages of a MaskRCNN without the resizing before and the pasting after them.

    Under autocast only the layers compute in half precision, which would round boxes to whole pixels and worse.
    """

    def __init__(self, rcnn: MaskRCNN):
        super().__init__()
        self.backbone, self.rpn, self.roi_heads = rcnn.backbone, rcnn.rpn, rcnn.roi_heads
        for pool in (self.roi_heads.box_roi_pool, self.roi_heads.mask_roi_pool):
            # Else guessed from the first image and its features, and wrongly where padding is a large part of it.
            pool.scales = [2.0**-level for level in LEVELS]
            pool.map_levels = LevelMapper(LEVELS[0], LEVELS[-1], pool.canonical_scale, pool.canonical_level)
        for module in (self.backbone, self.rpn.head, self.roi_heads.box_predictor, self.roi_heads.mask_predictor):
            module.register_forward_hook(to_float)

    @property
    def encoder(self) -> nn.Module:
        """Return what initial weights are for: the backbone without its pyramid."""
        return self.backbone.body

    def forward(self, padded, shape: tuple[int, int], targets: list[dict] | None):
        """Return torchvision's detections per image and dict of losses; `shape` is that of the images unpadded."""
        features = self.backbone(padded)
        images = ImageList(padded, [shape] * len(padded))
        proposals, proposal_losses = self.rpn(images, features, targets)
        detections, losses = self.roi_heads(features, proposals, images.image_sizes, targets)
        return detections, losses | proposal_losses


class Detector(Network):
    """Map uint8 RGB [B, 3, H, W] of any size to the loss against label images, or in evaluation mode to detections."""

    def forward(self, image, labels=None):
        """Return the summed loss, or a dict of float32 boxes [N, 4], scores [N] and masks [N, M, M] for each image.

        labels: [B, 1, H, W] of integer values, 0 = background; needed in training mode, unused in evaluation mode.
        The parts of the last loss stay in the attribute `losses`. Raises ValueError without labels in training mode.
        """
        if self.training and labels is None:
            raise ValueError("a detector in training mode needs label images: pass them, or call eval() first")
        height, width = image.shape[-2:]
        image = F.pad((image - self.mean) / self.std, (0, -width % STRIDE, 0, -height % STRIDE), mode="replicate")
        targets = [make_target(label[0]) for label in labels] if self.training else None
        detections, losses = self.body(image.contiguous(memory_format=torch.channels_last), (height, width), targets)
        if self.training:
            self.losses = {name: loss.detach() for name, loss in losses.items()}
            return sum(losses.values())
        return [{"boxes": d["boxes"], "scores": d["scores"], "masks": d["masks"][:, 0]} for d in detections]


def to_float(module, inputs, output):
    """Turn the tensors of a module's output to float32, as a forward hook."""
    return apply_to_collection(output, torch.Tensor, torch.Tensor.float)


def make_target(labels: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return torchvision's target of a label image [H, W]: boxes [N, 4], labels [N] and masks [N, H + 1, W + 1].

    Nuclei below MIN_TARGET_AREA_PX are left out; N may be 0.
    """
    numbers = labels.unique()
    masks = labels == numbers[numbers > 0][:, None, None]
    masks = masks[masks.sum((1, 2)) >= MIN_TARGET_AREA_PX]
    boxes = masks_to_boxes(masks)
    boxes[:, 2:] += 1
    # torchvision samples masks as if the centre of pixel i were at i, not at i + 1/2: moving them makes up for it.
    framed = F.pad(masks.float()[:, None], (1, 1, 1, 1), mode="replicate")[:, 0]
    moved = (framed[:, :-1, :-1] + framed[:, :-1, 1:] + framed[:, 1:, :-1] + framed[:, 1:, 1:]) / 4
    return {"boxes": boxes, "labels": boxes.new_ones(len(boxes), dtype=torch.int64), "masks": moved}


def build_mask_rcnn(
    backbone: str,
    weights: str | None,
    mean=None,
    std=None,
    *,
    width: int = PUBLISHED_WIDTH,
    anchors_px: tuple[float, ...] = (8, 16, 32, 64, 128),
    proposals: int = 1000,
    box_batch: int = 128,
    max_detections: int = 500,
    min_score: float = 0.2,
    nms_threshold: float = 0.5,
) -> Detector:
    """Build a Mask R-CNN over `backbone` with random predictors for one class, nucleus.

    backbone: resnet50_fpn or resnet50_fpn_v2, built as torchvision's, or any encoder of smp, or of timm as 'tu-<name>',
    under a feature pyramid. weights: coco (the whole of resnet50_fpn*), imagenet or another of the encoder's published
    ones, a local file of an encoder or of a whole resnet50_fpn*, or None. width: channels of pyramid and mask head, a
    quarter of the box head's. anchors_px: side per level, strides 4 to 64. proposals: kept of the first stage, per
    image; box_batch: of those, how many train the second; min_score: lower ones get no mask. Raises ValueError listing the valid or nearest options.
    """
    if len(anchors_px) != len(LEVELS) + 1:
        raise ValueError(f"anchors_px {anchors_px} must be {len(LEVELS) + 1} sides, one per level of the pyramid")
    if backbone in PUBLISHED and width != PUBLISHED_WIDTH:
        raise ValueError(f"{backbone} has a width of {PUBLISHED_WIDTH}, not {width}: set that, or another backbone")
    options = {f"rpn_{when}_nms_top_n_{mode}": proposals for when in ("pre", "post") for mode in ("train", "test")} | {
        "box_batch_size_per_image": box_batch,
        "box_detections_per_img": max_detections,
        "box_score_thresh": min_score,
        "box_nms_thresh": nms_threshold,
    }
    rcnn = (build_published if backbone in PUBLISHED else build_on_encoder)(backbone, weights, width, options)
    rcnn.rpn.anchor_generator = AnchorGenerator([(side,) for side in anchors_px], [(0.5, 1.0, 2.0)] * len(anchors_px))
    # As detectron2 does: masks begin undecided, not far off.
    nn.init.normal_(rcnn.roi_heads.mask_predictor.mask_fcn_logits.weight, std=0.001)
    default_mean, default_std = input_statistics("resnet50" if backbone in PUBLISHED else backbone, weights)
    return Detector(Stages(rcnn), mean or default_mean, std or default_std)


def build_on_encoder(backbone: str, weights: str | None, width: int, options: dict) -> MaskRCNN:
    """Build a MaskRCNN over any encoder that build_network takes, with heads in proportion to `width`."""
    try:
        check_encoder(backbone)
    except ValueError as error:
        raise ValueError(f"{error}, or torchvision's {', '.join(PUBLISHED)}") from None
    # Only the encoder is kept: names, files and what is said of wrong ones are those of the other networks.
    encoder = build_network("FPN", backbone, weights, (), 1).body.encoder
    return MaskRCNN(
        Pyramid(encoder, width),
        **options,
        box_head=TwoMLPHead(width * 7**2, 4 * width),
        box_predictor=FastRCNNPredictor(4 * width, N_CLASSES),
        mask_head=MaskRCNNHeads(width, (width,) * 4, 1),
        mask_predictor=MaskRCNNPredictor(width, width, N_CLASSES),
    )


def build_published(backbone: str, weights: str | None, width: int, options: dict) -> MaskRCNN:
    """Build torchvision's resnet50_fpn or resnet50_fpn_v2, all of whose layers are trained."""
    local = weights is not None and Path(weights).suffix in (".pth", ".pt", ".safetensors")
    if local and not Path(weights).is_file():
        raise ValueError(f"initial weights {weights} not found: put the file there, or set model.weights to coco")
    if not local and weights not in ("coco", "imagenet", None):
        raise ValueError(
            f"unknown weights {weights} of {backbone}; valid: coco, imagenet, a .pth, .pt or .safetensors file, or null"
        )
    imagenet = "IMAGENET1K_V1" if weights == "imagenet" else None
    if backbone == "resnet50_fpn_v2":
        rcnn = maskrcnn_resnet50_fpn_v2(num_classes=N_CLASSES, weights_backbone=imagenet, **options)
    else:
        norm = FrozenBatchNorm2d if weights else nn.BatchNorm2d
        resnet = resnet_fpn_backbone(backbone_name="resnet50", weights=imagenet, norm_layer=norm)
        rcnn = MaskRCNN(resnet, N_CLASSES, **options)
    rcnn.requires_grad_(True)  # torchvision freezes the first layers
    if weights == "coco":
        load_detector(rcnn, get_weight(PUBLISHED[backbone]).get_state_dict(check_hash=True), weights)
    elif local:
        safe = Path(weights).suffix == ".safetensors"
        state = load_file(weights) if safe else torch.load(weights, map_location="cpu", weights_only=True)
        whole = any(key.startswith("roi_heads.") for key in state)
        load_detector(rcnn, state, weights) if whole else load_encoder(rcnn.backbone.body, Path(weights))
    return rcnn


def load_detector(rcnn: MaskRCNN, state: dict, source: str) -> None:
    """Load all but the predictors, which are for other classes; raise ValueError naming `source` if it lacks any."""
    own = [key for key in rcnn.state_dict() if "_predictor." not in key]
    lacking = [key for key in own if key not in state and not key.endswith("num_batches_tracked")]
    if lacking:
        raise ValueError(f"{source} lacks {len(lacking)} tensors of the detector, e.g. {lacking[0]}: is it another's?")
    rcnn.load_state_dict({key: state[key] for key in own if key in state}, strict=False)
    overwrite_eps(rcnn, 0.0)  # of frozen batch norm, with which these weights were trained


def detector_forward(fabric, network: Detector) -> Callable:
    """Return a function from uint8 [B, 3, H, W] to the network's detections, run by `fabric`'s device and precision."""

    def forward(batch: torch.Tensor) -> list[dict[str, torch.Tensor]]:
        with torch.inference_mode(), fabric.autocast():
            return network(fabric.to_device(batch))

    return forward


def detect(forward: Callable, image: np.ndarray, tile_px: int, overlap_px: int, nms_threshold: float = 0.5) -> dict:
    """Return the detections of an image, uint8 [H, W, 3]; beyond `tile_px` it is detected in overlapping tiles.

    forward: uint8 [B, 3, H, W] -> what a Detector returns. A box at an inner edge of its tile is left to the tile that
    shows it whole, so `overlap_px` must exceed the largest nucleus. Raises ValueError unless 0 <= overlap < tile.
    """
    parts = []
    for top, left in product(*(tile_starts(length, tile_px, overlap_px) for length in image.shape[:2])):
        tile = image[top : top + tile_px, left : left + tile_px]
        (found,) = forward(torch.from_numpy(np.ascontiguousarray(tile.transpose(2, 0, 1)))[None])
        part = {key: value.float().cpu().numpy() for key, value in found.items()}
        part["boxes"] = part["boxes"] + np.float32([left, top, left, top])
        part["masks"] = np.rint(255 * part["masks"].clip(0, 1)).astype(np.uint8)
        ends = (left, top, left + tile.shape[1], top + tile.shape[0])
        whole = ~touches_inner_edge(part["boxes"], ends, (0, 0, image.shape[1], image.shape[0]))
        parts.append({key: value[whole] for key, value in part.items()})
    return merge_detections(parts, nms_threshold)


def touches_inner_edge(boxes: np.ndarray, tile: tuple, image: tuple) -> np.ndarray:
    """Return whether each box ends at an edge of its tile, (x0, y0, x1, y1), that is none of the image's: bool [N]."""
    near = np.abs(boxes - np.float32(tile)) < _EDGE_PX
    return (near & (np.array(tile) != np.array(image))).any(1)


def merge_detections(parts: list[dict], nms_threshold: float) -> dict[str, np.ndarray]:
    """Pool detections of one image from several tiles or networks; of boxes with a larger IoU the best scored stays."""
    pooled = {key: np.concatenate([part[key] for part in parts]) for key in ("boxes", "scores", "masks")}
    kept = nms(torch.from_numpy(pooled["boxes"]), torch.from_numpy(pooled["scores"]), nms_threshold).numpy()
    return {key: value[kept] for key, value in pooled.items()}
