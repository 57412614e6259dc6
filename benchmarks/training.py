"""Time training steps of networks beside this machine's matrix multiplication, which no convolution outruns by much.

    PYTHONPATH=src python benchmarks/training.py configs/systems/deep_watershed.yaml ...

A step is forward, loss and backward of one batch as the config has it, on noise, in the precision that the machine
computes; for networks that give maps. The ratio is the time that as many floating point operations take in products of
two 1024 x 1024 matrices, measured in the same run on as many threads, over the time of the step.
"""

import argparse
import time
from pathlib import Path

import torch
from lightning_fabric import Fabric
from torch.utils.flop_counter import FlopCounterMode

from nuclei.config import load_config
from nuclei.engine import choose_precision
from nuclei.networks import build, make_loss

SIDE, REPEATS = 1024, 5


def time_best(work) -> float:
    """Return the seconds of the fastest of REPEATS calls, after one that is not counted."""
    work()
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


def measure(path: Path, precision: str, rate: float) -> None:
    config = load_config(path)
    fabric = Fabric(accelerator="cpu", precision=precision)
    network = fabric.setup(build(config.model, None).to(memory_format=torch.channels_last))
    loss_of = make_loss(config.model, config.train)
    side, batch = config.train.crop_px, config.train.batch_size
    image = torch.randint(0, 256, (batch, 3, side, side), dtype=torch.uint8)
    target = torch.rand(batch, len(config.model.channels), side, side)

    def step():
        fabric.backward(loss_of(network, image, target))

    with FlopCounterMode(display=False) as counter:
        network(image)
    # Backward takes twice the products of forward; torch's own count of it is wrong for depthwise convolutions.
    seconds, flops = time_best(step), 3 * counter.get_total_flops()
    print(f"{path.stem}: {batch} crops of {side} px, {flops / batch / 1e9:.2f} GFLOP a crop, {batch / seconds:.1f} crops/s, "
          f"{flops / seconds / 1e9:.0f} GFLOPS, ratio to matrix products {flops / seconds / rate:.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("configs", nargs="+", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    precision = choose_precision("auto")
    a = torch.randn(SIDE, SIDE, dtype=torch.bfloat16 if precision == "bf16-mixed" else torch.float32)
    rate = 2 * SIDE**3 / time_best(lambda: a @ a)
    print(f"{precision}, {arguments.threads} thread(s), matrix products: {rate / 1e9:.0f} GFLOPS")
    for path in arguments.configs:
        measure(path, precision, rate)


if __name__ == "__main__":
    main()
