"""Folds and images -> fold<k>/weights.safetensors: one network per fold, trained on the other folds.

And whole/weights.safetensors, trained on all images, where the config applies such a one to new images.
"""

import itertools
import math
import multiprocessing
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from lightning_fabric import Fabric
from numpy.typing import NDArray
from safetensors.torch import save
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from nuclei.config.schema import Config
from nuclei.data.images import enlargement, scale_image
from nuclei.errors import UserError
from nuclei.evaluation.metric import score_image
from nuclei.inference.bundle import find_published
from nuclei.inference.other_networks import Teacher, find_start, find_teachers, load_voices
from nuclei.lifeline import ending_together
from nuclei.networks.encoder_decoder import load_weights
from nuclei.networks.hardware import choose_precision
from nuclei.networks.kinds import KINDS, build, make_loss
from nuclei.runs.backends import Engine, Loky, Needs, active_engine, stop_workers
from nuclei.runs.cache import expected_fingerprint, fingerprint, is_up_to_date, stage
from nuclei.runs.cores import VARIABLE, count_cores, count_threads, use_threads
from nuclei.runs.files import file_hash, named, read_image, write_bytes, write_table
from nuclei.runs.layout import (
    Dataset,
    Options,
    Run,
    add_external,
    name_fold,
    read_pair,
    read_training_pairs,
)
from nuclei.runs.parallel import engine_of, spread
from nuclei.runs.provenance import note_done
from nuclei.runs.rehearsal import rehearses
from nuclei.stages import crops as crops_stage
from nuclei.stages.external import describe_external, external_inputs
from nuclei.training.crops import Crops, Pool, add_unlabelled, make_source, pool_settings
from nuclei.training.engine import Outlets, State, Task, Trainer, all_finite
from nuclei.training.memory import measure_memory
from nuclei.training.teacher import taught_loss

VERSION = 1
# What rounds a training otherwise, and is part of its fingerprint.
FACTS = ("threads", "devices")
RUN_WITH = "run_with"  # in a checkpoint: the facts of its training's beginning
NO_FOLD = 2**16  # seeds the network that learns from all images
MOST_ON_GPU = 8  # networks side by side: more gain nothing, they share its arithmetic
FILLED = 0.85  # of a GPU's memory


@dataclass(frozen=True)
class Plan:
    """Hold what the training of some folds of a run is made from; None stands for the network of all images.

    inputs: those that all folds have in common; starts, published: by fold, where there are any.
    """

    run: Run
    config: Config
    dataset: Dataset
    folds: tuple[int | None, ...]
    inputs: dict[str, str]
    starts: dict[int | None, Path]
    teachers: dict[int | None, list[Teacher]]
    published: dict[int | None, Path | None]

    def meta(self, fold: int | None) -> Path:
        return self.run.meta(f"train_{name_fold(fold)}")

    def inputs_of(self, fold: int | None) -> dict[str, str]:
        """Return the fingerprints of what the network of a fold is made from."""
        taught = {
            f"teacher_{teacher.run.name}_{path.parent.name}": file_hash(path)
            for teacher in self.teachers[fold]
            for path in teacher.weights
        }
        return self.inputs | ({"start": file_hash(self.starts[fold])} if self.starts else {}) | taught

    def is_done(self, fold: int | None) -> bool:
        return is_up_to_date(self.meta(fold), self.config.record_training(), self.inputs_of(fold), VERSION)

    def guard(self, fold: int | None, options: Options) -> AbstractContextManager[list[str]]:
        """Guard the training of a fold, as cache.stage does."""
        return stage(
            self.meta(fold),
            self.config.record_training(),
            self.inputs_of(fold),
            [self.run.fold(fold)],
            options.force,
            version=VERSION,
            protect=True,
            share=True,
            twin=self.published.get(fold),
            notes=describe_external(self.dataset) | {"devices": options.devices},
            facts=FACTS,
        )


def main(run: Run, config: Config, options: Options) -> None:
    plan = make_plan(run, config, options, list_folds(run, config, options))
    if all(map(plan.is_done, plan.folds)) and not options.force:
        print(f"{run.name} train: up to date", flush=True)
        return
    if rehearses():
        for fold in plan.folds:
            with plan.guard(fold, options):
                pass
        return
    train_together([(run, config, fold) for fold in plan.folds], options)


def list_folds(run: Run, config: Config, options: Options) -> list[int | None]:
    """Return the folds whose networks a run has, or the one that is asked for; raise UserError if it has no such."""
    folds: list[int | None] = [*Dataset(config.data, run.folder.parent).list_folds()]
    if options.fold is not None and options.fold not in folds:
        raise UserError(f"{run.name} has no fold {options.fold}; it has {folds}")
    if config.predict.new_images == "whole":
        folds.append(None)
    return folds if options.fold is None else [options.fold]


