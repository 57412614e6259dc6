"""The training loop, on Lightning Fabric: any device, precision and number of processes."""

import copy
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, TypedDict, cast

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from nuclei.config.schema import TrainConfig
from nuclei.errors import UserError
from nuclei.networks.hardware import choose_precision, data_worker
from nuclei.networks.losses import LossOf
from nuclei.training.cuda_graph import Replayed

LOG_EVERY = 20  # steps between rows of the history

# What a checkpoint holds: the fields of Progress, and the states of network, average, optimizer and precision (the
# loss scale).
State = dict[str, Any]


class DivergedError(UserError):
    """Say that training has left the finite numbers, what of it is kept, and what to change."""


class Row(TypedDict):
    """A row of the history: the mean loss since the row before, and the held-out score where one was taken."""

    step: int
    loss: float
    learning_rate: float
    score: float | None


class Best(TypedDict):
    """The best score so far and the averaged weights that reached it; -1 and None before the first evaluation."""

    score: float
    weights: dict[str, Tensor] | None


@dataclass
class Progress:
    """How far training has come: steps done, seconds spent (counted where time is limited), best score and history."""

    step: int = 0
    elapsed: float = 0.0
    best: Best = field(default_factory=lambda: Best(score=-1.0, weights=None))
    history: list[Row] = field(default_factory=list)


@dataclass(frozen=True)
class Task:
    """What is learned: a network, the crops it learns from, its loss, and the score of the averaged network."""

    network: nn.Module
    crops: Dataset[tuple[Tensor, Tensor]]
    loss_of: LossOf
    evaluate: Callable[[nn.Module], float]


@dataclass(frozen=True)
class Outlets:
    """Where training reports to: `save` takes the state at each checkpoint, `add_scalar` a name, a value and a step."""

    save: Callable[[State], None]
    title: str = "training"
    add_scalar: Callable[[str, float, int], object] | None = None


class StepBatches:
    """Yield this process's share of each global batch, from step `start` on: batch s holds crops s·B … (s+1)·B − 1."""

    def __init__(self, start: int, steps: int, batch_size: int, rank: int = 0, world: int = 1):
        self.start, self.steps, self.batch_size, self.rank, self.world = start, steps, batch_size, rank, world

    def __len__(self) -> int:
        return self.steps - self.start

    def __iter__(self) -> Iterator[list[int]]:
        for step in range(self.start, self.steps):
            yield list(range(step * self.batch_size, (step + 1) * self.batch_size))[self.rank :: self.world]


def rate_share(step: float, steps: int, warmup: float, floor: float = 0.01) -> float:
    """Return the share of the peak learning rate at `step`: linear warm-up, then cosine down to `floor`."""
    rising = max(1, round(warmup * steps))
    if step < rising:
        return min(1.0, (step + 1) / rising)
    return floor + (1 - floor) * (1 + math.cos(math.pi * (step - rising) / max(1, steps - rising))) / 2


def update_average(average: nn.Module, network: nn.Module, decay: float, step: int | Tensor) -> None:
    """Move `average`, buffers included, towards `network`; early steps move it faster, so it forgets its start.

    step: a tensor of one number where the call is recorded and replayed.
    """
    share: float | Tensor
    if isinstance(step, Tensor):
        share = 1 - ((1 + step) / (10 + step)).clamp(max=decay)
    else:
        share = 1 - min(decay, (1 + step) / (10 + step))
    with torch.no_grad():
        pairs = list(zip(average.state_dict().values(), network.state_dict().values(), strict=True))
        numbers = [pair for pair in pairs if pair[0].is_floating_point()]
        # All tensors in one call: a GPU would wait for each of hundreds of small ones.
        old, new = map(list, zip(*numbers, strict=True))
        if isinstance(share, Tensor):
            torch._foreach_add_(old, torch._foreach_mul(torch._foreach_sub(new, old), share))
        else:
            torch._foreach_lerp_(old, new, share)
        for old, new in pairs:
            if not old.is_floating_point():
                old.copy_(new)


