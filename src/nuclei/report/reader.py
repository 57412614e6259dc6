"""What a report reads from disk, of a run and of the runs it borrows from; and the pages of a report, written.

A missing file is a FileNotFoundError that names it; RunReader.attempt turns it into a block of the report.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from safetensors import safe_open

from nuclei.candidates.boosters import TARGETS
from nuclei.candidates.table import Candidates
from nuclei.config.load import merge, read_yaml
from nuclei.config.schema import Config
from nuclei.data.labels import count_touching
from nuclei.decoding.methods import is_scored, method_of, uses_networks
from nuclei.decoding.tuning import Tuned
from nuclei.evaluation.summary import bin_predictions
from nuclei.inference.predictions import is_other_of, read_prediction, read_tuned
from nuclei.report.blocks import Block, Missing, Picture
from nuclei.report.comparisons import FindPage
from nuclei.report.markdown import render_markdown
from nuclei.report.page import render_html
from nuclei.report.pictures import ImageSteps, Labels, Pixels
from nuclei.report.readme import find_place, replace_block
from nuclei.report.tables import DEMO_RESULTS, RESULTS, each_row, name_results
from nuclei.runs.files import named, read_arrays, read_image, read_json, read_labels, read_table, write_bytes
from nuclei.runs.layout import Dataset, Run, comparison, counterpart

REPORTS = ("report", "writeup")  # stages that a report is not about
NUCLEI_OF_EXAMPLE = (20, 80)  # of the typical image: enough for some to touch, few enough to be seen
MIN_TOUCHING = 6
BUFFERS = ("running_mean", "running_var", "num_batches_tracked", "mean", "std")  # of a network, not learned by gradient


class Shown(NamedTuple):
    """Hold a row of a table of images with that image, uint8 [H, W, 3], its truth and its prediction, int [H, W]."""

    row: Any
    image: Pixels
    truth: Labels
    prediction: Labels | None = None


class RunReader:
    """Read what the stages left of a run and of the runs it borrows from, each file when it is first asked for.

    Raises FileNotFoundError naming a file that is missing, and UserError naming one that is damaged.
    """

    def __init__(self, run: Run, config: Config) -> None:
        self.run, self.config = run, config
        self.root = run.folder.parent
        self.dataset = Dataset(config.data, self.root)

    # What kind of run it is

    @property
    def has_networks(self) -> bool:
        """Tell whether the run's nuclei come from networks, its own or borrowed ones."""
        return uses_networks(self.config)

    @property
    def has_scores(self) -> bool:
        """Tell whether the run's nuclei are scored candidates."""
        return is_scored(self.config)

    @property
    def has_energy(self) -> bool:
        """Tell whether the run's nuclei come from flooding an energy made of maps."""
        return method_of(self.config).floods and self.config.model.gives == "maps"

    @cached_property
    def parts(self) -> dict[str, list[str]]:
        """Name the run and all runs it borrows from, theirs before them: name -> names of its members."""
        return find_parts(self.run.name, list(self.config.members), self.root)

    @cached_property
    def networks(self) -> list[Run]:
        """Name the runs whose networks the run's maps come from: those of its parts that train."""
        names = [name for name, members in self.parts.items() if not members]
        return [Run(name, self.root) for name in names] if self.has_networks else []

    @property
    def results(self) -> dict[str, dict[str, Any]]:
        """Return what was scored, by a name to read."""
        return name_results(self.metrics, self.titles)

    @property
    def titles(self) -> Mapping[str, str]:
        """Return what the parts of the metrics are called."""
        return DEMO_RESULTS if self.dataset.is_synthetic else RESULTS

    # Settings

    @cached_property
    def configs(self) -> dict[str, dict[str, Any]]:
        """Read the saved configs of the run's parts, {run: config}, of those that have one."""
        return read_configs(self.parts, self.root)

    @cached_property
    def network_configs(self) -> dict[str, dict[str, Any]]:
        """Read the saved configs of the run's networks, {run: config}; keys that they lack have today's defaults."""
        saved = read_configs([network.name for network in self.networks], self.root)
        defaults = Config().model_dump(mode="json")
        return {name: merge(defaults, content) for name, content in saved.items()}

    # Data

    @cached_property
    def manifest(self) -> pd.DataFrame:
        """Read the manifest of the prepared data: a row per image of any split."""
        return read_table(self.dataset.manifest)

    @cached_property
    def fold_table(self) -> pd.DataFrame:
        """Read the fold table: a row per training image, whether the run is about its fold or not."""
        return self.dataset.read_fold_table()

    @cached_property
    def folds(self) -> list[int]:
        """Return the folds that the run is about."""
        return self.dataset.list_folds()

    # Results

    @cached_property
    def metrics(self) -> dict[str, Any]:
        """Read the scores, intervals and counts that the stage evaluate left."""
        return read_json(self.run.metrics)

    @cached_property
    def per_image(self) -> pd.DataFrame:
        """Read the out-of-fold scores: a row per image."""
        return read_table(self.run.per_image("oof"))

    @property
    def counterpart_name(self) -> str:
        """Name the run that is the same on folds by kind, whether it exists or not."""
        return counterpart(self.run).name

    @cached_property
    def unseen_metrics(self) -> dict[str, Any] | None:
        """Read the out-of-fold summary of the run's counterpart on unseen kinds; None if that has not finished."""
        path = counterpart(self.run).metrics
        return read_json(path)["oof"] if path.is_file() else None

    @cached_property
    def unseen_per_image(self) -> pd.DataFrame:
        """Read the out-of-fold scores of the run's counterpart on unseen kinds: a row per image."""
        return read_table(counterpart(self.run).per_image("oof"))

    @cached_property
    def tuned(self) -> Tuned:
        """Read the thresholds that the stage select chose, with the curve they were chosen from."""
        return read_tuned(self.run)

    def plain(self, method: str) -> Tuned:
        """Read the thresholds of a plain decoding, with the curve they were chosen from."""
        path = self.run.plain / f"{method}.json"
        return Tuned.from_json(read_json(path), str(path))

    @property
    def importance_path(self) -> Path:
        return self.run.scorer / "features.json"

    @cached_property
    def importance(self) -> dict[str, float]:
        """Read each feature's share of the gain of the boosters, {feature: share}."""
        shares: dict[str, float] = read_json(self.importance_path)["importance"]
        return shares

    @cached_property
    def reliability(self) -> NDArray[np.float64]:
        """Sum predicted and true IoU of all out-of-fold candidates by bins, image by image, as bin_predictions does."""
        bins = [
            bin_predictions(self.predicted_iou("oof", image_id), self.true_iou("oof", image_id))
            for image_id in self.dataset.read_folds()["image_id"]
        ]
        sums: NDArray[np.float64] = np.sum(bins, axis=0)
        return sums

    @cached_property
    def member_scores(self) -> dict[str, list[float]]:
        """Read the out-of-fold score of each member that was evaluated, {member: [mean, low, high]}."""
        paths = {name: Run(name, self.root).metrics for name in self.config.members}
        return {name: read_json(path)["oof"]["score"] for name, path in paths.items() if path.is_file()}

    @cached_property
    def ablations(self) -> pd.DataFrame:
        """Read the table of ablations beside all runs."""
        return read_table(comparison(self.root, "ablations"))

    # How it was made

    @cached_property
    def metas(self) -> dict[str, list[dict[str, Any]]]:
        """Read what the stages left about themselves, those of the data first: {data or run: metas}."""
        folders = {f"data/{self.dataset.name}": self.dataset.meta.parent}
        folders |= {name: Run(name, self.root).meta("evaluate").parent for name in self.parts}
        return {name: read_metas(folder) for name, folder in folders.items()}

    def histories(self, network: Run) -> dict[str, pd.DataFrame]:
        """Read the histories of a run's trainings, {fold: table}, of the folds that have one."""
        paths = {str(fold): path for fold, path in zip(self.folds, self.history_paths(network), strict=True)}
        return {fold: read_table(path) for fold, path in paths.items() if path.is_file()}

    def history_paths(self, network: Run) -> list[Path]:
        return [network.fold(fold) / "history.csv" for fold in self.folds]

    def missing_histories(self) -> list[str]:
        """Name the histories that are missing, those of one network together: published networks have none."""
        named = []
        for network in self.networks:
            paths = zip(self.folds, self.history_paths(network), strict=True)
            absent = [str(fold) for fold, path in paths if not path.is_file()]
            if absent:
                folds = absent[0] if len(absent) == 1 else "{" + ",".join(absent) + "}"
                named.append(f"{network.name}/fold{folds}/history.csv")
        return named

    def training_seconds(self, network: Run) -> list[float | None]:
        """Read how long the training of each fold took, None where that is not known."""
        paths = [network.meta(f"train_fold{fold}") for fold in self.folds]
        return [read_json(path)["seconds"] if path.is_file() else None for path in paths]

    @property
    def weights(self) -> dict[str, Path]:
        """Name a file of weights of each run of networks, {run: path of its first fold}."""
        return {name: Run(name, self.root).fold(self.folds[0]) / "weights.safetensors" for name in self.network_configs}

    @cached_property
    def parameters(self) -> dict[str, int]:
        """Count the learned numbers of one network of each run, of those whose weights are on disk."""
        return {name: count_parameters(path) for name, path in self.weights.items() if path.is_file()}

    # Images

    def image(self, image_id: str) -> Pixels:
        """Read an image, uint8 [H, W, 3]."""
        return read_image(self.dataset.image(image_id))

    def truth(self, image_id: str) -> Labels:
        """Read the true nuclei of a training image, int32 [H, W]."""
        return read_labels(self.dataset.labels(image_id))

    def instances(self, split: str, image_id: str) -> Labels:
        """Read the predicted nuclei of an image of a split, int32 [H, W]."""
        return read_labels(self.run.instances(split) / f"{image_id}.png")

    def is_other(self, split: str, image_id: str) -> bool:
        """Tell whether an image was acquired otherwise than those of training, and is treated otherwise for that."""
        fold = self.dataset.fold_of(split, image_id)
        return is_other_of(self.run, self.config.selection, self.dataset, image_id, fold)

    def scores(self, split: str, image_id: str) -> NDArray[np.float32]:
        """Read the scores of an image's candidates, float32 [N, 11], columns as boosters.TARGETS."""
        return read_array(self.run.scores(split) / f"{image_id}.npz", "scores")

    def predicted_iou(self, split: str, image_id: str) -> NDArray[np.float32]:
        """Read the predicted IoU of an image's candidates, float32 [N]."""
        return self.scores(split, image_id)[:, TARGETS.index("iou")]

    def true_iou(self, split: str, image_id: str) -> NDArray[np.float32]:
        """Read the true IoU of an image's candidates, float32 [N]: out of fold alone."""
        return read_array(self.run.candidates(split) / f"{image_id}.npz", "iou")

    def examples(self, images: pd.DataFrame) -> Iterator[Shown]:
        """Yield the images of some rows of per_image with truth and prediction, each read when it is asked for."""
        for row in each_row(images):
            yield Shown(row, self.image(row.image_id), self.truth(row.image_id), self.instances("oof", row.image_id))

    def typical(self) -> str:
        """Choose the image nearest the median score that has a visible number of nuclei, some of them touching."""
        images = rank_by_median(self.per_image)
        fit: list[str] = images.loc[images["n_true"].between(*NUCLEI_OF_EXAMPLE), "image_id"].tolist()
        fit = fit or images["image_id"].tolist()
        return next((one for one in fit if count_touching(self.truth(one)) >= MIN_TOUCHING), fit[0])

    def maps_path(self, split: str, image_id: str) -> Path:
        return self.run.maps(split) / f"{image_id}.npz"

    def steps(self, split: str, image_id: str, with_maps: bool = True) -> ImageSteps:
        """Read what every step made of an image: maps if the run has networks, candidates if it scores them."""
        maps = read_prediction(self.run, split, image_id).maps if self.has_networks and with_maps else {}
        candidates, predicted, true = None, None, None
        if self.has_scores:
            arrays = read_arrays(self.run.candidates(split) / f"{image_id}.npz")
            candidates, true = Candidates.unpack(arrays), arrays.get("iou")
            predicted = self.predicted_iou(split, image_id)
        return ImageSteps(
            image=self.image(image_id),
            instances=self.instances(split, image_id),
            maps=maps,
            truth=self.truth(image_id) if split == "oof" else None,
            candidates=candidates,
            predicted_iou=predicted,
            true_iou=true,
        )

    # What is missing

    def attempt(self, make: Callable[[], Block | Iterator[Block]]) -> Iterator[Block]:
        """Yield the block or blocks of `make` up to the first that needs a missing file, and name that file."""
        try:
            made = make()
            yield from made if isinstance(made, Iterator) else [made]
        except FileNotFoundError as error:
            yield Missing(self.name_file(Path(error.filename)))

    def name_file(self, path: Path) -> str:
        """Return a file's path below the folder of all runs, or as it is if it lies elsewhere."""
        return str(path.relative_to(self.root) if path.is_relative_to(self.root) else path)

    def missing(self, paths: Iterable[Path]) -> Iterator[Missing]:
        """Name those of some files that are missing."""
        yield from (Missing(self.name_file(path)) for path in paths if not path.is_file())


