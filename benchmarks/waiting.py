"""Time torch and LightGBM with threads that spin while they wait and with threads that sleep, in turns, in one run.

    python benchmarks/waiting.py > benchmarks/waiting.json

Each measurement is a process of its own, as OMP_WAIT_POLICY is read when a library is loaded: "spin" leaves it unset,
"sleep" is PASSIVE, which `import nuclei` sets. Both with nothing beside them that this script started, and beside one
busy loop a core. Seconds of each, and how many times as long spinning takes, the median over the repeats.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from statistics import median

import numpy as np

BUSY = "while True: pass"
POLICIES = {"spin": None, "sleep": "PASSIVE"}


def make_torch() -> Callable[[], object]:
    """Return a forward pass of a small convolutional network on an image of 256 x 256."""
    import torch

    layers = [layer for _ in range(20) for layer in (torch.nn.Conv2d(32, 32, 3, padding=1), torch.nn.ReLU())]
    network, image = torch.nn.Sequential(*layers).eval(), torch.zeros(1, 32, 256, 256)

    def forward() -> object:
        with torch.inference_mode():
            return network(image)

    return forward


def make_lightgbm() -> Callable[[], object]:
    """Return a prediction of 2,000 candidates with 100 features, as an image has them, by 150 trees of 31 leaves."""
    import lightgbm

    rng = np.random.default_rng(0)
    rows, target = rng.random((2000, 100)), rng.random(2000)
    settings = {"num_leaves": 31, "verbose": -1}
    booster = lightgbm.train(settings, lightgbm.Dataset(rows, target), num_boost_round=150)
    return lambda: booster.predict(rows)


WORK = {"torch": make_torch, "lightgbm": make_lightgbm}


def time_here(name: str, times: int) -> float:
    """Return the seconds of so many calls of a work, after one that is not counted."""
    work = WORK[name]()
    work()
    start = time.perf_counter()
    for _ in range(times):
        work()
    return time.perf_counter() - start


def time_apart(name: str, policy: str | None, times: int) -> float:
    """Return time_here of a process of its own with this policy of waiting."""
    environment = {key: value for key, value in os.environ.items() if key != "OMP_WAIT_POLICY"}
    environment |= {} if policy is None else {"OMP_WAIT_POLICY": policy}
    command = [sys.executable, __file__, "--work", name, "--times", str(times)]
    return float(subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", choices=WORK, help="time this here and print the seconds")
    parser.add_argument("--times", type=int, default=20, help="calls in each measurement")
    parser.add_argument("--repeats", type=int, default=3, help="measurements of each policy, in turns")
    parser.add_argument(
        "--loops", type=int, default=os.cpu_count() or 1, help="busy loops beside; 0: the quiet half alone"
    )
    arguments = parser.parse_args()
    if arguments.work:
        print(time_here(arguments.work, arguments.times))
        return
    result: dict[str, object] = {"cores": os.cpu_count()}
    for beside in sorted({0, arguments.loops}):
        loops = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(beside)]
        try:
            for name in WORK:
                rounds = [
                    {key: time_apart(name, policy, arguments.times) for key, policy in POLICIES.items()}
                    for _ in range(arguments.repeats)
                ]
                result[f"{name}, beside {beside} busy loops"] = {
                    **{key: [round(one[key], 2) for one in rounds] for key in POLICIES},
                    "spin / sleep": round(median(one["spin"] / one["sleep"] for one in rounds), 2),
                }
        finally:
            for loop in loops:
                loop.kill()
                loop.wait()
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
