"""External images: sets that others have published, in their own layouts or a generic one, as images and labels.

A layout is added by one entry of LAYOUTS, a set that can be fetched by one of PUBLISHED_SETS.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import ndimage

from nuclei.data.archives import is_clutter
from nuclei.data.axes import View
from nuclei.data.images import decode_mask, merge_masks
from nuclei.data.label_folder import read_labels
from nuclei.data.labels import renumber
from nuclei.data.microscope import SUFFIXES, read_picture
from nuclei.data.normalisation import normalise
from nuclei.errors import UserError
from nuclei.evaluation.sheets import read_sheet, sheet_table
from nuclei.limits import read_whole

Labels = NDArray[np.int32]
Pairs = list[tuple[Path, tuple[Path, ...]]]  # images and their truth
MANIFEST_COLUMNS = (
    *("image_id", "set", "licence", "source", "height", "width", "n_nuclei", "median_area_px", "scale"),
    *("sha256", "content"),
)
INDEX = "index.csv"
NOT_STATED = "not stated"
LABEL_SUFFIXES = (".png", ".tif", ".tiff")


@dataclass(frozen=True)
class PublishedSet:
    """Describe a data set that can be fetched.

    unpacked: of the archive's files, those whose paths match are unpacked.
    """

    title: str
    licence: str
    source: str
    url: str
    unpacked: str


PUBLISHED_SETS = {
    "sbsst265": PublishedSet(
        "S-BSST265: fluorescence, tissue sections and cultured cells",
        "CC0",
        "Kromp et al. 2020, Scientific Data 7:262; BioStudies S-BSST265",
        "https://www.ebi.ac.uk/biostudies/files/S-BSST265/dataset.zip",
        r"rawimages/[^/]+\.tif$|groundtruth/[^/]+\.tif$|image_description\.csv$|readme\.txt$",
    ),
    "tnbc": PublishedSet(
        "TNBC: H&E of breast cancer",
        "CC BY 4.0",
        "Naylor et al. 2018, IEEE Transactions on Medical Imaging 38:448; doi 10.5281/zenodo.2579118",
        "https://zenodo.org/records/2579118/files/TNBC_NucleiSegmentation.zip",
        r"(Slide|GT)_\d+/[^/]+\.png$",
    ),
    "nuinsseg": PublishedSet(
        "NuInsSeg: H&E of 31 organs of human and mouse",
        "CC BY 4.0",
        "Mahbod et al. 2024, Scientific Data 11:295; doi 10.5281/zenodo.10518968",
        "https://zenodo.org/records/10518968/files/NuInsSeg.zip",
        r"tissue images/[^/]+\.png$|label masks modify/[^/]+\.tif$",
    ),
}


@dataclass(frozen=True)
class Found:
    """An external image on the disk and its truth: a label image, a mask of all nuclei, or a mask of each."""

    name: str
    image: Path
    truth: tuple[Path, ...]


@dataclass(frozen=True)
class Layout:
    """Say how a data set lies in a folder.

    sign: what it is known by, as a user reads it; find: (image, truth) pairs below a folder, none if it is not laid out
    so; read: truth -> labels, int32 [H, W], for an image of some shape.
    """

    sign: str
    find: Callable[[Path], Pairs]
    read: Callable[[tuple[Path, ...], tuple[int, ...]], Labels]


def read_label_image(truth: tuple[Path, ...], shape: tuple[int, ...]) -> Labels:
    """Read a label image, TIFF or PNG; raise UserError as `check_labels` does."""
    (path,) = truth
    return read_labels(path, shape)


def read_binary(truth: tuple[Path, ...], shape: tuple[int, ...]) -> Labels:
    """Read one mask of all nuclei, of which each 4-connected component is one."""
    (path,) = truth
    mask = decode_mask(read_whole(path), str(path))
    if mask.shape != tuple(shape):
        raise UserError(f"{path} is {mask.shape}, its image {tuple(shape)}: fetch the set again")
    return np.asarray(ndimage.label(mask)[0], np.int32)


def read_masks(truth: tuple[Path, ...], shape: tuple[int, ...]) -> Labels:
    """Read a label image or, where there are several files or a folder of them, a mask of each nucleus."""
    if len(truth) == 1 and truth[0].parent.name == "labels":
        return read_label_image(truth, shape)
    height, width = shape
    labels, counts = merge_masks((decode_mask(read_whole(path), str(path)) for path in truth), (height, width))
    if counts["wrong_shape_masks"]:
        raise UserError(f"{truth[0].parent}: {counts['wrong_shape_masks']} masks are not of the size of their image")
    return labels


def _find_beside(pattern: str, truth_of: Callable[[Path], Path]) -> Callable[[Path], Pairs]:
    def find(folder: Path) -> Pairs:
        images = (path for path in sorted(folder.rglob(pattern)) if not is_clutter(path.relative_to(folder).as_posix()))
        return [(path, (truth_of(path),)) for path in images if path.is_file()]

    return find


def _find_generic(folder: Path) -> Pairs:
    found = []
    for path in sorted((folder / "images").glob("*")):
        if path.suffix.lower() in SUFFIXES and not is_clutter(path.name):
            labels = [folder / "labels" / f"{path.stem}{suffix}" for suffix in LABEL_SUFFIXES]
            masks = [p for p in sorted((folder / "masks" / path.stem).glob("*.png")) if not is_clutter(p.name)]
            one = next((p for p in labels if p.is_file()), None)
            found.append((path, (one,) if one else tuple(masks) or (labels[0],)))
    return found


# The first whose files are there is the layout of a folder.
LAYOUTS = {
    "sbsst265": Layout(
        "rawimages/*.tif with groundtruth/*.tif",
        _find_beside("rawimages/*.tif", lambda path: path.parents[1] / "groundtruth" / path.name),
        read_label_image,
    ),
    "tnbc": Layout(
        "Slide_XX/*.png with GT_XX/*.png",
        _find_beside(
            "Slide_*/*.png", lambda path: path.parents[1] / path.parent.name.replace("Slide", "GT") / path.name
        ),
        read_binary,
    ),
    "nuinsseg": Layout(
        "<organ>/tissue images/*.png with <organ>/label masks modify/*.tif",
        _find_beside("tissue images/*.png", lambda path: path.parents[1] / "label masks modify" / f"{path.stem}.tif"),
        read_label_image,
    ),
    "generic": Layout(
        "images/* with labels/<name>.png or .tif, or masks/<name>/*.png, one of each nucleus",
        _find_generic,
        read_masks,
    ),
}


def find_images(folder: Path) -> tuple[str, list[Found]]:
    """Return the layout of a folder and its images, named by their files, in what file systems take.

    Raises UserError naming the folder, and what may lie in it, or an image without its truth.
    """
    for layout, entry in LAYOUTS.items():
        pairs = entry.find(folder)
        if not pairs:
            continue
        for image, truth in pairs:
            if not truth[0].is_file():
                raise UserError(f"{image} has no truth: put {truth[0]} there, or take the image away")
        counts = Counter(image.stem for image, _ in pairs)
        names = [_clean(p.stem if counts[p.stem] == 1 else f"{p.parents[1].name}_{p.stem}") for p, _ in pairs]
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise UserError(f"{folder} has two images {twice}: rename one, and its truth")
        return layout, [Found(name, *pair) for name, pair in zip(names, pairs, strict=True)]
    forms = "\n".join(f"  {entry.sign}" for entry in LAYOUTS.values())
    raise UserError(f"{folder} holds no external images; looked for\n{forms}")


def _clean(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", name).lstrip("-.")[:200] or "image"


def find_index(folder: Path) -> Path | None:
    """Return the index of a set, in its folder or beside it; None without one."""
    return next((path for path in (folder / INDEX, folder.parent / INDEX) if path.is_file()), None)


def read_rights(name: str, folder: Path) -> Callable[[str], tuple[str, str]]:
    """Return what gives licence and source of an image of the set `name`, by the name of its file.

    An index says it, columns name, licence and source; else the set's entry of PUBLISHED_SETS; else nobody.
    """
    published = PUBLISHED_SETS.get(name)
    default = (published.licence, published.source) if published else (NOT_STATED, NOT_STATED)
    index = find_index(folder)
    if not index:
        return lambda _: default
    sheet = read_sheet(index, "index")
    table = sheet_table(sheet, ("name", "licence", "source"))
    if "data_set" in sheet.header:  # one index of several sets
        table = table[sheet_table(sheet, ("data_set",))["data_set"] == name]
    rights = {_clean(name): (licence, source) for _, name, licence, source in table.itertuples(name=None)}
    return lambda image: tuple(own or other for own, other in zip(rights.get(image, default), default, strict=True))  # type: ignore[return-value]  # both are of two


def prepare_external(
    name: str, layout: str, rights: tuple[str, str], area_px: float, found: Found
) -> tuple[NDArray[np.uint8], Labels, dict[str, Any]]:
    """Decode one image of the set `name` and bring it to scale.

    Returns (image uint8 [H, W, 3] RGB, labels int32 [H, W] from 1 without gaps, row of the manifest: MANIFEST_COLUMNS;
    sha256 is of the image's file, content of what is returned). Raises UserError naming the broken file.
    """
    image, _ = normalise(read_picture(found.image, View()).pixels)
    labels = LAYOUTS[layout].read(found.truth, image.shape[:2])
    image, labels, scale = bring_to_scale(image, labels, area_px)
    row = {
        **{"image_id": found.name, "set": name, "licence": rights[0], "source": rights[1]},
        **{"height": labels.shape[0], "width": labels.shape[1], "n_nuclei": int(labels.max(initial=0))},
        **{"median_area_px": median_area(labels), "scale": scale},
        "sha256": hashlib.sha256(read_whole(found.image)).hexdigest(),
        "content": hashlib.sha256(image.tobytes() + labels.astype("<u2").tobytes()).hexdigest()[:16],
    }
    return image, labels, row


def median_area(labels: NDArray[Any]) -> float:
    """Return the median area of the nuclei of a label image, pixels, 0 without nuclei."""
    areas = np.bincount(labels.ravel())[1:]
    return float(np.median(areas[areas > 0])) if areas.any() else 0.0


def bring_to_scale(image: NDArray[np.uint8], labels: Labels, area_px: float) -> tuple[NDArray[np.uint8], Labels, float]:
    """Halve an image, uint8 [H, W, 3], and its labels until the median area of its nuclei is at most `area_px`.

    Returns image, labels, from 1 without gaps, and the scale, 1, 1/2, 1/4, … Each pixel is the mean of those that it
    stands for; labels have the nearest one's.
    """
    halvings = 0
    while median_area(labels) / 4**halvings > area_px and min(labels.shape) >> halvings > 1:
        halvings += 1
    if halvings:
        size = (max(1, labels.shape[1] >> halvings), max(1, labels.shape[0] >> halvings))
        image = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
        # OpenCV resizes no int32, and float64 holds all of them.
        smaller = cv2.resize(labels.astype(np.float64), size, interpolation=cv2.INTER_NEAREST_EXACT)
        labels = smaller.astype(np.int32)
    return image, renumber(labels, np.bincount(labels.ravel(), minlength=1) > 0), 0.5**halvings


def external_manifest(rows: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """Put rows of `prepare_external` into a table, by image_id."""
    return pd.DataFrame(list(rows), columns=list(MANIFEST_COLUMNS)).sort_values("image_id", ignore_index=True)


def describe_set(manifest: pd.DataFrame) -> dict[str, Any]:
    """Return what is to be said of a set wherever a network goes that learned from it."""
    said = {key: "; ".join(sorted(manifest[key].unique())) for key in ("licence", "source")}
    return {"images": len(manifest), "nuclei": int(manifest["n_nuclei"].sum()), **said}


def explain_set(name: str, folder: Path) -> str:
    """Say what of a set is to be put where, and where it comes from."""
    forms = "\n".join(f"  {entry.sign}" for entry in LAYOUTS.values())
    published = PUBLISHED_SETS.get(name)
    archive = f"  the archive, as {folder}.zip, from {published.url} ({published.licence})\nor " if published else "  "
    fix = f"{archive}into {folder} its images and their truth, in one of these forms:\n{forms}"
    return f"the external data set {name} is missing: put\n{fix}"
