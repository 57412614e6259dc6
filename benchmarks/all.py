"""Every stage beside its floor or its peer, in one run: one table, benchmarks/results.json, and the table of a README.

    PYTHONPATH=src python benchmarks/all.py DIR [--images 40] [--winners train_classifier.py] [--only metric prepare]

DIR holds stage1_train.zip. All is measured on one core, in seconds of the processor, which other work on the machine
changes little, and in turns with what it is compared with. The peers are optional: stardist, if it is installed
(benchmarks/metric.py), and the winners' own code, whose file is given (benchmarks/winners.py). Ten minutes by default;
--images 4 --steps 2 is a trial of a minute. --readme FILE puts the table between the markers <!-- floors --> of a file.
"""

import argparse
import os

os.environ |= {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}  # before numpy, torch and LightGBM come

import json
import tempfile
from collections.abc import Callable
from pathlib import Path

import cv2
import features
import learning
import numpy as np
import torch
import winners
from metric import perturb
from prepare import decode_bare
from ratios import Ratio, show, spread, time_in_turns

from nuclei.candidates.features import compute_features
from nuclei.candidates.tree import make_candidates
from nuclei.config.schema import WatershedConfig
from nuclei.data.archives import Archive, find_archives, open_archive, prepare_image
from nuclei.evaluation.metric import THRESHOLDS, score_image
from nuclei.report.markdown import render_block
from nuclei.report.readme import floors_table, replace_block
from nuclei.runs.files import write_json
from nuclei.runs.memory import keep_freed
from nuclei.runs.provenance import provenance

SPEED = 15_000  # candidates a second on one core, with all features


def measure_metric(archive: Archive, options: argparse.Namespace) -> list[Ratio]:
    try:
        from stardist.matching import matching
    except ImportError:
        print("metric: stardist is not installed, so it is left out")
        return []
    rng = np.random.default_rng(0)
    truths = [prepare_image(archive, image_id)[1] for image_id in spread(archive.image_ids, 4 * options.images)]
    pairs = [(truth, perturb(truth, rng)) for truth in truths if truth is not None]
    ours, theirs = time_in_turns(
        lambda pair: score_image(*pair), lambda pair: matching(*pair, thresh=tuple(THRESHOLDS)), pairs
    )
    return [Ratio("the metric", "stardist.matching", ours, theirs, 10, True, f"{len(pairs)} images")]


def measure_prepare(archive: Archive, options: argparse.Namespace) -> list[Ratio]:
    ids = spread(archive.image_ids, options.images)
    files = {i: [archive.read(name) for name in (archive.image_name(i), *archive.mask_names(i))] for i in ids}
    ours, theirs = time_in_turns(lambda i: prepare_image(archive, i), lambda i: decode_bare(files[i]), ids)
    return [Ratio("prepare", "a bare decode of the same bytes", ours, theirs, 1.2, False, f"{len(ids)} images")]


def measure_features(archive: Archive, options: argparse.Namespace) -> list[Ratio]:
    rng, settings = np.random.default_rng(0), WatershedConfig()
    tables = []
    for image, labels, _ in (prepare_image(archive, i) for i in spread(archive.image_ids, options.images)):
        assert labels is not None, "training images have masks"
        maps, _ = features.draw_maps(rng, labels)
        tables.append((features.list_pixels(features.cut_labels(labels, maps["mask"])), maps, image))
    n = sum(len(candidates) for candidates, _, _ in tables)
    ours, _ = time_in_turns(lambda table: compute_features(*table), lambda _: None, tables)
    ratios = [Ratio("all features", f"{SPEED:,} candidates a second", ours, n / SPEED, 1, True, f"{n} candidates")]
    if options.winners:
        get_inputs = winners.load(options.winners)

        with tempfile.TemporaryDirectory() as folder:
            both = [(table[1:], Path(folder) / f"{number}.png") for number, table in enumerate(tables)]
            for (maps, _), path in both:
                winners.draw(maps, path)
            pairs = time_in_turns(
                lambda one: compute_features(make_candidates(one[0][0], settings), *one[0]),
                lambda one: winners.measure(get_inputs, one[1]),
                both,
                repeats=1,
            )
        beside = "the winners' get_inputs"
        ratios.append(Ratio("candidates and features", beside, *pairs, 20, True, f"{len(tables)} images"))
    return ratios


def measure_training(_archive: Archive, options: argparse.Namespace) -> list[Ratio]:
    return learning.measure_training(options.config, options.steps)


def measure_prediction(_archive: Archive, options: argparse.Namespace) -> list[Ratio]:
    return learning.measure_prediction(options.config, max(1, options.steps // 4))


def measure_boosters(_archive: Archive, options: argparse.Namespace) -> list[Ratio]:
    return learning.measure_boosters(options.rows)


MEASURES: dict[str, Callable[[Archive, argparse.Namespace], list[Ratio]]] = {
    "metric": measure_metric,
    "prepare": measure_prepare,
    "features": measure_features,
    "training": measure_training,
    "prediction": measure_prediction,
    "boosters": measure_boosters,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="DIR", help="holds stage1_train.zip or stage1_train/")
    parser.add_argument("--images", type=int, default=40, help="real images, four times as many for the metric")
    parser.add_argument("--steps", type=int, default=12, help="training steps, and four times the predicted images")
    parser.add_argument("--rows", type=int, default=20_000, help="candidates that boosters learn from")
    parser.add_argument("--config", type=Path, default=Path("configs/demo_mobilenetv2.yaml"), help="of the network")
    parser.add_argument("--winners", type=Path, help="the winners' victor/train_classifier.py")
    parser.add_argument("--only", nargs="+", choices=MEASURES, default=list(MEASURES), help="measure these alone")
    parser.add_argument("--output", type=Path, default=Path(__file__).with_name("results.json"))
    parser.add_argument("--readme", type=Path, help="a file with the markers <!-- floors --> and <!-- /floors -->")
    options = parser.parse_args()
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    keep_freed()  # as the stages do
    archive = open_archive(find_archives(options.folder)["stage1_train"], "train")
    ratios: list[Ratio] = []
    for name in options.only:
        found = MEASURES[name](archive, options)
        ratios += found
        print(show(found), flush=True)
    print("\n" + show(ratios))
    made = {key: value for key, value in provenance().items() if key in ("commit", "cpus", "processor", "python")}
    results = {"made": made, "ratios": [one.record() for one in ratios]}
    write_json(options.output, results)
    if options.readme:
        table = render_block(floors_table(json.loads(options.output.read_text())))
        options.readme.write_text(replace_block(options.readme.read_text(), "floors", table, options.readme))


if __name__ == "__main__":
    main()
