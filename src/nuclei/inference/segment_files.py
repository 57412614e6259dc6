"""A trained run applied to a user's images: labels, outlines, measurements, what other tools open, a submission."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import tifffile
from joblib import Parallel, delayed
from numpy.typing import NDArray
from tqdm import tqdm

from nuclei.data.archives import Archive, is_clutter, open_archive
from nuclei.data.images import decode_image
from nuclei.errors import UserError
from nuclei.evaluation.submission import validate_submission, write_submission
from nuclei.inference.bundle import find_run
from nuclei.inference.exports import FORMATS, LABELS, TABLE, Segmented, measure_nuclei
from nuclei.inference.predictor import choose_jobs, load_predictor, stamp
from nuclei.runs.files import atomic, read_image, write_bytes

SUFFIXES = (".png", ".tif", ".tiff", ".jpg", ".jpeg", ".bmp", ".webp")


@dataclass(frozen=True)
class Source:
    """Hold one image to be segmented: its name, which those of its results begin with, and how it is read."""

    name: str
    read: Callable[[], NDArray[np.uint8]]  # -> uint8 [H, W, 3]


def is_image(path: Path) -> bool:
    """Return whether a file of a folder is meant as an image, and no left-over of an operating system."""
    return path.suffix.lower() in SUFFIXES and not is_clutter(path.name)


def find_images(paths: Iterable[Path]) -> list[Source]:
    """Return the images among files, folders of them, and official archives (zips or extracted), in order.

    Raises UserError on a missing path, a folder without images, and two images of one name, whose results would
    overwrite each other.
    """
    found = []
    for path in paths:
        if not path.exists():
            raise UserError(f"no image or folder {path}")
        files = sorted(p for p in path.iterdir() if is_image(p)) if path.is_dir() else [path]
        if path.suffix.lower() == ".zip" or (not files and any(path.glob("*/images/*.png"))):
            archive = open_archive(path, "test")
            found += [Source(i, partial(read_from_archive, archive, i)) for i in archive.image_ids]
        elif not files:
            raise UserError(f"no images in {path}; looked for *{', *'.join(SUFFIXES)}")
        else:
            found += [Source(file.stem, partial(read_image, file)) for file in files]
    names = pd.Series([source.name for source in found])
    if names.duplicated().any():
        raise UserError(
            f"two images are called {names[names.duplicated()].iloc[0]}: rename one, or give them in two calls"
        )
    return found


def read_from_archive(archive: Archive, image_id: str) -> NDArray[np.uint8]:
    """Return an image of an archive, uint8 [H, W, 3]."""
    name = archive.image_name(image_id)
    return decode_image(archive.read(name), f"{archive.path}: {name}")


def segment_files(
    images: Iterable[Path],
    weights: Path,
    output: Path,
    force: bool = False,
    submission: Path | None = None,
    jobs: int = -1,
) -> pd.DataFrame:
    """Segment images by the run or bundle in the folder `weights`, write their results and return a row per image.

    Per image a file in each of exports.FORMATS; for all together, if asked for, a `submission` whose ids are the
    images' names. An image that has its results is skipped unless `force`; the table of nuclei is written last, so that
    a killed call is not taken for a finished one. jobs: processes; -1: one per core. Raises what find_images and
    Predictor raise, and ValueError naming a damaged image.
    """
    found, folder = find_images(images), find_run(weights).folder
    predictor = folder, stamp(folder.parent)
    load_predictor(*predictor)  # reports what it lacks once, before every process does
    tables = {source.name: output / f"{source.name}{TABLE}" for source in found}
    missing = [source for source in found if force or not tables[source.name].is_file()]
    results = Parallel(choose_jobs(jobs), return_as="generator_unordered")(
        delayed(segment_one)(source, predictor, output) for source in missing
    )
    for _ in tqdm(results, "segment", len(missing), unit="image"):
        pass
    if submission:
        submit(found, output, submission)
    return pd.DataFrame([{"image": name, "n_nuclei": len(pd.read_csv(table))} for name, table in tables.items()])


def segment_one(source: Source, predictor: tuple[Path, tuple[int, ...]], output: Path) -> None:
    """Segment one image by load_predictor(*predictor) and write its results in all FORMATS, in their order."""
    image = source.read()
    labels, iou = load_predictor(*predictor).segment(image)
    measures = measure_nuclei(labels, image)
    if iou is not None:
        measures["predicted_iou"] = iou[measures["label"].to_numpy() - 1]
    segmented = Segmented(image, labels, measures)
    for ending, encode in FORMATS.items():
        write_bytes(output / f"{source.name}{ending}", encode(segmented))


def submit(sources: list[Source], output: Path, submission: Path) -> None:
    """Write the label images of `output` as a submission; raise UserError if it breaks the competition's rules."""
    labels = {source.name: tifffile.imread(output / f"{source.name}{LABELS}") for source in sources}
    with atomic(submission) as temporary:
        with temporary.open("w", newline="") as file:
            write_submission(file, labels.items())
        shapes = {name: (array.shape[0], array.shape[1]) for name, array in labels.items()}
        if violations := validate_submission(temporary, shapes):
            raise UserError(f"{submission} would break the rules:\n  " + "\n  ".join(violations[:20]))
