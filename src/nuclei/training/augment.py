"""Random training crops of an image and its labels, in groups that switch on and off one by one."""

import difflib
import random
from collections.abc import Callable, Collection, Mapping
from functools import cache, lru_cache
from typing import Any, cast

import albumentations
import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage import measure

from nuclei.errors import UserError

Image = NDArray[np.uint8]  # [H, W, 3]
Labels = NDArray[Any]  # [H, W], integers
Grid = NDArray[np.float32]  # [H, W], coordinates or displacements in pixels
Box = tuple[slice, slice]  # rows and columns
Pair = tuple[Image, Labels]

GROUPS = (
    "crop", "affine", "distort", "mosaic", "dihedral", "copy_paste", "stain", "color", "shuffle", "gray",
    "invert", "contrast", "sharpen", "blur", "noise",
)  # fmt: skip
PRESETS = {
    "none": {"crop": 1.0},
    "light": {"crop": 1.0, "dihedral": 1.0, "contrast": 0.4},
    "full": {
        "crop": 1.0, "affine": 0.7, "distort": 0.6, "mosaic": 0.1, "dihedral": 1.0, "copy_paste": 0.2,
        "stain": 0.4, "color": 0.5, "shuffle": 0.2, "gray": 0.25, "invert": 0.2, "contrast": 0.4,
        "sharpen": 0.35, "blur": 0.4, "noise": 0.5,
    },
}  # fmt: skip
MIN_PART_PX = 8
CONVEX_SOLIDITY = 0.92
MAX_DARK_LEVEL = 80  # median gray level of a fluorescence image
SCALES = (0.55, 1.45)
MAX_ROTATION_DEG = 45
LIGHT_STAINS = np.array([[250, 250, 250], [238, 212, 230], [205, 182, 222]])  # white, pink, lavender
DARK_STAINS = np.array([[100, 50, 135], [60, 50, 120], [45, 40, 50]])  # purple, blue-violet, near black


def augment(
    image: Image,
    labels: Labels,
    preset: str | Mapping[str, float],
    size: int,
    rng: np.random.Generator,
    partners: Callable[[], Pair] | None = None,
) -> tuple[Image, NDArray[np.int32]]:
    """Cut one random training crop, decided by `rng` alone.

    image uint8 [H, W, 3], labels int [H, W] -> uint8 [size, size, 3], int32 [size, size]. `preset` is a name in
    PRESETS or a mapping group -> probability, absent groups being off; UserError on an unknown name, group or
    probability. `partners` gives another (image, labels) for a mosaic; without it the mosaic is of the image itself.
    Beyond its edges an image continues by reflection; a reflected nucleus is another nucleus (split_reflections).
    The labels of the crop count up from 1: each 8-connected part of at least 8 px is a nucleus, smaller ones vanish.
    """
    groups = resolve_preset(preset)
    if rng.random() < groups["mosaic"]:
        image, labels = cut_mosaic(image, labels, size, groups, rng, partners)
    else:
        image, labels = cut(image, labels, size, size, groups, rng)
    if rng.random() < groups["dihedral"]:
        image, labels = turn(image, labels, int(rng.integers(8)))
    if rng.random() < groups["copy_paste"]:
        image, labels = paste_copies(image, labels, rng)
    if rng.random() < groups["stain"]:
        image = stain(image, rng)
    return change_colours(np.ascontiguousarray(image), groups, rng), number_parts(labels)


def resolve_preset(preset: str | Mapping[str, float]) -> dict[str, float]:
    """Return every group's probability; raise UserError that lists the options or names the nearest group."""
    if isinstance(preset, str):
        if preset not in PRESETS:
            raise UserError(f"unknown augmentation preset {preset!r}; valid: {', '.join(PRESETS)}")
        preset = PRESETS[preset]
    for group, probability in preset.items():
        if group not in GROUPS:
            near = difflib.get_close_matches(str(group), GROUPS, n=1)
            hint = f", did you mean {near[0]}?" if near else f"; valid: {', '.join(GROUPS)}"
            raise UserError(f"unknown augmentation group {group!r}{hint}")
        if not 0 <= probability <= 1:
            raise UserError(f"augmentation group {group}: probability {probability} is not in 0..1")
    return {group: float(preset.get(group, 0)) for group in GROUPS}


def leave_out(preset: str | Mapping[str, float], groups: Collection[str]) -> dict[str, float]:
    """Return every group's probability with some groups off; raise UserError as resolve_preset does, for both."""
    off = resolve_preset(dict.fromkeys(groups, 0.0))
    return resolve_preset(preset) | {group: off[group] for group in groups}