def find_parts(name: str, members: list[str], root: Path) -> dict[str, list[str]]:
    """Return a run and all that it borrows from by their saved configs, theirs before them: name -> its members."""
    found: dict[str, list[str]] = {}
    for member in members:
        content = read_configs([member], root).get(member, {})
        found |= find_parts(member, list(content.get("members", [])), root)
    return found | {name: members}


def find_reports(root: Path) -> FindPage:
    """Return what finds a run's report for a page of runs/comparisons/, by an address relative to that."""
    return lambda name: f"../{name}/report/report.html" if (Run(name, root).report / "report.html").is_file() else None


def read_configs(names: Iterable[str], root: Path) -> dict[str, dict[str, Any]]:
    """Return the saved configs of the named runs of a folder, of those that have one."""
    paths = {name: Run(name, root).config for name in names}
    return {name: read_yaml(path) for name, path in paths.items() if path.is_file()}


def find_config(name: str, is_ensemble: bool) -> str:
    """Return the path of the config of a run: the one that exists, or else where it ought to be."""
    folders = {True: Path("ensembles"), False: Path("configs")}
    found = (path for folder in folders.values() for path in sorted(folder.rglob(f"{name}.yaml")))
    return str(next(found, folders[is_ensemble] / f"{name}.yaml"))


