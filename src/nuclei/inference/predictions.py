"""What a run keeps of one image: its prediction, its scored candidates, and the thresholds that it is decoded with.

Maps are stored in steps of 1/255, maps/<split>/<id>.npz; a detector also leaves detections/<split>/<id>.npz.
"""

import numpy as np
from numpy.typing import NDArray

from nuclei.candidates.table import Candidates
from nuclei.config.schema import SelectionConfig
from nuclei.data.novelty import TrainingImages
from nuclei.data.statistics import STATISTICS
from nuclei.decoding.methods import Prediction, treats_others
from nuclei.decoding.tuning import Tuned
from nuclei.errors import UserError
from nuclei.networks.maps import dequantise, quantise
from nuclei.runs.files import named, read_arrays, read_image, read_json, write_arrays
from nuclei.runs.layout import Dataset, Run


def write_prediction(run: Run, split: str, image_id: str, prediction: Prediction) -> None:
    """Write the maps of one image, and before them its detections, so that what has maps is complete."""
    if prediction.detections is not None:
        write_arrays(run.detections(split) / f"{image_id}.npz", prediction.detections)
    write_arrays(run.maps(split) / f"{image_id}.npz", quantise(prediction.maps))


def read_prediction(run: Run, split: str, image_id: str) -> Prediction:
    """Read the maps of one image, and its detections if there are any; raise FileNotFoundError if there are no maps."""
    path, detections = (folder / f"{image_id}.npz" for folder in (run.maps(split), run.detections(split)))
    with named(path):
        maps = dequantise(read_arrays(path))
    return Prediction(maps, read_arrays(detections) if detections.is_file() else None)


def read_scored(run: Run, split: str, image_id: str) -> tuple[Candidates, NDArray[np.float32]]:
    """Read the N candidates of one image and their scores, [N, 11], columns as boosters.TARGETS."""
    path = run.candidates(split) / f"{image_id}.npz"
    with named(path):
        candidates = Candidates.unpack(read_arrays(path))
    return candidates, read_arrays(run.scores(split) / f"{image_id}.npz", ["scores"])["scores"]


def read_tuned(run: Run) -> Tuned:
    """Read the thresholds that a run's images are decoded with."""
    return Tuned.from_json(read_json(run.tuned), str(run.tuned))


def write_training(run: Run, training: TrainingImages) -> None:
    """Write what is known of a run's training images."""
    write_arrays(run.novelty, {"statistics": np.array(STATISTICS), **vars(training)})


def read_training(run: Run) -> TrainingImages | None:
    """Read what is known of a run's training images; None of a run that was made before that was recorded.

    Raises UserError naming the file if it is damaged, or made by code that measured images otherwise.
    """
    if not run.novelty.is_file():
        return None
    with named(run.novelty, "the stage novelty"):
        arrays = read_arrays(run.novelty, ["statistics", "described", "groups", "folds", "sizes"])
        if tuple(arrays["statistics"].tolist()) != STATISTICS:
            raise ValueError("it holds other statistics than are measured now")
        return TrainingImages(arrays["described"], arrays["groups"], arrays["folds"], arrays["sizes"])


def is_other(
    run: Run, settings: SelectionConfig, image: NDArray[np.uint8], fold: int | None = None, by_size: bool = True
) -> bool:
    """Tell whether an image, uint8 [H, W, 3], was acquired otherwise than those that the networks learned from.

    fold: that which holds the image out; None for a new image. by_size: whether it is of the competition, as
    Novelty.is_other_acquisition has it. Where the settings treat such images like all others,
    nothing is measured and the answer is no. Raises UserError if the run knows nothing of its training images.
    """
    if not treats_others(settings):
        return False
    training = read_training(run)
    if training is None:
        raise UserError(f"{run.novelty} is missing, which tells images like those of training: run the stage novelty")
    return training.novelty(fold).is_other_acquisition(image, by_size)


def is_other_of(run: Run, settings: SelectionConfig, dataset: Dataset, image_id: str, fold: int | None) -> bool:
    """Tell the same of an image of a run, which is read only if the answer matters."""
    return treats_others(settings) and is_other(run, settings, read_image(dataset.image(image_id)), fold)
