"""An image too large for memory, segmented tile by tile into files, where predict-images does others in one piece.

Beside the results lies a folder, .<name>.tiles, until all are written: the image's own values, what all tiles have in
common, the nuclei of each tile, and the labels as they are put together. A killed call resumes at the first tile that
is missing there. Every step holds no more than some tiles in memory; the disk needs the image uncompressed, and 4 bytes
a pixel for its labels.
"""

import json
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import shapely
import tifffile
from numpy.typing import NDArray

from nuclei.candidates.context import Whole
from nuclei.data.axes import Picture
from nuclei.data.images import encode_image_png, stretch_contrast
from nuclei.data.normalisation import Rule, choose_rule, find_range
from nuclei.data.slides import Plane, sample_plane, shrink_plane
from nuclei.errors import UserError
from nuclei.inference.exports import LABELS, OUTLINE_COLOURS, draw_outlines, label_type, to_geojson
from nuclei.inference.gallery import PICTURE_PX, VIEWS, encode_jpeg, encode_script
from nuclei.inference.image_files import MADE_BY, Reading, in_utf8
from nuclei.inference.outlines import Outlines, trace_outlines
from nuclei.inference.predictor import Predictor, Survey, choose_jobs, load_predictor
from nuclei.inference.records import Made, begin_record, finish_record, list_requested, write_requested
from nuclei.inference.slide import Measured, Slide, choose_tile, examine, measure_placed, segment_tile
from nuclei.inference.tiles import Nuclei, Placed, Tile, stitch
from nuclei.inference.up_to_date import Task, stat_settled
from nuclei.runs.files import as_json, atomic, file_hash, read_arrays, read_json, write_arrays, write_bytes, write_json
from nuclei.runs.parallel import each_image

LABELS_TILE_PX = 512  # of the label TIFF
BIG_TIFF_BYTES = 1 << 31  # of labels, beyond which the TIFF is a BigTIFF: a classic one ends at 4 GiB
MAX_DRAWN = 20_000  # nuclei that the page draws one by one; of more it shows the picture with their outlines
MADE_FROM = "made_from.json"
PIXELS, COMMON, SAMPLE, PAINTED = "pixels.npy", "common.json", "sample.npz", "labels.npy"
NO_ROIS = "in tiles, without ROIs for ImageJ"


def segment_slide(
    predictor: tuple[Path, tuple[int, ...]], output: Path, reading: Reading, task: Task, jobs: int
) -> tuple[dict[str, Any], str]:
    """Segment one large image by load_predictor(*predictor) and write its results: (record, why it failed).

    Its tiles are spread over `jobs` processes. There are no ROIs for ImageJ, whose manager is not made for so many.
    """
    source, started = task.source, time.perf_counter()
    work = name_folder(output, source.name)
    try:
        stat = stat_settled(source)
        if "image_sha256" not in task.made_from:
            task.made_from["image_sha256"] = source.hash()
        files = [*list_slide_results(source.name), *list_requested(source.name, reading.formats)]
        record = begin_record(output, task, files)
        prepare_folder(work, task.made_from)
        if not is_taken_in(work):
            take_in(load_predictor(*predictor), work, source, reading)
        picture, slide, values = read_common(work)
        tile_px = choose_tile(slide.shape, reading.tile)
        tiles = slide.tiles(tile_px)
        names = [f"tile_{number:06d}" for number in range(len(tiles))]
        each_image(names, partial(write_tile, predictor, work), f"segment {source.name}", choose_jobs(jobs), tiles)
    except (ValueError, OSError) as error:
        text = str(error)
        return {}, in_utf8(text if str(source.path) in text else f"{source.file}: {text}")
    labels = Plane.create(work / PAINTED, slide.shape, np.uint32)
    placed = list(stitch(tiles, lambda number: read_tile(work / f"{names[number]}.npz"), labels))
    n_cut = 0
    for name in names:
        nuclei = read_tile(work / f"{name}.npz")
        n_cut += int((nuclei.cut & nuclei.owned).sum())
    n_nuclei, columns = write_slide_results(output, source.name, slide, labels, tiles, placed, picture.pixel_size_um)
    write_requested(output, source.name, reading.formats, labels, slide.shape, n_nuclei, picture.pixel_size_um)
    notes = [*picture.notes, f"{len(tiles)} tiles of {tile_px} px", NO_ROIS]
    notes += [f"{n_cut} nuclei reach beyond the margin of a tile"] if n_cut else []
    made = Made(
        slide.shape,
        replace(picture, notes=tuple(notes)),
        values,
        slide.rule.text,
        slide.novelty,
        slide.diameter,
        n_nuclei,
        "predicted_iou" in columns,
    )
    hashes = {file: file_hash(output / file) for file in files}
    loaded = load_predictor(*predictor)
    record = finish_record(output, task, record, hashes, stat, loaded, predictor[0].name, made, started)
    remove_folder(work)
    return record, ""