def make_plan(run: Run, config: Config, options: Options, folds: Sequence[int | None]) -> Plan:
    """Return what the training of some folds is made from; raise UserError if something of it is missing."""
    dataset = Dataset(config.data, run.folder.parent)
    published = {fold: find_published(config, dataset, fold) for fold in folds} if options.published else {}
    metas = [run.meta(f"train_{name_fold(fold)}") for fold in folds] + [meta for meta in published.values() if meta]
    inputs = dataset.inputs() | external_inputs(dataset, metas)
    if config.train.pool:
        inputs["crops"] = expected_fingerprint("crops", pool_settings(config), inputs, crops_stage.VERSION)
    starts = {fold: find_start(run, config, dataset, fold) for fold in folds} if config.train.start else {}
    teachers = {fold: find_teachers(run, config, dataset, fold) for fold in folds}
    if config.train.unlabelled:
        inputs |= {f"unlabelled_{split}": dataset.inputs(split)["data"] for split in dataset.splits() if split != "oof"}
    if not starts and config.model.weights and Path(config.model.weights).is_file():
        inputs["weights"] = file_hash(Path(config.model.weights))
    return Plan(run, config, dataset, tuple(folds), inputs, starts, teachers, published)


def train_together(
    networks: Sequence[tuple[Run, Config, int | None]],
    options: Options,
    prepare: Callable[[Run, Config], object] | None = None,
) -> None:
    """Train networks, each the one of a fold of a run, side by side where that is asked for.

    A block of backends.fan_out has its workers do so, and options.parallel processes of this machine. prepare: is given
    each run before one of its networks is begun, while those before it train. If some fail, the others are finished
    before the first error is raised.
    """
    engine, threads = choose_engine(networks, options)
    if engine.here:
        for run, of_run in itertools.groupby(networks, key=lambda network: network[0]):
            parts = list(of_run)
            if prepare:
                prepare(run, parts[0][1])
            train_folds(run, parts[0][1], options, [fold for *_, fold in parts])
        return
    if options.devices > 1:
        raise UserError("--devices trains one network on several GPUs: it goes neither with --parallel nor --backend")
    networks = list_unfinished(networks, options)
    alone = replace(options, parallel=1, fold=None)
    calls = [(run, config, alone, [fold], number) for number, (run, config, fold) in enumerate(networks)]
    names = [f"{run.name} {name_fold(fold)}" for run, _, fold in networks]
    needs = Needs(threads, max((config.train.workers for _, config, _ in networks), default=0), networks=True)
    before = (lambda number: prepare(*networks[number][:2])) if prepare else None
    errors = []
    with (
        tqdm(desc="train", total=len(calls), unit="network", mininterval=2) as bar,
        closing(spread(train_folds, calls, names, "train", engine, needs, before, alone=True)) as outcomes,
    ):
        for _, _, error in outcomes:
            errors += [error] if error else []
            bar.update()
    if errors:
        raise errors[0]


def list_unfinished(
    networks: Sequence[tuple[Run, Config, int | None]], options: Options
) -> list[tuple[Run, Config, int | None]]:
    """Return those networks that are not up to date, and say of which runs all are."""
    found = []
    for run, of_run in itertools.groupby(networks, key=lambda network: network[0]):
        parts = list(of_run)
        plan = make_plan(run, parts[0][1], options, [fold for *_, fold in parts])
        left = [part for part in parts if options.force or not plan.is_done(part[2])]
        if not left:
            print(f"{run.name} train: up to date", flush=True)
        found += left
    return found


