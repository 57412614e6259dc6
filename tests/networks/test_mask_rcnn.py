"""Detections that know the truth lead back to it, and a small Mask R-CNN learns and takes any image."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from skimage.measure import label, regionprops
from torchvision.models.detection import maskrcnn_resnet50_fpn, maskrcnn_resnet50_fpn_v2
from torchvision.models.detection.roi_heads import paste_masks_in_image, project_masks_on_boxes

from nuclei.config.schema import ModelConfig, PredictConfig, TrainConfig, WatershedConfig
from nuclei.data.synthetic import KINDS, make_image
from nuclei.decoding.detections import (
    claim_pixels,
    decode_detections,
    make_detection_candidates,
    make_maps,
    paste_masks,
)
from nuclei.evaluation.metric import best_iou, score_image
from nuclei.networks.mask_rcnn import (
    MIN_TARGET_AREA_PX,
    DetectorOptions,
    build_mask_rcnn,
    detect,
    load_detector,
    make_target,
    merge_detections,
)
from nuclei.training.engine import parameter_groups

torch.set_num_threads(1)  # tiny networks gain nothing from more
PRETRAINED = Path(__file__).parents[2] / "pretrained/mobilenetv2_100.safetensors"
TINY = {"decoder": "MaskRCNN", "width": 16, "box_batch": 32}
FEW = DetectorOptions(proposals=100)
THRESHOLDS = (0.3, 0.5, 0.7)
SETTINGS = WatershedConfig(mask_thresholds=THRESHOLDS, min_area_px=12)


def draw_labels(seed: int, shape=(96, 112)) -> np.ndarray:
    return make_image(list(KINDS)[seed % len(KINDS)], shape, np.random.default_rng(seed))[1]


def know_truth(labels: np.ndarray) -> dict[str, np.ndarray]:
    """Return the detections of a detector whose masks are exactly the targets that a real one is trained on."""
    target = make_target(torch.from_numpy(labels))
    n = len(target["boxes"])
    masks = project_masks_on_boxes(target["masks"], target["boxes"], torch.arange(n), 28)
    return {
        "boxes": target["boxes"].numpy(),
        "scores": np.linspace(1, 0.9, n, dtype=np.float32),
        "masks": (255 * masks).round().byte().numpy(),
    }


def draw_detections(seed: int, n: int = 25, shape=(60, 80)) -> dict[str, np.ndarray]:
    """Draw detections that overlap, of boxes at fractions of pixels and smooth masks."""
    rng = np.random.default_rng(seed)
    corner = rng.uniform(0, (shape[1] - 4, shape[0] - 4), (n, 2))
    far = np.minimum(corner + rng.uniform(3, 40, (n, 2)), (shape[1], shape[0]))
    coarse = torch.from_numpy(rng.random((n, 1, 4, 4)))
    return {
        "boxes": np.hstack([corner, far]).astype(np.float32),
        "scores": -np.sort(-rng.random(n).astype(np.float32)),
        "masks": (255 * F.interpolate(coarse, size=(28, 28), mode="bilinear")[:, 0]).byte().numpy(),
    }


def paste(detections: dict, shape) -> np.ndarray:
    pasted = np.zeros((len(detections["scores"]), *shape), np.float32)
    for canvas, (rows, columns, patch) in zip(pasted, paste_masks(detections, shape), strict=True):
        canvas[rows, columns] = patch
    return pasted


@pytest.mark.parametrize("seed", range(4))
def test_perfect_detections_decode_to_the_truth(seed):
    truth = draw_labels(seed)
    detections = know_truth(truth)
    labels = decode_detections(detections, truth.shape, score_threshold=0.5, mask_threshold=0.5, min_area_px=12)
    assert score_image(truth, labels)[0] > 0.95
    candidates = make_detection_candidates(detections, truth.shape, SETTINGS, min_score=0.5)
    iou, _ = best_iou(truth, candidates.indptr, candidates.pixels)
    assert len(candidates.parent) == truth.max()
    assert iou[candidates.threshold == 0.5].min() > 0.85
    assert np.mean((make_maps(detections, truth.shape)["mask"] > 0.5) == (truth > 0)) > 0.99


@pytest.mark.parametrize("seed", range(4))
def test_nothing_is_shifted(seed):
    """Mirrored nuclei give mirrored maps: half a pixel lost anywhere between target and pasted mask would not."""
    truth = draw_labels(seed)
    mirrored = np.ascontiguousarray(truth[::-1, ::-1])
    there, back = (paste(know_truth(labels), truth.shape) for labels in (truth, mirrored))
    assert there == pytest.approx(back[:, ::-1, ::-1], abs=0.02)


@given(st.integers(0, 10_000))
@settings(max_examples=8, deadline=None)
def test_masks_are_pasted_by_their_definition(seed):
    """Bilinear samples at the centres of pixels, as detectron2 defines it by grid_sample."""
    shape = (60, 80)
    detections = draw_detections(seed, n=4)
    x0, y0, x1, y1 = torch.from_numpy(detections["boxes"])[:, :, None].unbind(1)
    x = ((torch.arange(shape[1]) + 0.5 - x0) / (x1 - x0) * 2 - 1)[:, None, :].expand(-1, *shape)
    y = ((torch.arange(shape[0]) + 0.5 - y0) / (y1 - y0) * 2 - 1)[:, :, None].expand(-1, *shape)
    masks = torch.from_numpy(detections["masks"])[:, None] / 255
    expected = F.grid_sample(masks, torch.stack([x, y], dim=3), align_corners=False)[:, 0]
    assert paste(detections, shape) == pytest.approx(expected.numpy(), abs=1e-4)


def test_torchvision_pastes_the_same_if_told_that_ends_are_exclusive():
    rng = np.random.default_rng(0)
    detections = draw_detections(1, n=12)
    corner, size = rng.integers(-2, 40, (12, 2)), rng.integers(4, 30, (12, 2))
    framed = np.hstack([corner, corner + size])  # boxes with one more cell all around, in whole pixels

    def shrink(boxes):
        middle, half = (boxes[:, 2:] + boxes[:, :2]) / 2, (boxes[:, 2:] - boxes[:, :2]) / 2
        return np.hstack([middle - half * 28 / 30, middle + half * 28 / 30]).astype(np.float32)

    # torchvision truncates corners, which turns 2.9999 to 2, and counts the last pixel in.
    inclusive = torch.from_numpy(shrink(framed - [0, 0, 1, 1] + np.where(framed < 0, -0.01, 0.01)))
    masks = torch.from_numpy(detections["masks"])[:, None] / 255
    expected = paste_masks_in_image(masks, inclusive, (60, 80))[:, 0].numpy()
    assert paste(detections | {"boxes": shrink(framed)}, (60, 80)) == pytest.approx(expected, abs=1e-4)


@given(st.integers(0, 10_000))
@settings(max_examples=10, deadline=None)
def test_candidates_of_detections_are_a_forest_of_roots(seed):
    detections, shape = draw_detections(seed), (60, 80)
    candidates = make_detection_candidates(detections, shape, SETTINGS.model_copy(update={"min_area_px": 10}), 0.2)
    scores = detections["scores"][detections["scores"] >= 0.2]
    masks = [candidates.pixels[a:b] for a, b in zip(candidates.indptr[:-1], candidates.indptr[1:], strict=True)]
    assert (candidates.parent == -1).all()
    assert (candidates.level == 0).all()
    assert (np.diff(candidates.node) >= 0).all()
    assert set(candidates.node) == set(range(len(candidates.parent)))
    assert (np.diff(candidates.peak) <= 0).all()
    assert set(candidates.peak) <= set(scores)
    owner = np.full(60 * 80, -1)
    for node, pixels in zip(candidates.node, masks, strict=True):
        assert (np.diff(pixels) > 0).all()
        assert len(pixels) >= 10
        assert np.isin(owner[pixels], (-1, node)).all()
        owner[pixels] = node
        image = np.zeros(60 * 80, bool)
        image[pixels] = True
        assert label(image.reshape(shape), connectivity=1).max() == 1
    assert len({pixels.tobytes() for pixels in masks}) == len(candidates)


def test_the_surest_detection_claims_a_pixel():
    detections, shape = draw_detections(3), (60, 80)
    claims = detections["scores"][:, None, None] * paste(detections, shape)
    owner, value = claim_pixels(detections, shape)
    assert np.array_equal(value, claims.max(0))
    assert np.array_equal(owner, np.where(claims.max(0) > 0, claims.argmax(0), -1))


def test_weak_covered_and_small_detections_are_not_painted():
    full = np.full((4, 28, 28), 255, np.uint8)
    boxes = np.float32([[10, 10, 30, 30], [10, 14, 30, 34], [10, 22, 30, 42], [50, 50, 53, 53]])
    detections = {"boxes": boxes, "scores": np.float32([0.9, 0.8, 0.7, 0.6]), "masks": full}
    labels = decode_detections(detections, (60, 60), score_threshold=0.5, mask_threshold=0.5, min_area_px=10)
    # The second is covered by four fifths; the third keeps 12 of its 20 rows; the fourth is of 9 pixels.
    assert np.bincount(labels.ravel())[1:].tolist() == [400, 240]
    assert decode_detections(detections, (60, 60), 0.75, 0.5, 10).max() == 1


def test_no_detections_are_no_labels_no_candidates_and_an_empty_map():
    nothing = know_truth(np.zeros((20, 30), np.int32))
    assert not decode_detections(nothing, (20, 30), 0.5, 0.5, 0).any()
    assert make_maps(nothing, (20, 30))["mask"].tolist() == np.zeros((20, 30)).tolist()
    candidates = make_detection_candidates(nothing, (20, 30), SETTINGS, 0.5)
    assert len(candidates) == len(candidates.parent) == len(merge_detections([nothing])["scores"]) == 0


@pytest.mark.parametrize("seed", [0, 2])
def test_tiles_find_what_the_whole_image_shows(seed):
    truth = draw_labels(seed, (150, 230))
    image = np.stack([truth % 256, truth // 256, truth], axis=2).astype(np.uint8)

    def forward(batch):
        found = know_truth(batch[0, 0].int().numpy() + 256 * batch[0, 1].int().numpy())
        widths = found["boxes"][:, 2] - found["boxes"][:, 0]
        found |= {"scores": widths / 100, "masks": found["masks"] / np.float32(255)}
        return [{key: torch.from_numpy(value) for key, value in found.items()}]

    whole, tiled = (detect(forward, image, PredictConfig(tile_px=tile, overlap_px=64)) for tile in (256, 110))
    assert len(whole["scores"]) == truth.max()
    assert (np.diff(tiled["scores"]) <= 0).all()
    order, tiled_order = (np.lexsort(d["boxes"].T) for d in (whole, tiled))
    assert np.array_equal(whole["boxes"][order], tiled["boxes"][tiled_order])
    assert np.array_equal(whole["scores"][order], tiled["scores"][tiled_order])
    assert whole["masks"][order] == pytest.approx(tiled["masks"][tiled_order].astype(int), abs=1)


def test_of_two_detections_of_a_nucleus_the_better_stays():
    first, second = draw_detections(0, n=1), draw_detections(1, n=1)
    first["scores"][0], second["scores"][0] = 0.3, 0.6
    near = second | {"boxes": second["boxes"] + 0.5, "scores": np.float32([0.9])}
    merged = merge_detections([first, second, near])
    assert merged["scores"].tolist() == pytest.approx([0.9, 0.3])


def test_targets_are_the_nuclei_of_the_crop():
    labels = draw_labels(5)
    labels[:2, :2], labels[2, :2] = 0, 0
    labels[0, 0] = 1000  # one pixel that is left of a nucleus
    target = make_target(torch.from_numpy(labels))
    regions = [r for r in regionprops(labels) if r.area >= MIN_TARGET_AREA_PX]
    assert [[x0, y0, x1, y1] for y0, x0, y1, x1 in (r.bbox for r in regions)] == target["boxes"].tolist()
    assert target["labels"].tolist() == [1] * len(regions)
    assert 1000 not in [r.label for r in regions]
    for kind in (torch.float32, torch.int64):
        assert torch.equal(make_target(torch.from_numpy(labels).to(kind))["masks"], target["masks"])
    assert make_target(torch.zeros(8, 8))["masks"].shape == (0, 9, 9)


@pytest.fixture(scope="module")
def detector():
    torch.manual_seed(0)
    return build_mask_rcnn(ModelConfig(encoder="tu-test_resnet", **TINY), None, FEW).to(
        memory_format=torch.channels_last
    )


@pytest.fixture(scope="module")
def crops():
    pairs = [make_image("dark_fluorescence_small", (64, 64), np.random.default_rng(seed)) for seed in (0, 1)]
    images, labels = (np.stack(values) for values in zip(*pairs, strict=True))
    return torch.from_numpy(images.transpose(0, 3, 1, 2).copy()), torch.from_numpy(labels)[:, None]


def test_a_few_steps_lower_the_loss(detector, crops):
    network = copy.deepcopy(detector).train()
    optimizer = torch.optim.AdamW(
        parameter_groups(network, TrainConfig(learning_rate=2e-3, encoder_rate=1.0, weight_decay=0.0))
    )
    losses = []
    for _ in range(12):
        losses.append(network(*crops))
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < 0.75 * losses[0]
    assert sum(network.losses.values()) == pytest.approx(losses[-1].item(), rel=1e-5)
    assert len(network.losses) == 5


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("empty", [False, True])
def test_loss_and_gradients_are_finite(detector, crops, empty, autocast):
    network = copy.deepcopy(detector).train()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        loss = network(crops[0], crops[1] * (not empty))
    loss.backward()
    assert loss.dtype == torch.float32
    assert loss.isfinite()
    assert all(p.grad.isfinite().all() for p in network.parameters() if p.grad is not None)
    assert all(value.isfinite().all() for value in network.state_dict().values())
    assert sum(p.grad.abs().sum() for p in network.body.encoder.parameters()) > 0


def test_training_without_labels_is_refused(detector, crops):
    with pytest.raises(ValueError, match="needs label images"):
        copy.deepcopy(detector).train()(crops[0])


@pytest.mark.parametrize("autocast", [False, True])
def test_detections_of_any_size_of_image(detector, autocast):
    network = copy.deepcopy(detector).eval()
    image = torch.randint(0, 256, (2, 3, 45, 70), dtype=torch.uint8, generator=torch.Generator().manual_seed(7))
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        first, _ = network(image)
    n = len(first["scores"])
    assert 0 < n <= FEW.proposals
    assert first["boxes"].shape == (n, 4)
    assert first["masks"].shape == (n, 28, 28)
    assert all(value.dtype == torch.float32 for value in first.values())
    assert (first["scores"].diff() <= 0).all()
    assert 0 <= first["masks"].min() <= first["masks"].max() <= 1
    assert (first["boxes"] >= 0).all()
    assert (first["boxes"] <= torch.tensor([70, 45, 70, 45])).all()
    assert (first["boxes"][:, 2:] > first["boxes"][:, :2]).all()
    # In half precision boxes would be rounded to eight binary digits.
    assert (first["boxes"] != first["boxes"].bfloat16()).float().mean() > 0.2


def test_an_images_detections_do_not_depend_on_earlier_images(detector):
    """torchvision guesses the scales of features from the first image it sees, wrongly from one of 33 pixels."""
    image = torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(7))
    fresh, used = copy.deepcopy(detector).eval(), copy.deepcopy(detector).eval()
    with torch.inference_mode():
        used(image[..., :33, :33])
        expected, found = fresh(image)[0], used(image)[0]
    assert all(torch.equal(expected[key], found[key]) for key in expected)


def test_the_state_holds_every_tensor_once(detector):
    """Else the moving average would move the encoder twice, and safetensors would refuse the file."""
    addresses = [value.data_ptr() for value in detector.state_dict().values()]
    assert len(set(addresses)) == len(addresses)
    groups = parameter_groups(detector, TrainConfig(learning_rate=1.0, encoder_rate=0.1))
    in_encoder = sum(p.numel() for group in groups if group["lr"] == 0.1 for p in group["params"])
    assert in_encoder == sum(p.numel() for p in detector.body.backbone.body.parameters()) > 0


@pytest.mark.parametrize("original", [maskrcnn_resnet50_fpn, maskrcnn_resnet50_fpn_v2])
def test_published_backbones_are_torchvisions_own(original):
    with torch.device("meta"):  # shapes without values
        ours = build_mask_rcnn(ModelConfig(encoder=original.__name__.removeprefix("maskrcnn_")), None).body
        theirs = original(num_classes=2, weights=None, weights_backbone=None)
    assert {key: value.shape for key, value in ours.state_dict().items()} == {
        key: value.shape for key, value in theirs.state_dict().items()
    }
    assert all(p.requires_grad for p in ours.parameters())


def test_a_whole_detectors_file_gives_all_but_the_predictors(detector):
    donor = copy.deepcopy(detector.body)
    for parameter in donor.parameters():
        torch.nn.init.uniform_(parameter)
    state = donor.state_dict() | {"roi_heads.box_predictor.cls_score.weight": torch.zeros(91, 64)}
    target = copy.deepcopy(detector.body)
    load_detector(target, state, "coco.pth")
    own = target.state_dict()
    same = {key for key in own if torch.equal(own[key], state[key])}
    assert {key.split(".")[1] for key in own if key not in same} == {"box_predictor", "mask_predictor"}
    del state["rpn.head.cls_logits.weight"]
    with pytest.raises(ValueError, match=r"coco\.pth lacks 1 tensors of the detector, e\.g\. rpn\.head"):
        load_detector(target, state, "coco.pth")


def test_encoder_starts_from_the_tensors_of_the_file():
    if not PRETRAINED.is_file():
        pytest.skip("pretrained/mobilenetv2_100.safetensors is missing")
    model = ModelConfig(encoder="tu-mobilenetv2_100", mean=(0.5,) * 3, std=(0.5,) * 3, **TINY)
    network = build_mask_rcnn(model, str(PRETRAINED), FEW).eval()
    file, loaded = load_file(PRETRAINED), network.body.encoder.model.state_dict()
    assert all(torch.equal(value, file[key].float()) for key, value in loaded.items() if value.is_floating_point())
    assert network.mean.flatten().tolist() == [127.5] * 3
    with torch.inference_mode():
        assert network(torch.zeros(1, 3, 32, 40, dtype=torch.uint8))[0]["masks"].shape[1:] == (28, 28)


@pytest.mark.parametrize(
    ("encoder", "weights", "message"),
    [
        ("resnet50_fnp", None, "unknown encoder resnet50_fnp; .* torchvision's resnet50_fpn, resnet50_fpn_v2"),
        ("tu-mobilenetv2_10", None, "nearest: .*tu-mobilenetv2_100"),
        ("resnet50_fpn", "no/such.pth", "no/such.pth not found: put the file there, or set model.weights to coco"),
        ("tu-test_resnet", "no/such.pth", "no/such.pth not found: put the file there, or .* to imagenet"),
        ("resnet50_fpn_v2", "cocoa", "unknown weights cocoa of resnet50_fpn_v2; valid: coco, imagenet, a .pth"),
        ("tu-test_resnet", "coco", "unknown weights coco of tu-test_resnet; valid: imagenet, a .pth"),
        (None, None, "MaskRCNN needs an encoder: set model.encoder, for example to resnet50_fpn"),
    ],
)
def test_wrong_names_are_answered_with_the_right_ones(encoder, weights, message):
    with pytest.raises(ValueError, match=message):
        build_mask_rcnn(ModelConfig(decoder="MaskRCNN", encoder=encoder), weights)


def test_what_does_not_fit_together_is_refused():
    with pytest.raises(ValueError, match="resnet50_fpn has a width of 256, not 64"):
        build_mask_rcnn(ModelConfig(encoder="resnet50_fpn", width=64), None)
    with pytest.raises(ValueError, match=r"anchors_px \(8, 16\) must be 5 sides"):
        build_mask_rcnn(ModelConfig(encoder="tu-test_resnet"), None, DetectorOptions(anchors_px=(8, 16)))
