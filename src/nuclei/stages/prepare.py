"""Archives -> runs/data/<dataset>: images and label images as PNG, and the manifest."""

from pathlib import Path

import pandas as pd
from joblib import Parallel, delayed
from tqdm import tqdm

from nuclei.config.schema import Config
from nuclei.data.archives import find_archives, manifest_table, open_archive, prepare_image
from nuclei.data.images import encode_image_png, encode_labels_png
from nuclei.runs.cache import stage
from nuclei.runs.files import content_hash, file_hash, write_bytes, write_table
from nuclei.runs.layout import Dataset, Options, Run

SPLIT_OF_ARCHIVE = {"stage1_train": "train", "stage1_test": "test", "stage2_test_final": "stage2"}
SOLUTION_OF_SPLIT = {"test": "stage1_solution", "stage2": "stage2_solution_final"}


def main(run: Run, config: Config, options: Options) -> None:
    dataset = Dataset(config.data, run.folder.parent)
    try:
        found = find_archives(options.data)
    except FileNotFoundError:
        if not dataset.meta.is_file():
            raise
        print(f"{dataset.name} prepare: up to date (its archives are not in {options.data})", flush=True)
        return
    inputs = {name: source_hash(path) for name, path in found.items()}
    outputs = [dataset.folder / "images", dataset.folder / "labels", dataset.manifest]
    with stage(dataset.meta, {}, inputs, outputs, options.force) as needed:
        if not needed:
            return
        archives = [open_archive(found[name], split) for name, split in SPLIT_OF_ARCHIVE.items() if name in found]
        tasks = [(archive, image_id) for archive in archives for image_id in archive.image_ids]
        results = Parallel(options.jobs, return_as="generator")(delayed(prepare_one)(dataset, *task) for task in tasks)
        table = manifest_table(list(tqdm(results, "prepare", len(tasks), unit="image", mininterval=1)))
        for name in SOLUTION_OF_SPLIT.values():
            if name in found:
                write_bytes(dataset.solution(name), found[name].read_bytes())
        write_table(dataset.manifest, table)
        print(describe(table), flush=True)


def source_hash(path: Path) -> str:
    """Return the sha256 of a file, or of the names and sizes of the files in a folder."""
    if path.is_file():
        return file_hash(path)
    return content_hash(sorted((str(p.relative_to(path)), p.stat().st_size) for p in path.rglob("*") if p.is_file()))


def prepare_one(dataset: Dataset, archive, image_id: str) -> dict:
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
    counts = table[[column for column in table if column.endswith(("_masks", "_px"))]]
    lines += [f"{counts[c].sum()} {c} in {(counts[c] > 0).sum()} images" for c in counts if counts[c].sum()]
    return "\n".join("  " + line for line in lines)
