"""Maps, or detections, and images -> candidates/<split>: nested candidates, features; out of fold, their true IoU."""

from functools import partial

import numpy as np

from nuclei.candidates.features import feature_names
from nuclei.config.schema import Config
from nuclei.decoding.methods import cut_candidates
from nuclei.evaluation.metric import best_iou
from nuclei.inference.predictions import read_prediction
from nuclei.runs.cache import Part, stage
from nuclei.runs.files import read_image, read_labels, write_arrays
from nuclei.runs.layout import Dataset, Options, Run, find_fingerprint
from nuclei.runs.parallel import each_image

VERSION = 1


def main(run: Run, config: Config, options: Options) -> None:
    dataset = Dataset(config.data, run.folder.parent)
    splits = dataset.splits()
    parts = {s: Part({"maps": find_fingerprint(run, "maps", s)}, [run.candidates(s)]) for s in splits}
    with stage(
        run.meta("candidates"),
        {"watershed": config.watershed.record()},
        {},
        [run.folder / "candidates"],
        options.force,
        version=VERSION,
        code={"features": feature_names()},
        parts=parts,
        share=True,
    ) as needed:
        for split in needed:
            work = partial(cut_one, run, dataset, config, split)
            each_image(splits[split], work, f"{run.name} candidates {split}", options.jobs)


def cut_one(run: Run, dataset: Dataset, config: Config, split: str, image_id: str) -> None:
    """Cut the maps of one image into candidates and write them with their features."""
    path = run.candidates(split) / f"{image_id}.npz"
    if path.is_file():  # by a run that was killed
        return
    prediction = read_prediction(run, split, image_id)
    candidates, features = cut_candidates(prediction, read_image(dataset.image(image_id)), config)
    arrays = candidates.pack() | {"features": features.to_numpy(np.float32)}
    if split == "oof":
        truth = read_labels(dataset.labels(image_id))
        arrays["iou"] = best_iou(truth, candidates.indptr, candidates.pixels)[0]
    write_arrays(path, arrays)
