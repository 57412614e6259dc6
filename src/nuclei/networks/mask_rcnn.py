"""Mask R-CNN (He et al. 2017) of torchvision for nuclei: the network, its detections, and what is made of them.

Boxes are (x0, y0, x1, y1) in pixels, where pixel i reaches from i to i + 1: a nucleus in columns 3 to 5 has x0 = 3 and
x1 = 6. The detections of an image are arrays in descending order of score: boxes float32 [N, 4], scores float32 [N] and
masks uint8 [N, M, M], which divide a box into M × M cells and hold the probability of each in steps of 1/255.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from itertools import product
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from lightning_fabric import Fabric
from lightning_utilities.core.apply_func import apply_to_collection
from numpy.typing import NDArray
from torch import Tensor, nn
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

from nuclei.config.schema import ModelConfig, PredictConfig
from nuclei.errors import UserError
from nuclei.networks.encoder_decoder import (
    STRIDE,
    Network,
    build_network,
    check_encoder,
    find_weights_file,
    input_statistics,
    load_encoder,
    read_state_dict,
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
SAME_NUCLEUS = 0.5  # IoU of boxes above which the detections of two tiles or networks are of one nucleus
EDGE_PX = 2  # a box that ends so near the edge of its tile may have been cut there

Detections = dict[str, NDArray[Any]]  # boxes, scores and masks of an image, as above
TileForward = Callable[[Tensor], list[dict[str, Tensor]]]  # uint8 [B, 3, H, W] -> what a Detector returns
Box = tuple[int, int, int, int]  # x0, y0, x1, y1


@dataclass(frozen=True)
class DetectorOptions:
    """The settings of a Mask R-CNN that no config sets.

    anchors_px: side per level, strides 4 to 64; proposals: kept of the first stage, per image; max_detections: kept of
    the second; min_score: lower ones get no mask; nms_threshold: IoU above which the weaker of two boxes is dropped.
    """

    anchors_px: tuple[float, ...] = (8, 16, 32, 64, 128)
    proposals: int = 1000
    max_detections: int = 500
    min_score: float = 0.2
    nms_threshold: float = 0.5

    def arguments(self, box_batch: int) -> dict[str, Any]:
        """Return the keyword arguments of torchvision's MaskRCNN; box_batch: proposals that train the second stage."""
        stages = [f"rpn_{when}_nms_top_n_{mode}" for when in ("pre", "post") for mode in ("train", "test")]
        return dict.fromkeys(stages, self.proposals) | {
            "box_batch_size_per_image": box_batch,
            "box_detections_per_img": self.max_detections,
            "box_score_thresh": self.min_score,
            "box_nms_thresh": self.nms_threshold,
        }


USUAL = DetectorOptions()


class Pyramid(nn.Module):
    """Put a feature pyramid (Lin et al. 2017) on an encoder of smp: LEVELS, and one more that subsamples the last."""

    def __init__(self, encoder: Any, width: int):
        super().__init__()
        self.body = encoder
        self.fpn = FeaturePyramidNetwork(encoder.out_channels[-len(LEVELS) :], width, extra_blocks=LastLevelMaxPool())
        self.out_channels = width

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        levels: dict[str, Tensor] = self.fpn(
            {str(i): level for i, level in enumerate(self.body(image)[-len(LEVELS) :])}
        )
        return levels


class Stages(nn.Module):
    """Run the two stages of a MaskRCNN without the resizing before and the pasting after them.

    Under autocast only the layers compute in half precision, which would round boxes to whole pixels and worse.
    """

    def __init__(self, rcnn: MaskRCNN):
        super().__init__()
        self.backbone, self.rpn, self.roi_heads = rcnn.backbone, rcnn.rpn, rcnn.roi_heads
        for pool in (self.roi_heads.box_roi_pool, self.roi_heads.mask_roi_pool):
            # Otherwise guessed from the first image and its features, wrongly where padding is a large part of it.
            pool.scales = [2.0**-level for level in LEVELS]
            pool.map_levels = LevelMapper(LEVELS[0], LEVELS[-1], pool.canonical_scale, pool.canonical_level)
        for module in (self.backbone, self.rpn.head, self.roi_heads.box_predictor, self.roi_heads.mask_predictor):
            module.register_forward_hook(to_float)

    @property
    def encoder(self) -> nn.Module:
        """Return what initial weights are for: the backbone without its pyramid."""
        encoder: nn.Module = self.backbone.body
        return encoder

    def forward(
        self, padded: Tensor, shape: tuple[int, int], targets: list[dict[str, Tensor]] | None
    ) -> tuple[list[dict[str, Tensor]], dict[str, Tensor]]:
        """Return torchvision's detections per image and dict of losses; `shape` is that of the images unpadded."""
        features = self.backbone(padded)
        images = ImageList(padded, [shape] * len(padded))
        proposals, proposal_losses = self.rpn(images, features, targets)
        detections, losses = self.roi_heads(features, proposals, images.image_sizes, targets)
        return detections, losses | proposal_losses


