"""Images and labels -> crops/: augmented crops with their targets and folds, which all networks of a run learn from.

Augmentation costs a core milliseconds a crop, and a GPU with a small network takes thousands a second. A crop made once
serves all folds but its own, and the crops of a run serve every other run that asks for the same ones.
"""

import os

import numpy as np
from numpy.lib.format import open_memmap
from torch.utils.data import DataLoader
from tqdm import tqdm

from nuclei.config.schema import Config
from nuclei.inference.bundle import find_published
from nuclei.networks.hardware import single_thread
from nuclei.runs.cache import stage
from nuclei.runs.files import atomic, read_table
from nuclei.runs.layout import Dataset, Options, Run, name_fold, read_pairs
from nuclei.training.crops import Crops, make_source, pool_settings

VERSION = 1
BATCH = 32


def main(run: Run, config: Config, options: Options) -> None:
    dataset, channels, size = Dataset(config.data, run.folder.parent), config.model.channels, config.train.crop_px
    networks = [
        run.meta(f"train_{name_fold(fold)}").is_file() or (options.published and find_published(config, dataset, fold))
        for fold in [*dataset.list_folds(), *([None] if config.predict.new_images == "whole" else [])]
    ]
    if all(networks) and not options.force:
        print(f"{run.name} crops: not needed, the networks are there", flush=True)
        return
    with stage(
        run.meta("crops"),
        pool_settings(config),
        dataset.inputs(),
        [run.crops],
        options.force,
        version=VERSION,
        share=True,
    ) as needed:
        if not needed:
            return
        n = config.train.pool
        table = read_table(dataset.folds)
        pairs = read_pairs(dataset, table["image_id"], config.model.min_side_px)
        source = make_source(pairs, table, config.train, by_fold=True)
        crops = Crops(source, config.model, config.train, n, config.train.seed)
        jobs = (os.cpu_count() or 1) if options.jobs < 0 else options.jobs
        loader = DataLoader(crops, BATCH, num_workers=jobs, worker_init_fn=single_thread)
        with (
            atomic(run.crops / "images.npy") as image_path,
            atomic(run.crops / "targets.npy") as target_path,
            tqdm(total=n, desc=f"{run.name} crops", unit="crop", mininterval=2) as progress,
        ):
            images, targets = (
                open_memmap(path, "w+", np.uint8, (n, depth, size, size))
                for path, depth in ((image_path, 3), (target_path, len(channels)))
            )
            for image, target in loader:
                part = slice(progress.n, progress.n + len(image))
                images[part], targets[part] = image.numpy(), (target.float() * 255).round().numpy()
                progress.update(len(image))
        with atomic(run.crops / "folds.npy") as path:
            np.save(path, crops.fold_of)
