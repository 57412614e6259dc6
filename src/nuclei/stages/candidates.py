"""Maps, or detections, and images -> candidates/{oof,test}: nested candidates, their features and, out of fold, their true IoU."""

import numpy as np
from joblib import Parallel, delayed
from tqdm import tqdm

from nuclei import runs
from nuclei.blend import dequantise
from nuclei.config import Config
from nuclei.decoding import cut_candidates
from nuclei.metric import best_iou


def main(run: runs.Run, config: Config, options: runs.Options) -> None:
    dataset = runs.Dataset(config.data, run.folder.parent)
    settings = {"watershed": config.watershed.record()}
    with runs.stage(run.meta("candidates"), settings, {"maps": runs.find_fingerprint(run, "maps")},
                    [run.folder / "candidates"], options.force, share=True) as needed:
        if not needed:
            return
        for split, image_ids in dataset.splits().items():
            results = Parallel(options.jobs, return_as="generator_unordered")(
                delayed(cut_one)(run, dataset, config, split, image_id) for image_id in image_ids
            )
            for _ in tqdm(results, f"{run.name} candidates {split}", len(image_ids), unit="image", mininterval=2):
                pass


def cut_one(run: runs.Run, dataset: runs.Dataset, config: Config, split: str, image_id: str) -> None:
    """Cut the maps of one image into candidates and write them with their features."""
    path = run.candidates(split) / f"{image_id}.npz"
    if path.is_file():  # by a run that was killed
        return
    maps, image = dequantise(runs.read_arrays(run.maps(split) / path.name)), runs.read_image(dataset.image(image_id))
    detections = runs.read_arrays(run.detections(split) / path.name) if config.detects else None
    candidates, features = cut_candidates(maps, detections, image, config)
    arrays = candidates.pack() | {"features": features.to_numpy(np.float32)}
    if split == "oof":
        truth = runs.read_labels(dataset.labels(image_id))
        arrays["iou"] = best_iou(truth, candidates.indptr, candidates.pixels)[0]
    runs.write_arrays(path, arrays)
