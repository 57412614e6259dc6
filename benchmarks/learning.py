"""The training loop, the prediction of an image and the boosters beside their bare libraries; `all.py` runs them."""

from pathlib import Path

import lightgbm as lgb
import numpy as np
import pandas as pd
import torch
from lightning_fabric import Fabric
from numpy.typing import NDArray
from ratios import Ratio, Work, time_in_turns
from torch import Tensor
from torch.utils.data import default_collate

from nuclei.candidates.boosters import train_boosters
from nuclei.candidates.features import feature_names
from nuclei.config.load import load_config
from nuclei.config.schema import ScorerConfig
from nuclei.data.synthetic import make_image
from nuclei.evaluation.metric import THRESHOLDS
from nuclei.inference.predictor import predict_image
from nuclei.networks.hardware import choose_precision
from nuclei.networks.kinds import KINDS, build, make_loss
from nuclei.networks.tiling import VIEWS, apply_view
from nuclei.training.crops import Crops, make_source
from nuclei.training.engine import Outlets, Task, Trainer

SIDE = 512


def draw(seed: int) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
    """Return a synthetic image of SIDE x SIDE and its labels."""
    return make_image("dark_fluorescence_large", (SIDE, SIDE), np.random.default_rng(seed))


def measure_training(path: Path, steps: int) -> list[Ratio]:
    """Return the step, and the loop with its data, beside the bare step: forward, loss, backward, clip, optimiser.

    The data are made by the training process itself, or by a worker beside it, which is what trainings do by default:
    of that one the seconds of the training process alone are counted.
    """
    config = load_config(path)
    repeats = max(1, steps // 2)
    n_steps = 2 * repeats + 2  # two batches in turns, and one to warm up
    limits = {"steps": n_steps, "seconds": None, "evaluate_every": 10**6}
    settings, model = config.train.model_copy(update=limits), config.model
    size = settings.batch_size
    drawn = [draw(seed) for seed in range(4)]
    pairs = [(image, labels.astype(np.uint16)) for image, labels in drawn]
    table = pd.DataFrame({"fold": 0, "weight": 1.0}, index=range(len(pairs)))
    crops = Crops(make_source(pairs, table, settings), model, settings, n_steps * size, 0)
    batches = [default_collate([crops[i] for i in range(start, start + size)]) for start in (0, size)]
    fabric = Fabric(accelerator="cpu", devices=1, precision=choose_precision(settings.precision))
    loss_of = make_loss(model, settings)

    bare = build(model, None).to(memory_format=torch.channels_last).train()
    network, optimizer = fabric.setup(bare, torch.optim.AdamW(bare.parameters(), 1e-4))

    def step(batch: tuple[Tensor, Tensor]) -> None:
        loss = loss_of(network, *batch)
        optimizer.zero_grad()
        fabric.backward(loss)
        fabric.clip_gradients(network, optimizer, max_norm=settings.clip_norm, error_if_nonfinite=False)
        optimizer.step()

    def start(workers: int) -> Trainer:
        task = Task(build(model, None).to(memory_format=torch.channels_last), crops, loss_of, lambda _: 0.0)
        trainer = Trainer(fabric, task, settings.model_copy(update={"workers": workers}), Outlets(lambda _: None))
        trainer.start(None)
        return trainer

    def measure(what: str, ours: Work) -> Ratio:
        seconds = time_in_turns(ours, step, batches, repeats)
        sample = f"{path.stem}, {size} crops of {settings.crop_px} px"
        return Ratio(what, "the bare step", *seconds, 1.05, False, sample)

    def measure_loop(what: str, workers: int) -> Ratio:
        trainer = start(workers)
        made = iter(trainer.batches())
        return measure(what, lambda _: trainer.step(*next(made)))

    trainer = start(0)
    return [
        measure("a training step", lambda batch: trainer.step(*batch)),
        measure_loop("the training loop, data made beside it", 1),
        measure_loop("the training loop, data made in it", 0),
    ]


def measure_prediction(path: Path, n_images: int) -> list[Ratio]:
    """Return the prediction of images in four views beside the bare forwards of as many views."""
    config = load_config(path)
    predict = config.predict.model_copy(update={"tta": "flips", "scales": (1.0,)})
    config = config.model_copy(update={"predict": predict})
    precision = choose_precision(config.train.precision)
    fabric = Fabric(accelerator="cpu", devices=1, precision=precision)
    network = build(config.model, None).to(memory_format=torch.channels_last).eval()
    forward = KINDS[config.model.gives].load(fabric, network, precision)
    images = [draw(seed)[0] for seed in range(n_images)]

    def forward_views(image: np.ndarray) -> None:
        for view in VIEWS[predict.tta]:
            turned = np.ascontiguousarray(apply_view(image, view).transpose(2, 0, 1))[None]
            forward(torch.from_numpy(turned))

    ours, theirs = time_in_turns(lambda image: predict_image([forward], image, config), forward_views, images)
    sample = f"{path.stem}, {n_images} images of {SIDE} px"
    return [Ratio("prediction in four views", "the bare forwards", ours, theirs, 1.1, False, sample)]


def measure_boosters(n_rows: int) -> list[Ratio]:
    """Return a set of boosters beside LightGBM's rounds alone, on a table that is binned beforehand."""
    rng, names = np.random.default_rng(0), feature_names()
    values = rng.random((n_rows, len(names)), np.float32)
    iou = np.clip(values[:, :5].mean(axis=1) + rng.normal(0, 0.1, n_rows), 0, 1).astype(np.float32)
    features, weight = pd.DataFrame(values, columns=names), np.ones(n_rows)
    settings = ScorerConfig(rounds=40)
    parameters = {
        "objective": "binary", "num_leaves": settings.leaves, "learning_rate": settings.learning_rate, "verbosity": -1,
        "min_data_in_leaf": settings.min_leaf_rows, "max_bin": 127, "bagging_fraction": settings.share,
        "bagging_freq": 1, "feature_fraction": settings.share, "deterministic": True, "force_row_wise": True,
        "num_threads": 1,
    }  # fmt: skip
    table = lgb.Dataset(values, params=parameters, weight=weight, free_raw_data=True).construct()

    def train_bare(_: None) -> None:
        for threshold in (*THRESHOLDS, 0.5):
            table.set_label((iou > threshold).astype(np.float32))
            lgb.train(parameters, table, num_boost_round=settings.rounds)

    ours, theirs = time_in_turns(
        lambda _: train_boosters(features, iou, weight, settings, 0, jobs=1), train_bare, [None], repeats=1
    )
    sample = f"{n_rows} candidates, {settings.rounds} rounds"
    return [Ratio("a set of boosters", "LightGBM's rounds alone", ours, theirs, 1.2, False, sample)]
