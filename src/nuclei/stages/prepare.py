"""Archives -> runs/data/<dataset>: images and label images as PNG, and the manifest."""

from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from nuclei.config.schema import Config
from nuclei.data.archives import Archive, check_disjoint, find_archives, manifest_table, open_archive, prepare_image
from nuclei.data.competition import ARCHIVES, SOLUTIONS
from nuclei.data.images import encode_image_png, encode_labels_png
from nuclei.errors import UserError
from nuclei.evaluation.submission import read_solution
from nuclei.limits import read_whole
from nuclei.runs.cache import Part, stage
from nuclei.runs.files import content_hash, file_hash, write_bytes, write_table
from nuclei.runs.layout import Dataset, Options, Run
from nuclei.runs.parallel import each_image

VERSION = 1


def main(run: Run, config: Config, options: Options) -> None:
    dataset = Dataset(config.data, run.folder.parent)
    try:
        found = find_archives(options.data)
    except FileNotFoundError:
        if not dataset.meta.is_file():
            raise
        print(f"{dataset.name} prepare: up to date (its archives are not in {options.data})", flush=True)
        return
    parts = {
        split: Part({name: source_hash(found[name])}, list_images(dataset, split))
        for split, name in ARCHIVES.items()
        if name in found
    }
    solutions = {name: dataset.solution(name) for name in SOLUTIONS.values() if name in found}
    parts |= {name: Part({name: source_hash(found[name])}, [path]) for name, path in solutions.items()}
    outputs = [dataset.folder / "images", dataset.folder / "labels", dataset.manifest, *solutions.values()]
    check_mark(dataset)
    # The manifest has rows of every split: without it none can be kept.
    force = options.force or (dataset.meta.is_file() and not dataset.manifest.is_file())
    with stage(dataset.meta, {}, {}, outputs, force, version=VERSION, parts=parts) as needed:
        if not needed:
            return
        # What cannot be used is refused when it is first seen, not by a stage hours later.
        for name in filter(solutions.__contains__, needed):
            read_solution(found[name])
        archives = {split: open_archive(found[ARCHIVES[split]], split) for split in parts if split in ARCHIVES}
        check_disjoint(archives.values())
        rows: list[dict[str, Any]] = []
        for split in filter(ARCHIVES.__contains__, needed):
            work = partial(prepare_one, dataset, archives[split])
            rows += each_image(archives[split].image_ids, work, f"prepare {split}", options.jobs)
        if rows:
            print(describe(manifest_table(rows)), flush=True)
            rows += read_kept_rows(dataset, needed)
            write_table(dataset.manifest, manifest_table(rows))
        for name in filter(solutions.__contains__, needed):
            write_bytes(solutions[name], read_whole(found[name]))


def check_mark(dataset: Dataset) -> None:
    """Raise UserError if there are images where the data are to be, but nothing that says that this stage made them."""
    for path in (dataset.folder / "images", dataset.folder / "labels"):
        if path.exists() and not (dataset.meta.parent.is_dir() or dataset.manifest.is_file()):
            raise UserError(
                f"{path} was not made by this stage, and would be replaced: move it away, or give data.dataset another "
                "name"
            )


def list_images(dataset: Dataset, split: str) -> list[Path]:
    """Return the files of the images and labels that the manifest has of a split; none without a manifest."""
    try:
        manifest = dataset.read_manifest()
    except (FileNotFoundError, UserError):  # which is then made again, with all its images
        return []
    image_ids = manifest.loc[manifest["split"] == split, "image_id"].tolist()
    return [path(image_id) for image_id in image_ids for path in (dataset.image, dataset.labels)]


def read_kept_rows(dataset: Dataset, made: list[str]) -> list[dict[str, Any]]:
    """Return the rows that the manifest, if there is one, has of other splits than those that were made now."""
    if not dataset.manifest.is_file():
        return []
    manifest = dataset.read_manifest()
    rows = manifest[~manifest["split"].isin(made)].to_dict("records")
    return [{str(column): value for column, value in row.items()} for row in rows]


def source_hash(path: Path) -> str:
    """Return the sha256 of a file, or of the names and sizes of the files in a folder."""
    if path.is_file():
        return file_hash(path)
    return content_hash(sorted((str(p.relative_to(path)), p.stat().st_size) for p in path.rglob("*") if p.is_file()))


def prepare_one(dataset: Dataset, archive: Archive, image_id: str) -> dict[str, Any]:
    """Write one image and its labels, and return its row of the manifest."""
    image, labels, row = prepare_image(archive, image_id)
    write_bytes(dataset.image(image_id), encode_image_png(image))
    if labels is not None:
        write_bytes(dataset.labels(image_id), encode_labels_png(labels))
    return row


def describe(table: pd.DataFrame) -> str:
    """Say in a few lines what was read, and what was odd about it."""
    lines = [
        f"{len(rows)} images, {rows['n_nuclei'].sum()} nuclei in {split}" for split, rows in table.groupby("split")
    ]
    counts = table[[column for column in table.columns if column.endswith(("_masks", "_px"))]]
    lines += [f"{counts[c].sum()} {c} in {(counts[c] > 0).sum()} images" for c in counts if counts[c].sum()]
    return "\n".join("  " + line for line in lines)
