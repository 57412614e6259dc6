"""Time the prediction of a network by the ways there are on a CPU, beside each other in one run.

    PYTHONPATH=src python benchmarks/inference.py configs/long_mobilenetv2.yaml ...

Four views of a noisy image of 512 x 512, random weights, fp32: all views at once and one by one, each by the network as
it is and frozen (tiling.freeze). Million pixels a second, and the ratio to the network as it is on all views at once.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import torch

from nuclei.config.load import load_config
from nuclei.networks.kinds import build
from nuclei.networks.tiling import freeze

REPEATS, VIEWS, SIDE = 5, 4, 512


def time_best(network: Callable[[torch.Tensor], object], parts: list[torch.Tensor]) -> float:
    """Return the seconds of the fastest of REPEATS passes over all parts, after one that is not counted."""
    times = []
    with torch.inference_mode():
        for _ in range(REPEATS + 1):
            start = time.perf_counter()
            for part in parts:
                network(part)
            times.append(time.perf_counter() - start)
    return min(times[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("configs", nargs="+", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    batch = torch.randint(0, 256, (VIEWS, 3, SIDE, SIDE), dtype=torch.uint8)
    for path in arguments.configs:
        network = build(load_config(path).model, None).eval()
        networks: dict[str, Callable[[torch.Tensor], object]] = {"as it is": network, "frozen": freeze(network)}
        seconds = {
            (form, order): time_best(networks[form], list(batch.split(size)))
            for form in networks
            for order, size in (("all at once", VIEWS), ("one by one", 1))
        }
        base = seconds["as it is", "all at once"]
        for (form, order), took in seconds.items():
            print(f"{path.stem}, {form}, {order}: {VIEWS * SIDE**2 / took / 1e6:.2f} Mpx/s, {base / took:.2f} times")


if __name__ == "__main__":
    main()
