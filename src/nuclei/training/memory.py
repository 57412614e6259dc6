"""How much of a GPU's memory the training of a network takes: measured, since encoders differ too much to guess."""

from typing import Any, cast

import torch
from lightning_fabric import Fabric

from nuclei.config.schema import Config
from nuclei.networks.hardware import choose_precision
from nuclei.networks.kinds import build, make_loss
from nuclei.training.engine import Outlets, Task, Trainer

STEPS = 4  # so that optimiser, average and, where steps are replayed, the graph have their memory
OF_PROCESS = 600 << 20  # bytes that a process takes of a GPU beside its tensors


def measure_memory(config: Config) -> int:
    """Return the bytes that training a network takes of the GPU: a few steps of it are done on made-up crops.

    For a process that ends soon afterwards, with what it holds of the GPU. 0 where there is no GPU. Teachers are not
    counted.
    """
    if not torch.cuda.is_available():
        return 0
    train = config.train.model_copy(update={"steps": STEPS, "seconds": None, "workers": 0})
    depth, kind = (len(config.model.channels), torch.float16) if config.model.channels else (1, torch.int32)
    image = torch.zeros((3, train.crop_px, train.crop_px), dtype=torch.uint8)
    crops = [(image, torch.zeros((depth, train.crop_px, train.crop_px), dtype=kind))] * (STEPS * train.batch_size)
    fabric = Fabric(accelerator="auto", devices=1, precision=choose_precision(train.precision))
    network = build(config.model, None).to(memory_format=torch.channels_last)
    task = Task(network, cast("Any", crops), make_loss(config.model, train), lambda _: 0.0)
    Trainer(fabric, task, train, Outlets(lambda _: None, "memory of a network")).fit()
    return torch.cuda.max_memory_reserved() + OF_PROCESS
