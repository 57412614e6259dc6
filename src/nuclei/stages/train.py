"""Folds and images -> fold<k>/weights.safetensors: one network per fold, trained on the other folds."""

from pathlib import Path

import numpy as np
import pandas as pd
import torch
from lightning_fabric import Fabric
from safetensors.torch import load_file, save_file
from torch.utils.tensorboard import SummaryWriter

from nuclei.config.load import load_config
from nuclei.config.schema import Config
from nuclei.data.folds import match_folds
from nuclei.evaluation.metric import score_image
from nuclei.inference.bundle import find_published
from nuclei.networks.hardware import choose_precision
from nuclei.networks.kinds import build, make_loss, segment_quickly
from nuclei.runs.cache import StageError, expected_fingerprint, fingerprint, is_up_to_date, stage
from nuclei.runs.files import as_json, atomic, differences, file_hash, read_json, read_table, write_table
from nuclei.runs.layout import Dataset, Options, Run, read_pair, read_pairs
from nuclei.stages import crops as crops_stage
from nuclei.training.augment import leave_out
from nuclei.training.crops import Pool, make_crops, pool_settings
from nuclei.training.engine import fit

VERSION = 1


def main(run: Run, config: Config, options: Options) -> None:
    dataset = Dataset(config.data, run.folder.parent)
    folds = dataset.list_folds()
    if options.fold is not None:
        if options.fold not in folds:
            raise ValueError(f"{run.name} has no fold {options.fold}; it has {folds}")
        folds = [options.fold]
    settings = config.record_training()
    inputs = dataset.inputs()
    if config.train.pool:
        inputs["crops"] = expected_fingerprint("crops", pool_settings(config), inputs, crops_stage.VERSION)
    starts = find_starts(run, config, dataset) if config.train.start else {}
    if not starts and config.model.weights and Path(config.model.weights).is_file():
        inputs["weights"] = file_hash(Path(config.model.weights))

    def inputs_of(fold: int) -> dict[str, str]:
        return inputs | ({"start": file_hash(starts[fold])} if starts else {})

    if (
        all(is_up_to_date(run.meta(f"train_fold{fold}"), settings, inputs_of(fold), VERSION) for fold in folds)
        and not options.force
    ):
        print(f"{run.name} train: up to date", flush=True)
        return
    published = {fold: find_published(config, dataset, fold) for fold in folds} if options.published else {}
    fabric = Fabric(
        accelerator="auto",
        devices=options.devices,
        precision=choose_precision(config.train.precision),
        strategy="auto" if options.devices == 1 else "ddp_find_unused_parameters_true",
    )
    fabric.launch()
    for fold in folds:
        if not fabric.is_global_zero:  # one process keeps the books, and says what it found there
            if fabric.broadcast(False):
                train_fold(fabric, run, config, dataset, fold, starts.get(fold))
            continue
        with stage(
            run.meta(f"train_fold{fold}"),
            settings,
            inputs_of(fold),
            [run.fold(fold)],
            options.force,
            version=VERSION,
            protect=True,
            share=True,
            twin=published.get(fold),
        ) as needed:
            if fabric.broadcast(bool(needed)):
                train_fold(fabric, run, config, dataset, fold, starts.get(fold))