def parameter_groups(network: nn.Module, train: TrainConfig) -> list[dict[str, Any]]:
    """Split parameters by rate (encoder or not) and decay (matrices only, as norms and biases carry no capacity)."""
    encoder = {id(p) for p in network.get_submodule("body.encoder").parameters()}
    groups: list[dict[str, Any]] = []
    for in_encoder, share in ((True, train.encoder_rate), (False, 1.0)):
        for decays in (True, False):
            chosen = [p for p in network.parameters() if (id(p) in encoder) == in_encoder and (p.ndim > 1) == decays]
            rate, decay = train.learning_rate * share, train.weight_decay if decays else 0.0
            groups.append({"params": chosen, "lr": rate, "peak": rate, "weight_decay": decay})
    return [group for group in groups if group["params"]]


def all_finite(state: Mapping[str, Tensor]) -> bool:
    """Return whether a state dict is free of NaN and infinity; a GPU is waited for once."""
    return bool(torch.stack([value.isfinite().all() for value in state.values()]).all())


def check_devices(fabric: Fabric, train: TrainConfig) -> bool:
    """Return whether steps are replayed as a CUDA graph.

    Raises UserError if the processes cannot share a batch evenly, or if train.cuda_graph is not possible here.
    """
    if train.batch_size % fabric.world_size:
        raise UserError(f"train.batch_size {train.batch_size} is not a multiple of {fabric.world_size} devices")
    replays = train.cuda_graph and fabric.device.type == "cuda"
    if replays and (fabric.world_size > 1 or choose_precision(train.precision) == "16-mixed"):
        raise UserError("train.cuda_graph needs one GPU, and one that computes bf16: set it to false")
    return replays


