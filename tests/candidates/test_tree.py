"""Candidates nest as the tree says, and perfect maps lead back to the truth."""

import hashlib

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nuclei.candidates.selection import expected_gain, paint, select_candidates
from nuclei.candidates.table import Candidates
from nuclei.candidates.tree import find_basins, find_saddles, make_candidates, make_energy, merge_basins
from nuclei.config.schema import Config, WatershedConfig
from nuclei.data.labels import largest_part
from nuclei.data.synthetic import KINDS, make_image
from nuclei.decoding.plain import cut_basins, decode_components, flood_seeds
from nuclei.evaluation.metric import THRESHOLDS, best_iou, score_image
from nuclei.evaluation.rle import decode_labels
from nuclei.evaluation.submission import read_submission, write_submission
from nuclei.training.targets import make_targets

CHANNELS = Config().model.channels
SETTINGS = WatershedConfig()


def noisy_maps(seed: int, shape=(40, 48)) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    _, labels = make_image(list(KINDS)[seed % len(KINDS)], (96, 96), rng)
    targets = make_targets(labels[: shape[0], : shape[1]], CHANNELS)
    noisy = np.clip(0.8 * targets + 0.3 * rng.random(targets.shape), 0, 1).astype(np.float32)
    return dict(zip(CHANNELS, noisy, strict=True))


def clumped_maps(kind: str, seed: int) -> dict[str, np.ndarray]:
    """Return noisy maps of nuclei blurred into clumps; integers, as every machine computes them alike."""
    rng = np.random.default_rng(seed)
    _, labels = make_image(kind, (96, 96), rng)
    targets = np.rint(255 * make_targets(labels, CHANNELS)).astype(np.uint8)
    blurred = np.stack([cv2.blur(target, (9, 9)) for target in targets]).astype(np.int64)
    noisy = (2 * blurred + rng.integers(0, 256, blurred.shape)) // 3
    return dict(zip(CHANNELS, noisy.astype(np.float32) / 255, strict=True))


def hash_candidates(candidates: Candidates) -> str:
    digest = hashlib.sha256()
    for name, array in candidates.pack().items():
        digest.update(f"{name} {array.dtype} {array.shape}".encode() + array.tobytes())
    return digest.hexdigest()[:16]


def perfect_maps(labels: np.ndarray) -> dict[str, np.ndarray]:
    return dict(zip(CHANNELS, make_targets(labels, CHANNELS), strict=True))


def select_by_truth(candidates: Candidates, truth: np.ndarray) -> np.ndarray:
    iou, _ = best_iou(truth, candidates.indptr, candidates.pixels)
    gain = expected_gain((iou[:, None] > THRESHOLDS).astype(float), np.full(10, 0.5))
    return paint(candidates, select_candidates(candidates, gain))


def masks_of(candidates: Candidates) -> list[set]:
    return [
        set(candidates.pixels[a:b].tolist()) for a, b in zip(candidates.indptr[:-1], candidates.indptr[1:], strict=True)
    ]


@given(st.integers(0, 1000))
@settings(max_examples=8, deadline=None)
def test_candidates_overlap_only_along_the_tree(seed):
    candidates = make_candidates(noisy_maps(seed), SETTINGS)
    masks, node, parent = masks_of(candidates), candidates.node, candidates.parent

    def line(i):
        while i >= 0:
            yield i
            i = parent[i]

    assert all(p < 0 or p > i for i, p in enumerate(parent))
    for i, first in enumerate(masks):
        for j, second in enumerate(masks[:i]):
            related = node[i] in set(line(node[j])) or node[j] in set(line(node[i]))
            assert related or not first & second


