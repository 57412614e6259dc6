"""Weights and images -> maps/{oof,test}: an image of the fold table by the net that never saw it, others by all.

A detector also leaves detections/{oof,test}, of which its maps are made.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from nuclei.config.schema import Config
from nuclei.inference.predictions import write_prediction
from nuclei.inference.predictor import choose_jobs, load_once, predict_images, stamp
from nuclei.networks.tiling import count_together
from nuclei.runs.cache import Part, fingerprint, stage
from nuclei.runs.files import read_image
from nuclei.runs.layout import Dataset, Options, Run, name_fold
from nuclei.runs.parallel import each_group

VERSION = 1
Networks = tuple[Path, str, tuple[int | None, ...], tuple[int, ...]]  # arguments of load_once


def main(run: Run, config: Config, options: Options) -> None:
    dataset = Dataset(config.data, run.folder.parent)
    table = dataset.read_folds()
    folds = sorted(table["fold"].unique().tolist())
    splits = dataset.splits()
    whole = config.predict.new_images == "whole"
    trained: list[int | None] = [*folds, *([None] if whole else [])]
    with stage(
        run.meta("predict"),
        {"predict": config.predict.record(), "images": dataset.choice()},
        {name_fold(fold): fingerprint(run.meta(f"train_{name_fold(fold)}")) for fold in trained},
        [run.folder / "maps", run.folder / "detections"],
        options.force,
        version=VERSION,
        parts={s: Part(dataset.inputs(s), [run.maps(s), run.detections(s)]) for s in splits},
        share=True,
    ) as needed:
        fold_of = dict(zip(table["image_id"], table["fold"], strict=True))
        networks = run.folder, config.model_dump_json(), tuple(trained), stamp(run.folder.parent)
        new = {"folds": folds, "first": folds[:1], "whole": [None]}[config.predict.new_images]
        rows = dataset.read_manifest().set_index("image_id")
        shapes = {str(i): (int(h), int(w)) for i, h, w in zip(rows.index, rows["height"], rows["width"], strict=True)}
        for split in needed:
            folds_of = {i: (fold_of[i],) if split == "oof" else tuple(new) for i in splits[split]}
            groups = group_alike(splits[split], shapes, folds_of, config)
            chosen = [folds_of[group[0]] for group in groups]
            work = partial(predict_some, run, dataset, config, split, networks)
            each_group(groups, work, f"{run.name} predict {split}", choose_jobs(options.jobs), chosen, networks=True)


def group_alike(
    image_ids: Sequence[str],
    shapes: Mapping[str, tuple[int, int]],
    folds_of: Mapping[str, tuple[int | None, ...]],
    config: Config,
) -> list[tuple[str, ...]]:
    """Return images in the groups that the networks are given: of one size and the same folds, one each on a CPU."""
    alike: dict[Any, list[str]] = {}
    for image_id in image_ids:
        alike.setdefault((shapes[image_id], folds_of[image_id]), []).append(image_id)
    groups: list[tuple[str, ...]] = []
    for (shape, _), ids in alike.items():
        most = count_together(shape, config.model, config.predict, torch.cuda.is_available())
        groups += [tuple(ids[first : first + most]) for first in range(0, len(ids), most)]
    return groups


def predict_some(
    run: Run,
    dataset: Dataset,
    config: Config,
    split: str,
    networks: Networks,
    image_ids: tuple[str, ...],
    folds: tuple[int | None, ...],
) -> None:
    """Predict images of one size by the networks of some folds, which are load_once(*networks), and write the maps."""
    left = [i for i in image_ids if not (run.maps(split) / f"{i}.npz").is_file()]  # the others by a run that was killed
    if not left:
        return
    loaded = load_once(*networks)
    images = [read_image(dataset.image(i)) for i in left]
    predictions = predict_images([loaded[fold] for fold in folds], images, config)
    for image_id, prediction in zip(left, predictions, strict=True):
        write_prediction(run, split, image_id, prediction)