def read_metas(folder: Path) -> list[dict[str, Any]]:
    """Read the metas of the stages that a report is about; its own is none of them."""
    return [read_json(path) for path in sorted(folder.glob("*.json")) if path.stem not in REPORTS]


def read_array(path: Path, name: str) -> NDArray[Any]:
    """Read one array of a file: the features beside it are far larger and are not unpacked."""
    return read_arrays(path, [name])[name]


def count_parameters(path: Path) -> int:
    """Count the learned numbers in a file of weights without reading them."""
    with path.open("rb"), named(path), safe_open(path, "numpy") as file:
        names = [name for name in file.keys() if name.split(".")[-1] not in BUFFERS]  # noqa: SIM118 (no mapping: it has keys, but no iterator)
        return sum(int(np.prod(file.get_slice(name).get_shape())) for name in names)


def rank_by_median(images: pd.DataFrame) -> pd.DataFrame:
    """Return a table of images ordered by how far their score is from the median of all of them, nearest first."""
    off = (images["score"] - images["score"].median()).abs()
    return images.assign(off=off).sort_values(["off", "image_id"]).drop(columns="off")


def write_page(folder: Path, name: str, title: str, blocks: list[Block]) -> None:
    """Write <name>.md with figures/, and <name>.html, which holds them, into a folder."""
    for block in blocks:
        if isinstance(block, Picture):
            write_bytes(folder / "figures" / f"{block.name}.png", block.png)
    write_bytes(folder / f"{name}.md", render_markdown(title, blocks).encode())
    write_bytes(folder / f"{name}.html", render_html(title, blocks).encode())


def write_blocks(contents: Mapping[str, str]) -> list[Path]:
    """Put generated blocks, {marker: content}, into the files of the repository that have their places; return those.

    Raises UserError naming the file that lacks a marker; nothing is written then.
    """
    texts: dict[Path, str] = {}
    for marker, content in contents.items():
        path = find_place(marker)
        texts[path] = replace_block(texts.get(path) or path.read_text(encoding="utf-8"), marker, content, path)
    for path, text in texts.items():
        write_bytes(path, text.encode())
    return list(texts)
