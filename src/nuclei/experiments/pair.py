"""Two finished runs compared image by image: what the second gains over the first, on which types, and where."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from nuclei.data.image_types import IMAGE_TYPES
from nuclei.errors import UserError
from nuclei.experiments import gains
from nuclei.experiments.leaderboard import check_images
from nuclei.report import pairs
from nuclei.report.blocks import Block, Heading, Paragraph, Table
from nuclei.report.comparisons import link_run
from nuclei.report.reader import RunReader, find_reports, write_page
from nuclei.report.sections import ABOUT_SYNTHETIC
from nuclei.report.tables import each_row, name_method, order_types
from nuclei.runs.cache import check_whole
from nuclei.runs.files import write_table
from nuclei.runs.layout import comparison, open_run

N_CHANGED = 5  # images shown that gained most, and as many that lost most
ABOUT = (
    "Both runs are scored out of fold on the same images. The gain is the second run's score minus the first's, paired "
    "by image, with its 95 % bootstrap interval over groups of images; images of a single group have no interval."
)
ABOUT_CHANGED = "Shown is the square in which the outlines of the two runs differ most; dark images are brightened."


def compare_pair(first: str, second: str, root: Path) -> tuple[Table, Path]:
    """Write <root>/comparisons/<first>_<second>.{csv,md,html}; return the table to print and the page.

    Raises UserError naming a run that has not finished, or saying in what their images or folds differ.
    """
    if first == second:
        raise UserError(f"{first} is compared with itself: name two runs")
    readers = []
    for name in (first, second):
        run, config, _ = open_run(name, root)
        check_whole(run.meta("evaluate"))
        readers.append(RunReader(run, config))
    check_images([reader.run for reader in readers])
    a, b = (reader.per_image for reader in readers)
    if set(a["image_id"]) != set(b["image_id"]):
        raise UserError(f"{first} and {second} have scores of different images: evaluate both on the same folds")
    images = pairs.pair_images(a, b)
    rows = list(list_gains(a, b))
    table = pairs.gains_by_type_table(rows, (first, second))
    path = comparison(root, f"{first}_{second}")
    write_table(path, images)
    blocks = list(pair_blocks(readers[0], readers[1], images, table))
    write_page(path.parent, path.stem, f"{second} compared with {first}", blocks)
    return table, path.with_suffix(".html")


def list_gains(first: pd.DataFrame, second: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """Yield the gain over all images and over each type: rows of pairs.gains_by_type_table."""
    for what in ("all images", *order_types(first["cluster"], IMAGE_TYPES)):
        a, b = (t if what == "all images" else t[t["cluster"] == what] for t in (first, second))
        row = gains.compare([b], [a])
        yield {
            "what": what,
            "n_images": len(a),
            "n_groups": pairs.count_groups(a),
            "first": float(a["score"].mean()),
            "second": row["score"],
            "gain": [row[name] for name in ("gain", "gain_low", "gain_high")],
        }


def pair_blocks(first: RunReader, second: RunReader, images: pd.DataFrame, table: Table) -> Iterator[Block]:
    """Yield the page: the two runs, gains by type, each image in both, those that changed most, all images."""
    names = first.run.name, second.run.name
    if first.dataset.is_synthetic:
        yield Paragraph(ABOUT_SYNTHETIC)
    yield Paragraph(ABOUT)
    find_page = find_reports(first.root)
    yield Table(
        ("run", "decoding", "what it is to show"),
        [
            (link_run(one.run.name, find_page), name_method(one.config.selection.method), one.config.hypothesis)
            for one in (first, second)
        ],
        n_text=3,
    )
    yield Heading("Gain by image type")
    yield table
    yield pairs.pairs_picture(images, names, IMAGE_TYPES)
    yield Heading("The images that changed most")
    yield Paragraph(ABOUT_CHANGED)
    for how, rows in (("gained", images[images["change"] > 0]), ("lost", images[images["change"] < 0])):
        if len(rows):
            shown = rows.head(N_CHANGED)
            caption = f"The {len(shown)} images that {how} most in {names[1]}."
            changed = read_pairs(first, second, shown)
            yield from first.attempt(partial(pairs.changed_picture, how, caption, changed, names))
        else:
            yield Paragraph(f"No image {how} in {names[1]}.")
    yield Heading("All images")
    yield pairs.changes_table(images, names)


def read_pairs(first: RunReader, second: RunReader, images: pd.DataFrame) -> Iterator[pairs.Pair]:
    """Yield the images of some rows of pair_images with their truth and both runs' nuclei."""
    for row in each_row(images):
        found = (reader.instances("oof", row.image_id) for reader in (first, second))
        yield pairs.Pair(row, first.image(row.image_id), first.truth(row.image_id), *found)
