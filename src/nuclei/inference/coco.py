"""All nuclei of a finished run as COCO JSON."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from nuclei.candidates.boosters import TARGETS
from nuclei.config.schema import Config
from nuclei.decoding.methods import choose_candidates, is_scored
from nuclei.inference.exports import to_coco, to_coco_results
from nuclei.inference.predictions import is_other_of, read_scored, read_tuned
from nuclei.runs.cache import check_whole
from nuclei.runs.files import read_labels, write_bytes
from nuclei.runs.layout import Dataset, Run, find_fingerprint, find_meta, open_run


def export_coco(name: str, root: Path) -> list[Path]:
    """Write <run>/coco/<split>.json with all predicted nuclei as COCO results, and the truth of those out of fold.

    Raises UserError if the run's instances are missing.
    """
    run, config, dataset = open_run(name, root)
    for split in dataset.splits():
        find_fingerprint(run, "instances", split)
    check_whole(find_meta(run, "instances"))
    manifest, written = dataset.read_manifest().set_index("image_id"), []
    for split, image_ids in dataset.splits().items():
        images = [
            {"id": i, "file_name": f"{i}.png", "height": int(manifest["height"][i]), "width": int(manifest["width"][i])}
            for i in image_ids
        ]
        predicted = (
            (i, read_labels(run.instances(split) / f"{i}.png"), read_scores(run, config, dataset, split, i))
            for i in tqdm(image_ids, f"{name} coco {split}", unit="image", mininterval=2)
        )
        contents: dict[str, Any] = {f"{split}_predictions.json": to_coco_results(images, predicted)}
        if split == "oof":
            truth = ((i, read_labels(dataset.labels(i)), None) for i in image_ids)
            contents[f"{split}_truth.json"] = to_coco(images, truth)
        else:
            contents[f"{split}_images.json"] = to_coco(images, iter(()))
        for file, content in contents.items():
            write_bytes(run.folder / "coco" / file, json.dumps(content).encode())
            written.append(run.folder / "coco" / file)
    return written


def read_scores(run: Run, config: Config, dataset: Dataset, split: str, image_id: str) -> NDArray[np.float32] | None:
    """Return the predicted IoU of the selected candidates in the order of their labels, None unless it is predicted."""
    if not is_scored(config):
        return None
    candidates, scores = read_scored(run, split, image_id)
    fold = dataset.fold_of(split, image_id)
    other = is_other_of(run, config.selection, dataset, image_id, fold)
    chosen = choose_candidates(candidates, scores, read_tuned(run).setting(fold), config.selection, other)
    iou: NDArray[np.float32] = scores[chosen, TARGETS.index("iou")]
    return iou
