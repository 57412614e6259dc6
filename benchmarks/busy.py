"""A run beside busy loops: how much longer it takes than on the machine as it is, per core that it gets.

PYTHONPATH=src python benchmarks/busy.py [--config configs/demo_mobilenetv2.yaml] [--loops 4] [--steps 60] [--images 36]

Each pair of runs makes all stages of the config on the demo's synthetic archives anew, once as the machine is and once
beside the loops, one after the other. The cores that a run gets are its processor seconds, of all its processes, over
its seconds. The ratio is that of the products of both, seconds times cores: 1 says that a run is only given fewer
cores, and more that it wastes what it gets, as threads do that spin. The fair share is what the scheduler gives to as
many runnable threads as the machine has cores: the run's time beside the loops, over that, says what waiting for each
other costs its threads and processes beside it. The whole is printed as JSON.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nuclei.data.demo import write_demo
from nuclei.runs.cores import count_cores

LOOP = "while True: pass"


@contextmanager
def busy_loops(n: int) -> Iterator[None]:
    """Keep n processes busy with nothing while the block lasts."""
    loops = [subprocess.Popen([sys.executable, "-c", LOOP]) for _ in range(n)]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


def measure(command: list[str]) -> dict[str, float]:
    """Return the seconds and the cores that a command takes, or end with the last line that it says if it fails.

    Its processor time is known when it has ended.
    """
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed: {' '.join(done.stderr.splitlines()[-1:])}")
    seconds, after = time.monotonic() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"seconds": round(seconds, 1), "cores": round(spent / seconds, 3)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=Path("configs/demo_mobilenetv2.yaml"))
    parser.add_argument("--loops", type=int, default=4, help="busy loops beside the run")
    parser.add_argument("--steps", type=int, default=60, help="training steps a fold")
    parser.add_argument("--images", type=int, default=36, help="training images, a third as many test images")
    parser.add_argument("--side", type=int, default=256, help="pixels of a side of an image")
    parser.add_argument("--times", type=int, default=1, help="pairs of runs")
    parser.add_argument("--most", type=float, default=2.5, help="the most that the ratio per core is to be")
    arguments = parser.parse_args()
    pairs = []
    with tempfile.TemporaryDirectory() as folder:
        data, cores = Path(folder) / "archives", count_cores()
        write_demo(data, arguments.images, max(1, arguments.images // 3), arguments.side, 2018)
        for number in range(arguments.times):
            pair = {}
            for name, loops in (("quiet", 0), ("busy", arguments.loops)):
                runs = Path(folder) / f"{name}{number}"
                folds = f"data.folds={runs / 'folds.csv'}"
                command = [sys.executable, "-m", "nuclei", "run", str(arguments.config), "--data", str(data)]
                command += ["--runs", str(runs), "--set", folds, "--set", f"train.steps={arguments.steps}"]
                with busy_loops(loops):
                    pair[name] = measure(command)
                print(f"{name}: {pair[name]}", file=sys.stderr, flush=True)
            pairs.append(pair)
    fair = (cores + arguments.loops) / cores
    spent = [pair["busy"]["seconds"] * pair["busy"]["cores"] for pair in pairs]
    quiet = [pair["quiet"]["seconds"] * pair["quiet"]["cores"] for pair in pairs]
    longer = [pair["busy"]["seconds"] / pair["quiet"]["seconds"] for pair in pairs]
    result = {
        "cores": cores,
        "loops": arguments.loops,
        "omp_wait_policy": os.environ.get("OMP_WAIT_POLICY", ""),
        "pairs": pairs,
        "most": arguments.most,
        "ratio_per_core": round(statistics.median(b / q for b, q in zip(spent, quiet, strict=True)), 2),
        "times_as_long": round(statistics.median(longer), 2),
        "times_the_fair_share": round(statistics.median(longer) / fair, 2),
    }
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
