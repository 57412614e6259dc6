"""What of a run segments new images, as a folder small enough to publish: networks, boosters, thresholds.

    <folder>/bundle/<run>/  config.yaml  fold<k>/weights.safetensors  meta/train_fold<k>.json,
                            or select.json  novelty.npz  nuclei.json  scorer/fold<k>_seed<s>.json.gz
                            (whole instead of fold<k> where one network, or one set of boosters, is for new images)
    <folder>/bundle/manifest.json  size and sha256 of each file, and what each run must hold

It is laid out as runs/ is, so whatever reads a run reads a bundle, and a run can take its networks instead of training.
"""

import os
import shutil
from functools import cache
from pathlib import Path
from typing import Any

from nuclei.config.load import load_config
from nuclei.config.schema import Config
from nuclei.errors import UserError
from nuclei.inference.contents import (
    FILE_OF_CHECKPOINT,
    check_files,
    describe_contents,
    list_boosters,
    list_networks,
    list_required,
)
from nuclei.inference.scale import measure_trained
from nuclei.limits import read_whole
from nuclei.runs.files import as_json, differences, file_hash, read_json, write_bytes, write_json
from nuclei.runs.layout import Dataset, Run, name_fold
from nuclei.runs.outputs import find_damage, record_file
from nuclei.runs.rehearsal import is_made

MAX_MB = 60  # of networks, beyond which they are no part of a repository
PUBLISHED = Path("ensembles")
MANIFEST = "manifest.json"
FEW = 3  # problems of a bundle that are named
DEFAULT = "once_mobilenets"  # the best of those published with their networks, and with few of them
FAST = "fast"  # the one network that learned from it


def find_default(fast: bool = False) -> Path:
    """Return the folder of the published ensemble: the installed package's, or that of the repository it lies in.

    fast: of the single network that learned from it. Raises UserError saying how to get it if it is in neither.
    """
    package, name = Path(__file__).parents[1], FAST if fast else DEFAULT
    for folder in (package / "published", package.parents[1] / PUBLISHED):
        if (folder / name / "bundle").is_dir():
            return folder / name
    raise UserError(
        f"the published networks ({name}) are not installed: clone the repository and install from it with "
        "`pip install .`, which brings them along, or name a finished run by --weights"
    )


def find_run(folder: Path) -> Run:
    """Return the run in a folder of runs/ or of a bundle, or the one that is bundled in a folder of ensembles/.

    Raises UserError as check_bundle does.
    """
    folder = Path(os.path.realpath(folder))
    bundle = folder / "bundle"
    run = Run(folder.name, bundle if bundle.is_dir() else folder.parent)
    if bundle.is_dir() or (folder.parent / MANIFEST).is_file():
        check_bundle(run.folder.parent)
    return run


def check_bundle(bundle: Path) -> None:
    """Raise UserError naming what of a bundle is missing, its manifest first, or is not what the manifest says."""
    if not (bundle / MANIFEST).is_file():
        raise UserError(f"{bundle / MANIFEST} is missing, which says what the bundle must hold: {_fetch(bundle)}")
    files = sorted(path for path in bundle.rglob("*") if path.is_file())
    _check_once(bundle, tuple(path.stat().st_mtime_ns for path in files))


def _fetch(bundle: Path) -> str:
    return f"fetch it anew, of a clone by `git checkout -- {bundle}`"


@cache
def _check_once(bundle: Path, written: tuple[int, ...]) -> None:  # noqa: ARG001 (a key)
    """Check a bundle; a process does it once."""
    path = bundle / MANIFEST
    try:
        manifest = read_json(path)
        runs: dict[str, dict[str, Any]] = manifest["runs"]
        problems = [damage.text for damage in find_damage(manifest["files"], bundle)]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is damaged ({type(error).__name__}): {_fetch(bundle)}") from error
    if not problems and (held := describe_runs(bundle)) != runs:
        problems = [f"{path} asks for other contents:", *differences(runs, held)]
    if problems:
        more = [f"and {len(problems) - FEW} more"] if len(problems) > FEW else []
        raise UserError(f"{bundle} is not whole:\n  " + "\n  ".join([*problems[:FEW], *more]) + f"\n{_fetch(bundle)}")


