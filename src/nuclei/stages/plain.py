"""Maps or detections -> plain/: plain decodings scored over their thresholds, which are chosen on the other folds."""

from functools import partial

import numpy as np
import pandas as pd

from nuclei.config.schema import Config
from nuclei.decoding.methods import METHODS, plain_methods
from nuclei.decoding.tuning import tune
from nuclei.evaluation.metric import score_image
from nuclei.inference.predictions import read_prediction
from nuclei.runs.cache import stage
from nuclei.runs.files import read_labels, write_json, write_table
from nuclei.runs.layout import Dataset, Options, Run, find_fingerprint
from nuclei.runs.parallel import each_image

VERSION = 1


def main(run: Run, config: Config, options: Options) -> None:
    dataset = Dataset(config.data, run.folder.parent)
    settings = {
        "plain": config.plain.record(),
        "center_weight": config.watershed.center_weight,
        "min_area_px": config.watershed.min_area_px,
    }
    inputs = {"maps": find_fingerprint(run, "maps", "oof")}
    with stage(run.meta("plain"), settings, inputs, [run.plain], options.force, version=VERSION, share=True) as needed:
        if not needed:
            return
        table = dataset.read_folds()
        work = partial(score_decodings, run, dataset, config)
        scores = each_image(table["image_id"].tolist(), work, f"{run.name} plain", options.jobs)
        for method in plain_methods(config):
            grid = np.array([of_image[method] for of_image in scores])
            tuned, score = tune(METHODS[method].options(config), grid, table["fold"].to_numpy())
            write_json(run.plain / f"{method}.json", tuned.as_json())
            write_table(run.plain / f"{method}.csv", pd.DataFrame({"image_id": table["image_id"], "score": score}))


def score_decodings(run: Run, dataset: Dataset, config: Config, image_id: str) -> dict[str, list[float]]:
    """Return the scores of one image by each plain decoding, under each of its settings."""
    truth, prediction = read_labels(dataset.labels(image_id)), read_prediction(run, "oof", image_id)
    scores = {}
    for name in plain_methods(config):
        method = METHODS[name]
        assert method.decode is not None, "plain methods decode"
        decoded = method.decode(prediction, config, method.options(config))
        scores[name] = [score_image(truth, labels)[0] for labels in decoded]
    return scores
