"""Weights and images -> maps/{oof,test}: an image of the fold table by the net that never saw it, others by all.

A detector also leaves detections/{oof,test}, of which its maps are made.
"""

from functools import partial
from pathlib import Path

from nuclei.config.schema import Config
from nuclei.inference.predictions import write_prediction
from nuclei.inference.predictor import choose_jobs, load_once, predict_image, stamp
from nuclei.runs.cache import Part, fingerprint, stage
from nuclei.runs.files import read_image
from nuclei.runs.layout import Dataset, Options, Run, name_fold
from nuclei.runs.parallel import each_image

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
        for split in needed:
            chosen = [[fold_of[i]] if split == "oof" else new for i in splits[split]]
            work = partial(predict_one, run, dataset, config, split, networks)
            each_image(
                splits[split], work, f"{run.name} predict {split}", choose_jobs(options.jobs), chosen, networks=True
            )


def predict_one(
    run: Run, dataset: Dataset, config: Config, split: str, networks: Networks, image_id: str, folds: list[int | None]
) -> None:
    """Predict one image by the networks of some folds, which are load_once(*networks), and write its maps."""
    path = run.maps(split) / f"{image_id}.npz"
    if path.is_file():  # by a run that was killed
        return
    forwards = load_once(*networks)
    prediction = predict_image([forwards[fold] for fold in folds], read_image(dataset.image(image_id)), config)
    write_prediction(run, split, image_id, prediction)
