"""Weights and images -> maps/{oof,test}: an image of the fold table by the net that never saw it, others by all."""

from pathlib import Path

from lightning_fabric import Fabric
from safetensors.torch import load_file
from tqdm import tqdm

from nuclei import runs
from nuclei.blend import average_folds, quantise
from nuclei.config import Config
from nuclei.inference import network_forward, predict_maps
from nuclei.model import build_network

FILE_OF_CHECKPOINT = {"last": "weights.safetensors", "best": "best.safetensors"}


def main(run: runs.Run, config: Config, options: runs.Options) -> None:
    dataset = runs.Dataset(config.data.dataset, run.folder.parent)
    table = runs.read_table(Path(config.data.folds))
    folds = sorted(table["fold"].unique().tolist())
    inputs = {"data": runs.fingerprint(dataset.meta), "folds": runs.file_hash(Path(config.data.folds))}
    inputs |= {f"fold{fold}": runs.fingerprint(run.meta(f"train_fold{fold}")) for fold in folds}
    settings = {"predict": config.predict.model_dump()}
    with runs.stage(run.meta("predict"), settings, inputs, [run.folder / "maps"], options.force) as needed:
        if not needed:
            return
        fabric = Fabric(accelerator="auto", devices=1, precision=config.train.precision)
        forwards = {fold: network_forward(fabric, load_network(fabric, run, config, fold)) for fold in folds}
        fold_of = dict(zip(table["image_id"], table["fold"], strict=True))
        for split, image_ids in dataset.splits(Path(config.data.folds)).items():
            for image_id in tqdm(image_ids, f"{run.name} predict {split}", unit="image", mininterval=2):
                path = run.maps(split) / f"{image_id}.npz"
                if path.is_file():  # by a run that was killed
                    continue
                image = runs.read_image(dataset.image(image_id))
                chosen = [fold_of[image_id]] if split == "oof" else folds
                maps = [predict(forwards[fold], image, config) for fold in chosen]
                runs.write_arrays(path, quantise(average_folds(maps)))


def load_network(fabric: Fabric, run: runs.Run, config: Config, fold: int):
    """Build the network of a fold with its trained weights, in evaluation mode on `fabric`'s device."""
    m = config.model
    network = build_network(m.decoder, m.encoder, None, m.decoder_channels, len(m.channels), m.mean, m.std)
    network.load_state_dict(load_file(run.fold(fold) / FILE_OF_CHECKPOINT[config.predict.checkpoint]))
    return fabric.to_device(network.eval())


def predict(forward, image, config: Config):
    p = config.predict
    return predict_maps(forward, image, config.model.channels, p.tta, p.scales, p.tile_px, p.overlap_px)