def describe_runs(bundle: Path) -> dict[str, dict[str, Any]]:
    """Return what each run of a bundle must hold, by its config, metas and thresholds."""
    runs = [Run(path.parent.name, bundle) for path in sorted(bundle.glob("*/config.yaml"))]
    return {run.name: describe_contents(run, load_config(run.config), not run.tuned.is_file()) for run in runs}


def write_manifest(bundle: Path) -> None:
    """Write the manifest of all that a bundle holds now."""
    files = sorted(path for path in bundle.glob("*/**/*") if path.is_file())
    records = {path.relative_to(bundle).as_posix(): record_file(path) for path in files}
    write_json(bundle / MANIFEST, {"files": records, "runs": describe_runs(bundle)})


def find_published(config: Config, dataset: Dataset, fold: int | None) -> Path | None:
    """Return the meta of the published network of a fold that was trained by these settings; None if there is none.

    fold None: of the network that learned from all images.

    The same fold table means the same images; how a user's archives lie on the disk, and their annotations, may differ.
    Raises UserError as check_bundle does.
    """
    wanted = as_json(config.record_training())
    folds, file = file_hash(dataset.folds), Path(name_fold(fold)) / FILE_OF_CHECKPOINT[config.predict.checkpoint]
    metas = sorted(PUBLISHED.glob(f"*/bundle/*/meta/train_{name_fold(fold)}.json"))
    # A network may be published twice: that which has more of its run's beside it comes first.
    for meta in sorted(metas, key=lambda meta: -len(list(meta.parent.glob("train_*.json")))):
        check_bundle(meta.parents[2])
        found = read_json(meta)
        same = found["settings"] == wanted and found["inputs"]["folds"] == folds
        if same and (meta.parents[1] / file).is_file():
            return meta
    return None


def has_networks(run: Run, config: Config, dataset: Dataset, published: bool) -> bool:
    """Return whether the network of each fold is there or, where `published` ones are to be taken, is among those.

    False while there are no folds yet.
    """
    if not dataset.folds.is_file():
        return False
    folds = [*dataset.list_folds(), *([None] if config.predict.new_images == "whole" else [])]
    return all(
        is_made(run.meta(f"train_{name_fold(fold)}")) or (published and find_published(config, dataset, fold))
        for fold in folds
    )


def write_bundle(run: Run, folder: Path) -> str:
    """Copy what Predictor needs of a run into <folder>/bundle and return what was done, in a line.

    Networks of more than MAX_MB together are left out, and then there is no bundle. Raises UserError naming what of the
    run is missing.
    """
    config = load_config(run.config)
    target, networks = folder / "bundle", list_networks(run, config)
    check_files(run, list_required(run, config))
    if target.exists() and not any(target.glob("*/config.yaml")):
        raise UserError(f"{target} is no bundle, and would be replaced by one: move it away")
    shutil.rmtree(target, ignore_errors=True)
    size_mb = sum(path.stat().st_size for path in networks) / 1e6
    if not networks or size_mb > MAX_MB:
        return f"no bundle: {len(networks)} networks of {size_mb:.0f} MB, and only up to {MAX_MB} MB are published"
    trained = dict.fromkeys(path.parents[1] for path in networks)
    configs = [run.config, *(one / "config.yaml" for one in trained)]
    metas = [path.parents[1] / f"meta/train_{path.parent.name}.json" for path in networks]
    boosters = list_boosters(run, config)
    novelty = [run.novelty] if run.novelty.is_file() else []  # of runs that were made before it was recorded
    for path in (*configs, *networks, *metas, run.tuned, *novelty, *boosters):
        write_bytes(target / path.relative_to(run.folder.parent), read_whole(path))
    if nuclei := measure_trained(run, config):
        write_json(target / run.nuclei.relative_to(run.folder.parent), nuclei)
    write_manifest(target)
    return f"{target}: {len(networks)} networks of {size_mb:.0f} MB, {len(boosters)} sets of boosters"
