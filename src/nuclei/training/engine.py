"""The training loop, on Lightning Fabric: any device, precision and number of processes."""

import copy
import math
import time
from collections.abc import Callable, Iterator

import torch
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from nuclei.networks.hardware import choose_precision, single_thread
from nuclei.training.cuda_graph import Replayed

LOG_EVERY = 20  # steps between rows of the history


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


def update_average(average: torch.nn.Module, network: torch.nn.Module, decay: float, step: int | torch.Tensor) -> None:
    """Move `average`, buffers included, towards `network`; early steps move it faster, so it forgets its start.

    step: a tensor of one number where the call is recorded and replayed.
    """
    early = (1 + step) / (10 + step)
    share = 1 - (early.clamp(max=decay) if isinstance(step, torch.Tensor) else min(decay, early))
    with torch.no_grad():
        pairs = list(zip(average.state_dict().values(), network.state_dict().values(), strict=True))
        numbers = [pair for pair in pairs if pair[0].is_floating_point()]
        # All tensors in one call: a GPU would wait for each of hundreds of small ones.
        old, new = map(list, zip(*numbers, strict=True))
        if isinstance(share, torch.Tensor):
            torch._foreach_add_(old, torch._foreach_mul(torch._foreach_sub(new, old), share))
        else:
            torch._foreach_lerp_(old, new, share)
        for old, new in pairs:
            if not old.is_floating_point():
                old.copy_(new)


def parameter_groups(network, learning_rate: float, encoder_rate: float, weight_decay: float) -> list[dict]:
    """Split parameters by rate (encoder or not) and decay (matrices only, as norms and biases carry no capacity)."""
    encoder = {id(p) for p in network.body.encoder.parameters()}
    groups = []
    for in_encoder, share in ((True, encoder_rate), (False, 1.0)):
        for decays in (True, False):
            chosen = [p for p in network.parameters() if (id(p) in encoder) == in_encoder and (p.ndim > 1) == decays]
            rate = learning_rate * share
            groups.append({"params": chosen, "lr": rate, "peak": rate, "weight_decay": weight_decay if decays else 0.0})
    return [group for group in groups if group["params"]]