def name_folder(output: Path, name: str) -> Path:
    """Return the folder of a large image's tiles, which is there until its results are."""
    return output / f".{name}.tiles"


def list_slide_results(name: str) -> list[str]:
    """Return the files of a large image's results, relative to their folder."""
    endings = (LABELS, "_outlines.png", ".geojson", "_nuclei.csv")
    return [*(f"{name}{ending}" for ending in endings), f"{VIEWS}/{name}.js", f"{VIEWS}/{name}.jpg"]


# ---- the folder of an image's tiles ----


def prepare_folder(work: Path, made_from: dict[str, Any]) -> None:
    """Make the folder, or keep that of a killed call, if it was for the same image, weights and settings."""
    known = None
    with suppress(OSError, ValueError):
        known = read_json(work / MADE_FROM)
    if known != as_json(made_from):
        remove_folder(work)
        if work.exists() and any(not path.name.startswith(".") for path in work.iterdir()):
            raise UserError(f"{work} is in the way, and {MADE_BY} has no record of making it: move it away")
        write_json(work / MADE_FROM, made_from)


def remove_folder(work: Path) -> None:
    """Remove the folder of tiles, if there is one that this command made; what says so goes last."""
    if (work / MADE_FROM).is_file():
        for path in work.iterdir():
            if path.name != MADE_FROM:
                path.unlink()
        shutil.rmtree(work)


def take_in(predictor: Predictor, work: Path, source: Any, reading: Reading) -> None:
    """Unpack an image, and find what all of its tiles have in common."""
    picture = source.unpack(reading, work / PIXELS)
    pixels = Plane(work / PIXELS)
    rule = choose_rule(pixels.blocks, reading.normalise)
    slide = examine(predictor, pixels, pixels.shape, rule, reading.diameter)
    survey = slide.survey
    if survey.sample is not None:
        write_arrays(work / SAMPLE, {"sample": survey.sample})
    least, greatest = find_range(pixels.blocks)
    common = {
        "picture": {name: value for name, value in vars(picture).items() if name != "pixels"},
        "values": f"{pixels.dtype} {least:g}..{greatest:g}",
        "rule": vars(rule),
        "is_other": survey.is_other,
        "whole": None if survey.whole is None else vars(survey.whole),
        **{name: getattr(slide, name) for name in ("diameter", "factor", "novelty")},
    }
    write_json(work / COMMON, common)


