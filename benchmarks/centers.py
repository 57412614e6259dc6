"""Which center makes the best seeds and energy? One network that learned all kinds, decoded with each, on one fold.

PYTHONPATH=src python -m nuclei train configs/trials/centers.yaml --fold 0
PYTHONPATH=src python benchmarks/centers.py            # 100 images of fold 0, which the network never saw
"""

import numpy as np
from lightning_fabric import Fabric
from numpy.typing import NDArray
from tqdm import tqdm

from nuclei.candidates.selection import expected_gain, score_selection, select_candidates
from nuclei.candidates.table import Maps
from nuclei.candidates.tree import make_candidates, make_energy
from nuclei.config.load import load_config
from nuclei.config.schema import WatershedConfig
from nuclei.decoding.plain import cut_basins, flood_seeds
from nuclei.evaluation.bootstrap import paired_difference
from nuclei.evaluation.metric import THRESHOLDS, best_iou, score_image
from nuclei.inference.predictor import load_network
from nuclei.networks.hardware import choose_precision
from nuclei.networks.tiling import network_forward, predict_maps
from nuclei.runs.layout import Dataset, Run, read_pair

KINDS = ("center", "core", "point", "none")
SEED_LEVELS, MASK_THRESHOLDS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7), (0.4, 0.5, 0.6)


def decode(maps: Maps, truth: NDArray[np.int32], settings: WatershedConfig) -> tuple[list[float], float]:
    """Return the scores of the plain watershed over both thresholds, and that of the best selection of candidates."""
    energy = make_energy(maps, settings.center_weight)
    plain: list[float] = []
    for seed_level in SEED_LEVELS:
        basins = flood_seeds(energy, seed_level, maps["mask"] > min(MASK_THRESHOLDS))
        plain += [score_image(truth, cut_basins(basins, maps["mask"], t, 12))[0] for t in MASK_THRESHOLDS]
    candidates = make_candidates(maps, settings)
    iou, _ = best_iou(truth, candidates.indptr, candidates.pixels)
    gain = expected_gain((iou[:, None] > THRESHOLDS).astype(float), np.full(len(THRESHOLDS), 0.5))
    chosen = select_candidates(candidates, gain)
    return plain, float(score_selection(iou[chosen], THRESHOLDS, int(truth.max())).mean())


def main() -> None:
    config, run = load_config("configs/trials/centers.yaml"), Run("centers")
    dataset = Dataset(config.data)
    table = dataset.read_folds()
    table = table[table["fold"] == 0].sample(100, random_state=0)
    fabric = Fabric(devices=1, precision=choose_precision(config.train.precision))
    forward = network_forward(fabric, load_network(fabric, run, config, 0))
    plain: dict[str, list[list[float]]] = {kind: [] for kind in KINDS}
    best: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for image_id in tqdm(table["image_id"], "centers", unit="image"):
        image, truth = read_pair(dataset, image_id)
        maps = predict_maps(forward, image, config.model, config.predict)
        for kind in KINDS:
            own = {"mask": maps["mask"], "border": maps["border"]} | ({"center": maps[kind]} if kind != "none" else {})
            scores_of_grid, selected_score = decode(own, truth.astype(np.int32), config.watershed)
            plain[kind].append(scores_of_grid)
            best[kind].append(selected_score)
    groups = table["group"].to_numpy()
    top: dict[str, NDArray[np.float64]] = {}
    for kind in KINDS:
        grid = np.array(plain[kind])
        option = int(grid.mean(axis=0).argmax())
        top[kind] = grid[:, option]
        level, threshold = SEED_LEVELS[option // len(MASK_THRESHOLDS)], MASK_THRESHOLDS[option % len(MASK_THRESHOLDS)]
        selected = np.mean(best[kind])
        print(f"{kind}: watershed {top[kind].mean():.4f} at {level}, {threshold}; best selection {selected:.4f}")
    found = {"watershed": top, "best selection": {kind: np.array(scores) for kind, scores in best.items()}}
    for kind in KINDS[1:]:
        for name, scores in found.items():
            difference = paired_difference(scores["center"], scores[kind], groups)
            print(f"center - {kind}, {name}: {difference[0]:+.4f} ({difference[1]:+.4f} to {difference[2]:+.4f})")


if __name__ == "__main__":
    main()
