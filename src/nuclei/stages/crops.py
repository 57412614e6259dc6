"""Images and labels -> crops/: augmented crops with their targets and folds, which all networks of a run learn from.

Augmentation costs a core milliseconds a crop, and a GPU with a small network takes thousands a second. A crop made once
serves all folds but its own, and the crops of a run serve every other run that asks for the same ones.
"""

import numpy as np
from numpy.lib.format import open_memmap
from torch.utils.data import DataLoader
from tqdm import tqdm

from nuclei.config.schema import Config
from nuclei.inference.bundle import has_networks
from nuclei.networks.hardware import data_worker
from nuclei.runs.cache import stage
from nuclei.runs.cores import count_jobs
from nuclei.runs.files import atomic
from nuclei.runs.layout import Dataset, Options, Run, add_external, read_training_pairs
from nuclei.stages.external import external_inputs
from nuclei.training.crops import Crops, make_source, pool_settings

VERSION = 1
BATCH = 32


def main(run: Run, config: Config, options: Options) -> None:
    dataset, channels, size = Dataset(config.data, run.folder.parent), config.model.channels, config.train.crop_px
    if has_networks(run, config, dataset, options.published) and not options.force:
        print(f"{run.name} crops: not needed, the networks are there", flush=True)
        return
    with stage(
        run.meta("crops"),
        pool_settings(config),
        dataset.inputs() | external_inputs(dataset),
        [run.crops],
        options.force,
        version=VERSION,
        share=True,
    ) as needed:
        if not needed:
            return
        n = config.train.pool
        table = dataset.read_fold_table()
        external = dataset.external_table()
        pairs = read_training_pairs(dataset, table, external, config)
        source = make_source(pairs, add_external(table, external), config.train, by_fold=True)
        crops = Crops(source, config.model, config.train, n, config.train.seed)
        loader = DataLoader(crops, BATCH, num_workers=count_jobs(options.jobs), worker_init_fn=data_worker())
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
