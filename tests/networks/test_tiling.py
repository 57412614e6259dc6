"""Views, tiles, padding and scales leave no trace in the maps of a forward that sees one pixel at a time."""

import subprocess
import sys

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from lightning_fabric import Fabric

from nuclei.config.schema import ModelConfig, PredictConfig
from nuclei.networks.encoder_decoder import STRIDE, build_network
from nuclei.networks.maps import blend, dequantise, quantise
from nuclei.networks.plain_unet import VANILLA, PlainUnet
from nuclei.networks.tiling import (
    VIEWS,
    apply_view,
    count_together,
    forward_views,
    freeze,
    network_forward,
    predict_alike,
    predict_maps,
    tile_axis,
    tile_starts,
    undo_view,
)

torch.set_num_threads(1)  # tiny arrays gain nothing from more
MODEL = ModelConfig(channels=("mask", "border", "center"))
CHANNELS = MODEL.channels
MAP_VALUES = st.floats(0, 1, width=32)


def predict(forward, image, model=MODEL, **options):
    return predict_maps(forward, image, model, PredictConfig(**{"tta": "none"} | options))


def random_image(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def intensity(batch):
    """Answer with the image itself: a network of receptive field 1."""
    assert batch.dtype == torch.uint8
    assert batch.shape[2] % STRIDE == batch.shape[3] % STRIDE == 0
    return batch / 255


def ramp(batch):
    """Answer with a pattern of its own, whatever the image: a network as far from equivariant as can be."""
    rows, columns = torch.meshgrid(torch.arange(batch.shape[2]), torch.arange(batch.shape[3]), indexing="ij")
    pattern = torch.stack([0.9 * rows / len(rows), columns / columns.shape[1], rows * columns / rows.numel()])
    return pattern.expand(len(batch), 3, *rows.shape)


@pytest.mark.parametrize("tta", VIEWS)
@given(st.integers(1, 6), st.integers(1, 6))
def test_views_invert_exactly(tta, height, width):
    image = np.arange(height * width * 2).reshape(height, width, 2)
    for view in VIEWS[tta]:
        assert np.array_equal(undo_view(apply_view(image, view), view), image)
    assert np.array_equal(apply_view(image, VIEWS[tta][0]), image)


def test_views_are_the_symmetries_of_the_square():
    image = np.arange(12).reshape(3, 4)
    views = {apply_view(image, view).tobytes() + bytes(apply_view(image, view).shape) for view in VIEWS["dihedral"]}
    turned = [np.rot90(flipped, k) for k in range(4) for flipped in (image, image[::-1])]
    assert views == {view.tobytes() + bytes(view.shape) for view in turned}
    assert set(VIEWS["none"]) < set(VIEWS["flips"]) < set(VIEWS["dihedral"])
    assert [len(views) for views in VIEWS.values()] == [1, 2, 4, 8]
    assert {apply_view(image, view).shape for view in VIEWS["flips"]} == {(3, 4)}


@pytest.mark.parametrize("tta", VIEWS)
@settings(max_examples=15)
@given(st.integers(1, 70), st.integers(1, 70))
def test_an_equivariant_network_gets_the_same_maps_from_every_view(tta, height, width):
    image = random_image(height, width)
    maps = predict(intensity, image, tta=tta)
    assert list(maps) == [*CHANNELS, "disagreement"]
    for i, channel in enumerate(CHANNELS):
        assert maps[channel].dtype == np.float32
        assert maps[channel] == pytest.approx(image[..., i] / 255, abs=1e-6)
    assert maps["disagreement"].shape == (height, width)
    assert maps["disagreement"].max() < 1e-6


@pytest.mark.parametrize("tta", VIEWS)
def test_maps_and_disagreement_are_moments_over_the_views(tta):
    image = random_image(64, 64)
    pattern = ramp(torch.zeros(1, 3, 64, 64))[0].permute(1, 2, 0).numpy()
    views = np.stack([undo_view(pattern, view) for view in VIEWS[tta]])
    assert forward_views(ramp, [image], VIEWS[tta])[0] == pytest.approx(views.transpose(0, 3, 1, 2))
    maps = predict(ramp, image, tta=tta)
    for i, channel in enumerate(CHANNELS):
        assert maps[channel] == pytest.approx(views[..., i].mean(0), abs=1e-6)
    assert maps["disagreement"] == pytest.approx(views[..., 0].std(0), abs=1e-4)
    assert (maps["disagreement"].max() > 0.2) == (tta != "none")


@pytest.mark.parametrize("scales", [(1.0, 2.0), (0.5, 1.0, 2.0), (1.0, 0.5, 0.75, 1.5), (2.0,)])
@pytest.mark.parametrize("tta", ["none", "flips"])
def test_maps_and_disagreement_are_moments_over_the_scales(tta, scales):
    def brightness_of_scale(batch):  # what scale it is given shows in the size
        return ramp(batch) * (0.5 if batch.shape[2] > 64 else 0.8 if batch.shape[2] == 64 else 1.0)

    image = random_image(64, 64)
    seen = []
    for scale in scales:
        side = round(64 * scale)
        views = forward_views(brightness_of_scale, [random_image(side, side)], VIEWS[tta])[0]
        seen += [(cv2.resize(view[:2].transpose(1, 2, 0), (64, 64)), len(views)) for view in views]
    seen = np.stack([view for view, _ in seen])
    maps = predict(brightness_of_scale, image, tta=tta, scales=scales)
    assert maps["mask"] == pytest.approx(seen[..., 0].mean(0), abs=1e-5)
    assert maps["border"] == pytest.approx(seen[..., 1].mean(0), abs=1e-5)
    # Variances over views are resized themselves, which differs a little from the variance of resized views.
    assert maps["disagreement"] == pytest.approx(seen[..., 0].std(0), abs=0.01)


@given(st.integers(1, 3000), st.integers(2, 700), st.data())
def test_tiles_cover_an_axis_with_enough_overlap_and_no_tile_too_many(length, tile, data):
    overlap = data.draw(st.integers(0, tile - 1))
    starts = tile_starts(length, tile, overlap)
    assert starts[0] == 0
    if length <= tile:
        assert starts == [0]
        return
    assert starts[-1] + tile == length
    steps = np.diff(starts)
    assert (steps <= tile - overlap).all()
    assert (steps > 0).all()
    fewer = len(starts) - 1
    assert fewer * tile - (fewer - 1) * overlap < length


@given(st.integers(1, 500), st.integers(2, 200), st.data())
def test_tile_weights_add_up_to_one_and_are_least_at_the_ends(length, tile, data):
    overlap = data.draw(st.integers(0, tile - 1))
    total = np.zeros(length)
    for span, weight in tile_axis(length, tile, overlap):
        assert weight.dtype == np.float32
        assert (weight > 0).all()
        total[span] += weight
    assert total == pytest.approx(1, abs=1e-5)


def test_tile_weights_fade_over_the_overlap():
    (_, first), (_, second) = tile_axis(28, 16, 4)
    assert first.tolist() == pytest.approx([1] * 12 + [4 / 5, 3 / 5, 2 / 5, 1 / 5])
    assert second.tolist() == pytest.approx([1 / 5, 2 / 5, 3 / 5, 4 / 5] + [1] * 12)


@settings(max_examples=20)
@given(st.integers(1, 100), st.integers(1, 100), st.sampled_from([(32, 0), (64, 16), (40, 37), (50, 7)]))
def test_tiles_are_seamless_for_a_network_that_sees_one_pixel(height, width, tiling):
    tile, overlap = tiling
    image = random_image(height, width)
    maps = predict(intensity, image, tta="flips", tile_px=tile, overlap_px=overlap)
    assert np.stack([maps[c] for c in CHANNELS], -1) == pytest.approx(image / 255, abs=1e-5)
    assert maps["disagreement"].max() < 1e-4


@pytest.mark.parametrize("overlap", [8, 32])
def test_context_missing_at_a_tiles_edge_is_faded_out(overlap):
    def blur(batch):  # zeros beyond the edge, as in a network
        return torch.nn.functional.avg_pool2d(batch.float() / 255, 5, 1, 2)

    image = np.full((160, 160, 3), 255, np.uint8)
    whole, tiled = (predict(blur, image, tile_px=tile, overlap_px=overlap) for tile in (160, 64))
    difference = np.abs(whole["mask"] - tiled["mask"])
    # A tile's outermost pixels are 0.4 too dark and weigh 1 in overlap + 2, its second ones 0.2 and 2.
    assert 0 < difference.max() < 0.8 / (overlap + 1)


def test_a_network_never_sees_more_than_a_tile():
    shapes = set()

    def forward(batch):
        shapes.add(tuple(batch.shape[2:]))
        return batch / 255

    predict(forward, random_image(100, 333), tta="dihedral", scales=(1.0, 1.5), tile_px=96, overlap_px=16)
    assert shapes == {(96, 96)}
    predict(forward, random_image(70, 33), tta="dihedral", tile_px=200, overlap_px=16)
    assert shapes == {(96, 96), (96, 64), (64, 96)}


def test_an_image_continues_by_reflection_to_a_multiple_of_the_stride():
    image = random_image(40, 33)
    seen = []
    forward_views(lambda batch: seen.append(batch) or batch / 255, [image], VIEWS["none"])
    expected = np.concatenate([image, image[:-25:-1]])
    expected = np.concatenate([expected, expected[:, :-32:-1]], axis=1)
    assert np.array_equal(seen[0][0].permute(1, 2, 0).numpy(), expected)


@pytest.mark.parametrize("tta", ["none", "dihedral"])
@pytest.mark.parametrize("scales", [(0.5,), (0.75,), (1.3,), (2.0,), (0.5, 1.0, 2.0), (0.61, 1.77)])
@pytest.mark.parametrize("shape", [(96, 96), (95, 101), (67, 140)])
def test_scales_shift_nothing(shape, scales, tta):
    rng = np.random.default_rng(4)
    y, x = np.mgrid[: shape[0], : shape[1]]
    center = np.array(shape) / 2 + rng.uniform(-8, 8, 2)
    blob = 255 * np.exp(-((y - center[0]) ** 2 + (x - center[1]) ** 2) / (2 * 6**2))
    image = np.repeat(blob.round().astype(np.uint8)[..., None], 3, axis=2)
    mask = predict(intensity, image, tta=tta, scales=scales, tile_px=64, overlap_px=16)["mask"]
    assert mask.shape == shape
    before, after = ([(a * m).sum() / m.sum() for a in (y, x)] for m in (image[..., 0] / 255, mask))
    assert after == pytest.approx(before, abs=0.03)


@pytest.mark.parametrize(("tta", "side"), [("flips", 40), ("dihedral", 70), ("none", 150)])
@pytest.mark.parametrize("together", [1, 2, 3, 16])
def test_images_and_tiles_together_give_the_maps_of_each_alone(tta, side, together):
    images = [random_image(side, 50, seed) for seed in range(3)]
    predict_config = PredictConfig(tta=tta, scales=(1.0, 0.75), tile_px=64, overlap_px=16)
    seen = []

    def forward(batch):
        seen.append(len(batch))
        return ramp(batch) * batch.float().mean(dim=(1, 2, 3), keepdim=True) / 255 + 0.2 * intensity(batch)

    model = ModelConfig(channels=CHANNELS)
    alone = [predict_maps(forward, image, model, predict_config) for image in images]
    del seen[:]
    for one, other in zip(predict_alike(forward, images, model, predict_config, together), alone, strict=True):
        for name in other:
            assert np.array_equal(one[name], other[name])
    views = 4 if tta == "dihedral" else len(VIEWS[tta])  # those that lie alike go together
    tiles = 3 * (3 if side == 150 else 2 if side == 70 else 1)
    assert max(seen) == views * min(together, tiles)


def test_a_network_gives_the_same_maps_whether_images_come_together():
    torch.manual_seed(0)
    network = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv2d(8, len(CHANNELS), 1)
    )
    images, model = [random_image(64, 96, seed) for seed in range(5)], ModelConfig(channels=CHANNELS)

    def forward(batch):
        with torch.inference_mode():
            return network(batch.float() / 255).sigmoid()

    alone = [predict_maps(forward, image, model, PredictConfig()) for image in images]
    for one, other in zip(predict_alike(forward, images, model, PredictConfig(), 4), alone, strict=True):
        assert one["mask"] == pytest.approx(other["mask"], abs=1e-5)


