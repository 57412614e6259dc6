"""Ceiling of the decoding: perfect maps of all training images through candidates, selection and submission.

    PYTHONPATH=src python benchmarks/oracle.py DIR        # DIR holds stage1_train.zip or stage1_train/

Selection is told the true IoU of every candidate, so what is lost is lost by the candidates. The plain watershed of
the same maps stands beside it. Writes benchmarks/oracle.json.
"""

import io
import sys
from pathlib import Path

import numpy as np
from joblib import Parallel, delayed
from tqdm import tqdm

from nuclei.candidates.selection import expected_gain, paint, select_candidates
from nuclei.candidates.tree import make_candidates, make_energy
from nuclei.config.schema import Config
from nuclei.data.archives import Archive, find_archives, open_archive, prepare_image
from nuclei.decoding.plain import cut_basins, decode_components, flood_seeds
from nuclei.evaluation.metric import THRESHOLDS, best_iou, score_image
from nuclei.evaluation.rle import decode_labels
from nuclei.evaluation.submission import read_submission, write_submission
from nuclei.runs.files import write_json
from nuclei.training.targets import make_targets


def score_one(archive: Archive, image_id: str) -> tuple[float, float, float, int, int]:
    """Return the scores of components, watershed and selection, and the numbers of nuclei and candidates."""
    config = Config()
    _, truth, _ = prepare_image(archive, image_id)
    assert truth is not None  # of a training image
    maps = dict(zip(config.model.channels, make_targets(truth, config.model.channels), strict=True))
    candidates = make_candidates(maps, config.watershed)
    iou, _ = best_iou(truth, candidates.indptr, candidates.pixels)
    gain = expected_gain((iou[:, None] > THRESHOLDS).astype(float), np.full(len(THRESHOLDS), 0.5))
    text = io.StringIO(newline="")
    write_submission(text, [(image_id, paint(candidates, select_candidates(candidates, gain)))])
    text.seek(0)
    rows = [row for row in read_submission(text)["EncodedPixels"] if row]
    basins = flood_seeds(make_energy(maps, config.watershed.center_weight), 0.6, maps["mask"] > 0.5)
    components, watershed, selection = (
        score_image(truth, prediction)[0]
        for prediction in (
            decode_components(maps["mask"], 0.5, 12),
            cut_basins(basins, maps["mask"], 0.5, 12),
            decode_labels(rows, (truth.shape[0], truth.shape[1])),
        )
    )
    return components, watershed, selection, int(truth.max()), len(candidates)


def main(folder: str) -> None:
    archive = open_archive(find_archives(folder)["stage1_train"], "train")
    tasks = (delayed(score_one)(archive, image_id) for image_id in archive.image_ids)
    rows = list(tqdm(Parallel(-1, return_as="generator")(tasks), "oracle", len(archive.image_ids), unit="image"))
    components, watershed, selection, nuclei, candidates = np.array(rows).T
    result = {
        "images": len(rows),
        "nuclei": int(nuclei.sum()),
        "candidates": int(candidates.sum()),
        "components": round(components.mean(), 4),
        "watershed": round(watershed.mean(), 4),
        "candidates_and_selection": round(selection.mean(), 4),
    }
    write_json(Path(__file__).with_suffix(".json"), result)
    print(result)


if __name__ == "__main__":
    main(*sys.argv[1:])
