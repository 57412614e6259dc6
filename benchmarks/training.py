"""Time training steps of networks beside this machine's matrix multiplication, which no convolution outruns by much.

    PYTHONPATH=src python benchmarks/training.py configs/systems/deep_watershed.yaml ...

A step is forward, loss, backward and optimiser of one batch as the config has it, on noise and random initial weights,
in the precision and on the device that training would choose. The ratio is the time that as many floating point
operations take in products of two 1024 x 1024 matrices (8192 on a GPU), measured in the same run on as many threads,
over the time of the step. Afterwards the trained network predicts one noisy image of 512 x 640.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from lightning_fabric import Fabric

from nuclei.config.load import load_config
from nuclei.inference.predictor import predict_image
from nuclei.networks.hardware import Precision, choose_precision
from nuclei.networks.kinds import KINDS, build, count_flops, make_loss

REPEATS = 5
ON_GPU = torch.cuda.is_available()
SIDE = 8192 if ON_GPU else 1024


def time_best(work: Callable[[], object]) -> float:
    """Return the seconds of the fastest of REPEATS calls, after two that are not counted."""
    times = []
    for _ in range(REPEATS + 2):
        start = time.perf_counter()
        work()
        if ON_GPU:
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return min(times[2:])


def measure(path: Path, precision: Precision, rate: float) -> None:
    config = load_config(path)
    fabric = Fabric(accelerator="auto", devices=1, precision=precision)
    network = build(config.model, None).to(memory_format=torch.channels_last).train()
    network, optimizer = fabric.setup(network, torch.optim.AdamW(network.parameters(), 1e-4))
    loss_of = make_loss(config.model, config.train)
    side, batch = config.train.crop_px, config.train.batch_size
    image = torch.randint(0, 256, (batch, 3, side, side), dtype=torch.uint8)
    if config.model.gives == "detections":  # learns instances: squares
        cell = side // 8
        target = (
            torch.arange(64)
            .view(1, 1, 8, 8)
            .repeat_interleave(cell, 2)
            .repeat_interleave(cell, 3)
            .repeat(batch, 1, 1, 1)
            .int()
        )
    else:
        target = torch.rand(batch, len(config.model.channels), side, side)
    image, target = fabric.to_device((image, target))

    def step() -> None:
        optimizer.zero_grad()
        fabric.backward(loss_of(network, image, target))
        optimizer.step()

    seconds, flops = time_best(step), batch * count_flops(config.model, side)
    n_parameters = sum(p.numel() for p in network.parameters())
    print(
        f"{path.stem}: {n_parameters / 1e6:.1f} M parameters, {batch} crops of {side} px, "
        f"{flops / batch / 1e9:.2f} GFLOP a crop, {batch / seconds:.1f} crops/s, "
        f"{flops / seconds / 1e9:.0f} GFLOPS, ratio to matrix products {flops / seconds / rate:.2f}",
        flush=True,
    )
    network.eval()
    noise = np.random.default_rng(0).integers(0, 256, (512, 640, 3), np.uint8)
    forward = KINDS[config.model.gives].load(fabric, network, precision)
    seconds = time_best(lambda: predict_image([forward], noise, config))
    memory = f", peak memory {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB" if ON_GPU else ""
    views = f"{config.predict.tta} at {len(config.predict.scales)} sizes"
    print(f"{path.stem}: an image of 512 x 640, {views}, {seconds:.2f} s{memory}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("configs", nargs="+", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    precision = choose_precision("auto")
    a = torch.randn(
        SIDE,
        SIDE,
        dtype=torch.bfloat16 if precision == "bf16-mixed" else torch.float32,
        device="cuda" if ON_GPU else "cpu",
    )
    rate = 2 * SIDE**3 / time_best(lambda: a @ a)
    print(f"{precision}, {arguments.threads} thread(s), matrix products: {rate / 1e9:.0f} GFLOPS")
    for path in arguments.configs:
        measure(path, precision, rate)


if __name__ == "__main__":
    main()
