"""A crop depends on the seed and its number alone, and images come up as often as their weights say."""

import hashlib

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from nuclei.config.schema import ModelConfig, TrainConfig
from nuclei.data.synthetic import KINDS, make_image
from nuclei.networks.hardware import data_worker
from nuclei.training.crops import Crops, Pool, add_unlabelled, draw_images, make_source

CHANNELS = ("mask", "border", "center")
WEIGHTS = st.lists(st.floats(0.01, 10), min_size=1, max_size=30)


def make_crops(n=24, seed=5, channels=CHANNELS, **train):
    shapes = [(60, 90), (128, 100), (40, 40), (96, 96)]
    pairs = [make_image(kind, shape, np.random.default_rng(1)) for kind, shape in zip(KINDS, shapes, strict=True)]
    pairs = [(image, labels.astype(np.uint16)) for image, labels in pairs]
    settings = TrainConfig(crop_px=64, **train)
    source = make_source(pairs, make_table([1, 2, 3, 4]), settings)
    return Crops(source, ModelConfig(channels=channels), settings, n, seed)


def make_table(weights, folds=(0, 1, 0, 1)):
    return pd.DataFrame({"weight": np.array(weights, float), "fold": folds})


def make_mosaics(weights, n, by_fold=False):
    """Give mosaics of four images of one value each: 10, 20, 30 and 40, of folds 0, 1, 0 and 1."""
    pairs = [(np.full((40, 40, 3), value, np.uint8), np.zeros((40, 40), np.uint16)) for value in (10, 20, 30, 40)]
    train = TrainConfig(augment={"mosaic": 1.0}, crop_px=32)
    source = make_source(pairs, make_table(weights), train, by_fold)
    return Crops(source, ModelConfig(channels=("mask",)), train, n, 0)


def test_crops_without_truth_have_their_share_and_are_in_no_mosaic_with_others():
    pairs = [(np.full((40, 40, 3), value, np.uint8), np.zeros((40, 40), np.uint16)) for value in (10, 20)]
    train = TrainConfig(augment={"mosaic": 1.0}, crop_px=32)
    source = make_source(pairs, make_table([1, 3], folds=(0, 0)), train)
    unseen = (np.full((40, 40, 3), value, np.uint8) for value in (100, 110, 120))
    crops = Crops(add_unlabelled(source, unseen, 0.25), ModelConfig(channels=("mask",)), train, 400, 0)
    without = [bool(targets.isnan().all()) for _, targets in (crops[i] for i in range(400))]
    assert sum(without) == pytest.approx(100, abs=30)
    for i, unlabelled in enumerate(without):
        image, targets = crops[i]
        assert (image >= 100).all() if unlabelled else (image <= 20).all()
        assert unlabelled or (targets == 0).all()
    assert add_unlabelled(source, [], 0.25) is source


def same(ours, expected):
    return all(torch.equal(a, b) for a, b in zip(ours, expected, strict=True))


def test_crops_are_what_the_network_takes():
    crops = make_crops()
    assert len(crops) == 24
    for image, targets in (crops[i] for i in range(24)):
        assert (image.dtype, image.shape) == (torch.uint8, (3, 64, 64))
        assert (targets.dtype, targets.shape) == (torch.float16, (3, 64, 64))
        assert 0 <= targets.min() <= targets.max() <= 1
    mask_only = make_crops(channels=("mask",))
    assert torch.equal(mask_only[3][1][0], crops[3][1][0])


@pytest.mark.parametrize("preset", ["full", {"crop": 1.0, "mosaic": 1.0}])
def test_a_crop_is_the_same_in_any_order(preset):
    crops = make_crops(augment=preset)
    expected = [crops[i] for i in range(len(crops))]
    for i in np.random.default_rng(0).permutation(len(crops)):
        assert same(crops[int(i)], expected[i])
    assert not any(same(expected[i], expected[j]) for i in range(24) for j in range(i))


