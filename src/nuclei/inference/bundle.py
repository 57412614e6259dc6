"""What of a run segments new images, as a folder small enough to publish: networks, boosters, thresholds.

    <folder>/bundle/<run>/  config.yaml  fold<k>/weights.safetensors  meta/train_fold<k>.json,
                            or select.json  scorer/fold<k>_seed<s>.json.gz

It is laid out as runs/ is, so whatever reads a run reads a bundle, and a run can take its networks instead of training.
"""

import shutil
from pathlib import Path

from nuclei.config.load import load_config
from nuclei.config.schema import Config
from nuclei.errors import UserError
from nuclei.inference.predictor import FILE_OF_CHECKPOINT
from nuclei.runs.files import as_json, file_hash, read_json, write_bytes
from nuclei.runs.layout import Dataset, Run

MAX_MB = 60  # of networks, beyond which they are no part of a repository
PUBLISHED = Path("ensembles")
DEFAULT = "long_mobilenets"  # the best ensemble that is published with its networks


def find_default() -> Path:
    """Return the folder of the published ensemble: the installed package's, or that of the repository it lies in.

    Raises UserError saying how to get it if it is in neither.
    """
    package = Path(__file__).parents[1]
    for folder in (package / "published", package.parents[1] / PUBLISHED):
        if (folder / DEFAULT / "bundle").is_dir():
            return folder / DEFAULT
    raise UserError(
        f"the published networks ({DEFAULT}) are not installed: clone the repository and install from it with "
        "`pip install .`, which brings them along, or name a finished run by --weights"
    )


def find_run(folder: Path) -> Run:
    """Return the run in a folder of runs/, or the one that is bundled in a folder of ensembles/."""
    folder = folder.resolve()
    bundled = folder / "bundle" / folder.name
    return Run(folder.name, bundled.parent if bundled.is_dir() else folder.parent)


def list_networks(run: Run) -> list[Path]:
    """Return the trained weights that a run predicts with, its members' and theirs included."""
    config = load_config(run.config)
    if config.members:
        return [path for name in config.members for path in list_networks(Run(name, run.folder.parent))]
    return sorted(run.folder.glob(f"fold*/{FILE_OF_CHECKPOINT[config.predict.checkpoint]}"))


def find_published(config: Config, dataset: Dataset, fold: int) -> Path | None:
    """Return the meta of the published network of a fold that was trained by these settings; None if there is none.

    The same fold table means the same images; how a user's archives lie on the disk, and their annotations, may differ.
    """
    wanted = as_json(config.record_training())
    folds, file = file_hash(dataset.folds), Path(f"fold{fold}") / FILE_OF_CHECKPOINT[config.predict.checkpoint]
    for meta in sorted(PUBLISHED.glob(f"*/bundle/*/meta/train_fold{fold}.json")):
        found = read_json(meta)
        same = found["settings"] == wanted and found["inputs"]["folds"] == folds
        if same and (meta.parents[1] / file).is_file():
            return meta
    return None


def write_bundle(run: Run, folder: Path) -> str:
    """Copy what Predictor needs of a run into <folder>/bundle and return what was done, in a line.

    Networks of more than MAX_MB together are left out, and then there is no bundle.
    """
    target, networks = folder / "bundle", list_networks(run)
    shutil.rmtree(target, ignore_errors=True)
    size_mb = sum(path.stat().st_size for path in networks) / 1e6
    if not networks or size_mb > MAX_MB:
        return f"no bundle: {len(networks)} networks of {size_mb:.0f} MB, and only up to {MAX_MB} MB are published"
    trained = dict.fromkeys(path.parents[1] for path in networks)
    configs = [run.config, *(one / "config.yaml" for one in trained)]
    metas = [path for one in trained for path in sorted(one.glob("meta/train_fold*.json"))]
    boosters = sorted(run.scorer.glob("fold*_seed*.json.gz"))
    for path in (*configs, *networks, *metas, run.tuned, *boosters):
        write_bytes(target / path.relative_to(run.folder.parent), path.read_bytes())
    return f"{target}: {len(networks)} networks of {size_mb:.0f} MB, {len(boosters)} sets of boosters"
