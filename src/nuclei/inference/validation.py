"""A submission, of this project or of another, checked against the images that it is for."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path

import pandas as pd

from nuclei.data.competition import ARCHIVES, FILES, TITLES
from nuclei.errors import UserError
from nuclei.evaluation.sheets import read_sheet
from nuclei.evaluation.submission import validate_submission
from nuclei.inference.image_files import Reading, Source, find_images, split_file
from nuclei.runs.layout import open_run
from nuclei.runs.parallel import each_image

Shapes = dict[str, tuple[int, int]]  # image id -> height and width
TRAINING = "train"  # the split that no submission is for


def shapes_of_images(path: Path, jobs: int = -1) -> Shapes:
    """Return the shapes of the images of a folder or an official archive, by the ids that predict-images gives them.

    Raises UserError as find_images does, and naming an image that cannot be read.
    """
    reading = Reading()
    images = {image.name: image for source in find_images([path]) for image in split_file(source, reading)}
    work = partial(_read_shape, reading)
    return dict(zip(images, each_image(list(images), work, "sizes", jobs, list(images.values())), strict=True))


def shapes_of_archives(data: Path, submission: Path, jobs: int = -1) -> Shapes:
    """Return the shapes of the test images, stage 1's or 2's, of which a submission has more, of archives in a folder.

    Raises UserError naming the archives that are looked for if none is there.
    """
    names = [name for split, name in ARCHIVES.items() if split != TRAINING]
    paths = [path for name in names for path in (data / FILES[name].file_name, data / name) if path.exists()]
    if not paths:
        looked = " or ".join(FILES[name].file_name for name in names)
        raise UserError(
            f"{data} has no {looked}: name the folder that has it by --data, or the images by --images or --run"
        )
    found = {str(path): [source.name for source in find_images([path])] for path in paths}
    return shapes_of_images(Path(choose_most_shared(found, submission)), jobs)


def shapes_of_run(name: str, runs: Path, submission: Path) -> tuple[Shapes, str]:
    """Return the shapes of the test images of a run of which a submission has most, and what these images are called.

    Raises UserError as open_run does, and if the run has no test images.
    """
    _, config, dataset = open_run(name, runs)
    manifest = dataset.read_manifest()
    splits: dict[str, pd.DataFrame] = {split: manifest[manifest["split"] == split] for split in config.data.unseen}
    ids = {split: rows["image_id"].tolist() for split, rows in splits.items() if len(rows)}
    if not ids:
        raise UserError(f"{name} has no test images: its data.unseen is {', '.join(config.data.unseen) or 'empty'}")
    split = choose_most_shared(ids, submission)
    rows = splits[split]
    shapes = {i: (int(h), int(w)) for i, h, w in zip(rows["image_id"], rows["height"], rows["width"], strict=True)}
    return shapes, TITLES.get(split, split)


def choose_most_shared(ids: Mapping[str, list[str]], submission: Path) -> str:
    """Return the key of `ids` of whose image ids a submission has most; the first if it cannot be read."""
    try:
        said = {cells[0] for _, cells in read_sheet(submission, "submission").rows if cells}
    except ValueError:  # which validate_submission reports
        said = set()
    return max(ids, key=lambda key: len(said.intersection(ids[key])))


def check_submission(submission: Path, shapes: Shapes) -> tuple[list[str], str]:
    """Return every violation of the competition's rules, and what a valid submission holds: 'N images, M nuclei'."""
    if violations := validate_submission(submission, shapes):
        return violations, ""
    nuclei = sum(bool(cells[1].strip()) for _, cells in read_sheet(submission, "submission").rows)
    return [], f"{len(shapes)} images, {nuclei} nuclei"


def _read_shape(reading: Reading, name: str, source: Source) -> tuple[int, int]:  # noqa: ARG001 (of each_image)
    height, width = source.read(reading)[1].shape[:2]
    return height, width