@given(st.integers(0, 1000))
@settings(max_examples=8, deadline=None)
def test_levels_rise_towards_the_leaves(seed):
    candidates = make_candidates(noisy_maps(seed), SETTINGS)
    children = np.flatnonzero(candidates.parent >= 0)
    parents = candidates.parent[children]
    assert (candidates.level[children] >= candidates.level[parents] - 1e-6).all()
    assert (candidates.peak[parents] >= candidates.peak[children]).all()
    # A child is a leaf of its own because it rises by `depth` above its pass.
    assert (candidates.peak[children] - candidates.level[children] >= SETTINGS.depth - 1 / 254).all()


def test_candidates_are_connected_without_holes_large_enough_and_distinct():
    candidates = make_candidates(noisy_maps(3), SETTINGS)
    masks = masks_of(candidates)
    assert len(masks) > 5
    for i, mask in enumerate(masks):
        image = np.zeros(candidates.shape, np.int32)
        image.flat[sorted(mask)] = 1
        assert decode_components(image, 0.5, 1).max() == 1
        assert len(mask) >= SETTINGS.min_area_px
        assert mask not in [m for j, m in enumerate(masks) if candidates.node[j] == candidates.node[i] and j != i]


def test_packing_loses_nothing():
    candidates = make_candidates(noisy_maps(5), SETTINGS)
    again = Candidates.unpack(candidates.pack())
    for name, value in vars(candidates).items():
        assert np.array_equal(getattr(again, name), value), name


# Seeds whose blurred energies stay clear of the heights' rounding, so that the last digit of a blur decides nothing.
CLUMPS = {"dark_fluorescence_small": 0, "dark_fluorescence_large": 5, "purple_on_white": 0, "purple_on_purple": 3}
FEW = WatershedConfig(max_leaves=3, mask_thresholds=(0.5, 0.6), smooth_px=0, depth=0.1, center_weight=0.3)
# Name -> channels, settings, and the hash of the candidates of each kind of image.
GOLDEN = {
    "defaults": (
        CHANNELS,
        SETTINGS,
        {
            "dark_fluorescence_small": "400de7609e942ea8",
            "dark_fluorescence_large": "8b73862ceb18f614",
            "purple_on_white": "fbb80d2167fffa92",
            "purple_on_purple": "3cb6d7e72f587c9d",
        },
    ),
    "few_leaves": (
        CHANNELS,
        FEW,
        {
            "dark_fluorescence_small": "5d4420c129c1a03c",
            "dark_fluorescence_large": "8858cd32b4614719",
            "purple_on_white": "28317ff70cc40bf6",
            "purple_on_purple": "83a0cd7e86f90ee3",
        },
    ),
    "mask_alone": (
        ("mask",),
        WatershedConfig(smooth_px=0),
        {
            "dark_fluorescence_small": "2dde42132324cdeb",
            "dark_fluorescence_large": "e92640abf2eb6a65",
            "purple_on_white": "ad18a2582501d6fe",
            "purple_on_purple": "79449adb162558cf",
        },
    ),
}


@pytest.mark.parametrize("choice", GOLDEN)
@pytest.mark.parametrize("kind", KINDS)
def test_candidates_are_those_they_have_always_been(kind, choice):
    """Known hashes: no rewriting of the tree may move a pixel, a node or a level."""
    channels, chosen, hashes = GOLDEN[choice]
    maps = clumped_maps(kind, CLUMPS[kind])
    candidates = make_candidates({channel: maps[channel] for channel in channels}, chosen)
    assert len(np.unique(candidates.node)) < len(candidates)  # nested
    assert hash_candidates(candidates) == hashes[kind]


def test_empty_maps_have_no_candidates():
    maps = {channel: np.zeros((20, 30), np.float32) for channel in CHANNELS}
    candidates = make_candidates(maps, SETTINGS)
    assert len(candidates) == 0
    assert candidates.shape == (20, 30)
    assert select_by_truth(candidates, np.zeros((20, 30), np.int32)).max() == 0


def test_constant_maps_are_one_candidate():
    maps = {"mask": np.ones((20, 30), np.float32)}
    candidates = make_candidates(maps, SETTINGS)
    assert candidates.area_px().tolist() == [600]
    assert candidates.parent.tolist() == [-1]