def fit(
    fabric,
    network: torch.nn.Module,
    crops: Dataset,
    settings,
    loss_of: Callable,
    resume: dict | None,
    save: Callable[[dict], None],
    evaluate: Callable[[torch.nn.Module], float],
    title: str,
    writer=None,
) -> dict:
    """Train `network` on `crops` and return the final state, as given to `save` at every checkpoint.

    settings: an object with the fields of config.TrainConfig; loss_of: network, images and targets of a batch -> loss;
    resume: a state that `save` was given, or None. Training ends after settings.steps or, if that is set, when
    settings.seconds of the training thread's processor time have been spent, evaluation apart. The state holds step,
    elapsed (seconds), network, average, optimizer, precision (the loss scale), best (score and weights) and
    history (rows of step, loss, learning_rate, score). Training that is resumed goes through the same states as one
    that never stopped. Raises ValueError if the processes cannot share a batch evenly or settings.cuda_graph is not
    possible here.
    """
    if settings.batch_size % fabric.world_size:
        raise ValueError(f"train.batch_size {settings.batch_size} is not a multiple of {fabric.world_size} devices")
    average = copy.deepcopy(network).eval().requires_grad_(False)
    average = fabric.to_device(average)
    groups = parameter_groups(network, settings.learning_rate, settings.encoder_rate, settings.weight_decay)
    raw, replays = network, settings.cuda_graph and fabric.device.type == "cuda"
    if replays and (fabric.world_size > 1 or choose_precision(settings.precision) == "16-mixed"):
        raise ValueError("train.cuda_graph needs one GPU, and one that computes bf16: set it to false")
    network, optimizer = fabric.setup(network, torch.optim.AdamW(groups, capturable=replays, fused=replays or None))
    state = {"step": 0, "elapsed": 0.0, "best": {"score": -1.0, "weights": None}, "history": []}
    if resume:
        raw.load_state_dict(resume["network"])
        average.load_state_dict(resume["average"])
        optimizer.load_state_dict(resume["optimizer"])
        fabric.strategy.precision.load_state_dict(resume["precision"])
        state |= {key: copy.deepcopy(resume[key]) for key in state}
    now = torch.zeros((), device=fabric.device)  # the step, where a graph can read it
    if replays:
        for group in optimizer.param_groups:
            group["lr"] = torch.zeros((), device=fabric.device)

    def snapshot() -> dict:
        return state | {
            "network": raw.state_dict(),
            "average": average.state_dict(),
            "optimizer": optimizer.state_dict(),
            "precision": fabric.strategy.precision.state_dict(),
        }

    # A checkpoint may have been written after the last step: there is nothing left to do then.
    spent = settings.seconds is not None and state["elapsed"] >= settings.seconds
    end = state["step"] if spent else settings.steps
    batches = StepBatches(state["step"], end, settings.batch_size, fabric.global_rank, fabric.world_size)
    loader = DataLoader(
        crops,
        batch_sampler=batches,
        num_workers=settings.workers,
        pin_memory=fabric.device.type == "cuda",
        worker_init_fn=single_thread,
        persistent_workers=False,
        prefetch_factor=4 if settings.workers else None,
    )
    loader = fabric.setup_dataloaders(loader, use_distributed_sampler=False)

    def learn(image: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        loss = loss_of(network, image, target)
        optimizer.zero_grad()
        fabric.backward(loss)
        fabric.clip_gradients(network, optimizer, max_norm=settings.clip_norm, error_if_nonfinite=False)
        optimizer.step()
        update_average(average, raw, settings.ema, now if replays else state["step"])
        return loss.detach()

    work, running = Replayed(learn) if replays else learn, []
    progress = tqdm(
        loader,
        desc=title,
        initial=state["step"],
        total=None if settings.seconds else settings.steps,
        unit="step",
        disable=not fabric.is_global_zero,
        mininterval=2,
        dynamic_ncols=True,
    )
    network.train()
    last_time = time.thread_time()
    for image, target in progress:
        # Where the time is limited, the schedule goes by the larger share of the two limits that has been used.
        used = state["elapsed"] / settings.seconds if settings.seconds else 0.0
        share = rate_share(max(state["step"], used * settings.steps), settings.steps, settings.warmup)
        # What a step draws (dropout) depends on seed, step and process alone: a resumed training draws the same.
        draw = settings.seed * settings.steps + state["step"]
        torch.manual_seed(draw * fabric.world_size + fabric.global_rank)
        for group in optimizer.param_groups:
            if replays:
                group["lr"].fill_(group["peak"] * share)
            else:
                group["lr"] = group["peak"] * share
        now.fill_(state["step"])
        # Of crops of one size the fastest algorithms are worth a search.
        with torch.backends.cudnn.flags(enabled=True, benchmark=replays):
            running.append(work(image, target))
        state["step"] += 1
        step, last = state["step"], state["step"] == settings.steps
        if settings.seconds:
            state["elapsed"] = fabric.broadcast(state["elapsed"] + time.thread_time() - last_time)
            last = last or state["elapsed"] >= settings.seconds
        scored = step % settings.evaluate_every == 0 or last
        if scored or step % LOG_EVERY == 0:
            row = {
                "step": step,
                "loss": float(fabric.all_reduce(torch.stack(running).double().mean())),
                "learning_rate": settings.learning_rate * share,
                "score": None,
            }
            running = []
            if scored:
                row["score"] = fabric.broadcast(evaluate(average) if fabric.is_global_zero else None)
                if row["score"] > state["best"]["score"]:
                    state["best"] = {"score": row["score"], "weights": copy.deepcopy(average.state_dict())}
            state["history"].append(row)
            progress.set_postfix(loss=f"{row['loss']:.3f}", score=f"{state['best']['score']:.3f}", refresh=False)
            if writer:
                for key in ("loss", "learning_rate", "score"):
                    if row[key] is not None:
                        writer.add_scalar(key, row[key], step)
        # The running loss is not in the state: a checkpoint is taken only where a row has just been closed.
        if last or (step % LOG_EVERY == 0 and step % settings.checkpoint_every < LOG_EVERY):
            if fabric.is_global_zero:
                save(snapshot())
            fabric.barrier()
        if last:
            break
        last_time = time.thread_time()
    return snapshot()
