"""Maps, or detections, and images -> candidates/{oof,test}: nested candidates, their features and, out of fold, their true IoU."""

import numpy as np
from joblib import Parallel, delayed
from tqdm import tqdm

from nuclei.config.schema import Config
from nuclei.decoding.methods import cut_candidates
from nuclei.evaluation.metric import best_iou
from nuclei.networks.maps import dequantise
from nuclei.runs.cache import stage
from nuclei.runs.files import read_arrays, read_image, read_labels, write_arrays
from nuclei.runs.layout import Dataset, Options, Run, find_fingerprint


def main(run: Run, config: Config, options: Options) -> None:
    dataset = Dataset(config.data, run.folder.parent)
    settings = {"watershed": config.watershed.record()}
    with stage(
        run.meta("candidates"),
        settings,
        {"maps": find_fingerprint(run, "maps")},
        [run.folder / "candidates"],
        options.force,
        share=True,
    ) as needed:
        if not needed:
            return
        for split, image_ids in dataset.splits().items():
            results = Parallel(options.jobs, return_as="generator_unordered")(
                delayed(cut_one)(run, dataset, config, split, image_id) for image_id in image_ids
            )
            for _ in tqdm(results, f"{run.name} candidates {split}", len(image_ids), unit="image", mininterval=2):
                pass


def cut_one(run: Run, dataset: Dataset, config: Config, split: str, image_id: str) -> None:
    """Cut the maps of one image into candidates and write them with their features."""
    path = run.candidates(split) / f"{image_id}.npz"
    if path.is_file():  # by a run that was killed
        return
    maps, image = dequantise(read_arrays(run.maps(split) / path.name)), read_image(dataset.image(image_id))
    detections = read_arrays(run.detections(split) / path.name) if config.detects else None
    candidates, features = cut_candidates(maps, detections, image, config)
    arrays = candidates.pack() | {"features": features.to_numpy(np.float32)}
    if split == "oof":
        truth = read_labels(dataset.labels(image_id))
        arrays["iou"] = best_iou(truth, candidates.indptr, candidates.pixels)[0]
    write_arrays(path, arrays)
