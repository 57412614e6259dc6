"""Maps or detections -> plain/: scores of the plain decodings over their thresholds, and the thresholds chosen on the other folds."""

import numpy as np
import pandas as pd
from joblib import Parallel, delayed
from tqdm import tqdm

from nuclei.candidates.tree import make_energy
from nuclei.config.schema import Config
from nuclei.decoding.detections import decode_detections
from nuclei.decoding.plain import cut_basins, decode_components, flood_seeds
from nuclei.decoding.tuning import choose_per_fold
from nuclei.evaluation.metric import score_image
from nuclei.networks.maps import dequantise
from nuclei.runs.cache import stage
from nuclei.runs.files import read_arrays, read_labels, write_json, write_table
from nuclei.runs.layout import Dataset, Options, Run, find_fingerprint


def main(run: Run, config: Config, options: Options) -> None:
    dataset = Dataset(config.data, run.folder.parent)
    settings = {
        "plain": config.plain.record(),
        "center_weight": config.watershed.center_weight,
        "min_area_px": config.watershed.min_area_px,
    }
    with stage(
        run.meta("plain"), settings, {"maps": find_fingerprint(run, "maps")}, [run.plain], options.force, share=True
    ) as needed:
        if not needed:
            return
        table = dataset.read_folds()
        results = Parallel(options.jobs, return_as="generator")(
            delayed(score_decodings)(run, dataset, config, image_id) for image_id in table["image_id"]
        )
        scores = list(tqdm(results, f"{run.name} plain", len(table), unit="image", mininterval=2))
        for method, options_of_method in list_decodings(config).items():
            grid = np.array([s[method] for s in scores])
            chosen, overall = choose_per_fold(grid, table["fold"].to_numpy())
            write_json(
                run.plain / f"{method}.json",
                {
                    "options": options_of_method,
                    "curve": grid.mean(0).round(5).tolist(),
                    "fold": {str(fold): options_of_method[i] for fold, i in chosen.items()},
                    "test": options_of_method[overall],
                },
            )
            score = [grid[row, chosen[fold]] for row, fold in enumerate(table["fold"])]
            write_table(run.plain / f"{method}.csv", pd.DataFrame({"image_id": table["image_id"], "score": score}))


def list_decodings(config: Config) -> dict[str, list[dict[str, float]]]:
    """Return the threshold settings tried of each plain decoding, in the order that score_decodings follows."""
    masks = config.plain.mask_thresholds
    if config.detects:
        return {"detections": [{"score": s, "mask_threshold": t} for s in config.plain.scores for t in masks]}
    return {
        "components": [{"mask_threshold": t} for t in masks],
        "watershed": [{"seed_level": s, "mask_threshold": t} for s in config.plain.seed_levels for t in masks],
    }


def score_decodings(run: Run, dataset: Dataset, config: Config, image_id: str) -> dict[str, list[float]]:
    """Return the scores of one image under each setting of list_decodings."""
    truth = read_labels(dataset.labels(image_id))
    if config.detects:
        detections = read_arrays(run.detections("oof") / f"{image_id}.npz")
        tried, least = list_decodings(config)["detections"], config.watershed.min_area_px
        labels = (decode_detections(detections, truth.shape, s["score"], s["mask_threshold"], least) for s in tried)
        return {"detections": [score_image(truth, one)[0] for one in labels]}
    maps = dequantise(read_arrays(run.maps("oof") / f"{image_id}.npz"))
    mask, masks, w = maps["mask"], config.plain.mask_thresholds, config.watershed
    components = [score_image(truth, decode_components(mask, t, w.min_area_px))[0] for t in masks]
    energy = make_energy(maps, w.center_weight)
    watershed = []
    for seed_level in config.plain.seed_levels:
        basins = flood_seeds(energy, seed_level, mask > min(masks))
        watershed += [score_image(truth, cut_basins(basins, mask, t, w.min_area_px))[0] for t in masks]
    return {"components": components, "watershed": watershed}
