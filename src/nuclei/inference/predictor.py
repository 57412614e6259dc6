"""A trained run applied to any image: its networks, boosters and thresholds, read once."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import cast

import numpy as np
import torch
from lightgbm import Booster
from lightning_fabric import Fabric
from numpy.typing import NDArray

from nuclei.candidates.boosters import TARGETS, predict_scores, unpack_boosters
from nuclei.candidates.context import Whole
from nuclei.candidates.outlines import grow_labels
from nuclei.candidates.selection import paint
from nuclei.config.load import load_config, parse_config
from nuclei.config.schema import Config
from nuclei.data.novelty import Novelty
from nuclei.decoding.methods import (
    METHODS,
    Labels,
    Prediction,
    choose_candidates,
    choose_growth,
    cut_candidates,
    describe_parts,
    method_of,
    uses_networks,
)
from nuclei.decoding.tuning import Setting
from nuclei.errors import UserError
from nuclei.inference.contents import (
    FILE_OF_CHECKPOINT,
    check_contents,
    check_files,
    list_boosters,
    list_networks,
    list_new,
)
from nuclei.inference.predictions import is_other, read_training, read_tuned
from nuclei.inference.scale import trained_diameter
from nuclei.limits import read_whole
from nuclei.networks.encoder_decoder import Network, load_weights
from nuclei.networks.hardware import choose_precision, one_thread
from nuclei.networks.kinds import KINDS, Forward, build
from nuclei.networks.maps import blend, dequantise, quantise
from nuclei.runs.layout import Run

Image = NDArray[np.uint8]


def load_network(fabric: Fabric, run: Run, config: Config, fold: int | None) -> Network:
    """Build the network of a fold, or the whole one, with its trained weights, in evaluation mode on `fabric`'s device.

    Raises UserError as load_weights does.
    """
    network = build(config.model, None)
    load_weights(network, run.fold(fold) / FILE_OF_CHECKPOINT[config.predict.checkpoint], str(run.config))
    return cast("Network", fabric.to_device(network.eval()))


def load_forwards(run: Run, config: Config, folds: Iterable[int | None]) -> dict[int | None, Forward]:
    """Return the networks of some folds as functions: fold -> batch of images to maps, or to detections."""
    precision = choose_precision(config.train.precision)
    fabric = Fabric(accelerator="auto", devices=1, precision=precision)
    kind = KINDS[config.model.gives]
    return {fold: kind.load(fabric, load_network(fabric, run, config, fold), precision) for fold in folds}


def predict_image(forwards: Sequence[Forward], image: Image, config: Config) -> Prediction:
    """Predict an image, uint8 [H, W, 3], by several networks of one run."""
    return predict_images(forwards, [image], config)[0]


def predict_images(forwards: Sequence[Forward], images: Sequence[Image], config: Config) -> list[Prediction]:
    """Predict images of one size, uint8 [H, W, 3], by several networks of one run."""
    with one_thread():
        return KINDS[config.model.gives].predict(forwards, images, config)


def as_stored(prediction: Prediction) -> Prediction:
    """Return a prediction as it is read back: its maps rounded to steps of 1/255."""
    return Prediction(dequantise(quantise(prediction.maps)), prediction.detections)


def choose_jobs(jobs: int) -> int:
    """Return how many processes are to predict images: one where a GPU does it, else as many as were asked for."""
    return 1 if torch.cuda.is_available() else jobs


def stamp(folder: Path) -> tuple[int, ...]:
    """Return when the networks, boosters and thresholds in the folder of runs were last written."""
    networks = ("*/fold*/*.safetensors", "*/whole/*.safetensors")
    others = ("*/scorer/*.json.gz", "*/select.json", "*/config.yaml", "*/novelty.npz", "*/nuclei.json")
    patterns = (*networks, *others)
    return tuple(path.stat().st_mtime_ns for pattern in patterns for path in sorted(folder.glob(pattern)))


@lru_cache(maxsize=1)
def load_once(
    folder: Path,
    config: str,
    folds: tuple[int | None, ...],
    written: tuple[int, ...],  # noqa: ARG001 (a key)
) -> dict[int | None, Forward]:
    """Return load_forwards of the run in a folder, its config as JSON; a process loads them once."""
    return load_forwards(Run(folder.name, folder.parent), parse_config(json.loads(config), str(folder)), folds)


@dataclass(frozen=True)
class Survey:
    """Hold what is known of a whole image where it is segmented part by part, so that all parts are treated alike."""

    is_other: bool = False  # as predictions.is_other tells, by the middle of the image
    whole: Whole | None = None  # what features say of the whole
    sample: Image | None = None  # uint8 [h, w, 3]: what a recipe without networks chooses its thresholds on


def read_segmenting(run: Run) -> Config:
    """Return the config of a run that segments images; raise UserError if it is no run, or one of label images."""
    if not run.config.is_file():
        raise UserError(f"{run.folder} is no run: it has no config.yaml. Name a folder of runs/, or train one first")
    config = load_config(run.config)
    if method_of(config) is METHODS["labels"]:
        raise UserError(f"{run.name} holds the label images of another tool: it cannot segment other images")
    return config


class Predictor:
    """Segment images as a run segments images that it has not seen.

    run: a finished run whose members lie beside it. Raises UserError naming what of it is missing.
    """

    def __init__(self, run: Run):
        self.config, self.run = read_segmenting(run), run
        self.method = method_of(self.config)
        self.members = [(Predictor(Run(name, run.folder.parent)), w) for name, w in self.config.members.items()]
        self.forwards = [] if self.members or not uses_networks(self.config) else self.load_networks()

    @property
    def has_networks(self) -> bool:
        """Whether it is networks, its own or its members', that find the nuclei."""
        return bool(self.members or self.forwards)

    def load_networks(self) -> list[Forward]:
        """Return the run's own networks; raise UserError if there are none, or not all that new images need."""
        folds = list_new(self.run, self.config)
        if not folds:
            raise UserError(f"{self.run.folder} has no networks: run its stage train first")
        check_files(self.run, list_networks(self.run, self.config))
        return list(load_forwards(self.run, self.config, folds).values())

    def predict(self, image: Image) -> Prediction:
        """Predict an image, uint8 [H, W, 3], as it would be stored; an ensemble averages the maps of its members."""
        if not self.members:
            return as_stored(predict_image(self.forwards, image, self.config))
        predicted = [member.predict(image) for member, _ in self.members]
        if len(predicted) == 1:
            return predicted[0]
        maps = blend([prediction.maps for prediction in predicted], [weight for _, weight in self.members])
        return as_stored(Prediction(maps))

    def survey(self, parts: Sequence[Image], middle: Image, n_pixels: int) -> Survey:
        """Return what is to be the same for all parts of an image of `n_pixels`.

        parts: a sample of it, uint8 [H, W, 3], all of one size; middle: that which statistics.crop_middle has of it.
        """
        if self.method.segment:
            return Survey(sample=np.concatenate(parts, axis=1))
        if self.method.decode:
            return Survey()
        other = is_other(self.run, self.config.selection, middle, by_size=False)
        return Survey(other, describe_parts(self.predict, parts, self.config, n_pixels))

    def segment(
        self, image: Image, of_competition: bool = False, survey: Survey | None = None
    ) -> tuple[Labels, NDArray[np.float32] | None]:
        """Return the labels of an image, uint8 [H, W, 3] -> int32 [H, W], and the predicted IoU of each, if scored.

        of_competition: whether it is an image of the competition, of which the size says something. survey: of the
        image that this one is a part of.
        """
        if self.method.segment:
            return self.method.segment(image, "", self.config, survey.sample if survey else None), None
        prediction = self.predict(image)
        if self.method.decode:
            return next(self.method.decode(prediction, self.config, [self.setting])), None
        candidates, features = cut_candidates(prediction, image, self.config, survey.whole if survey else None)
        scores = predict_scores(self.boosters, features)
        settings = self.config.selection
        other = survey.is_other if survey else is_other(self.run, settings, image, by_size=of_competition)
        chosen = choose_candidates(candidates, scores, self.setting, settings, other)
        labels = paint(candidates, chosen)
        if growth := choose_growth(settings, other):
            labels = grow_labels(labels, prediction.maps["mask"], growth)
        return labels, scores[chosen, TARGETS.index("iou")]

    @cached_property
    def setting(self) -> Setting:
        """The thresholds for new images, which a member of an ensemble does without."""
        check_files(self.run, [self.run.tuned])
        return read_tuned(self.run).new

    @cached_property
    def novelty(self) -> Novelty | None:
        """How unlike the training images an image is; None of a run that was made before that was recorded."""
        training = read_training(self.run)
        return training.novelty() if training else None

    @cached_property
    def trained_diameter(self) -> float:
        """The median diameter in px of the nuclei that the networks learned; an ensemble's members learn the same."""
        return trained_diameter(self.run, self.config)

    @cached_property
    def boosters(self) -> list[dict[str, Booster]]:
        """The sets of boosters for new images: of all folds and seeds, or of the whole and all seeds."""
        paths = list_boosters(self.run, self.config)
        check_files(self.run, paths)
        return [unpack_boosters(read_whole(path), str(path)) for path in paths]


@lru_cache(maxsize=1)
def load_predictor(folder: Path, written: tuple[int, ...]) -> Predictor:  # noqa: ARG001 (a key)
    """Return the Predictor of the run in a folder, all of which is there; a process loads it once."""
    run = Run(folder.name, folder.parent)
    config = read_segmenting(run)
    for name in config.members:
        read_segmenting(Run(name, folder.parent))
    check_contents(run, config)  # before networks are loaded, which takes seconds
    return Predictor(run)
