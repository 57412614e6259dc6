"""External images -> outside/, candidates of another run's maps, for the boosters to learn what is right there, too.

Networks that learned from an image tell nothing of how they fare on images like it that they have not seen. So these
candidates come from the run that `scorer.outside` names, whose networks learned from none of the external sets.
"""

from collections.abc import Iterable
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from nuclei.candidates.features import feature_names
from nuclei.config.load import load_config
from nuclei.config.schema import Config
from nuclei.decoding.methods import cut_candidates
from nuclei.errors import UserError
from nuclei.evaluation.metric import best_iou
from nuclei.inference.bundle import PUBLISHED, find_run
from nuclei.inference.contents import check_as_left, list_networks
from nuclei.inference.predictor import Predictor, choose_jobs, stamp
from nuclei.runs.cache import stage
from nuclei.runs.files import as_json, content_hash, file_hash, read_image, read_labels, read_table, write_arrays
from nuclei.runs.layout import Dataset, Options, Run
from nuclei.runs.parallel import each_image
from nuclei.stages.external import external_inputs

VERSION = 1


def main(run: Run, config: Config, options: Options) -> None:
    dataset = Dataset(config.data, run.folder.parent)
    if not config.scorer.outside or not dataset.settings.external_sets():
        raise UserError(f"{run.name} needs both scorer.outside and data.external, to cut candidates of external images")
    other = find_other(run, config)
    check_unseen(other, config, dataset)
    with stage(
        run.meta("outside"),
        {"watershed": config.watershed.record()},
        external_inputs(dataset) | {"networks": hash_networks(other)},
        [run.outside],
        options.force,
        version=VERSION,
        code={"features": feature_names()},
        share=True,
    ) as needed:
        if not needed:
            return
        table = dataset.external_table()
        names = [f"{name}_{image_id}" for name, image_id in zip(table["set"], table["image_id"], strict=True)]
        networks = other.folder, stamp(other.folder.parent)
        work = partial(cut_one, run, dataset, config, networks)
        columns = [table["set"].tolist(), table["image_id"].tolist()]
        each_image(names, work, f"{run.name} outside", choose_jobs(options.jobs), *columns, networks=True)


def find_other(run: Run, config: Config) -> Run:
    """Return the run that scorer.outside names, of runs/ or published; raise UserError if there is none."""
    places = [run.folder.parent / str(config.scorer.outside), PUBLISHED / str(config.scorer.outside)]
    found = next(
        (place for place in places if any((place / name).exists() for name in ("config.yaml", "bundle"))), None
    )
    if found is None:
        raise UserError(f"scorer.outside: no run {config.scorer.outside} in {places[0].parent} or {places[1].parent}")
    return find_run(found)


@lru_cache(maxsize=1)
def load_networks(folder: Path, written: tuple[int, ...]) -> Predictor:
    """Return the Predictor of the run in a folder, which needs no boosters to predict; a process loads it once."""
    return Predictor(Run(folder.name, folder.parent))


def hash_networks(other: Run) -> str:
    """Return a hash of the networks of a run and of its members, and of how they are applied.

    Raises UserError naming a network that is missing or damaged.
    """
    config = load_config(other.config)
    members = [load_config(Run(name, other.folder.parent).config) for name in config.members]
    networks = list_networks(other, config)
    check_as_left(other, networks)
    weights = {path.relative_to(other.folder.parent).as_posix(): file_hash(path) for path in networks}
    applied = [[one.model.record(), one.predict.record(), one.record()["members"]] for one in (config, *members)]
    return content_hash(as_json({"weights": weights, "applied": applied}))


def check_unseen(other: Run, config: Config, dataset: Dataset) -> None:
    """Raise UserError if the networks of the other run learned from one of the external sets.

    By name, and by content: a set of another name may hold the same images, and one that is not prepared any.
    """
    ours = config.data.external_sets().keys()
    theirs = load_config(other.config)
    parts = [theirs, *(load_config(Run(name, other.folder.parent).config) for name in theirs.members)]
    learned = dict.fromkeys(name for one in parts for name in one.data.external_sets())
    seen = [name for name in learned if name in ours or shares_images(name, ours, dataset)]
    if seen:
        raise UserError(
            f"scorer.outside: {other.name} has learned from {', '.join(sorted(seen))}: name a run that has not, or "
            "leave these sets out of data.external"
        )


def shares_images(name: str, others: Iterable[str], dataset: Dataset) -> bool:
    """Return whether an external set has an image of others; of one that is not prepared that cannot be excluded."""
    if not dataset.external(name).manifest.is_file():
        return True
    content = set(read_table(dataset.external(name).manifest)["content"])
    return any(content & set(read_table(dataset.external(other).manifest)["content"]) for other in others)


def cut_one(
    run: Run,
    dataset: Dataset,
    config: Config,
    networks: tuple[Path, tuple[int, ...]],
    name: str,
    external: str,
    image_id: str,
) -> None:
    """Cut the maps that load_networks(*networks) gives an external image, and write candidates, features, true IoU."""
    path = run.outside / f"{name}.npz"
    if path.is_file():  # by a run that was killed
        return
    images = dataset.external(external)
    image, truth = read_image(images.image(image_id)), read_labels(images.labels(image_id))
    candidates, features = cut_candidates(load_networks(*networks).predict(image), image, config)
    arrays: dict[str, Any] = candidates.pack() | {"features": features.to_numpy(np.float32)}
    arrays["iou"] = best_iou(truth, candidates.indptr, candidates.pixels)[0]
    write_arrays(path, arrays)
