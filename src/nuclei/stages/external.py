"""External data sets -> runs/data/external/<set>: images, label images and a manifest; copies of images are left out.

What of a set is a copy of an image of the competition, of any split, in whole or in part, is named in
runs/data/<dataset>/copies/<set>_<split>.csv, and nothing learns from it.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import pandas as pd
from tqdm import tqdm

from nuclei.config.schema import Config
from nuclei.data.external import (
    Found,
    describe_set,
    explain_set,
    external_manifest,
    find_images,
    find_index,
    prepare_external,
    read_rights,
)
from nuclei.data.images import encode_image_png, encode_labels_png
from nuclei.data.leaks import Content, KnownImages, measure_content
from nuclei.errors import UserError
from nuclei.inference.bundle import has_networks
from nuclei.runs.cache import Part, fingerprint, read_meta, stage
from nuclei.runs.files import file_hash, read_image, read_table, write_bytes, write_table
from nuclei.runs.layout import Dataset, ExternalSet, Options, Run, hash_images
from nuclei.runs.parallel import each_image
from nuclei.stages.prepare import source_hash

VERSION = 1
COLUMNS = ["image_id", "known", "agreeing", "similarity"]
SHOWN = 10  # copies named on the screen


def main(run: Run, config: Config, options: Options) -> None:
    dataset = Dataset(config.data, run.folder.parent)
    sets = {name: options.data / "external" / name for name in config.data.external_sets()}
    if has_networks(run, config, dataset, options.published) and not options.force:
        sets = {name: folder for name, folder in sets.items() if folder.is_dir()}
    # One set after the other is compared with the same images.
    known = cache(lambda split: KnownImages(measure_split(dataset, split, options.jobs)))
    for name, folder in sets.items():
        external = dataset.external(name)
        prepare_set(external, folder, config.data.external_area_px, options)
        leave_copies_out(dataset, external, known, options)


def prepare_set(external: ExternalSet, folder: Path, area_px: float, options: Options) -> None:
    """Make the images, labels and manifest of a set from its files; raise UserError saying what to put where."""
    title = f"external {external.name}"
    if not folder.is_dir():
        if not external.meta.is_file():
            raise UserError(explain_set(external.name, folder))
        print(f"{title}: up to date (its files are not in {folder})", flush=True)
        return
    index = find_index(folder)
    inputs = {"files": source_hash(folder)} | ({"index": file_hash(index)} if index else {})
    outputs = [external.folder / "images", external.folder / "labels", external.manifest]
    with stage(external.meta, {"area_px": area_px}, inputs, outputs, options.force, version=VERSION) as needed:
        if not needed:
            return
        layout, found = find_images(folder)
        rights = read_rights(external.name, folder)
        work = partial(prepare_one, external, layout, area_px)
        each = [rights(one.image.stem) for one in found]
        rows = each_image([one.name for one in found], work, title, options.jobs, found, each)
        manifest = external_manifest(rows)
        write_table(external.manifest, manifest)
        said = describe_set(manifest)
        print(
            f"  {said['images']} images, {said['nuclei']} nuclei, layout {layout}; licence: {said['licence']}; source: "
            f"{said['source']}; {(manifest['scale'] < 1).sum()} brought to scale",
            flush=True,
        )


def prepare_one(
    external: ExternalSet, layout: str, area_px: float, image_id: str, found: Found, rights: tuple[str, str]
) -> dict[str, Any]:
    """Write one image and its labels, and return its row of the manifest."""
    image, labels, row = prepare_external(external.name, layout, rights, area_px, found)
    write_bytes(external.image(image_id), encode_image_png(image))
    write_bytes(external.labels(image_id), encode_labels_png(labels))
    return row


def leave_copies_out(
    dataset: Dataset, external: ExternalSet, known: Callable[[str], KnownImages], options: Options
) -> None:
    """Write down which images of a set are copies of images of each split, and name them."""
    splits = sorted(dataset.read_manifest()["split"].unique())
    parts = {s: Part({s: fingerprint(dataset.meta, s)}, [dataset.copies(external.name, s)]) for s in splits}
    inputs = {"images": external.fingerprint()}
    with stage(
        dataset.copies_meta(external.name), {}, inputs, (), options.force, version=VERSION, parts=parts
    ) as needed:
        if not needed:
            return
        image_ids = read_table(external.manifest)["image_id"].tolist()
        contents = measure(image_ids, external, f"external {external.name}: measure", options.jobs)
        for split in needed:
            of_split = list_ids(dataset, split)
            title = f"external {external.name}: compare with {split}"
            copies = known(split).find_copies(tqdm(contents, title, unit="image", mininterval=2))
            rows = [(image_ids[c.image], of_split[c.known], c.agreeing, round(c.similarity, 3)) for c in copies]
            write_table(dataset.copies(external.name, split), pd.DataFrame(rows, columns=COLUMNS))
            names = [f"    {one} is {other}" for one, other, *_ in rows[:SHOWN]]
            more = [f"    and {len(rows) - SHOWN} more"] if len(rows) > SHOWN else []
            left_out = len({one for one, *_ in rows})
            print(f"  {left_out} copies of images of {split} left out", *names, *more, sep="\n", flush=True)


def list_ids(dataset: Dataset, split: str) -> list[str]:
    """Return the images of a split in the order of the manifest."""
    manifest = dataset.read_manifest()
    ids: list[str] = manifest.loc[manifest["split"] == split, "image_id"].tolist()
    return ids


def measure_split(dataset: Dataset, split: str, jobs: int) -> list[Content]:
    """Return what the images of a split are known by, in the order of list_ids."""
    return measure(list_ids(dataset, split), dataset, f"{dataset.name} {split}: measure", jobs)


def measure(image_ids: Sequence[str], images: Dataset | ExternalSet, title: str, jobs: int) -> list[Content]:
    return each_image(image_ids, partial(measure_one, images), title, jobs)


def measure_one(images: Dataset | ExternalSet, image_id: str) -> Content:
    return measure_content(read_image(images.image(image_id)))


def external_inputs(dataset: Dataset, metas: Iterable[Path] = ()) -> dict[str, str]:
    """Return a fingerprint of what is learned of each external set.

    metas: of networks that learned from them, whose inputs count where a set is not prepared, as its files are not at
    hand. Raises UserError if no network is there either.
    """
    found: dict[str, str] = {}
    for name in dataset.settings.external_sets():
        key = f"external_{name}"
        recorded = [read_meta(meta)["inputs"].get(key) for meta in metas if meta.is_file()]
        if dataset.copies_meta(name).is_file() or not any(recorded):
            found[key] = hash_images(dataset.read_external(name))
        else:
            found[key] = next(filter(None, recorded))
    return found


def describe_external(dataset: Dataset) -> dict[str, Any]:
    """Return what networks are to say of the external sets that they learned from, of those that are prepared."""
    names = [name for name in dataset.settings.external_sets() if dataset.copies_meta(name).is_file()]
    said = {name: describe_set(dataset.read_external(name)) for name in names}
    return {"external": said} if said else {}