def test_so_many_images_go_together_as_have_the_pixels_of_a_tile():
    model, predict_config = ModelConfig(min_side_px=0), PredictConfig(tile_px=1280)
    assert count_together((256, 256), model, predict_config, on_gpu=True) == 25
    assert count_together((520, 696), model, predict_config, on_gpu=True) == 4
    assert count_together((5000, 5000), model, predict_config, on_gpu=True) == 1
    assert count_together((256, 256), ModelConfig(min_side_px=512), predict_config, on_gpu=True) == 6
    assert count_together((256, 256), model, PredictConfig(scales=(0.5, 2.0)), on_gpu=True) == 6
    asked = PredictConfig(batch_images=3)
    assert count_together((256, 256), model, asked, on_gpu=True) == 3
    assert count_together((256, 256), model, asked, on_gpu=False) == 1


MEMORY_SCRIPT = """
import numpy as np, torch
from nuclei.config.schema import ModelConfig, PredictConfig
from nuclei.networks.tiling import predict_maps
from nuclei.runs.memory import measure_peak_bytes
torch.set_num_threads(1)
image = np.zeros((5000, 5000, 3), np.uint8)
image[::7, ::5] = 200
predict = PredictConfig(tile_px=512, overlap_px=64, tta="turn")
predict_maps(lambda batch: batch / 255, image[:64, :64], ModelConfig(), predict)
before = measure_peak_bytes()
maps = predict_maps(lambda batch: batch / 255, image, ModelConfig(), predict)
assert (maps["mask"][::7, ::5] > 0.7).all() and maps["mask"].mean() < 0.05
print((measure_peak_bytes() - before) // 2**20)
"""


