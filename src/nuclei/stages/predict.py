"""Weights and images -> maps/{oof,test}: an image of the fold table by the net that never saw it, others by all.

A detector also leaves detections/{oof,test}, of which its maps are made.
"""

from joblib import Parallel, delayed
from tqdm import tqdm

from nuclei.config.schema import Config
from nuclei.inference.predictor import choose_jobs, load_once, predict_image, stamp
from nuclei.runs.cache import fingerprint, stage
from nuclei.runs.files import read_image, write_arrays
from nuclei.runs.layout import Dataset, Options, Run


def main(run: Run, config: Config, options: Options) -> None:
    dataset = Dataset(config.data, run.folder.parent)
    table = dataset.read_folds()
    folds = sorted(table["fold"].unique().tolist())
    inputs = dataset.inputs() | {f"fold{fold}": fingerprint(run.meta(f"train_fold{fold}")) for fold in folds}
    settings = {"predict": config.predict.record(), "images": dataset.choice()}
    outputs = [run.folder / "maps", run.folder / "detections"]
    with stage(run.meta("predict"), settings, inputs, outputs, options.force, share=True) as needed:
        if not needed:
            return
        fold_of = dict(zip(table["image_id"], table["fold"], strict=True))
        networks = run.folder, config.model_dump_json(), tuple(folds), stamp(run.folder.parent)
        for split, image_ids in dataset.splits().items():
            chosen = {i: [fold_of[i]] if split == "oof" else folds for i in image_ids}
            results = Parallel(choose_jobs(options.jobs), return_as="generator_unordered")(
                delayed(predict_one)(run, dataset, config, split, i, chosen[i], networks) for i in image_ids
            )
            for _ in tqdm(results, f"{run.name} predict {split}", len(image_ids), unit="image", mininterval=2):
                pass


def predict_one(run: Run, dataset: Dataset, config: Config, split: str, image_id: str, folds, networks) -> None:
    """Predict one image by the networks of some folds, which are load_once(*networks), and write its maps."""
    path = run.maps(split) / f"{image_id}.npz"
    if path.is_file():  # by a run that was killed
        return
    forwards = load_once(*networks)
    maps, detections = predict_image([forwards[fold] for fold in folds], read_image(dataset.image(image_id)), config)
    if detections is not None:
        write_arrays(run.detections(split) / path.name, detections)
    write_arrays(path, maps)
