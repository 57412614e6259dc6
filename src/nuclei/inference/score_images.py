"""A trained run, or a published one, scored on labelled images that it has not seen: a user's own, or external sets.

They are no part of any out-of-fold score. Each image leaves a record of its scores and of what they were made from, so
that a killed or repeated call goes on where it stopped.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from nuclei.data.label_folder import LabelFolder
from nuclei.data.labels import renumber
from nuclei.errors import UserError
from nuclei.evaluation.submission import SCORE_COLUMNS
from nuclei.evaluation.summary import ERRORS, OFFSETS, score_labels, summarise
from nuclei.inference.bundle import find_run
from nuclei.inference.image_files import Reading, Source, find_images
from nuclei.inference.predictor import choose_jobs, load_predictor, stamp
from nuclei.inference.segment_files import escape_formulas, hash_weights
from nuclei.runs.files import check_target, file_hash, read_json, write_json, write_table
from nuclei.runs.parallel import each_image

VERSION = 1  # of the scores: raised by a change of the code that makes them others
IMAGES, LABELS, EXTERNAL = "images", "labels", "external"
COLUMNS = (
    *("data_set", "image_id", "novelty", "scale", "height", "width"),
    *SCORE_COLUMNS[1:],
    *("n_true", "n_pred", *ERRORS, "matched", *OFFSETS),
)
# What the files of results begin with, by which those of others are known.
MARKS = {"scores.csv": ",".join(COLUMNS[:3]), "metrics.json": '{\n "images": {'}
HALVED_ABOVE_PX = 1500.0  # median true area: the competition's nuclei are smaller, those at 63x are not


@dataclass(frozen=True)
class LabelledImage:
    """Hold an image with its label image, and the data set that both are of."""

    data_set: str
    source: Source
    labels: Path


def find_labelled(folder: Path) -> list[LabelledImage]:
    """Return the labelled images of a folder: <folder>/{images,labels}, or of sets <folder>/[external/]<set>/{…}.

    A label image is found by the name of its image, as LabelFolder says. Raises UserError where there is none, or no
    such folder.
    """
    folder = folder / EXTERNAL if (folder / EXTERNAL).is_dir() else folder
    roots = [folder] if (folder / IMAGES).is_dir() else sorted(path.parent for path in folder.glob(f"*/{IMAGES}"))
    roots = [root for root in roots if (root / LABELS).is_dir()]
    if not roots:
        raise UserError(
            f"{folder} has no labelled images: put them into {folder / IMAGES} and their label images, of the same "
            f"names, into {folder / LABELS}; of several sets, into folders of their own there"
        )
    found = []
    for root in roots:
        labels = LabelFolder(str(root / LABELS))
        sources = find_images([root / IMAGES])
        name = Path(os.path.realpath(root)).name
        found += [LabelledImage(name, source, labels.find(source.name)) for source in sources]
    return found


def score_images(
    images: Sequence[LabelledImage],
    weights: Path,
    output: Path,
    reading: Reading | None = None,
    halved_above_px: float = HALVED_ABOVE_PX,
    jobs: int = -1,
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Segment labelled images by the run or bundle in the folder `weights`, score them, and write what was found.

    Returns, and writes as <output>/scores.csv and metrics.json, a table with a row per image and the columns COLUMNS,
    and its summary, as summarise returns it, data sets
    being the clusters and every image a group of its own. Images whose median true nucleus has more than
    `halved_above_px` pixels are halved first, image and truth alike; 0: none is. Raises what Predictor raises, and
    UserError naming a file that cannot be read, labels that do not fit their image, and others' files of these names.
    """
    run, reading = find_run(weights), reading or Reading()
    for name, mark in MARKS.items():
        check_target(output / name, mark)
    predictor = run.folder, stamp(run.folder.parent)
    load_predictor(*predictor)  # says what is missing, once
    common = {"weights": hash_weights(run), "version": VERSION, "halved_above_px": halved_above_px}
    made_from = common | {"settings": reading.record()}
    work = partial(score_one, predictor, output, reading, made_from)
    names = [image.source.name for image in images]
    rows = each_image(names, work, "score", choose_jobs(jobs), images, networks=True)
    table = pd.DataFrame(rows, columns=list(COLUMNS)).astype(dict.fromkeys(("novelty", *OFFSETS), float))
    whole = table.assign(cluster=table["data_set"], group=table["data_set"] + "/" + table["image_id"])
    metrics = {"run": run.name, "weights_sha256": common["weights"], "images": summarise(whole)}
    write_table(output / "scores.csv", escape_formulas(table))
    write_json(output / "metrics.json", metrics)
    return table, metrics


def score_one(
    predictor: tuple[Path, tuple[int, ...]],
    output: Path,
    reading: Reading,
    made_from: dict[str, Any],
    name: str,
    image: LabelledImage,
) -> dict[str, Any]:
    """Return the scores of one image, from its record if that was made from the same."""
    record = output / image.data_set / f"{name}.json"
    made_from = made_from | {"image": image.source.hash(), "labels": file_hash(image.labels)}
    if record.is_file():
        known = read_json(record, "this command")
        if not {"made_from", "scores"} <= known.keys():
            refuse_other(record)
        if known["made_from"] == made_from:
            row: dict[str, Any] = known["scores"]
            return row
    _, pixels, _ = image.source.read(reading)
    truth = LabelFolder(str(image.labels.parent)).read(name, pixels.shape[:2])
    pixels, truth, scale = halve_large(pixels, truth, made_from["halved_above_px"])
    loaded = load_predictor(*predictor)
    prediction, _ = loaded.segment(pixels)
    row = {
        "data_set": image.data_set,
        "image_id": name,
        "novelty": round(loaded.novelty(pixels), 4) if loaded.novelty else None,
        "scale": scale,
        "height": pixels.shape[0],
        "width": pixels.shape[1],
    } | {key: None if value != value else value for key, value in score_labels(truth, prediction).items()}
    write_json(record, {"made_from": made_from, "scores": row})
    return row


def refuse_other(path: Path) -> NoReturn:
    raise UserError(f"{path} is not of this command, and would be replaced: name another folder by --output")


def halve_large(
    image: NDArray[np.uint8], truth: NDArray[np.int32], above_px: float
) -> tuple[NDArray[np.uint8], NDArray[np.int32], float]:
    """Halve an image and its truth where the median nucleus is larger than `above_px` pixels, and return the scale.

    Networks know nuclei of the competition's size; a higher magnification is brought to it. 0: nothing is halved.
    """
    areas_px = np.bincount(truth.ravel())[1:]
    areas_px = areas_px[areas_px > 0]
    if not above_px or not len(areas_px) or np.median(areas_px) <= above_px:
        return image, truth, 1.0
    height, width = (max(1, n // 2) for n in truth.shape)
    smaller = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    labels = cv2.resize(truth, (width, height), interpolation=cv2.INTER_NEAREST_EXACT)
    present = np.bincount(labels.ravel(), minlength=int(truth.max()) + 1) > 0
    return np.asarray(smaller, np.uint8), renumber(labels, present), 0.5
