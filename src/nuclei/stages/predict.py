"""Weights and images -> maps/{oof,test}: an image of the fold table by the net that never saw it, others by all.

A detector also leaves detections/{oof,test}, of which its maps are made.
"""

from tqdm import tqdm

from nuclei import runs
from nuclei.config import Config
from nuclei.predictor import load_forwards, predict_image


def main(run: runs.Run, config: Config, options: runs.Options) -> None:
    dataset = runs.Dataset(config.data, run.folder.parent)
    table = dataset.read_folds()
    folds = sorted(table["fold"].unique().tolist())
    inputs = dataset.inputs() | {f"fold{fold}": runs.fingerprint(run.meta(f"train_fold{fold}")) for fold in folds}
    settings = {"predict": config.predict.model_dump(), "images": dataset.choice()}
    outputs = [run.folder / "maps", run.folder / "detections"]
    with runs.stage(run.meta("predict"), settings, inputs, outputs, options.force, share=True) as needed:
        if not needed:
            return
        forwards = load_forwards(run, config, folds)
        fold_of = dict(zip(table["image_id"], table["fold"], strict=True))
        for split, image_ids in dataset.splits().items():
            for image_id in tqdm(image_ids, f"{run.name} predict {split}", unit="image", mininterval=2):
                path = run.maps(split) / f"{image_id}.npz"
                if path.is_file():  # by a run that was killed
                    continue
                chosen = [fold_of[image_id]] if split == "oof" else folds
                image = runs.read_image(dataset.image(image_id))
                maps, detections = predict_image([forwards[fold] for fold in chosen], image, config)
                if detections is not None:
                    runs.write_arrays(run.detections(split) / path.name, detections)
                runs.write_arrays(path, maps)