class Detector(Network):
    """Map uint8 RGB [B, 3, H, W] of any size to the loss against label images, or in evaluation mode to detections."""

    losses: dict[str, Tensor]

    def forward(self, image: Tensor, labels: Tensor | None = None) -> Tensor | list[dict[str, Tensor]]:
        """Return the summed loss, or a dict of float32 boxes [N, 4], scores [N] and masks [N, M, M] for each image.

        labels: [B, 1, H, W] of integer values, 0 = background; needed in training mode, unused in evaluation mode.
        The parts of the last loss stay in the attribute `losses`. Raises ValueError without labels in training mode.
        """
        targets = None
        if self.training:
            if labels is None:
                raise ValueError("a detector in training mode needs label images: pass them, or call eval() first")
            targets = [make_target(label[0]) for label in labels]
        height, width = image.shape[-2:]
        image = F.pad(self.normalise(image), (0, -width % STRIDE, 0, -height % STRIDE), mode="replicate")
        detections, losses = self.body(image.contiguous(memory_format=torch.channels_last), (height, width), targets)
        if self.training:
            self.losses = {name: loss.detach() for name, loss in losses.items()}
            loss: Tensor = reduce(torch.add, losses.values())
            return loss
        return [{"boxes": d["boxes"], "scores": d["scores"], "masks": d["masks"][:, 0]} for d in detections]


def to_float(module: nn.Module, inputs: Any, output: Any) -> Any:  # noqa: ARG001 (the form of a forward hook)
    """Turn the tensors of a module's output to float32, as a forward hook."""
    return apply_to_collection(output, torch.Tensor, torch.Tensor.float)