def is_taken_in(work: Path) -> bool:
    """Tell whether what take_in leaves is there, and not damaged since."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        read_common(work)
        return True
    return False


def read_common(work: Path) -> tuple[Picture, Slide, str]:
    """Return the picture without its pixels, the slide, and the range of its values in words, which take_in left."""
    found, pixels = read_json(work / COMMON), Plane(work / PIXELS)
    picture = Picture(np.empty(0, pixels.dtype), **found["picture"] | {"notes": tuple(found["picture"]["notes"])})
    sample = read_arrays(work / SAMPLE)["sample"] if (work / SAMPLE).is_file() else None
    survey = Survey(found["is_other"], None if found["whole"] is None else Whole(**found["whole"]), sample)
    own = {name: found[name] for name in ("diameter", "factor", "novelty")}
    height, width = pixels.shape[:2]
    return picture, Slide(pixels, (height, width), Rule(**found["rule"]), survey=survey, **own), found["values"]


def write_tile(predictor: tuple[Path, tuple[int, ...]], work: Path, name: str, tile: Tile) -> None:
    """Find the nuclei of a tile and write them, unless a call before this one has."""
    path = work / f"{name}.npz"
    if path.is_file():
        with suppress(UserError):
            read_tile(path)
            return
    nuclei = segment_tile(load_predictor(*predictor), read_common(work)[1], tile)
    steps = np.diff(nuclei.pixels, prepend=np.int32(0))  # most of which are 1
    write_arrays(path, nuclei._asdict() | {"pixels": steps})


def read_tile(path: Path) -> Nuclei:
    """Read what write_tile wrote."""
    arrays = read_arrays(path, Nuclei._fields)
    return Nuclei(**arrays | {"pixels": np.cumsum(arrays["pixels"], dtype=np.int32)})


# ---- results, written piece by piece ----


def write_slide_results(
    output: Path,
    name: str,
    slide: Slide,
    labels: Plane,
    tiles: Sequence[Tile],
    placed: Sequence[Placed],
    pixel_size_um: float | None,
) -> tuple[int, list[str]]:
    """Write the results of an image whose tiles are put together; return how many nuclei it has, and their columns."""
    n_nuclei = sum(one.n for one in placed)
    drawn: list[tuple[pd.DataFrame, Outlines]] = []
    with (
        atomic(output / f"{name}_nuclei.csv") as table,
        atomic(output / f"{name}.geojson") as geojson,
        table.open("w", encoding="utf-8", newline="") as rows,
        geojson.open("w", encoding="utf-8") as features,
    ):
        features.write('{"type": "FeatureCollection", "features": [')
        separator = ""
        for number, one in enumerate(placed):
            measured = measure_placed(slide, labels, tiles, one, pixel_size_um)
            measured.table.to_csv(rows, index=False, header=number == 0, lineterminator="\n")
            outlines = trace_in_image(measured)
            for feature in to_geojson(outlines, measured.table)["features"]:
                features.write(separator + json.dumps(feature))
                separator = ", "
            drawn += [(measured.table, outlines)] if n_nuclei <= MAX_DRAWN else []
        features.write("]}")
    write_label_tiff(output / f"{name}{LABELS}", labels, n_nuclei)
    write_pictures(output, name, slide, labels, n_nuclei, drawn)
    return n_nuclei, list(map(str, measured.table))


def trace_in_image(measured: Measured) -> Outlines:
    """Return the outlines of a tile's own nuclei in pixels of the image."""
    offset = np.array(measured.tile.origin[::-1])
    return {
        label + measured.first - 1: shapely.transform(outline, lambda points: points + offset)
        for label, outline in trace_outlines(measured.labels).items()
    }


def write_label_tiff(path: Path, labels: Plane, n_nuclei: int) -> None:
    """Write labels, [H, W], as a tiled, zlib-compressed TIFF of 16 bits, or of 32 where there are more nuclei."""
    dtype = label_type(n_nuclei)
    side = LABELS_TILE_PX

    def cut() -> Iterator[NDArray[Any]]:
        for top in range(0, labels.shape[0], side):
            band = labels[slice(top, top + side), slice(None)].astype(dtype)
            for left in range(0, labels.shape[1], side):
                block = band[:, left : left + side]
                yield np.pad(block, [(0, side - n) for n in block.shape])

    is_big = labels.shape[0] * labels.shape[1] * dtype.itemsize > BIG_TIFF_BYTES
    with atomic(path) as temporary, tifffile.TiffWriter(temporary, bigtiff=is_big) as tiff:
        tiff.write(
            cut(),
            shape=labels.shape,
            dtype=dtype,
            tile=(side, side),
            photometric="minisblack",
            compression="zlib",
            maxworkers=1,
        )


def write_pictures(
    output: Path,
    name: str,
    slide: Slide,
    labels: Plane,
    n_nuclei: int,
    drawn: Sequence[tuple[pd.DataFrame, Outlines]],
) -> None:
    """Write an overview, its longer side PICTURE_PX at most, without and with outlines, and what the page draws on it.

    Of more nuclei than MAX_DRAWN the page draws none, and has the overview with outlines.
    """
    overview = stretch_contrast(shrink_plane(slide.pixels, slide.shape, PICTURE_PX, slide.rule))
    step = -(-max(slide.shape) // PICTURE_PX)
    numbers = np.arange(n_nuclei + 1) % len(OUTLINE_COLOURS)
    small = sample_plane(labels, step).astype(np.int32)
    outlined = draw_outlines(overview, small, colour_numbers=numbers)
    write_bytes(output / f"{name}_outlines.png", encode_image_png(outlined))
    picture = overview if n_nuclei <= MAX_DRAWN else outlined
    write_bytes(output / VIEWS / f"{name}.jpg", encode_jpeg(picture, 90))
    tables = [table for table, _ in drawn if len(table)]
    measures = pd.concat(tables, ignore_index=True) if tables else None
    outlines = {label: outline for _, some in drawn for label, outline in some.items()}
    script = encode_script(picture, slide.shape, measures, outlines, numbers[list(outlines)])
    write_bytes(output / VIEWS / f"{name}.js", script)