def cut(
    image: Image, labels: Labels, height: int, width: int, groups: Mapping[str, float], rng: np.random.Generator
) -> Pair:
    """Cut a random window, warped by the groups affine and distort: [H, W] -> [height, width].

    One warp takes the crop straight from the source, so that image and labels are sampled at the same points and
    the image is interpolated once. Without the group crop the window is central.
    """
    scale = rng.uniform(*SCALES) if rng.random() < groups["affine"] else None
    distorted = rng.random() < groups["distort"]
    random_place = rng.random() < groups["crop"]
    footprint = np.maximum(1, np.rint(np.array([height, width]) / (scale or 1)).astype(int))
    shape = labels.shape
    slack = np.array(shape) - footprint
    start = rng.integers(np.minimum(0, slack), np.maximum(0, slack), endpoint=True) if random_place else slack // 2
    y, x = make_grid(height, width)
    if distorted:
        bend = DISTORTIONS[rng.integers(len(DISTORTIONS))]
        dy, dx = bend(y, x, rng)
        y, x = y + dy, x + dx
    if scale is not None:
        angle = np.deg2rad(rng.uniform(-MAX_ROTATION_DEG, MAX_ROTATION_DEG))
        sine, cosine = np.float32(np.sin(angle) / scale), np.float32(np.cos(angle) / scale)
        y, x = sine * x + cosine * y, cosine * x - sine * y
    center = start + (footprint - 1) / 2
    y, x = y + np.float32(center[0]), x + np.float32(center[1])
    crop = cv2.remap(image, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
    source = labels if labels.dtype == np.uint16 else labels.astype(np.int32, copy=False)  # as OpenCV takes them
    ids = cv2.remap(source, x, y, cv2.INTER_NEAREST, borderMode=cv2.BORDER_REFLECT).astype(np.int32)
    return cast("Image", crop), split_reflections(ids, y, x, (shape[0], shape[1]))


@lru_cache(maxsize=16)  # crops of a training have one size, the windows of a mosaic any
def make_grid(height: int, width: int) -> NDArray[np.float32]:
    """Return y and x of each pixel about the middle of a crop, [2, height, width], not to be written to."""
    middle = np.array([[[(height - 1) / 2]], [[(width - 1) / 2]]], np.float32)
    grid: NDArray[np.float32] = np.mgrid[:height, :width].astype(np.float32) - middle
    grid.flags.writeable = False
    return grid


def split_reflections(labels: Labels, y: Grid, x: Grid, shape: tuple[int, int]) -> Labels:
    """Give reflected nuclei ids of their own, where labels int32 [H, W] were sampled at y, x of a source of `shape`.

    A nucleus that the source's edge cuts keeps one id with its mirror image where both make one nearly convex
    shape: it looks like one nucleus, and a line through its middle would be a wrong lesson.
    """
    if min(y.min(), x.min()) >= -0.5 and y.max() <= shape[0] - 0.5 and x.max() <= shape[1] - 0.5:
        return labels
    # The rounding is that of the nearest-neighbour sampling, so that the copies meet where its samples turn back.
    row_copy, column_copy = (np.rint(v).astype(np.int32) // n for v, n in ((y, shape[0]), (x, shape[1])))
    row_copy, column_copy = row_copy - row_copy.min(), column_copy - column_copy.min()
    copy = row_copy * (column_copy.max() + 1) + column_copy
    copies: Labels = labels + (labels > 0) * copy * (labels.max() + 1)
    seam = np.zeros(labels.shape, bool)
    seam[1:] = copy[1:] != copy[:-1]
    seam[:, 1:] |= copy[:, 1:] != copy[:, :-1]
    parts = find_parts(labels)
    boxes = ndimage.find_objects(parts)
    for part in set(parts[seam].tolist()) - {0}:
        box = boxes[part - 1]
        mask = parts[box] == part
        if measure_solidity(mask) > CONVEX_SOLIDITY:
            copies[box][mask] = copies[box][mask].max()
    return copies


def find_parts(labels: Labels) -> Labels:
    """Number the 8-connected parts of each label from 1: int [H, W] -> int [H, W]."""
    parts: Labels = measure.label(labels, connectivity=2, background=0)
    return parts


def measure_solidity(mask: NDArray[np.bool_]) -> float:
    """Return the area inside the outline of one part, bool [H, W], over that of its convex hull: 0..1."""
    outlines, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    hull_area = cv2.contourArea(cv2.convexHull(outlines[0]))
    return cv2.contourArea(outlines[0]) / hull_area if hull_area else 1.0


def bend_elastic(y: Grid, x: Grid, rng: np.random.Generator) -> tuple[Grid, Grid]:  # noqa: ARG001 (the form of all)
    """Return smooth random displacements, about 1 to 3 px, of points 32 px apart."""
    height, width = y.shape
    knots = rng.normal(0, rng.uniform(1, 3), (2, height // 32 + 2, width // 32 + 2)).astype(np.float32)
    dy, dx = (cv2.resize(k, (width, height), interpolation=cv2.INTER_CUBIC) for k in knots)
    return cast("Grid", dy), cast("Grid", dx)


def bend_grid(y: Grid, x: Grid, rng: np.random.Generator) -> tuple[Grid, Grid]:  # noqa: ARG001 (the form of all)
    """Return displacements that stretch and squeeze five bands of rows and of columns by up to 30 %."""

    def stretch(length: int) -> NDArray[np.float32]:
        knots = np.linspace(0, length - 1, 6)
        shift = rng.uniform(-0.15, 0.15, 6) * length / 5
        shifts: NDArray[np.float32] = np.interp(np.arange(length), knots, shift).astype(np.float32)
        return shifts

    return stretch(y.shape[0])[:, None], stretch(y.shape[1])


def bend_optical(y: Grid, x: Grid, rng: np.random.Generator) -> tuple[Grid, Grid]:
    """Return the displacements of a barrel or pincushion lens, up to 25 % in the corners."""
    bulge: Grid = np.float32(rng.uniform(-0.25, 0.25)) * (y**2 + x**2) / max(y[0, 0] ** 2 + x[0, 0] ** 2, 1)
    return y * bulge, x * bulge


# Each gives displacements along y and x, which broadcast to [H, W], from coordinates about the middle of the crop.
DISTORTIONS = (bend_elastic, bend_grid, bend_optical)


def cut_mosaic(
    image: Image,
    labels: Labels,
    size: int,
    groups: Mapping[str, float],
    rng: np.random.Generator,
    partners: Callable[[], Pair] | None,
) -> Pair:
    """Fill a [size, size] crop with four windows, of the image and of three partners, that meet at a random point."""
    row, column = (int(v) for v in np.rint(rng.uniform(0.3, 0.7, 2) * size))
    mosaic, ids = np.zeros((size, size, 3), np.uint8), np.zeros((size, size), np.int32)
    for rows in (slice(0, row), slice(row, size)):
        for columns in (slice(0, column), slice(column, size)):
            tile, tile_ids = cut(image, labels, rows.stop - rows.start, columns.stop - columns.start, groups, rng)
            mosaic[rows, columns] = tile
            ids[rows, columns] = np.where(tile_ids > 0, tile_ids + ids.max(), 0)
            image, labels = partners() if partners else (image, labels)
    return mosaic, ids


def turn(image: NDArray[Any], labels: NDArray[Any], view: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return one of the eight dihedral views, numbered 0..7."""
    if view >= 4:
        image, labels = image[:, ::-1], labels[:, ::-1]
    return np.rot90(image, view % 4), np.rot90(labels, view % 4)


def number_parts(labels: Labels) -> NDArray[np.int32]:
    """Number the parts that find_parts finds from 1, leaving out those below 8 px: int [H, W] -> int32 [H, W]."""
    parts = find_parts(labels)
    kept = np.bincount(parts.ravel()) >= MIN_PART_PX
    kept[0] = False
    numbers: NDArray[np.int32] = (np.cumsum(kept) * kept).astype(np.int32)[parts]
    return numbers


def paste_copies(image: Image, labels: Labels, rng: np.random.Generator, most: int = 8, margin: int = 4) -> Pair:
    """Paste up to `most` turned copies of nuclei onto background beside other nuclei, touching or up to 3 px apart.

    Existing nuclei keep their pixels. A copy is left out where its surroundings, at home or there, vary by more
    than a third of its contrast, or where it would leave the frame.
    """
    image, labels = image.copy(), labels.copy()
    boxes = {k: b for k, b in enumerate(ndimage.find_objects(labels), 1) if b is not None}
    outer = {k: tuple(slice(s.start - margin, s.stop + margin) for s in b) for k, b in boxes.items()}
    donors = [k for k, b in outer.items() if all(s.start >= 0 and s.stop <= len(labels) for s in b)]
    for _ in range(rng.integers(1, most + 1) if donors else 0):
        donor, host = int(rng.choice(donors)), int(rng.choice(list(boxes)))
        view, angle, gap = int(rng.integers(8)), rng.uniform(0, 2 * np.pi), int(rng.integers(0, 4))
        patch, patch_ids = turn(image[outer[donor]], labels[outer[donor]], view)
        mask = patch_ids == donor
        place = find_place(labels, boxes[host], mask, angle, gap)
        if place is None:
            continue
        free = labels[place] == 0
        home, there = patch[patch_ids == 0], image[place][free]
        contrast = abs(float(patch[mask].mean()) - float(home.mean())) if len(home) else 0
        if contrast == 0 or max(home.std(axis=0).max(), there.std(axis=0).max()) > contrast / 3:
            continue
        feather = cv2.GaussianBlur(cv2.dilate(mask.astype(np.float32), np.ones((3, 3))), (5, 5), 0)
        weight = (np.maximum(feather, mask) * free)[..., None]
        moved = patch + (there.mean(axis=0) - home.mean(axis=0))
        blended = weight * moved + (1 - weight) * image[place]
        image[place] = np.rint(blended).clip(0, 255).astype(np.uint8)
        labels[place][mask & free] = labels.max() + 1
    return image, labels


def find_place(labels: Labels, host_box: Box, mask: NDArray[np.bool_], angle: float, gap: int) -> Box | None:
    """Return the slices nearest to the host in this direction where at most 5 % of `mask` meets nuclei, or None."""
    top, left = ((s.start + s.stop - n) / 2 for s, n in zip(host_box, mask.shape, strict=True))
    allowed = 0.05 * np.count_nonzero(mask)
    touching = False
    for distance in range(2 * max(labels.shape)):
        y, x = round(top + distance * np.sin(angle)), round(left + distance * np.cos(angle))
        if min(y, x) < 0 or y + mask.shape[0] > labels.shape[0] or x + mask.shape[1] > labels.shape[1]:
            return None
        place = slice(y, y + mask.shape[0]), slice(x, x + mask.shape[1])
        touching = touching or np.count_nonzero(labels[place][mask]) <= allowed
        if touching and gap == 0:
            return place
        gap -= touching
    return None


def change_colours(image: Image, groups: Mapping[str, float], rng: np.random.Generator) -> Image:
    """Apply the groups that change the image alone."""
    low, _, high = measure_levels(image)
    # Powers of two, so that a handful of compositions serve all images.
    photometric = build_photometric(tuple(groups.items()), 1 << max(4, int(high - low).bit_length()))
    seed = int(rng.integers(2**31))
    # As albumentations.Compose does it: each group draws from a generator of its own, of one seed, whether it switches
    # on. So all see the same number, and those that stay off need not be seeded, which takes longer than what they do.
    drawn = random.Random(seed).random()
    for group in photometric:
        if drawn < group.p:
            group.set_random_seed(seed)
            image = group(image=image)["image"]
    return image


@cache
def build_photometric(groups: tuple[tuple[str, float], ...], contrast: int) -> list[albumentations.OneOf]:
    """Return the groups of transforms of the image alone, in fixed order; the caller seeds them before each use.

    Noise is a share of `contrast`, in gray levels, and no transform shifts or darkens a dim image as a whole, for
    many of the fluorescence images span twenty gray levels above black and would be erased.
    """
    make = albumentations
    noise = 0.01 * contrast / 255, 0.08 * contrast / 255
    of_group = {
        "color": [make.HueSaturationValue(20, 30, 0, p=1)],
        "shuffle": [make.ChannelShuffle(p=1)],
        "gray": [make.ToGray(p=1)],
        "invert": [make.InvertImg(p=1)],
        "contrast": [
            make.RandomBrightnessContrast((-0.25, 0.05), (-0.2, 0.1), brightness_by_max=False, p=1),
            make.RandomBrightnessContrast((0, 0.3), (-0.3, 0), ensure_safe_range=True, p=1),
            make.RandomGamma((50, 110), p=1),
        ],
        "sharpen": [make.CLAHE((1, 3), p=1), make.Sharpen(p=1), make.Emboss(p=1)],
        "blur": [
            make.GaussianBlur(sigma_limit=(0.4, 1.5), p=1),
            make.MotionBlur((3, 5), allow_shifted=False, direction_range=(0, 0), p=1),
            make.MedianBlur(3, p=1),
        ],
        "noise": [make.GaussNoise(noise, per_channel=False, p=1), make.ISONoise((0.01, 0.04), (0.1, 0.3), p=1)],
    }
    return [make.OneOf(of_group[group], p=p) for group, p in groups if p and group in of_group]


def measure_levels(image: Image) -> NDArray[np.int64]:
    """Return the gray levels below which 1 %, half and 99.5 % of every fourth pixel lie."""
    gray = cv2.cvtColor(image[::2, ::2], cv2.COLOR_RGB2GRAY)
    share = np.cumsum(np.bincount(gray.ravel(), minlength=256)) / gray.size
    return np.searchsorted(share, (0.01, 0.5, 0.995))


def stain(image: Image, rng: np.random.Generator) -> Image:
    """Turn a dark fluorescence image into dark nuclei on white or purple; return any other as it is."""
    low, median, high = measure_levels(image)
    if median > MAX_DARK_LEVEL:
        return image
    light, dark = (rng.dirichlet(np.ones(3)) @ colors for colors in (LIGHT_STAINS, DARK_STAINS))
    dose = ((np.arange(256) - low) / max(high - low, 24)).clip(0, 1) ** rng.uniform(0.6, 1.2)
    table = light + dose[:, None] * (dark - light)
    stained: Image = np.rint(table).astype(np.uint8)[cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)]
    return stained