def find_starts(run: Run, config: Config, dataset: Dataset) -> dict[int, Path]:
    """Return the weights that each fold's training goes on from: those of train.start that saw nothing of the fold.

    Raises StageError if that run has not trained yet, has networks of another build, or has folds that these cross.
    """
    start = Run(config.train.start, run.folder.parent)
    if not start.config.is_file():
        raise StageError(f"{run.name} goes on from {start.name}, which {start.folder} does not have: train it first")
    theirs = load_config(start.config)
    built = [{key: value for key, value in c.model.record().items() if key != "weights"} for c in (theirs, config)]
    if differs := differences(*map(as_json, built)):
        raise StageError(f"{run.name} cannot go on from {start.name}, whose model differs: {'; '.join(differs)}")
    try:
        matched = match_folds(dataset.read_folds(), read_table(Path(theirs.data.folds)))
    except (ValueError, OSError) as error:
        raise StageError(
            f"{run.name} cannot go on from {start.name}: of {dataset.folds} and {theirs.data.folds}, {error}"
        ) from error
    for fold in matched.values():
        fingerprint(start.meta(f"train_fold{fold}"))
        if read_json(start.meta(f"train_fold{fold}"))["inputs"]["folds"] != file_hash(Path(theirs.data.folds)):
            raise StageError(
                f"{start.name} was trained on other folds than {theirs.data.folds} now has: train it again"
            )
    return {fold: start.fold(other) / "weights.safetensors" for fold, other in matched.items()}


def find_crops(run: Run, config: Config, dataset: Dataset, table: pd.DataFrame, fold: int, seed: int):
    """Return the crops that the network of `fold` learns from, of the other folds of a fold table."""
    n = config.train.steps * config.train.batch_size
    if config.train.pool:
        fingerprint(run.meta("crops"))  # which says so where there are none
        turned = leave_out(config.train.augment, config.train.leave_out)["dihedral"]
        return Pool(run.crops, fold, n, turned, seed)
    table = table[table["fold"] != fold]
    return make_crops(read_pairs(dataset, table["image_id"], config.model.min_side_px), config, table, n, seed)


def train_fold(fabric: Fabric, run: Run, config: Config, dataset: Dataset, fold: int, start: Path | None) -> None:
    """Train the network that never sees `fold`, going on from last.ckpt if it is there, else from `start`, if any."""
    fabric.barrier()  # what an earlier run left has been cleared by now
    table = read_table(dataset.folds)
    folder, seed = run.fold(fold), [config.train.seed, fold]
    held_out = table[table["fold"] == fold]
    seed = int(np.random.default_rng(seed).integers(2**31))
    crops = find_crops(run, config, dataset, table, fold, seed)
    torch.manual_seed(seed)
    network = build(config.model, None if start else config.model.weights)
    if start:
        network.load_state_dict(load_file(start))
    few = held_out.sample(min(len(held_out), config.train.evaluate_images), random_state=config.train.seed)
    pairs = [read_pair(dataset, i) for i in few["image_id"]]

    def evaluate(average: torch.nn.Module) -> float:
        return float(
            np.mean(
                [score_image(truth, segment_quickly(fabric, average, config.model, image))[0] for image, truth in pairs]
            )
        )

    checkpoint = folder / "last.ckpt"
    resume = torch.load(checkpoint, map_location="cpu", weights_only=True) if checkpoint.is_file() else None

    def save(state: dict) -> None:
        with atomic(checkpoint) as temporary:
            torch.save(state, temporary)

    writer = None
    if fabric.is_global_zero:
        writer = SummaryWriter(str(folder / "tensorboard"), purge_step=resume["step"] + 1 if resume else None)
    state = fit(
        fabric,
        network.to(memory_format=torch.channels_last),
        crops,
        config.train,
        make_loss(config.model, config.train),
        resume,
        save,
        evaluate,
        f"{run.name} fold {fold}",
        writer,
    )
    if fabric.is_global_zero:
        writer.close()
        write_weights(folder / "weights.safetensors", state["average"])
        write_weights(folder / "best.safetensors", state["best"]["weights"])
        write_table(folder / "history.csv", pd.DataFrame(state["history"]))
        checkpoint.unlink()  # its optimiser state is five times the weights
    fabric.barrier()


def write_weights(path: Path, state: dict) -> None:
    """Write a network's weights, matrices in half precision, which is finer than training leaves them certain."""
    state = {key: value.detach().cpu().contiguous() for key, value in state.items()}
    with atomic(path) as temporary:
        save_file(
            {
                key: value.half() if value.is_floating_point() and value.ndim > 1 else value
                for key, value in state.items()
            },
            temporary,
        )