def test_a_crop_asks_no_global_generator():
    crops = make_crops()
    torch.manual_seed(1), np.random.seed(1)
    expected = [crops[i] for i in range(12)]
    torch.manual_seed(2), np.random.seed(2)
    assert all(same(crops[i], expected[i]) for i in range(12))


@pytest.mark.parametrize("workers", [1, 2])
def test_a_crop_is_the_same_in_any_process(workers):
    crops = make_crops()
    loader = DataLoader(crops, 4, num_workers=workers, worker_init_fn=data_worker())
    for batch, (images, targets) in enumerate(loader):
        expected = [crops[4 * batch + i] for i in range(4)]
        assert same((images, targets), [torch.stack(rows) for rows in zip(*expected, strict=True)])


@pytest.mark.parametrize("preset", ["full", {"crop": 1.0, "mosaic": 1.0}])
def test_a_longer_training_begins_with_the_crops_of_a_shorter_one(preset):
    short, long = make_crops(n=10, augment=preset), make_crops(n=5000, augment=preset)
    assert all(same(short[i], long[i]) for i in range(10))


def test_the_seed_decides_every_crop():
    ours, other = make_crops(seed=5), make_crops(seed=6)
    assert not any(same(ours[i], other[i]) for i in range(10))


def test_mosaics_take_the_other_images_by_their_weights():
    crops = make_mosaics([1, 0, 3, 4], 300)
    values = [set(image[0].flatten().tolist()) for image, _ in (crops[i] for i in range(300))]
    assert set.union(*values) == {10, 30, 40}
    # The last of the four windows is a partner's.
    last = np.array([int(crops[i][0][0, -1, -1]) for i in range(300)])
    assert [(last == value).mean() for value in (10, 30, 40)] == pytest.approx([1 / 8, 3 / 8, 4 / 8], abs=0.1)


@given(WEIGHTS, st.integers(1, 600), st.integers(0, 600), st.integers(0, 9))
def test_a_longer_draw_begins_with_the_shorter_one(weights, n, more, seed):
    short, long = (draw_images(np.array(weights), k, seed, block=64) for k in (n, n + more))
    assert short.dtype == np.int64
    assert len(short) == n
    assert np.array_equal(short, long[:n])


@settings(max_examples=30)
@given(WEIGHTS, st.integers(0, 9))
def test_images_come_up_within_one_of_their_expected_count_in_each_block(weights, seed):
    drawn = draw_images(np.array(weights), 3 * 128, seed, block=128).reshape(3, 128)
    expected = 128 * np.array(weights) / sum(weights)
    for block in drawn:
        counts = np.bincount(block, minlength=len(weights))
        assert len(counts) == len(weights)
        assert (np.abs(counts - expected) < 1 + 1e-9).all()


def test_blocks_are_shuffled_each_in_its_own_way():
    first, second = draw_images(np.ones(64), 128, 3, block=64).reshape(2, 64)
    assert sorted(first) == sorted(second) == list(range(64))
    assert (first == second).sum() < 10
    assert (first == np.arange(64)).sum() < 10
    assert not np.array_equal(first, draw_images(np.ones(64), 64, 4, block=64))


def test_balanced_weights_even_out_the_types():
    # 90 images of one type and 10 of another, weighted by one over the size of their type.
    weights = np.array([1 / 90] * 90 + [1 / 10] * 10)
    drawn = draw_images(weights, 4096, 0)
    assert abs((drawn >= 90).sum() - 2048) <= 1
    assert set(drawn) == set(range(100))


def test_an_image_of_weight_zero_is_never_drawn():
    drawn = draw_images(np.array([0.0, 1.0, 0.0, 2.0, 0.0]), 20_000, 1)
    assert set(drawn) == {1, 3}


def test_with_folds_no_crop_has_content_of_two():
    crops = make_mosaics([1, 2, 3, 4], 200, by_fold=True)
    seen = {0: set(), 1: set()}
    for i in range(200):
        seen[crops.fold_of[i]] |= set(crops[i][0].flatten().tolist())
    assert seen == {0: {10, 30}, 1: {20, 40}}


