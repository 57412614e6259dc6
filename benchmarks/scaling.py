"""How time and memory grow with nuclei, images and cores: one picture, and the exponents that fit.

    PYTHONPATH=src python benchmarks/scaling.py [--nuclei 50 100 200 400] [--images 50 100 200] [--cores 1 2]

Each point is a process of its own. Nuclei: candidates, features and metric of one synthetic image with so many, at one
density, so that its area grows with them. Images: the same of so many images of 100 nuclei, one after the other.
Cores: the images shared by so many processes, in seconds of the wall clock, which wants a quiet machine; all else in
seconds of the processor. An exponent of 1 says that twice as many take twice as long. Writes benchmarks/scaling.json
and .png.
"""

import argparse
import json
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from features import draw_maps, draw_nuclei

from nuclei.candidates.features import compute_features
from nuclei.candidates.tree import make_candidates
from nuclei.config.schema import WatershedConfig
from nuclei.evaluation.metric import score_image
from nuclei.runs.files import write_json
from nuclei.runs.memory import measure_peak_bytes
from nuclei.runs.parallel import each_image

PX_OF_A_NUCLEUS = 2000  # of image, which sets the density
NUCLEI_OF_AN_IMAGE = 100
AXES = ("nuclei", "images", "cores")


def process(n_nuclei: int, image_id: str) -> int:
    """Draw an image with so many nuclei, cut and measure its candidates, and score it; return how many there are."""
    rng = np.random.default_rng(int(image_id))
    labels = draw_nuclei(rng, round((n_nuclei * PX_OF_A_NUCLEUS) ** 0.5), n_nuclei)
    maps, image = draw_maps(rng, labels)
    candidates = make_candidates(maps, WatershedConfig())
    compute_features(candidates, maps, image)
    score_image(labels, np.roll(labels, 1, axis=0))
    return len(candidates)


def measure(axis: str, n: int, images: int) -> dict[str, float]:
    """Return the seconds and the peak memory in MiB of this process for one point of an axis."""
    cv2.setNumThreads(1)
    process(10, "0")
    start, cpu_start = time.perf_counter(), time.process_time()
    if axis == "nuclei":
        process(n, "1")
    elif axis == "images":
        for number in range(n):
            process(NUCLEI_OF_AN_IMAGE, str(number))
    else:
        each_image([str(i) for i in range(images)], partial(process, NUCLEI_OF_AN_IMAGE), "scaling", n)
    wall = axis == "cores"
    seconds = time.perf_counter() - start if wall else time.process_time() - cpu_start
    return {"seconds": round(seconds, 3), "peak_MiB": measure_peak_bytes() // 2**20}


def fit_exponent(numbers: list[int], values: list[float]) -> float:
    """Return the slope of the logarithm of the values over that of the numbers."""
    return float(np.polyfit(np.log(numbers), np.log(np.maximum(values, 1e-9)), 1)[0])


def draw(result: dict[str, dict[str, dict[str, float]]], exponents: dict[str, dict[str, float]], path: Path) -> None:
    """Draw time and memory over each axis, both logarithmic."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(2, len(result), figsize=(4 * len(result), 6), squeeze=False, layout="constrained")
    for column, (axis, points) in enumerate(result.items()):
        numbers = [int(n) for n in points]
        for row, key in enumerate(("seconds", "peak_MiB")):
            plot, values = axes[row, column], [point[key] for point in points.values()]
            plot.loglog(numbers, values, "o-")
            plot.set(xlabel=axis, ylabel=key.replace("_", ", "), ylim=(min(values) / 2, max(values) * 2))
            plot.minorticks_off()
            plot.set_xticks(numbers, numbers)
            ticks = list({round(np.log10(value), 1): value for value in values}.values())  # apart from each other
            plot.set_yticks(ticks, [f"{tick:.3g}" for tick in ticks])
            if key in exponents[axis]:
                plot.set_title(f"exponent {exponents[axis][key]:.2f}")
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nuclei", type=int, nargs="+", default=[100, 200, 400, 800, 1600])
    parser.add_argument("--images", type=int, nargs="+", default=[10, 20, 40, 80])
    parser.add_argument("--cores", type=int, nargs="+", default=[1, 2])
    parser.add_argument(
        "--output", type=Path, default=Path(__file__).with_suffix(".json"), help="the picture is beside"
    )
    parser.add_argument("--point", nargs=2, metavar=("AXIS", "N"), help="measure one point here and print it")
    arguments = parser.parse_args()
    if arguments.point:
        print(json.dumps(measure(arguments.point[0], int(arguments.point[1]), max(arguments.images))))
        return
    result: dict[str, dict[str, dict[str, float]]] = {axis: {} for axis in AXES}
    for axis in AXES:
        for n in getattr(arguments, axis):
            command = [sys.executable, __file__, "--point", axis, str(n), "--images", str(max(arguments.images))]
            printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            result[axis][str(n)] = json.loads(printed.splitlines()[-1])
            print(axis, n, result[axis][str(n)], flush=True)
    exponents = {
        axis: {
            key: round(fit_exponent([int(n) for n in points], [point[key] for point in points.values()]), 3)
            for key in (("seconds",) if axis == "cores" else ("seconds", "peak_MiB"))  # of the parent alone, there
        }
        for axis, points in result.items()
        if len(points) > 1
    }
    write_json(arguments.output, {"points": result, "exponents": exponents})
    draw(
        {axis: points for axis, points in result.items() if axis in exponents},
        exponents,
        arguments.output.with_suffix(".png"),
    )
    print(json.dumps(exponents))


if __name__ == "__main__":
    main()
