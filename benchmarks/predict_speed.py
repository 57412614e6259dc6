"""Time what segments new images, on one core and on two, beside stardist's 2D model in the same run.

    PYTHONPATH=src python benchmarks/predict_speed.py stage1_test.zip ensembles/fast ensembles/long_mobilenets \
        --stardist PYTHON --output benchmarks/predict_speed.json

Crops of 512 x 512 from the middle of the archive's images that are that large, from reading to labels (neither reading
nor writing counts). On one core, parts apart, in seconds of the processor, which other work on the machine changes
little; the systems take turns, image by image. On two cores, the wall clock over all images shared by two processes.
PYTHON: the interpreter of an environment with stardist (benchmarks/stardist_speed.py); left out, there is none of it.
"""

import argparse
import json
import os
import subprocess
import tempfile
import time
from pathlib import Path

# Before numpy, torch and LightGBM come: one thread in each process, as the stages have it.
os.environ |= {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}

import numpy as np
from joblib import Parallel, delayed
from numpy.typing import NDArray

from nuclei.candidates.boosters import predict_scores
from nuclei.candidates.features import compute_features
from nuclei.candidates.selection import paint
from nuclei.candidates.tree import make_candidates
from nuclei.data.archives import open_archive, prepare_image
from nuclei.decoding.methods import FOLD_DISAGREEMENT, choose_candidates
from nuclei.inference.bundle import find_run
from nuclei.inference.predictor import Predictor, load_predictor, stamp
from nuclei.runs.files import read_json, write_json
from nuclei.runs.provenance import provenance

SIDE = 512
Image = NDArray[np.uint8]
Seconds = dict[str, float]


def read_crops(path: str, most: int) -> list[Image]:
    """Return the middle of the first images of an archive that are large enough, uint8 [SIDE, SIDE, 3] each."""
    archive, crops = open_archive(path, "test"), []
    for image_id in archive.image_ids:
        image = prepare_image(archive, image_id)[0]
        top, left = ((n - SIDE) // 2 for n in image.shape[:2])
        if min(top, left) >= 0:
            crops.append(np.ascontiguousarray(image[top : top + SIDE, left : left + SIDE]))
    return crops[:: max(1, len(crops) // most)][:most]


def time_parts(predictor: Predictor, image: Image) -> Seconds:
    """Segment an image as Predictor.segment does; return the seconds of the processor for each part, and candidates."""
    clock = [time.process_time()]

    def stop() -> None:
        clock.append(time.process_time())

    maps = {name: values for name, values in predictor.predict(image).maps.items() if name != FOLD_DISAGREEMENT}
    stop()
    candidates = make_candidates(maps, predictor.config.watershed)
    stop()
    features = compute_features(candidates, maps, image)
    stop()
    scores = predict_scores(predictor.boosters, features)
    stop()
    paint(candidates, choose_candidates(candidates, scores, predictor.setting, predictor.config.selection))
    stop()
    parts = ("networks", "candidates", "features", "scores", "selection")
    return dict(zip(parts, np.diff(clock).tolist(), strict=True)) | {"n_candidates": len(candidates)}


def segment_by(folder: Path, image: Image) -> float:
    """Segment an image in a process that has loaded its networks once; return the seconds of the wall clock."""
    predictor = load_predictor(folder, stamp(folder.parent))
    start = time.perf_counter()
    predictor.segment(image)
    return time.perf_counter() - start


def time_two(folder: Path, crops: list[Image]) -> float:
    """Return the seconds of the wall clock an image that two processes take side by side, once they are warm."""
    with Parallel(2, batch_size=1) as pool:
        pool(delayed(segment_by)(folder, crop) for crop in crops[:4])
        start = time.perf_counter()
        pool(delayed(segment_by)(folder, crop) for crop in crops)
        return (time.perf_counter() - start) / len(crops)


def time_stardist(python: str, crops: list[Image], threads: int) -> list[Seconds]:
    """Return what benchmarks/stardist_speed.py prints."""
    script = Path(__file__).with_name("stardist_speed.py")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "images.npy"
        np.save(path, np.stack(crops))
        done = subprocess.run([python, script, path, str(threads)], check=True, capture_output=True, text=True)
    seconds: list[Seconds] = json.loads(done.stdout.splitlines()[-1])
    return seconds


def average(rows: list[Seconds]) -> Seconds:
    """Return the mean of each column."""
    return {key: round(float(np.mean([row[key] for row in rows])), 4) for key in rows[0]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("archive")
    parser.add_argument("systems", nargs="+", type=Path, help="folders of ensembles/, the slowest last")
    parser.add_argument("--images", type=int, default=20)
    parser.add_argument("--stardist", metavar="PYTHON")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    crops = read_crops(arguments.archive, arguments.images)
    predictors = {folder.name: Predictor(find_run(folder)) for folder in arguments.systems}
    rows: dict[str, list[Seconds]] = {name: [] for name in predictors}
    for number, crop in enumerate([crops[0], *crops]):  # the first warms up
        for name, predictor in predictors.items():
            row = time_parts(predictor, crop)
            if number:
                rows[name].append(row)
    result: dict[str, dict[str, object]] = {}
    totals = {name: [sum(row.values()) - row["n_candidates"] for row in found] for name, found in rows.items()}
    slowest = np.array(totals[arguments.systems[-1].name])
    for folder in arguments.systems:
        name, total = folder.name, np.array(totals[folder.name])
        result[name] = {
            "out_of_fold": read_json(folder / "metrics.json")["oof"]["score"],
            "one_core": average(rows[name]) | {"all": round(float(total.mean()), 4)},
            "two_cores_wall": round(time_two(find_run(folder).folder, crops), 4),
            "times_as_fast": round(float(slowest.mean() / total.mean()), 2),
            "times_as_fast_by_image": np.quantile(slowest / total, [0, 0.5, 1]).round(1).tolist(),
        }
    if arguments.stardist:
        one, two = (time_stardist(arguments.stardist, crops, threads) for threads in (1, 2))
        took = average(one)
        result["stardist 2D, random weights"] = {
            "one_core": took | {"all": round(took["network"] + took["rest"], 4)},
            "two_cores_wall": average(two)["wall"],
        }
    print(json.dumps(result, indent=2))
    if arguments.output:
        made = {key: value for key, value in provenance().items() if key in ("commit", "cpus", "processor", "python")}
        write_json(arguments.output, {"images": len(crops), "side_px": SIDE, "made": made, "systems": result})


if __name__ == "__main__":
    main()
