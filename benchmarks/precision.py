"""Time the forward pass of a network in fp32 and in bf16, as it is and frozen, in turns, in one run.

    PYTHONPATH=src python benchmarks/precision.py configs/long_mobilenetv2.yaml ...

One view of 512 x 640, random weights, one thread, in inference mode. "fp32, frozen" and "bf16, as it is" are what
prediction does on a processor without and with bf16 instructions (hardware.choose_precision, tiling.freeze). Prints the
median seconds and, of each round, how many times as fast as fp32 as it is: the median over the rounds.
"""

import argparse
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from statistics import median

import torch

from nuclei.config.load import load_config
from nuclei.networks.hardware import choose_precision
from nuclei.networks.kinds import build
from nuclei.networks.tiling import freeze

ROUNDS, SHAPE = 7, (1, 3, 512, 640)


def time_once(network: Callable[[torch.Tensor], object], image: torch.Tensor, bf16: bool) -> float:
    """Return the seconds of one forward pass."""
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16) if bf16 else nullcontext():
        start = time.perf_counter()
        network(image)
        return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("configs", nargs="+", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(f"this processor predicts in {choose_precision('auto')}")
    image = torch.randint(0, 256, SHAPE, dtype=torch.uint8)
    for path in arguments.configs:
        network = build(load_config(path).model, None).eval()
        frozen = freeze(network)
        with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
            frozen_bf16 = freeze(network)
        ways: dict[str, tuple[Callable[[torch.Tensor], object], bool]] = {
            "fp32, as it is": (network, False),
            "fp32, frozen": (frozen, False),
            "bf16, as it is": (network, True),
            "bf16, frozen": (frozen_bf16, False),
        }
        rounds = [{name: time_once(way[0], image, way[1]) for name, way in ways.items()} for _ in range(ROUNDS + 1)]
        for name in ways:
            seconds = median(one[name] for one in rounds[1:])
            ratio = median(one["fp32, as it is"] / one[name] for one in rounds[1:])
            print(f"{path.stem}, {name}: {seconds:.3f} s, {ratio:.2f} times")


if __name__ == "__main__":
    main()
