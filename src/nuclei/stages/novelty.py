"""Training images -> novelty.npz: what they look like in a few numbers, by which later images are known or unlike."""

from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from nuclei.config.schema import Config
from nuclei.data.competition import EXTERNAL_FOLD
from nuclei.data.novelty import describe_training
from nuclei.data.statistics import STATISTICS, describe_image
from nuclei.inference.predictions import write_training
from nuclei.runs.cache import stage
from nuclei.runs.files import read_image
from nuclei.runs.layout import Dataset, Options, Run, hash_images
from nuclei.runs.parallel import each_image

VERSION = 1


def main(run: Run, config: Config, options: Options) -> None:
    dataset = Dataset(config.data, run.folder.parent)
    external = read_prepared(dataset)
    inputs = dataset.inputs() | {f"external_{name}": hash_images(rows) for name, rows in external.items()}
    code = {"statistics": STATISTICS}
    with stage(
        run.meta("novelty"), {}, inputs, [run.novelty], options.force, version=VERSION, code=code, share=True
    ) as needed:
        if not needed:
            return
        table = dataset.read_fold_table()
        sizes = dataset.read_manifest().set_index("image_id")[["height", "width"]]
        # Of external images each is a group of its own, and no fold holds it out.
        rows = [(dataset.image(i), group, fold, *sizes.loc[i]) for i, group, fold in read_rows(table)]
        for name, images in external.items():
            columns = zip(images["image_id"], images["height"], images["width"], strict=True)
            rows += [(dataset.external(name).image(i), f"{name}/{i}", EXTERNAL_FOLD, *size) for i, *size in columns]
        paths = [path for path, *_ in rows]
        names = [path.stem for path in paths]
        described = each_image(names, describe_one, f"{run.name} novelty", options.jobs, paths)
        _, groups, folds, heights, widths = zip(*rows, strict=True)
        write_training(run, describe_training(described, groups, folds, list(zip(heights, widths, strict=True))))


def read_rows(table: pd.DataFrame) -> list[tuple[str, str, int]]:
    """Return image_id, group and fold of the images of a fold table."""
    return list(zip(table["image_id"], table["group"], table["fold"].tolist(), strict=True))


def read_prepared(dataset: Dataset) -> dict[str, pd.DataFrame]:
    """Return the manifests of the external sets that are learned from and prepared, by their names.

    Those of published networks need not be at hand; then nothing is known of what they look like.
    """
    names = [name for name in dataset.settings.external_sets() if dataset.copies_meta(name).is_file()]
    return {name: dataset.read_external(name) for name in names}


def describe_one(_name: str, path: Path) -> NDArray[np.float64]:
    """Describe the image in a file."""
    return describe_image(read_image(path))
