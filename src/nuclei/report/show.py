"""A finished run looked at: one image's whole way in a picture, and all of its nuclei as COCO JSON."""

import difflib
from pathlib import Path

from nuclei.candidates.boosters import TARGETS
from nuclei.candidates.table import Candidates
from nuclei.decoding.methods import choose_candidates
from nuclei.decoding.tuning import find_setting
from nuclei.evaluation.metric import score_image
from nuclei.networks.maps import dequantise
from nuclei.report.case import draw_case
from nuclei.report.charts import render_png
from nuclei.runs.cache import StageError
from nuclei.runs.files import read_arrays, read_image, read_json, read_labels, write_bytes
from nuclei.runs.layout import Dataset, open_run


def find_split(image_id: str, dataset: Dataset) -> tuple[str, str]:
    """Return the split and whole id of an image named by its id or by what it begins with.

    Raises ValueError with the nearest ids if no image, or several, begin so.
    """
    splits = dataset.splits()
    found = [(split, one) for split, ids in splits.items() for one in ids if one.startswith(image_id)]
    if len(found) != 1:
        near = difflib.get_close_matches(image_id, [one for ids in splits.values() for one in ids], n=3, cutoff=0.3)
        near = [one for _, one in found[:3]] or near
        raise ValueError(
            f"{len(found)} images of {dataset.name} begin with {image_id}"
            + (f"; nearest: {', '.join(near)}" if near else "")
        )
    return found[0]


def show_image(name: str, image_id: str, root: Path) -> Path:
    """Draw truth, maps, candidates and selection of one image and return the picture's path."""
    run, config, dataset = open_run(name, root)
    split, image_id = find_split(image_id, dataset)
    labels_path, file = run.instances(split) / f"{image_id}.png", f"{image_id}.npz"
    if not labels_path.is_file():
        raise StageError(f"{labels_path} is missing: run the stages of {name} up to select first")
    truth = read_labels(dataset.labels(image_id)) if split == "oof" else None
    instances = read_labels(labels_path)
    maps = dequantise(read_arrays(run.maps(split) / file)) if (run.maps(split) / file).is_file() else {}
    candidates, predicted, true, chosen = None, None, None, None
    if config.selection.method == "scored":
        arrays, scores = read_arrays(run.candidates(split) / file), read_arrays(run.scores(split) / file)["scores"]
        candidates, predicted, true = Candidates.unpack(arrays), scores[:, TARGETS.index("iou")], arrays.get("iou")
        chosen = choose_candidates(
            candidates,
            scores,
            find_setting(read_json(run.tuned), dataset.fold_of(split, image_id)),
            config.selection.search,
        )
    title = f"{image_id}, {split}, by {name}" + (
        f": score {score_image(truth, instances)[0]:.3f}" if split == "oof" else ""
    )
    figure = draw_case(
        read_image(dataset.image(image_id)), truth, maps, candidates, predicted, true, chosen, instances, title
    )
    path = run.folder / "show" / f"{image_id}.png"
    write_bytes(path, render_png(figure))
    return path
