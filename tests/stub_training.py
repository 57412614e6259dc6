"""A training of seconds, for test_engine: in its process, or as a script that can be killed or run twice at once."""

import copy
import os
import signal
import sys
from pathlib import Path

import torch
from lightning_fabric import Fabric
from torch import nn

from nuclei.config.schema import ModelConfig, TrainConfig
from nuclei.networks.losses import map_loss  # `kinds` would bring every network, which takes seconds
from nuclei.training.engine import LOG_EVERY, DivergedError, Outlets, Task, Trainer

torch.set_num_threads(1)  # tiny networks gain nothing from more
MODEL = ModelConfig(channels=("mask", "border"))
SPOILT = 97  # the second of its batch, which the second process gets


class Body(nn.Module):
    def __init__(self, normalised: bool, dropout: float):
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4) if normalised else nn.Identity())
        self.decoder = nn.Sequential(nn.ReLU(), nn.Dropout2d(dropout), nn.Conv2d(4, 2, 3, padding=1))

    def forward(self, image):
        return self.decoder(self.encoder(image))


class Network(nn.Module):
    """A network of the shape that model.Network has, in 200 parameters."""

    def __init__(self, normalised: bool = True, dropout: float = 0.3):
        super().__init__()
        torch.manual_seed(11)
        self.body = Body(normalised, dropout)

    def forward(self, image):
        return self.body(image / 127.5 - 1)


class Crops(torch.utils.data.Dataset):
    """Crops whose target is where the first two colours are bright; that of crop `spoilt` is NaN."""

    def __init__(self, n, spoilt=None):
        self.n, self.spoilt = n, spoilt

    def __len__(self):
        return self.n

    def __getitem__(self, i):
        image = torch.randint(0, 256, (3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(i))
        return image, (image[:2] > 128).half() * (torch.nan if i == self.spoilt else 1)


def make_settings(**changes):
    defaults = {
        "steps": 50,
        "batch_size": 4,
        "loss": {"bce": 1.0},
        "learning_rate": 0.05,
        "precision": "32-true",
        "evaluate_every": 30,
        "checkpoint_every": LOG_EVERY,
        "workers": 0,
    }
    return TrainConfig(**defaults | changes)


def score(average) -> float:
    """Score the averaged network by its accuracy on crops that are in no batch."""
    image, target = (torch.stack(rows) for rows in zip(*(Crops(1)[-1 - i] for i in range(4)), strict=True))
    assert not average.training
    with torch.inference_mode():
        return float(((average(image).float() > 0) == (target > 0.5)).float().mean())


def train(settings, resume=None, save=lambda _: None, evaluate=score, fabric=None, spoilt=None, **options):
    fabric = fabric or Fabric(accelerator="cpu", devices=1, precision=settings.precision)
    crops = Crops(settings.steps * settings.batch_size, spoilt)
    task = Task(Network(**options), crops, map_loss(MODEL, settings), evaluate)
    state = Trainer(fabric, task, settings, Outlets(save, "test")).fit(resume)
    return copy.deepcopy(state)


class Disk:
    """Keep the last state that was saved in a file, and the steps of all."""

    def __init__(self, path: Path):
        self.path = path
        self.steps: list[int] = []

    def save(self, state):
        torch.save(state, self.path)
        self.steps.append(state["step"])

    def load(self):
        return torch.load(self.path, weights_only=True) if self.path.is_file() else None


def train_and_die() -> None:
    """Train to step 40, whose checkpoint is written to the file that is given, and end by SIGKILL."""
    disk = Disk(Path(sys.argv[1]))

    def save(state):
        disk.save(state)
        if state["step"] == 40:
            os.kill(os.getpid(), signal.SIGKILL)

    train(make_settings(), disk.load(), save)


def train_by_two(folder: Path) -> None:
    """Train in two processes with a spoilt crop and, with the processes that are there, once more without one.

    Into `folder` go the checkpoints, the final state, and what the error of each process says.
    """
    fabric = Fabric(accelerator="cpu", devices=2, strategy="ddp", precision="32-true")
    fabric.launch()
    for name, spoilt in (("spoilt", SPOILT), ("whole", None)):
        disk, alike = Disk(folder / f"{name}.ckpt"), {"normalised": False, "dropout": 0.0}
        try:
            state = train(make_settings(learning_rate=0.01), None, disk.save, fabric=fabric, spoilt=spoilt, **alike)
        except DivergedError as error:
            (folder / f"{name}.{fabric.global_rank}").write_text(str(error))
        else:
            if fabric.is_global_zero:
                torch.save(state, folder / f"{name}.pt")


if __name__ == "__main__":
    train_by_two(Path(sys.argv[1]))