def choose_engine(networks: Sequence[tuple[Run, Config, int | None]], options: Options) -> tuple[Engine, int]:
    """Return what is to train networks, and with how many threads each.

    The active engine or, if some go side by side, processes of this machine. The threads decide the last digits: they
    are as many as one network alone would take, unless the cores are too few; of another machine's cores nothing is
    known but what the variables say.
    """
    if engine := active_engine():
        return engine, count_threads() if {VARIABLE, "OMP_NUM_THREADS"} & os.environ.keys() else 1
    n = min(len(networks), options.parallel or count_side_by_side(networks))
    return engine_of(n), max(1, min(options.threads or count_threads(), count_cores() // n))


def count_side_by_side(networks: Sequence[tuple[Run, Config, int | None]]) -> int:
    """Return how many networks fit beside each other: on the cores, by their threads, or in the memory of the GPUs."""
    if not torch.cuda.is_available():
        return max(1, count_cores() // count_threads())
    alike = {f"{config.model!r} {config.train!r}": config for _, config, _ in networks}.values()
    encoders = [str(config.model.encoder) for config in alike]
    found = list(spread(measure_memory, [(config,) for config in alike], encoders, "train", Loky(1)))
    stop_workers()  # with what they hold of the GPU
    needed = max(math.inf if error else need for _, need, error in found)
    memory = [torch.cuda.get_device_properties(i).total_memory for i in range(torch.cuda.device_count())]
    return max(1, sum(min(MOST_ON_GPU, int(FILLED * total // needed)) for total in memory))


def train_folds(run: Run, config: Config, options: Options, folds: Sequence[int | None], place: int = 0) -> None:
    """Train the networks of some folds in this process; place: which GPU, of several, networks side by side take."""
    if config.train.workers and multiprocessing.current_process().daemon:
        raise UserError(
            "Dask's workers may not start processes, and train.workers asks for some: start the workers with the "
            "variable DASK_DISTRIBUTED__WORKER__DAEMON=False, or set train.workers to 0"
        )
    plan = make_plan(run, config, options, folds)
    one_of_several = options.devices == 1 and torch.cuda.device_count() > 1
    fabric = Fabric(
        accelerator="auto",
        devices=[place % torch.cuda.device_count()] if one_of_several else options.devices,
        precision=choose_precision(config.train.precision),
        strategy="auto" if options.devices == 1 else "ddp_find_unused_parameters_true",
    )
    with ending_together():  # of several, a killed one would leave the others waiting for half an hour
        fabric.launch()
    if options.devices > 1:  # each is a process, and they share the cores
        use_threads(max(1, count_threads() // options.devices))
    if fabric.is_global_zero:
        each = f" in each of {options.devices} processes" if options.devices > 1 else ""
        print(f"{run.name} train: {torch.get_num_threads()} threads{each}", flush=True)
    threads = torch.get_num_threads()
    for fold in folds:
        use_threads(threads)  # a fold that resumed has those that it was begun with
        arguments = (fabric, run, config, plan.dataset, fold, plan.starts.get(fold), plan.teachers[fold])
        if not fabric.is_global_zero:  # one process keeps the books, and says what it found there
            if fabric.broadcast(False):
                train_fold(*arguments)
            continue
        with plan.guard(fold, options) as needed:
            if fabric.broadcast(bool(needed)):
                train_fold(*arguments)


def find_crops(
    run: Run, config: Config, dataset: Dataset, table: pd.DataFrame, fold: int | None, seed: int
) -> Crops | Pool:
    """Return the crops that the network of `fold` learns from, of the other folds of a fold table; None: of all."""
    n = config.train.steps * config.train.batch_size
    if config.train.pool:
        fingerprint(run.meta("crops"))  # which says so where there are none
        images, targets, fold_of = (map_array(run.crops / f"{name}.npy") for name in ("images", "targets", "folds"))
        rows = np.flatnonzero(np.ones(len(fold_of), bool) if fold is None else fold_of != fold)
        if not len(rows):
            raise UserError(
                f"{run.name}: of train.pool {len(fold_of)} crops none is left without fold {fold}: raise it"
            )
        return Pool(images, targets, rows, config.train, n, seed)
    table, external = table if fold is None else table[table["fold"] != fold], dataset.external_table()
    pairs = read_training_pairs(dataset, table, external, config)
    source = make_source(pairs, add_external(table, external), config.train)
    if config.train.unlabelled:
        unseen = [image_id for split, ids in dataset.splits().items() if split != "oof" for image_id in ids]
        more = (read_image(dataset.image(image_id)) for image_id in unseen)
        scaled = (
            scale_image(image, enlargement(image.shape, config.model.min_side_px) * config.train.scale)
            for image in more
        )
        source = add_unlabelled(source, scaled, config.train.unlabelled)
    return Crops(source, config.model, config.train, n, seed)


def map_array(path: Path) -> NDArray[Any]:
    """Open an array without reading it; raise UserError naming the file if it is damaged."""
    with named(path):
        array: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
        return array


def train_fold(
    fabric: Fabric,
    run: Run,
    config: Config,
    dataset: Dataset,
    fold: int | None,
    start: Path | None,
    teachers: Sequence[Teacher],
) -> None:
    """Train the network that never sees `fold`: resume from last.ckpt if it exists, else begin from `start`, if any.

    fold None: the network that sees all images; what it is then scored on while it learns, it learns from.
    """
    fabric.barrier()  # what an earlier run left has been cleared by now
    table = dataset.read_fold_table()
    folder, held_out = run.fold(fold), table if fold is None else table[table["fold"] == fold]
    seed = int(np.random.default_rng([config.train.seed, NO_FOLD if fold is None else fold]).integers(2**31))
    crops = find_crops(run, config, dataset, table, fold, seed)
    torch.manual_seed(seed)
    network = build(config.model, None if start else config.model.weights)
    if start:
        load_weights(network, start, str(run.config))
    few = held_out.sample(min(len(held_out), config.train.evaluate_images), random_state=config.train.seed)
    pairs = [read_pair(dataset, i) for i in few["image_id"]]

    kind = KINDS[config.model.gives]

    def evaluate(average: torch.nn.Module) -> float:
        seen = (score_image(truth, kind.glance(fabric, average, config.model, image))[0] for image, truth in pairs)
        return float(np.mean(list(seen)))

    title = f"{run.name} {'whole' if fold is None else f'fold {fold}'}"
    checkpoint = folder / "last.ckpt"
    resume = read_checkpoint(checkpoint) if checkpoint.is_file() else None
    run_with = keep_threads(fabric, title, resume)

    def save(state: State) -> None:
        buffer = BytesIO()  # so that it is the disk that says when it is full, not torch
        torch.save(state | {RUN_WITH: run_with}, buffer)
        write_bytes(checkpoint, buffer.getvalue())

    writer = open_tensorboard(folder / "tensorboard", resume) if fabric.is_global_zero else None
    loss_of = make_loss(config.model, config.train)
    if teachers:
        loss_of = taught_loss(loss_of, load_voices(fabric, teachers), config.train.scale, config.train.teacher_share)
    task = Task(network.to(memory_format=torch.channels_last), crops, loss_of, evaluate)
    outlets = Outlets(save, title, writer.add_scalar if writer else None)
    state = Trainer(fabric, task, config.train, outlets).fit(resume)
    note_done("crops", (state["step"] - (resume["step"] if resume else 0)) * config.train.batch_size)
    if writer:
        writer.close()
        write_weights(folder / "weights.safetensors", state["average"])
        write_weights(folder / "best.safetensors", state["best"]["weights"])
        write_table(folder / "history.csv", pd.DataFrame(state["history"]))
        checkpoint.unlink()  # its optimiser state is five times the weights
    fabric.barrier()


def keep_threads(fabric: Fabric, title: str, resume: State | None) -> dict[str, int]:
    """Compute from now on with the threads that a training was begun with, and return the FACTS of its beginning.

    That they are other ones than this process would take is said, and that there are other devices, which cannot be
    had at will.
    """
    now = {"threads": torch.get_num_threads(), "devices": fabric.world_size}
    begun: dict[str, int] = now | (resume or {}).get(RUN_WITH, {})
    use_threads(begun["threads"])
    changes = [f"{begun[key]} {key}, now {now[key]}" for key in FACTS if begun[key] != now[key]]
    if changes and fabric.is_global_zero:
        print(f"{title}: begun with {' and '.join(changes)}; the threads are kept", flush=True)
    return begun


def read_checkpoint(path: Path) -> State:
    """Read what a training that stopped left to resume from; raise UserError naming the file if it is damaged."""
    try:
        state: State = torch.load(path, map_location="cpu", weights_only=True)
        state["step"], state["average"]
    except Exception as error:  # a pickle's reader raises whatever its damage leads to
        if isinstance(error, OSError) and error.filename:
            raise
        raise UserError(
            f"{path} is damaged ({type(error).__name__}): delete it and run the stage train again, which then begins "
            "this fold anew"
        ) from error
    return state


def open_tensorboard(folder: Path, resume: State | None) -> SummaryWriter:
    """Return what logs a training for TensorBoard; of a training that resumes, what came after is dropped."""
    return SummaryWriter(str(folder), purge_step=resume["step"] + 1 if resume else None)


def write_weights(path: Path, state: Mapping[str, torch.Tensor]) -> None:
    """Write a network's weights, matrices in half precision, which is finer than training leaves them certain.

    Raises UserError, and writes nothing, if a weight is not finite or too large for that.
    """
    kept = {key: value.detach().cpu().contiguous() for key, value in state.items()}
    kept = {key: value.half() if value.is_floating_point() and value.ndim > 1 else value for key, value in kept.items()}
    if not all_finite(kept):
        raise UserError(
            f"{path} is not written: weights are not finite, or beyond what fp16 holds; lower train.learning_rate"
        )
    write_bytes(path, save(kept))