def make_pool(rows, n, turned, seed):
    """Give a pool of six crops of 4 x 4 in two channels, the pixels of crop i counting up from 16·i."""
    pixels = np.arange(96, dtype=np.uint8).reshape(6, 1, 4, 4)
    images, targets = np.repeat(pixels, 3, axis=1), np.repeat(pixels, 2, axis=1)
    return Pool(images, targets, np.array(rows), TrainConfig(augment={"dihedral": turned}), n, seed)


@pytest.mark.parametrize("rows", [(1, 3, 5), (0, 2, 4)])
def test_a_pool_gives_all_crops_of_its_rows_before_any_again(rows):
    pool = make_pool(rows, 12, 0.0, seed=3)
    sources = [int(pool[i][0].min()) // 16 for i in range(len(pool))]
    assert len(pool) == 12
    assert all(set(sources[start : start + 3]) == set(rows) for start in range(0, 12, 3))
    assert len({tuple(sources[start : start + 3]) for start in range(0, 12, 3)}) > 1


def test_crops_of_a_pool_are_turned_together_with_their_targets_into_all_eight_views():
    pool, again, other = (make_pool((1, 3, 5), 240, 1.0, seed) for seed in (3, 3, 4))
    views = set()
    for image, targets in (pool[i] for i in range(240)):
        assert (image.dtype, targets.dtype) == (torch.uint8, torch.float16)
        assert torch.equal((targets[0].float() * 255).round(), image[0].float())
        views.add(tuple((image[0] - image.min()).flatten().tolist()))
    assert len(views) == 8
    assert all(same(pool[i], again[i]) for i in range(5))
    assert not all(same(pool[i], other[i]) for i in range(5))


def hash_crops(crops):
    arrays = [array.numpy().tobytes() for i in range(len(crops)) for array in crops[i]]
    return hashlib.sha256(b"".join(arrays)).hexdigest()[:16]


@pytest.mark.parametrize(
    ("sampling", "by_fold", "expected"),
    [
        ("balanced", False, "c4ed2d818f83ec6e"),
        ("balanced", True, "81e638534a0f1af2"),
        ("uniform", False, "e643c57cd190349a"),
    ],
)
def test_crops_are_those_that_published_networks_learned_from(sampling, by_fold, expected):
    """Of groups that move pixels and compute none: what others compute is rounded as the processor does."""
    rng = np.random.default_rng(7)
    pairs = []
    for n_rows in (10, 16, 7, 12):
        image = rng.integers(0, 256, (6 * n_rows, 90, 3), np.uint8)
        pairs.append((image, np.kron(rng.integers(0, 5, (n_rows, 15)), np.ones((6, 6))).astype(np.uint16)))
    groups = {"crop": 1.0, "mosaic": 0.5, "dihedral": 1.0}
    train = TrainConfig(crop_px=64, augment=groups, leave_out=("blur",), sampling=sampling)
    source = make_source(pairs, make_table([1, 2, 3, 4]), train, by_fold)
    assert hash_crops(Crops(source, ModelConfig(channels=("mask", "border")), train, 16, 5)) == expected


def test_crops_of_a_pool_are_those_that_published_networks_learned_from():
    assert hash_crops(make_pool((0, 3, 4), 16, 1.0, seed=3)) == "cd8493e60c8cece6"


def test_fully_augmented_crops_are_as_bright_and_full_as_they_were():
    crops = make_crops()
    images, targets = zip(*(crops[i] for i in range(6)), strict=True)
    assert [float(image.float().mean()) for image in images] == pytest.approx(
        [132.09, 172.45, 173.84, 184.37, 167.13, 170.28], abs=0.5
    )
    assert [float(mask[0].float().mean()) for mask in targets] == pytest.approx(
        [0.116, 0.4238, 0.1494, 0.1841, 0.2952, 0.4539], abs=0.005
    )
