"""A finished run looked at: one image's whole way in a picture, and all of its nuclei as COCO JSON."""

import difflib
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from tqdm import tqdm

from nuclei import runs
from nuclei.blend import dequantise
from nuclei.candidates import Candidates
from nuclei.case import draw_case
from nuclei.config import Config, load_config
from nuclei.decoding import choose_candidates
from nuclei.exports import to_coco, to_coco_results
from nuclei.figures import render_png
from nuclei.metric import score_image
from nuclei.scorer import TARGETS


def open_run(name: str, root: Path) -> tuple[runs.Run, Config, runs.Dataset]:
    """Return a run, its saved config and its data; raise ValueError with the nearest runs if it is not there."""
    run = runs.Run(name, root)
    if not run.config.is_file():
        others = sorted(path.parent.name for path in root.glob("*/config.yaml"))
        near = difflib.get_close_matches(name, others, n=3) or others
        raise ValueError(f"no run {name} in {root}" + (f"; did you mean {', '.join(near)}?" if near else ""))
    config = load_config(run.config)
    return run, config, runs.Dataset(config.data, root)


def find_split(image_id: str, dataset: runs.Dataset) -> tuple[str, str]:
    """Return the split and whole id of an image named by its id or by what it begins with.

    Raises ValueError with the nearest ids if no image, or several, begin so.
    """
    splits = dataset.splits()
    found = [(split, one) for split, ids in splits.items() for one in ids if one.startswith(image_id)]
    if len(found) != 1:
        near = difflib.get_close_matches(image_id, [one for ids in splits.values() for one in ids], n=3, cutoff=0.3)
        near = [one for _, one in found[:3]] or near
        raise ValueError(f"{len(found)} images of {dataset.name} begin with {image_id}" + (f"; nearest: {', '.join(near)}" if near else ""))
    return found[0]


def show_image(name: str, image_id: str, root: Path) -> Path:
    """Draw truth, maps, candidates and selection of one image and return the picture's path."""
    run, config, dataset = open_run(name, root)
    split, image_id = find_split(image_id, dataset)
    labels_path, file = run.instances(split) / f"{image_id}.png", f"{image_id}.npz"
    if not labels_path.is_file():
        raise runs.StageError(f"{labels_path} is missing: run the stages of {name} up to select first")
    truth = runs.read_labels(dataset.labels(image_id)) if split == "oof" else None
    instances = runs.read_labels(labels_path)
    maps = dequantise(runs.read_arrays(run.maps(split) / file)) if (run.maps(split) / file).is_file() else {}
    candidates, predicted, true, chosen = None, None, None, None
    if config.selection.method == "scored":
        arrays, scores = runs.read_arrays(run.candidates(split) / file), runs.read_arrays(run.scores(split) / file)["scores"]
        candidates, predicted, true = Candidates.unpack(arrays), scores[:, TARGETS.index("iou")], arrays.get("iou")
        chosen = choose_candidates(candidates, scores, find_setting(run, dataset, split, image_id), config.selection.search)
    title = f"{image_id}, {split}, by {name}" + (f": score {score_image(truth, instances)[0]:.3f}" if split == "oof" else "")
    figure = draw_case(runs.read_image(dataset.image(image_id)), truth, maps, candidates, predicted, true, chosen, instances, title)
    path = run.folder / "show" / f"{image_id}.png"
    runs.write_bytes(path, render_png(figure))
    return path


def find_setting(run: runs.Run, dataset: runs.Dataset, split: str, image_id: str) -> dict:
    """Return the thresholds that an image was decoded with."""
    tuned = runs.read_json(run.tuned)
    if split != "oof":
        return tuned["test"]
    table = dataset.read_folds().set_index("image_id")
    return tuned["fold"][str(table["fold"][image_id])]


def export_coco(name: str, root: Path) -> list[Path]:
    """Write <run>/coco/<split>.json with all predicted nuclei as COCO results, and the truth of those out of fold.

    Raises StageError if the run's instances are missing.
    """
    run, config, dataset = open_run(name, root)
    runs.find_fingerprint(run, "instances")
    manifest, written = runs.read_table(dataset.manifest).set_index("image_id"), []
    for split, image_ids in dataset.splits().items():
        images = [{"id": i, "file_name": f"{i}.png", "height": int(manifest["height"][i]), "width": int(manifest["width"][i])}
                  for i in image_ids]
        predicted = ((i, runs.read_labels(run.instances(split) / f"{i}.png"), read_scores(run, config, dataset, split, i))
                     for i in tqdm(image_ids, f"{name} coco {split}", unit="image", mininterval=2))
        contents = {f"{split}_predictions.json": to_coco_results(images, predicted)}
        if split == "oof":
            truth = ((i, runs.read_labels(dataset.labels(i)), None) for i in image_ids)
            contents[f"{split}_truth.json"] = to_coco(images, truth)
        else:
            contents[f"{split}_images.json"] = to_coco(images, iter(()))
        for file, content in contents.items():
            runs.write_bytes(run.folder / "coco" / file, json.dumps(content).encode())
            written.append(run.folder / "coco" / file)
    return written


def read_scores(run: runs.Run, config: Config, dataset: runs.Dataset, split: str, image_id: str) -> np.ndarray | None:
    """Return the predicted IoU of the selected candidates in the order of their labels, None where none is predicted."""
    if config.selection.method != "scored":
        return None
    candidates = Candidates.unpack(runs.read_arrays(run.candidates(split) / f"{image_id}.npz"))
    scores = runs.read_arrays(run.scores(split) / f"{image_id}.npz")["scores"]
    chosen = choose_candidates(candidates, scores, find_setting(run, dataset, split, image_id), config.selection.search)
    return scores[chosen, TARGETS.index("iou")]
