"""What stages left of a run and of those it borrows from, read for a report; and the report's files, written."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import yaml
from safetensors import safe_open

from nuclei.candidates.boosters import TARGETS
from nuclei.candidates.table import Candidates
from nuclei.candidates.tree import make_energy
from nuclei.config.load import merge
from nuclei.config.schema import Config
from nuclei.data.labels import count_touching
from nuclei.evaluation.summary import bin_predictions
from nuclei.networks.maps import dequantise
from nuclei.report.blocks import Block, Missing, Picture, render_html, render_markdown
from nuclei.runs.files import read_arrays, read_image, read_json, read_labels, read_table, write_bytes
from nuclei.runs.layout import Dataset, Run

REPORTS = ("report", "writeup")  # stages that a report is not about
NUCLEI_OF_EXAMPLE = (20, 80)  # of the image that the pipeline is shown on: enough to touch, few enough to be seen
MIN_TOUCHING = 6
BUFFERS = ("running_mean", "running_var", "num_batches_tracked", "mean", "std")  # of a network, not learned by gradient


def write_report(folder: Path, name: str, title: str, blocks: list[Block]) -> None:
    """Write <name>.md with figures/, and <name>.html, which holds them, into a folder."""
    for block in blocks:
        if isinstance(block, Picture):
            write_bytes(folder / "figures" / f"{block.name}.png", block.png)
    write_bytes(folder / f"{name}.md", render_markdown(title, blocks).encode())
    write_bytes(folder / f"{name}.html", render_html(title, blocks).encode())


def attempt(run: Run, make: Callable[[], Iterator[Block]]) -> Iterator[Block]:
    """Yield what `make` gives up to the first block that needs a file which is not there, and name that file."""
    try:
        yield from make()
    except FileNotFoundError as error:
        yield Missing(name_file(run, Path(error.filename)))


def name_file(run: Run, path: Path) -> str:
    """Return a file's path below the folder of all runs, or as it is if it lies elsewhere."""
    root = run.folder.parent
    return str(path.relative_to(root) if path.is_relative_to(root) else path)


def list_parts(run: Run, members) -> dict[str, list[str]]:
    """Return a run and all that it borrows from, theirs before them: name -> names of its members."""
    found = {}
    for name, content in ((name, read_configs(run, [name]).get(name, {})) for name in members):
        found |= list_parts(Run(name, run.folder.parent), content.get("members", []))
    return found | {run.name: list(members)}


def list_networks(run: Run, config: Config) -> list[Run]:
    """Return the runs whose networks a run's maps are from: those of its parts that train."""
    if config.selection.method == "classical":
        return []
    parts = list_parts(run, config.members)
    return [Run(name, run.folder.parent) for name, members in parts.items() if not members]


def read_configs(run: Run, names) -> dict[str, dict]:
    """Return the saved configs of the named runs beside a run, of those that have one."""
    paths = {name: Run(name, run.folder.parent).config for name in names}
    return {name: yaml.safe_load(path.read_text()) for name, path in paths.items() if path.is_file()}


def read_networks(run: Run, config: Config) -> dict[str, dict]:
    """Return the saved configs of a run's networks, {run: config}; keys that they lack have today's defaults."""
    saved = read_configs(run, [network.name for network in list_networks(run, config)])
    return {name: merge(Config().model_dump(mode="json"), content) for name, content in saved.items()}


def count_parameters(path: Path) -> int:
    """Count the learned numbers in a file of weights without reading them."""
    with path.open("rb"), safe_open(path, "numpy") as file:
        names = [name for name in file.keys() if name.split(".")[-1] not in BUFFERS]  # noqa: SIM118 (no mapping: it has keys, but no iterator)
        return sum(int(np.prod(file.get_slice(name).get_shape())) for name in names)


def read_metas(folder: Path) -> list[dict]:
    """Read the metas of the stages that a report is about; its own is none of them."""
    return [read_json(path) for path in sorted(folder.glob("*.json")) if path.stem not in REPORTS]


def read_all_metas(run: Run, names, dataset: Dataset) -> dict[str, list[dict]]:
    """Read the metas of the prepared data and of the named runs beside a run: {data or run: metas}."""
    folders = {f"data/{dataset.name}": dataset.meta.parent}
    folders |= {name: Run(name, run.folder.parent).meta("evaluate").parent for name in names}
    return {name: read_metas(folder) for name, folder in folders.items()}


def read_histories(network: Run, folds) -> tuple[dict[str, pd.DataFrame], list[Missing]]:
    """Read the histories of a run's trainings, {fold: table}, and name those that are not there."""
    paths = {str(fold): network.fold(fold) / "history.csv" for fold in folds}
    missing = [Missing(name_file(network, path)) for path in paths.values() if not path.is_file()]
    return {fold: read_table(path) for fold, path in paths.items() if path.is_file()}, missing


def read_steps(run: Run, config: Config, dataset: Dataset) -> dict:
    """Read what every step made of one typical image: arguments of sections.write_pipeline."""
    image_id = choose_typical(read_table(run.per_image("oof")), dataset)
    steps = {"image_id": image_id, "maps": {}}
    if config.selection.method != "classical":
        steps["maps"] = dequantise(read_arrays(run.maps("oof") / f"{image_id}.npz"))
        steps["energy"] = make_energy(steps["maps"], config.watershed.center_weight)
    if config.selection.method == "scored":
        steps["candidates"] = Candidates.unpack(read_arrays(run.candidates("oof") / f"{image_id}.npz"))
        steps["score"] = read_iou(run, image_id)
    steps["instances"] = read_labels(run.instances("oof") / f"{image_id}.png")
    return steps | {"image": read_image(dataset.image(image_id))}


def choose_typical(images: pd.DataFrame, dataset: Dataset) -> str:
    """Return the image nearest the median score that has a number of nuclei that can be seen, some of them touching."""
    images = images.assign(off=(images["score"] - images["score"].median()).abs()).sort_values(["off", "image_id"])
    fit = images.loc[images["n_true"].between(*NUCLEI_OF_EXAMPLE), "image_id"].tolist() or images["image_id"].tolist()
    touching = (i for i in fit if count_touching(read_labels(dataset.labels(i))) >= MIN_TOUCHING)
    return next(touching, fit[0])


def read_examples(run: Run, dataset: Dataset, images: pd.DataFrame) -> Iterator[tuple]:
    """Yield (row, image, truth, prediction) of the rows of a table of images, each read when it is asked for."""
    for row in images.itertuples():
        truth, prediction = dataset.labels(row.image_id), run.instances("oof") / f"{row.image_id}.png"
        yield row, read_image(dataset.image(row.image_id)), read_labels(truth), read_labels(prediction)


def sum_bins(run: Run, image_ids) -> np.ndarray:
    """Sum predicted and true IoU of all out-of-fold candidates by bins, image by image."""
    sums = 0
    for image_id in image_ids:
        true_iou = read_array(run.candidates("oof") / f"{image_id}.npz", "iou")
        sums = sums + bin_predictions(read_iou(run, image_id), true_iou)
    return sums


def read_iou(run: Run, image_id: str) -> np.ndarray:
    """Read the predicted IoU of an image's out-of-fold candidates, float32 [N]."""
    return read_array(run.scores("oof") / f"{image_id}.npz", "scores")[:, TARGETS.index("iou")]


def read_array(path: Path, name: str) -> np.ndarray:
    """Read one array of a file: the features beside it are far larger and are not unpacked."""
    with np.load(path) as file:
        return file[name]