def make_target(labels: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return torchvision's target of a label image [H, W]: boxes [N, 4], labels [N] and masks [N, H + 1, W + 1].

    Nuclei below MIN_TARGET_AREA_PX are left out; N may be 0.
    """
    numbers = torch.unique(labels)
    masks = labels == numbers[numbers > 0][:, None, None]
    masks = masks[masks.sum((1, 2)) >= MIN_TARGET_AREA_PX]
    boxes = masks_to_boxes(masks)
    boxes[:, 2:] += 1
    # torchvision samples masks as if the center of pixel i were at i, not at i + 1/2: moving them makes up for it.
    framed = F.pad(masks.float()[:, None], (1, 1, 1, 1), mode="replicate")[:, 0]
    moved = (framed[:, :-1, :-1] + framed[:, :-1, 1:] + framed[:, 1:, :-1] + framed[:, 1:, 1:]) / 4
    return {"boxes": boxes, "labels": boxes.new_ones(len(boxes), dtype=torch.int64), "masks": moved}


def build_mask_rcnn(model: ModelConfig, weights: str | None, options: DetectorOptions = USUAL) -> Detector:
    """Build the Mask R-CNN of a config with random predictors for one class, nucleus.

    model.encoder: resnet50_fpn or resnet50_fpn_v2, built as torchvision's, or any encoder of smp, or of timm as
    'tu-<name>', under a feature pyramid. model.width: channels of pyramid and mask head, a quarter of the box head's.
    weights: coco (the whole of resnet50_fpn*), imagenet or another of the encoder's published ones, a local file of an
    encoder or of a whole resnet50_fpn*, or None; model.weights is not read. Raises UserError listing the valid or
    nearest options.
    """
    encoder, n_levels = model.encoder, len(LEVELS) + 1
    if encoder is None:
        raise UserError(f"{model.decoder} needs an encoder: set model.encoder, for example to resnet50_fpn")
    if len(options.anchors_px) != n_levels:
        raise ValueError(f"anchors_px {options.anchors_px} must be {n_levels} sides, one per level of the pyramid")
    arguments = options.arguments(model.box_batch)
    if encoder in PUBLISHED:
        if model.width != PUBLISHED_WIDTH:
            raise UserError(
                f"{encoder} has a width of {PUBLISHED_WIDTH}, not {model.width}: set that, or another encoder"
            )
        rcnn = build_published(encoder, weights, arguments)
    else:
        rcnn = build_on_encoder(encoder, weights, model.width, arguments)
    rcnn.rpn.anchor_generator = AnchorGenerator([(side,) for side in options.anchors_px], [(0.5, 1.0, 2.0)] * n_levels)
    # As detectron2 does: masks begin undecided, not far off.
    nn.init.normal_(rcnn.roi_heads.mask_predictor.mask_fcn_logits.weight, std=0.001)
    mean, std = input_statistics("resnet50" if encoder in PUBLISHED else encoder, weights)
    return Detector(Stages(rcnn), model.mean or mean, model.std or std)


def build_on_encoder(name: str, weights: str | None, width: int, arguments: dict[str, Any]) -> MaskRCNN:
    """Build a MaskRCNN over any encoder that build_network takes, with heads in proportion to `width`."""
    try:
        check_encoder(name)
    except UserError as error:
        raise UserError(f"{error}, or torchvision's {', '.join(PUBLISHED)}") from None
    # Only the encoder is kept; names, files and error messages are those of the other networks.
    whole = build_network(ModelConfig(decoder="FPN", encoder=name, channels=("mask",)), weights)
    return MaskRCNN(
        Pyramid(whole.body.get_submodule("encoder"), width),
        **arguments,
        box_head=TwoMLPHead(width * 7**2, 4 * width),
        box_predictor=FastRCNNPredictor(4 * width, N_CLASSES),
        mask_head=MaskRCNNHeads(width, (width,) * 4, 1),
        mask_predictor=MaskRCNNPredictor(width, width, N_CLASSES),
    )


def build_published(name: str, weights: str | None, arguments: dict[str, Any]) -> MaskRCNN:
    """Build torchvision's resnet50_fpn or resnet50_fpn_v2, all of whose layers are trained."""
    path = find_weights_file(weights, "coco")
    if not path and weights not in ("coco", "imagenet", None):
        raise UserError(
            f"unknown weights {weights} of {name}; valid: coco, imagenet, a .pth, .pt or .safetensors file, or null"
        )
    imagenet = "IMAGENET1K_V1" if weights == "imagenet" else None
    if name == "resnet50_fpn_v2":
        rcnn = maskrcnn_resnet50_fpn_v2(num_classes=N_CLASSES, weights_backbone=imagenet, **arguments)
    else:
        norm = FrozenBatchNorm2d if weights else nn.BatchNorm2d
        resnet = resnet_fpn_backbone(backbone_name="resnet50", weights=imagenet, norm_layer=norm)
        rcnn = MaskRCNN(resnet, N_CLASSES, **arguments)
    rcnn.requires_grad_(True)  # torchvision freezes the first layers
    if weights == "coco":
        load_detector(rcnn, get_weight(PUBLISHED[name]).get_state_dict(check_hash=True), weights)
    elif path:
        state = read_state_dict(path)
        whole = any(key.startswith("roi_heads.") for key in state)
        load_detector(rcnn, state, str(path)) if whole else load_encoder(rcnn.backbone.body, path)
    return rcnn


def load_detector(rcnn: MaskRCNN, state: dict[str, Tensor], source: str) -> None:
    """Load all but the predictors, which are for other classes; raise UserError naming `source` if it lacks any."""
    own = [key for key in rcnn.state_dict() if "_predictor." not in key]
    missing = [key for key in own if key not in state and not key.endswith("num_batches_tracked")]
    if missing:
        raise UserError(
            f"{source} lacks {len(missing)} tensors of the detector, e.g. {missing[0]}: is it another network's?"
        )
    rcnn.load_state_dict({key: state[key] for key in own if key in state}, strict=False)
    overwrite_eps(rcnn, 0.0)  # of frozen batch norm, with which these weights were trained


def detector_forward(fabric: Fabric, network: nn.Module) -> TileForward:
    """Return a function from uint8 [B, 3, H, W] to the network's detections, run by `fabric`'s device and precision."""

    def forward(batch: Tensor) -> list[dict[str, Tensor]]:
        with torch.inference_mode(), fabric.autocast():
            found: list[dict[str, Tensor]] = network(fabric.to_device(batch))
        return found

    return forward


def detect(forward: TileForward, image: NDArray[np.uint8], predict: PredictConfig) -> Detections:
    """Return the detections of an image, uint8 [H, W, 3]; beyond predict.tile_px it is detected in overlapping tiles.

    A box at an inner edge of its tile is left to the tile that shows it whole, so predict.overlap_px must exceed the
    largest nucleus. Raises ValueError unless 0 <= overlap < tile.
    """
    tile_px, parts = predict.tile_px, []
    for top, left in product(*(tile_starts(length, tile_px, predict.overlap_px) for length in image.shape[:2])):
        tile = image[top : top + tile_px, left : left + tile_px]
        (found,) = forward(torch.from_numpy(np.ascontiguousarray(tile.transpose(2, 0, 1)))[None])
        part = {key: value.float().cpu().numpy() for key, value in found.items()}
        part["boxes"] = part["boxes"] + np.array([left, top, left, top], np.float32)
        part["masks"] = np.rint(255 * part["masks"].clip(0, 1)).astype(np.uint8)
        ends = (left, top, left + tile.shape[1], top + tile.shape[0])
        whole = ~touches_inner_edge(part["boxes"], ends, (0, 0, image.shape[1], image.shape[0]))
        parts.append({key: value[whole] for key, value in part.items()})
    return merge_detections(parts)


def touches_inner_edge(boxes: NDArray[np.float32], tile: Box, image: Box) -> NDArray[np.bool_]:
    """Return whether each box ends at an edge of its tile that is none of the image's: bool [N]."""
    near = np.abs(boxes - np.array(tile, np.float32)) < EDGE_PX
    touching: NDArray[np.bool_] = (near & (np.array(tile) != np.array(image))).any(1)
    return touching


def merge_detections(parts: list[Detections]) -> Detections:
    """Pool detections of one image from tiles or networks; of boxes whose IoU exceeds SAME_NUCLEUS the best stays."""
    pooled = {key: np.concatenate([part[key] for part in parts]) for key in ("boxes", "scores", "masks")}
    kept = nms(torch.from_numpy(pooled["boxes"]), torch.from_numpy(pooled["scores"]), SAME_NUCLEUS).numpy()
    return {key: value[kept] for key, value in pooled.items()}
