"""A trained run applied to any image: its networks, boosters and thresholds, read once."""

import json
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from lightning_fabric import Fabric
from safetensors.torch import load_file

from nuclei.candidates.boosters import TARGETS, Boosters, predict_scores, unpack_boosters
from nuclei.candidates.selection import paint
from nuclei.config.load import load_config, parse_config
from nuclei.config.schema import Config
from nuclei.decoding.detections import make_maps
from nuclei.decoding.methods import choose_candidates, cut_candidates, decode_plain
from nuclei.networks.hardware import choose_precision, one_thread
from nuclei.networks.kinds import build
from nuclei.networks.maps import average_folds, blend, dequantise, quantise
from nuclei.networks.mask_rcnn import detect, detector_forward, merge_detections
from nuclei.networks.tiling import freeze, network_forward, predict_maps
from nuclei.runs.cache import StageError
from nuclei.runs.files import read_json
from nuclei.runs.layout import Run

FILE_OF_CHECKPOINT = {"last": "weights.safetensors", "best": "best.safetensors"}
SAME_NUCLEUS = 0.5  # IoU of boxes above which the detections of two networks are of one nucleus


def load_network(fabric: Fabric, run: Run, config: Config, fold: int):
    """Build the network of a fold with its trained weights, in evaluation mode on `fabric`'s device."""
    network = build(config.model, None)
    network.load_state_dict(load_file(run.fold(fold) / FILE_OF_CHECKPOINT[config.predict.checkpoint]))
    return fabric.to_device(network.eval())


def load_forwards(run: Run, config: Config, folds) -> dict:
    """Return the networks of some folds as functions: fold -> batch of images to maps, or to detections."""
    precision = choose_precision(config.train.precision)
    fabric = Fabric(accelerator="auto", devices=1, precision=precision)
    networks = {fold: load_network(fabric, run, config, fold) for fold in folds}
    if config.detects:
        return {fold: detector_forward(fabric, network) for fold, network in networks.items()}
    if fabric.device.type == "cpu" and precision == "32-true":
        networks = {fold: freeze(network) for fold, network in networks.items()}
    return {fold: network_forward(fabric, network) for fold, network in networks.items()}


def predict_image(forwards: list, image: np.ndarray, config: Config) -> tuple[dict, dict | None]:
    """Return the maps of an image, uint8 and averaged over networks, and detections, pooled, where those are predicted."""
    p = config.predict
    with one_thread():
        if config.detects:
            detections = merge_detections([detect(f, image, p.tile_px, p.overlap_px) for f in forwards], SAME_NUCLEUS)
            return quantise(make_maps(detections, image.shape[:2])), detections
        maps = [
            predict_maps(
                f, image, config.model.channels, p.tta, p.scales, p.tile_px, p.overlap_px, config.model.min_side_px
            )
            for f in forwards
        ]
        return quantise(average_folds(maps)), None


def choose_jobs(jobs: int) -> int:
    """Return how many processes are to predict images: one where a GPU does it, else as many as were asked for."""
    return 1 if torch.cuda.is_available() else jobs


def stamp(folder: Path) -> tuple[int, ...]:
    """Return when the networks, boosters and thresholds in the folder of runs were last written."""
    patterns = ("*/fold*/*.safetensors", "*/scorer/fold*", "*/select.json", "*/config.yaml")
    return tuple(path.stat().st_mtime_ns for pattern in patterns for path in sorted(folder.glob(pattern)))


@lru_cache(maxsize=1)
def load_once(folder: Path, config: str, folds: tuple[int, ...], written: tuple[int, ...]) -> dict:
    """Return load_forwards of the run in a folder, its config as JSON; a process that has them does not load them again."""
    return load_forwards(Run(folder.name, folder.parent), parse_config(json.loads(config), str(folder)), folds)


def read_boosters(path: Path) -> Boosters:
    """Read a set of boosters, one per target, from a file of the stage score."""
    return unpack_boosters(path.read_bytes(), str(path))


class Predictor:
    """Segment images as a run segments images that it has not seen.

    run: a finished run whose members lie beside it. Raises StageError naming what of it is missing.
    """

    def __init__(self, run: Run):
        if not run.config.is_file():
            raise StageError(
                f"{run.folder} is no run: it has no config.yaml. Name a folder of runs/, or train one first"
            )
        self.config, self.run = load_config(run.config), run
        self.members = [(Predictor(Run(name, run.folder.parent)), w) for name, w in self.config.members.items()]
        if not self.members:
            folds = sorted(int(path.name[4:]) for path in run.folder.glob("fold*") if path.is_dir())
            if not folds:
                raise StageError(f"{run.folder} has no networks: run its stage train first")
            self.forwards = list(load_forwards(run, self.config, folds).values())
        self.scored, self.tuned = self.config.selection.method == "scored", None

    def predict(self, image: np.ndarray) -> tuple[dict, dict | None]:
        """Return the maps of an image as they are stored, and its detections if the run detects."""
        if not self.members:
            return predict_image(self.forwards, image, self.config)
        predicted = [member.predict(image) for member, _ in self.members]
        if len(predicted) == 1:
            return predicted[0]
        return quantise(
            blend([dequantise(maps) for maps, _ in predicted], [weight for _, weight in self.members])
        ), None

    def segment(self, image: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """Return the labels of an image, uint8 [H, W, 3] -> int32 [H, W], and the predicted IoU of each, if it is scored."""
        self.load_tuned()
        maps, detections = self.predict(image)
        maps = dequantise(maps)
        if not self.scored:
            return decode_plain(maps, detections, self.config, self.tuned), None
        candidates, features = cut_candidates(maps, detections, image, self.config)
        scores = predict_scores(self.boosters, features)
        chosen = choose_candidates(candidates, scores, self.tuned, self.config.selection.search)
        return paint(candidates, chosen), scores[chosen, TARGETS.index("iou")]

    def load_tuned(self) -> None:
        """Read thresholds and boosters, which a member of an ensemble does without."""
        if self.tuned is None:
            if not self.run.tuned.is_file():
                raise StageError(f"{self.run.tuned} is missing: run the stage select of {self.run.name} first")
            self.tuned = read_json(self.run.tuned)["test"]
            paths = sorted(self.run.scorer.glob("fold*_seed*.json.gz")) if self.scored else []
            self.boosters = [read_boosters(path) for path in paths]


@lru_cache(maxsize=1)
def load_predictor(folder: Path, written: tuple[int, ...]) -> Predictor:
    """Return the Predictor of the run in a folder; a process that has it does not load it again."""
    return Predictor(Run(folder.name, folder.parent))
