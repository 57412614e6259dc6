"""From the maps or detections of one image to its nuclei: the same steps for a stage and for a picture of a user.

`config` is an object with the fields of config.Config.
"""

import numpy as np
import pandas as pd

from nuclei.candidates.features import compute_features
from nuclei.candidates.selection import SEARCHES, expected_gain
from nuclei.candidates.table import Candidates
from nuclei.candidates.tree import make_candidates, make_energy
from nuclei.decoding.detections import decode_detections, make_detection_candidates
from nuclei.decoding.plain import cut_basins, decode_components, flood_seeds


def decode_plain(maps: dict, detections: dict | None, config, setting: dict) -> np.ndarray:
    """Return the labels, int32 [H, W], of a plain decoding under its tuned thresholds."""
    threshold, min_area_px = setting["mask_threshold"], config.watershed.min_area_px
    if config.selection.method == "detections":
        return decode_detections(detections, maps["mask"].shape, setting["score"], threshold, min_area_px)
    if config.selection.method == "components":
        return decode_components(maps["mask"], threshold, min_area_px)
    energy = make_energy(maps, config.watershed.center_weight)
    basins = flood_seeds(energy, setting["seed_level"], maps["mask"] > min(config.plain.mask_thresholds))
    return cut_basins(basins, maps["mask"], threshold, min_area_px)


def cut_candidates(maps: dict, detections: dict | None, image: np.ndarray, config) -> tuple[Candidates, pd.DataFrame]:
    """Return the candidates of an image, uint8 [H, W, 3], and their features."""
    # Only maps of unseen images have it, so nothing can be learned from it.
    maps = {name: value for name, value in maps.items() if name != "fold_disagreement"}
    w = config.watershed
    if config.detects:
        candidates = make_detection_candidates(detections, image.shape[:2], w.mask_thresholds, 0.0, w.min_area_px)
    else:
        candidates = make_candidates(maps, w)
    return candidates, compute_features(candidates, maps, image)


def choose_candidates(candidates: Candidates, scores: np.ndarray, setting: dict, search: str) -> np.ndarray:
    """Return the indices of the candidates selected under the tuned setting; scores: [N, 11], as scorer.TARGETS."""
    gain = expected_gain(scores[:, :-1], np.array(setting["precision"])) - setting["keep"]
    return SEARCHES[search](candidates, gain)