def test_a_large_image_needs_little_more_memory_than_its_maps():
    done = subprocess.run(
        [sys.executable, "-c", MEMORY_SCRIPT],
        capture_output=True,
        text=True,
        env={"PYTHONPATH": "src", "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    grown_mib = float(done.stdout)
    maps_mib = 4 * 4 * 5000**2 / 2**20  # three channels and the disagreement, float32
    # Measured with 4 views: 116 MiB more. 2 of a tile in 3 float32 channels are 6; weights or a copy of one map are 95.
    assert grown_mib < maps_mib + 180


def test_forward_of_a_network_gives_its_probabilities():
    network = torch.nn.Conv2d(3, 2, 1)
    forward = network_forward(Fabric(accelerator="cpu", devices=1), network)
    batch = torch.randint(0, 2, (2, 3, 32, 32), generator=torch.Generator().manual_seed(0)).float()
    ours = forward(batch)
    assert not ours.requires_grad
    assert torch.allclose(ours, network(batch).sigmoid())
    half = network_forward(Fabric(accelerator="cpu", devices=1, precision="bf16-mixed"), network)(batch)
    assert half.dtype == torch.float32
    assert torch.allclose(half, ours, atol=0.02)
    assert not torch.equal(half, ours)


@given(hnp.arrays(np.float32, (3, 4), elements=MAP_VALUES))
def test_quantised_maps_come_back_within_half_a_step(values):
    stored = quantise({"mask": values})["mask"]
    assert stored.dtype == np.uint8
    back = dequantise({"mask": stored})["mask"]
    assert back.dtype == np.float32
    assert np.abs(back - values).max() <= 0.5 / 255 + 1e-6
    assert np.array_equal(quantise({"mask": back})["mask"], stored)


def test_quantise_clips_what_rounding_took_out_of_range():
    stored = quantise({"mask": np.array([-1e-3, 0.0, 1.0, 1.001, 2.0], np.float32)})["mask"]
    assert stored.tolist() == [0, 0, 255, 255, 255]


def random_members(seed, n):
    rng = np.random.default_rng(seed)
    return [{name: rng.random((4, 5)).astype(np.float32) for name in (*CHANNELS, "disagreement")} for _ in range(n)]


@given(st.integers(0, 99), st.floats(0.01, 10))
def test_one_member_is_blended_into_itself(seed, weight):
    member = random_members(seed, 1)[0]
    blended = blend([member], [weight])
    assert blended.keys() == member.keys()
    for name in member:
        assert blended[name].dtype == np.float32
        assert blended[name] == pytest.approx(member[name], abs=1e-6)


@given(st.lists(st.floats(0.1, 5), min_size=2, max_size=4), st.floats(0.1, 10))
def test_members_are_averaged_by_normalised_weights(weights, factor):
    members = random_members(1, len(weights))
    blended, scaled = blend(members, weights), blend(members, [factor * weight for weight in weights])
    shares = np.array(weights)[:, None, None] / sum(weights)
    for name in CHANNELS:
        assert blended[name] == pytest.approx(sum(shares * np.stack([m[name] for m in members])), abs=1e-6)
    mask, inner = (np.stack([m[name] for m in members]) for name in ("mask", "disagreement"))
    variance = (shares * inner**2).sum(0) + (shares * (mask - blended["mask"]) ** 2).sum(0)
    assert blended["disagreement"] == pytest.approx(np.sqrt(variance), abs=1e-6)
    for name in blended:
        assert scaled[name] == pytest.approx(blended[name], abs=1e-6)


def test_a_channel_is_averaged_over_the_members_that_have_it():
    members = random_members(2, 3)
    del members[0]["center"], members[2]["border"]
    blended = blend(members, [1.0, 1.0, 3.0])
    assert blended["center"] == pytest.approx((members[1]["center"] + 3 * members[2]["center"]) / 4, abs=1e-6)
    assert blended["border"] == pytest.approx((members[0]["border"] + members[1]["border"]) / 2, abs=1e-6)


def test_members_and_weights_must_pair_up():
    with pytest.raises(ValueError, match="zip"):
        blend(random_members(0, 2), [1.0])


def test_a_small_image_is_predicted_at_the_size_it_is_enlarged_to():
    seen = []

    def forward(batch):
        seen.append(tuple(batch.shape[2:]))
        return batch / 255

    image = random_image(100, 160)
    predict(forward, image, ModelConfig(min_side_px=180), scales=(1.0, 0.5))
    assert seen == [(192, 288), (96, 160)]  # 180 x 288 and 90 x 144, up to multiples of the stride
    whole = predict(lambda batch: batch / 255, image, ModelConfig(min_side_px=200))
    assert np.abs(whole["mask"] - image[..., 0] / 255).max() < 0.5  # back at the size of the image
    assert whole["mask"].shape == (100, 160)


@pytest.mark.parametrize(("decoder", "widths"), [("Unet", (16, 8, 8)), ("FPN", ()), ("OriginalUnet", ())])
def test_a_frozen_network_gives_the_same_maps_at_any_size(monkeypatch, decoder, widths):
    monkeypatch.setitem(VANILLA, "OriginalUnet", lambda n: PlainUnet(n, (4, 6, 8, 10, 12), valid=True, dropout=0.5))
    torch.manual_seed(3)
    encoder = None if decoder == "OriginalUnet" else "tu-test_resnet"
    settings = {"decoder": decoder, "encoder": encoder, "decoder_channels": widths}
    network = build_network(ModelConfig(channels=("mask", "border"), **settings), None).eval()
    frozen = freeze(network)
    for size in ((64, 64), (96, 32), (128, 192)):
        image = torch.randint(0, 256, (2, 3, *size), dtype=torch.uint8)
        with torch.inference_mode():
            assert torch.allclose(frozen(image), network(image), atol=1e-3)


def test_a_network_whose_trace_is_of_one_size_is_left_as_it_is():
    class Sized(torch.nn.Module):
        def forward(self, image):
            return image.float() * int(image.shape[2])  # a number of Python's, which a trace keeps

    network = Sized().eval()
    assert freeze(network) is network
