"""Weights and images -> maps/{oof,test}: an image of the fold table by the net that never saw it, others by all."""

from lightning_fabric import Fabric
from safetensors.torch import load_file
from tqdm import tqdm

from nuclei import runs
from nuclei.blend import average_folds, quantise
from nuclei.config import Config
from nuclei.engine import choose_precision
from nuclei.inference import network_forward, predict_maps
from nuclei.mask_rcnn import detect, detector_forward, make_maps, merge_detections
from nuclei.networks import build

FILE_OF_CHECKPOINT = {"last": "weights.safetensors", "best": "best.safetensors"}
DETECTION_OVERLAP = 0.5  # IoU of boxes above which two networks have found the same nucleus


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
        fabric = Fabric(accelerator="auto", devices=1, precision=choose_precision(config.train.precision))
        prepare, write = (detector_forward, write_detections) if config.detects else (network_forward, write_maps)
        forwards = {fold: prepare(fabric, load_network(fabric, run, config, fold)) for fold in folds}
        fold_of = dict(zip(table["image_id"], table["fold"], strict=True))
        for split, image_ids in dataset.splits().items():
            for image_id in tqdm(image_ids, f"{run.name} predict {split}", unit="image", mininterval=2):
                if (run.maps(split) / f"{image_id}.npz").is_file():  # by a run that was killed
                    continue
                chosen = [fold_of[image_id]] if split == "oof" else folds
                image = runs.read_image(dataset.image(image_id))
                write(run, config, split, image_id, image, [forwards[fold] for fold in chosen])


def load_network(fabric: Fabric, run: runs.Run, config: Config, fold: int):
    """Build the network of a fold with its trained weights, in evaluation mode on `fabric`'s device."""
    network = build(config.model, None)
    network.load_state_dict(load_file(run.fold(fold) / FILE_OF_CHECKPOINT[config.predict.checkpoint]))
    return fabric.to_device(network.eval())


def write_maps(run: runs.Run, config: Config, split: str, image_id: str, image, forwards: list) -> None:
    """Write the maps of one image, averaged over networks."""
    maps = [predict(forward, image, config) for forward in forwards]
    runs.write_arrays(run.maps(split) / f"{image_id}.npz", quantise(average_folds(maps)))


def predict(forward, image, config: Config):
    p = config.predict
    return predict_maps(forward, image, config.model.channels, p.tta, p.scales, p.tile_px, p.overlap_px)


def write_detections(run: runs.Run, config: Config, split: str, image_id: str, image, forwards: list) -> None:
    """Write the detections of one image, pooled over networks, and then the map made of them."""
    p = config.predict
    detections = merge_detections([detect(f, image, p.tile_px, p.overlap_px) for f in forwards], DETECTION_OVERLAP)
    runs.write_arrays(run.detections(split) / f"{image_id}.npz", detections)
    runs.write_arrays(run.maps(split) / f"{image_id}.npz", quantise(make_maps(detections, image.shape[:2])))