class Trainer:
    """Train one network: `fit` does all of it, and the other methods are its parts.

    Training ends after train.steps or, if that is set, when train.seconds of the training thread's processor time have
    been spent, evaluation apart. Raises UserError as check_devices does.
    """

    def __init__(self, fabric: Fabric, task: Task, settings: TrainConfig, outlets: Outlets):
        self.replays = check_devices(fabric, settings)
        self.fabric, self.task, self.settings, self.outlets = fabric, task, settings, outlets
        self.average = fabric.to_device(copy.deepcopy(task.network).eval().requires_grad_(False))
        groups = parameter_groups(task.network, settings)
        optimizer = torch.optim.AdamW(groups, capturable=self.replays, fused=self.replays or None)
        self.network, self.optimizer = fabric.setup(task.network, optimizer)
        self.work = Replayed(self.learn) if self.replays else self.learn
        self.now = torch.zeros((), device=fabric.device)  # the step, where a graph can read it
        self.progress, self.running, self.saved_step = Progress(), list[Tensor](), 0
        self.share = self.clock = 0.0

    def fit(self, resume: State | None = None) -> State:
        """Train to the end and return the final state, as given to outlets.save at every checkpoint.

        resume: a state that was saved, to resume from; training then goes through the same states as one that never
        stopped. Raises DivergedError as soon as a loss or a weight is seen that is not finite, on every process, and
        before such weights are saved.
        """
        self.start(resume)
        with self.make_bar() as bar:
            batches = self.batches()
            self.clock = time.thread_time()
            for image, target in batches:
                self.step(image, target)
                self.log(bar)
                self.checkpoint()
                bar.update()
                if self.is_over:
                    bar.total = bar.n  # where time has ended the training, its steps are all there are
                    break
                self.clock = time.thread_time()
        return self.snapshot()

    def start(self, resume: State | None) -> None:
        """Make ready for the next step, from the state `resume` if there is one."""
        if resume:
            self.load(resume)
        if self.replays:  # a graph reads rates from tensors
            for group in self.optimizer.param_groups:
                group["lr"] = torch.zeros((), device=self.fabric.device)
        self.network.train()

    def load(self, state: State) -> None:
        """Take over a state that was saved; raise DivergedError if its weights are not finite."""
        if not all_finite(state["average"]):
            raise DivergedError(
                f"{self.outlets.title}: the checkpoint of step {state['step']} holds weights that are not finite: "
                f"delete it and train again with other settings. {likely_causes(self.settings)}"
            )
        self.task.network.load_state_dict(state["network"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.fabric.strategy.precision.load_state_dict(state["precision"])
        self.progress = Progress(**{key.name: copy.deepcopy(state[key.name]) for key in fields(Progress)})
        self.saved_step = self.progress.step

    def snapshot(self) -> State:
        """Return the state as it is saved; its tensors are the live ones, which the next step changes."""
        return vars(self.progress) | {
            "network": self.task.network.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "precision": self.fabric.strategy.precision.state_dict(),
        }

    @property
    def is_over(self) -> bool:
        """Return whether the steps, or the time, are used up."""
        seconds = self.settings.seconds
        return self.progress.step >= self.settings.steps or (seconds is not None and self.progress.elapsed >= seconds)

    def is_due(self, every: int) -> bool:
        """Return whether something that is done every so many steps, and at the end, is done after this step."""
        return self.progress.step % every == 0 or self.is_over

    def make_bar(self) -> "tqdm[Any]":
        """Return the progress bar, which only the first process shows."""
        return tqdm(
            desc=self.outlets.title,
            initial=self.progress.step,
            total=None if self.settings.seconds else self.settings.steps,
            unit="step",
            disable=not self.fabric.is_global_zero,
            mininterval=2,
            dynamic_ncols=True,
        )

    def batches(self) -> Iterable[tuple[Tensor, Tensor]]:
        """Return the batches of images and targets from the next step on; none if a checkpoint was of the last step."""
        step, fabric = self.progress.step, self.fabric
        end = step if self.is_over else self.settings.steps
        loader: Any = DataLoader(
            self.task.crops,
            batch_sampler=StepBatches(step, end, self.settings.batch_size, fabric.global_rank, fabric.world_size),
            num_workers=self.settings.workers,
            pin_memory=fabric.device.type == "cuda",
            worker_init_fn=data_worker(),
            persistent_workers=False,
            prefetch_factor=4 if self.settings.workers else None,
        )
        loader = fabric.setup_dataloaders(loader, use_distributed_sampler=False)
        return cast("Iterable[tuple[Tensor, Tensor]]", loader)

    def step(self, image: Tensor, target: Tensor) -> None:
        """Learn from one batch, and count the step and its time."""
        self.set_rates()
        self.seed_draws()
        self.now.fill_(self.progress.step)
        # All crops have one size, so searching for the fastest algorithms pays off.
        with torch.backends.cudnn.flags(enabled=True, benchmark=self.replays):
            self.running.append(self.work(image, target))
        self.progress.step += 1
        if self.settings.seconds:
            elapsed = self.progress.elapsed + time.thread_time() - self.clock
            self.progress.elapsed = self.fabric.broadcast(elapsed)

    def set_rates(self) -> None:
        """Set the learning rates of the step; the schedule follows whichever of steps and time is closer to its end."""
        settings, step = self.settings, float(self.progress.step)
        if settings.seconds:
            step = max(step, self.progress.elapsed / settings.seconds * settings.steps)
        self.share = rate_share(step, settings.steps, settings.warmup)
        for group in self.optimizer.param_groups:
            if self.replays:
                group["lr"].fill_(group["peak"] * self.share)
            else:
                group["lr"] = group["peak"] * self.share

    def seed_draws(self) -> None:
        """Let what a step draws (dropout) depend on seed, step and process alone: resumed training draws the same."""
        draw = self.settings.seed * self.settings.steps + self.progress.step
        torch.manual_seed(draw * self.fabric.world_size + self.fabric.global_rank)

    def learn(self, image: Tensor, target: Tensor) -> Tensor:
        """Move the weights and their average by one batch and return its loss; this is what a graph replays."""
        loss = self.task.loss_of(self.network, image, target)
        self.optimizer.zero_grad()
        self.fabric.backward(loss)
        self.fabric.clip_gradients(
            self.network, self.optimizer, max_norm=self.settings.clip_norm, error_if_nonfinite=False
        )
        self.optimizer.step()
        step = self.now if self.replays else self.progress.step
        update_average(self.average, self.task.network, self.settings.ema, step)
        return loss.detach()

    def log(self, bar: "tqdm[Any]") -> None:
        """Close a row of the history where one is due, and show it."""
        scored = self.is_due(self.settings.evaluate_every)
        if not scored and not self.is_due(LOG_EVERY):
            return
        row = Row(
            step=self.progress.step,
            loss=self.read_loss(),
            learning_rate=self.settings.learning_rate * self.share,
            score=self.evaluate() if scored else None,
        )
        self.progress.history.append(row)
        best = self.progress.best
        shown = {"loss": row["loss"]} | ({} if best["weights"] is None else {"score": best["score"]})
        bar.set_postfix({key: f"{value:.3f}" for key, value in shown.items()}, refresh=False)
        if self.outlets.add_scalar:
            for key, value in row.items():
                if key != "step" and value is not None:
                    self.outlets.add_scalar(key, cast("float", value), row["step"])

    def read_loss(self) -> float:
        """Return the mean loss since the last row, over all processes; raise DivergedError if it is not finite.

        A GPU is waited for only here: a loss that is not finite shows in the mean, whichever step it was of.
        """
        loss = float(cast("Tensor", self.fabric.all_reduce(torch.stack(self.running).double().mean())))
        self.running = []
        if not math.isfinite(loss):
            raise self.diverged("the loss")
        return loss

    def evaluate(self) -> float:
        """Return the score of the averaged weights, taken by the first process, and keep them if it is the best."""
        score = self.task.evaluate(self.average) if self.fabric.is_global_zero else math.nan
        score = self.fabric.broadcast(score)
        if score > self.progress.best["score"]:
            self.progress.best = Best(score=score, weights=copy.deepcopy(self.average.state_dict()))
        return score

    def checkpoint(self) -> None:
        """Save the state where that is due; raise DivergedError instead if its weights are not finite.

        The running loss is not in the state: a checkpoint is taken only where a row has just been closed.
        """
        step = self.progress.step
        if not (self.is_over or (step % LOG_EVERY == 0 and step % self.settings.checkpoint_every < LOG_EVERY)):
            return
        # The last step may spoil weights at a finite loss. What was not finite once stays so in the average.
        if not self.fabric.broadcast(all_finite(self.average.state_dict())):
            raise self.diverged("the averaged weights")
        if self.fabric.is_global_zero:
            self.outlets.save(self.snapshot())
        self.fabric.barrier()
        self.saved_step = step

    def diverged(self, what: str) -> DivergedError:
        """Return the error that says since when `what` is not finite, what is kept, and what to change."""
        rows = [row["step"] for row in self.progress.history if row["step"] < self.progress.step]
        since = f"{what} stopped being finite in steps {max(rows, default=0) + 1} to {self.progress.step}"
        kept = (
            f"the checkpoint of step {self.saved_step} is kept, and its weights are finite"
            if self.saved_step
            else "no checkpoint had been written yet"
        )
        return DivergedError(f"{self.outlets.title}: {since}; {kept}. {likely_causes(self.settings)}")


def likely_causes(train: TrainConfig) -> str:
    """Say what usually makes training diverge, and which settings help."""
    return (
        f"Likely causes: too high a rate (lower train.learning_rate, {train.learning_rate}, or train.clip_norm, "
        f"{train.clip_norm}); numbers beyond what fp16 holds (if that is computed in: train.precision is "
        f"{train.precision}, set it to 32-true); too large a weight of a loss (train.loss, train.channel_weights); "
        "NaN in the targets or in the initial weights"
    )