def test_a_shallow_maximum_is_no_leaf_and_a_deep_one_is():
    profile = np.array([0.2, 0.9, 0.5, 0.8, 0.77, 0.79, 0.3], np.float32)
    energy = np.tile(profile, (3, 1))
    basins, heights = find_basins(energy, np.ones(energy.shape, bool))
    assert basins.max() == 3
    peaks = np.array([0, *(heights[basins == i].max() for i in (1, 2, 3))])
    leaf, parent, level = merge_basins(peaks, *find_saddles(basins, heights), depth=round(254 * 0.04))
    assert leaf[basins[1]].tolist() == [0, 0, leaf[basins[1, 2]], 1, 1, 1, 1]
    assert parent.tolist() == [2, 2, -1]
    assert (level[0] - 1) / 254 == pytest.approx(0.5, abs=0.01)


def test_saddles_are_the_highest_passes():
    rng = np.random.default_rng(0)
    energy = rng.random((12, 12)).astype(np.float32)
    basins, heights = find_basins(energy, np.ones((12, 12), bool))
    expected = {}
    for y in range(12):
        for x in range(12):
            for v, u in ((y + 1, x), (y, x + 1)):
                if max(v, u) < 12 and basins[y, x] != basins[v, u]:
                    pair = tuple(sorted((basins[y, x], basins[v, u])))
                    expected[pair] = max(expected.get(pair, 0), min(heights[y, x], heights[v, u]))
    pairs, passes = find_saddles(basins, heights)
    assert {tuple(p): h for p, h in zip(pairs.tolist(), passes, strict=True)} == expected
    assert (np.diff(passes.astype(int)) <= 0).all()


def test_largest_part_fills_holes_of_its_own_only():
    part = np.zeros((9, 9), bool)
    part[1:6, 1:6] = True
    part[2, 2] = part[4, 4] = False
    part[8, 8] = True
    inside = np.ones((9, 9), bool)
    inside[4, 4] = False
    filled = largest_part(part, inside)
    assert filled[2, 2]
    assert not filled[4, 4]
    assert not filled[8, 8]
    assert filled.sum() == 24


@pytest.mark.parametrize("kind", KINDS)
def test_perfect_maps_of_synthetic_nuclei_lead_back_to_the_truth(kind):
    _, labels = make_image(kind, (192, 192), np.random.default_rng(7))
    candidates = make_candidates(perfect_maps(labels), SETTINGS)
    assert score_image(labels, select_by_truth(candidates, labels))[0] > 0.95


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "dark_fluorescence_large"])
def test_seeds_separate_what_components_merge(kind):
    _, labels = make_image(kind, (192, 192), np.random.default_rng(7))
    maps = perfect_maps(labels)
    components = decode_components(maps["mask"], 0.5, 12)
    basins = flood_seeds(make_energy(maps, 0.5), 0.6, maps["mask"] > 0.5)
    watershed = cut_basins(basins, maps["mask"], 0.5, 12)
    assert score_image(labels, watershed)[0] > max(0.9, score_image(labels, components)[0])


def test_oracle_on_real_images(real_folder, tmp_path):
    """Perfect maps of real images, through candidates, selection and submission, score at least 0.985."""
    from nuclei.data.archives import open_archive, prepare_image

    archive = open_archive(real_folder / "stage1_train.zip", "train")
    scores = []
    for image_id in archive.image_ids[::40]:
        _, truth, _ = prepare_image(archive, image_id)
        prediction = select_by_truth(make_candidates(perfect_maps(truth), SETTINGS), truth)
        with (tmp_path / "submission.csv").open("w", newline="") as file:
            write_submission(file, [(image_id, prediction)])
        rows = read_submission(tmp_path / "submission.csv")["EncodedPixels"]
        scores.append(score_image(truth, decode_labels([r for r in rows if r], truth.shape))[0])
    assert len(scores) > 15
    assert np.mean(scores) >= 0.985
