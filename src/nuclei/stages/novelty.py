"""Training images -> novelty.npz: what they look like in a few numbers, by which later images are known or unlike."""

from functools import partial

import numpy as np
from numpy.typing import NDArray

from nuclei.config.schema import Config
from nuclei.data.novelty import describe_training
from nuclei.data.statistics import STATISTICS, describe_image
from nuclei.inference.predictions import write_training
from nuclei.runs.cache import stage
from nuclei.runs.files import read_image
from nuclei.runs.layout import Dataset, Options, Run
from nuclei.runs.parallel import each_image

VERSION = 1


def main(run: Run, config: Config, options: Options) -> None:
    dataset = Dataset(config.data, run.folder.parent)
    code = {"statistics": STATISTICS}
    with stage(
        run.meta("novelty"), {}, dataset.inputs(), [run.novelty], options.force, version=VERSION, code=code, share=True
    ) as needed:
        if not needed:
            return
        table = dataset.read_fold_table()
        work = partial(describe_one, dataset)
        described = each_image(table["image_id"].tolist(), work, f"{run.name} novelty", options.jobs)
        manifest = dataset.read_manifest().set_index("image_id").loc[table["image_id"]]
        sizes = list(zip(manifest["height"].tolist(), manifest["width"].tolist(), strict=True))
        write_training(run, describe_training(described, table["group"].tolist(), table["fold"].tolist(), sizes))


def describe_one(dataset: Dataset, image_id: str) -> NDArray[np.float64]:
    return describe_image(read_image(dataset.image(image_id)))
