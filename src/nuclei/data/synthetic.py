"""Synthetic microscope images of nuclei with their truth."""

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from nuclei.data.labels import drop_small


@dataclass(frozen=True)
class Kind:
    """Describe how the nuclei of an image type are shaped, placed and stained; a pair is a range."""

    radius_px: float  # median
    radius_spread: float  # standard deviation of its logarithm
    coverage: tuple[float, float]  # share of the image that is nucleus
    clumped: float  # share of the nuclei that are placed against an earlier one
    elongation: float  # largest logarithm of the ratio of the axes
    aligned: float  # 0: nuclei lie in all directions, 1: all in one
    roughness: float  # waves of the outline, in radii
    blur_px: tuple[float, float]  # of the microscope
    stain: tuple[float, float, float] = (0, 0, 0)  # optical density of a nucleus in red, green, blue
    tissue: tuple[float, float, float] = (0, 0, 0)  # optical density of what surrounds it


KINDS = {
    "dark_fluorescence_small": Kind(7.5, 0.20, (0.05, 0.18), 0.18, 0.5, 0.0, 0.05, (0.6, 1.1)),
    "dark_fluorescence_large": Kind(24.0, 0.13, (0.15, 0.32), 0.10, 0.5, 0.2, 0.06, (0.8, 1.5)),
    "purple_on_white": Kind(
        9.5, 0.20, (0.10, 0.28), 0.15, 0.3, 0.0, 0.08, (0.8, 1.2), (0.75, 1.60, 0.48), (0.10, 0.08, 0.06)
    ),
    "purple_on_purple": Kind(
        14.0, 0.20, (0.12, 0.28), 0.15, 0.7, 0.7, 0.06, (0.9, 1.4), (0.95, 1.35, 0.22), (0.28, 0.40, 0.12)
    ),
}
MIN_AREA_PX = 12  # smaller slivers at the border of the image are not annotated
_LARGEST_OVERLAP = 0.06  # of a nucleus's area
_GAP = np.ones((5, 5), np.uint8)  # kept free around a nucleus that is in no clump
_OUTLINE_POINTS = 64
Nucleus = tuple[tuple[slice, slice], NDArray[np.bool_]]  # window of the canvas, and a mask of the window's shape


def make_image(
    kind: str, shape: tuple[int, int], rng: np.random.Generator
) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
    """Draw an image of one of KINDS and its truth: (image uint8 [H, W, 3] RGB, labels int32 [H, W] from 1).

    Nuclei touch in clumps and overlap a little; the upper one owns the pixel. Raises ValueError listing the
    kinds.
    """
    if kind not in KINDS:
        raise ValueError(f"unknown kind {kind!r}; choose from {', '.join(KINDS)}")
    settings = KINDS[kind]
    margin = round(2.5 * settings.radius_px)
    canvas = shape[0] + 2 * margin, shape[1] + 2 * margin
    nuclei = place_nuclei(settings, canvas, rng)
    labels = np.zeros(canvas, np.int32)
    for label, (window, inside) in enumerate(nuclei, start=1):
        labels[window][inside] = label
    draw = _draw_stained if any(settings.stain) else _draw_fluorescence
    visible = slice(margin, margin + shape[0]), slice(margin, margin + shape[1])
    return draw(settings, nuclei, canvas, rng)[visible].copy(), drop_slivers(labels[visible])


def drop_slivers(labels: NDArray[Any]) -> NDArray[np.int32]:
    """Remove labels below MIN_AREA_PX and number the others from 1: int [H, W] -> int32 [H, W]."""
    return drop_small(labels, MIN_AREA_PX)


def place_nuclei(settings: Kind, shape: tuple[int, int], rng: np.random.Generator) -> list[Nucleus]:
    """Scatter nuclei over a canvas [H, W], lower ones first."""
    taken = np.zeros(shape, bool)
    wanted_px = rng.uniform(*settings.coverage) * taken.size
    direction = rng.uniform(0, np.pi)
    nuclei: list[Nucleus] = []
    centers: list[tuple[int, int]] = []
    # On a full canvas no nucleus finds a place: the number of attempts is bounded.
    for _ in range(2000):
        inside = _draw_nucleus(settings, direction, rng)
        reach = inside.shape[0] // 2
        if centers and rng.random() < settings.clumped:
            path = _walk_away(centers[rng.integers(len(centers))], rng)
            reserved, largest_overlap_px = inside, rng.uniform(0, _LARGEST_OVERLAP) * np.count_nonzero(inside)
        else:
            path = rng.uniform((0, 0), shape)[None]
            reserved, largest_overlap_px = cv2.dilate(inside.view(np.uint8), _GAP).view(np.bool_), 0
        for y, x in np.round(path).astype(int):
            window = slice(y - reach, y + reach + 1), slice(x - reach, x + reach + 1)
            if min(y, x) < reach or y + reach >= shape[0] or x + reach >= shape[1]:
                break
            if np.count_nonzero(taken[window] & reserved) <= largest_overlap_px:
                taken[window] |= inside
                nuclei.append((window, inside))
                centers.append((y, x))
                break
        if np.count_nonzero(taken) >= wanted_px:
            break
    return nuclei


def smooth_noise(shape: tuple[int, int], scale_px: float, rng: np.random.Generator) -> NDArray[np.float32]:
    """Draw a random field that varies over `scale_px`: float32 [H, W], mean 0 and deviation about 1."""
    n_knots = int(shape[0] / scale_px) + 4, int(shape[1] / scale_px) + 4
    knots = rng.standard_normal(n_knots).astype(np.float32)
    size = round(knots.shape[1] * scale_px), round(knots.shape[0] * scale_px)
    field = cv2.resize(knots, size, interpolation=cv2.INTER_CUBIC)
    offset = round(scale_px)
    return 1.3 * field[offset : offset + shape[0], offset : offset + shape[1]]


def _walk_away(center: tuple[int, int], rng: np.random.Generator) -> NDArray[np.float64]:
    """Return the points (y, x) of a ray outwards from a nucleus's centre, one pixel apart, [N, 2]."""
    angle = rng.uniform(0, 2 * np.pi)
    distance_px = np.arange(3, 120)[:, None]
    points: NDArray[np.float64] = np.array(center) + distance_px * np.array([np.sin(angle), np.cos(angle)])
    return points


def _draw_nucleus(settings: Kind, direction: float, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Draw one nucleus, a rotated ellipse with a smoothly waved outline: bool [2R + 1, 2R + 1]."""
    radius = settings.radius_px * np.exp(settings.radius_spread * np.clip(rng.standard_normal(), -2.5, 2))
    stretch = np.exp(rng.uniform(0, settings.elongation) / 2)
    turn = direction + (1 - settings.aligned) * rng.uniform(-np.pi / 2, np.pi / 2)
    angle = np.linspace(0, 2 * np.pi, _OUTLINE_POINTS, endpoint=False)
    wave = 1 + settings.roughness * sum(
        rng.standard_normal() * np.cos(n * angle + rng.uniform(0, 2 * np.pi)) / (n - 1) for n in (2, 3, 4, 5)
    )
    x, y = radius * wave * stretch * np.cos(angle), radius * wave / stretch * np.sin(angle)
    outline = np.column_stack([x * np.cos(turn) - y * np.sin(turn), x * np.sin(turn) + y * np.cos(turn)])
    reach = int(np.ceil(np.abs(outline).max())) + 3
    mask = np.zeros((2 * reach + 1, 2 * reach + 1), np.uint8)
    # Four fractional bits keep the outline smooth.
    cv2.fillPoly(mask, [np.round((outline + reach) * 16).astype(np.int32)], 1, shift=4)
    return mask.astype(bool)


def _stack(
    nuclei: list[Nucleus], shape: tuple[int, int], amounts: NDArray[np.float64], dome: float, rim: float = 0.0
) -> NDArray[np.float32]:
    """Add up nuclei of the given amounts: float32 [H, W]; `dome` thins their rims, `rim` thickens them."""
    stacked = np.zeros(shape, np.float32)
    for (window, inside), amount in zip(nuclei, amounts, strict=True):
        depth_px = cv2.distanceTransform(np.pad(inside.astype(np.uint8), 1), cv2.DIST_L2, 5)[1:-1, 1:-1]
        profile = 1 - dome + dome * np.sqrt(depth_px / depth_px.max())
        profile += rim * np.exp(-depth_px / 1.5)
        stacked[window] += amount * profile * inside
    return stacked


def _out_of_focus(settings: Kind, shape: tuple[int, int], rng: np.random.Generator) -> NDArray[np.float32]:
    """Draw nuclei of another focal plane, which nobody annotates: float32 [H, W] of about 0..1."""
    ghosts = place_nuclei(settings, shape, rng)
    ghosts = [ghosts[i] for i in rng.permutation(len(ghosts))[: len(ghosts) // 6]]
    blur_px = settings.radius_px * rng.uniform(0.3, 0.5)
    sharp = _stack(ghosts, shape, rng.uniform(0.3, 1, len(ghosts)), 0.3)
    return np.asarray(cv2.GaussianBlur(sharp, (0, 0), blur_px), np.float32)


def _draw_fluorescence(
    settings: Kind, nuclei: list[Nucleus], shape: tuple[int, int], rng: np.random.Generator
) -> NDArray[np.uint8]:
    brightness = np.exp(rng.normal(0, 0.35, len(nuclei)))
    chromatin = smooth_noise(shape, settings.radius_px / 4, rng) + smooth_noise(shape, 2.5, rng)
    light = _stack(nuclei, shape, brightness, 0.55) * (1 + rng.uniform(0.05, 0.16) * chromatin).clip(0.3)
    light += 0.25 * _out_of_focus(settings, shape, rng)
    light += rng.uniform(0.02, 0.10) * cv2.GaussianBlur(light, (0, 0), settings.radius_px)
    light = cv2.GaussianBlur(light, (0, 0), rng.uniform(*settings.blur_px))
    background, peak = rng.uniform(4, 15), np.exp(rng.uniform(np.log(25), np.log(120)))
    illumination = 1 + rng.uniform(0.05, 0.2) * smooth_noise(shape, max(shape) / 2, rng)
    mean = (background + peak * light) * illumination.clip(0.4)
    photon_noise = np.sqrt(mean) * rng.uniform(0.05, 0.25) * rng.standard_normal(shape)
    noisy = _to_bytes(mean + photon_noise + rng.normal(0, 0.5, shape))
    return np.repeat(noisy[..., None], 3, axis=2)


def _draw_stained(
    settings: Kind, nuclei: list[Nucleus], shape: tuple[int, int], rng: np.random.Generator
) -> NDArray[np.uint8]:
    amounts = rng.uniform(0.8, 1.15) * np.exp(rng.normal(0, 0.22, len(nuclei)))
    chromatin = smooth_noise(shape, settings.radius_px / 4, rng) + smooth_noise(shape, 2, rng)
    nuclear = _stack(nuclei, shape, amounts, 0.1, rim=0.15)
    nuclear *= (1 + rng.uniform(0.1, 0.2) * chromatin).clip(0.25)
    # Overlapping nuclei are darker, but the stain saturates.
    nuclear = 1.7 * np.tanh(nuclear / 1.7) + 0.35 * _out_of_focus(settings, shape, rng)
    halo = cv2.GaussianBlur(nuclear, (0, 0), settings.radius_px / 2)
    scales_px = {40: 0.5, 12: 0.4, 4: 0.25}
    fibres = np.zeros(shape, np.float32)
    for scale_px, weight in scales_px.items():
        fibres += weight * smooth_noise(shape, scale_px, rng)
    tissue = (1 + 0.35 * fibres).clip(0) + 0.7 * halo
    density = np.multiply.outer(nuclear, np.array(settings.stain, np.float32))
    density += np.multiply.outer(tissue, np.array(settings.tissue, np.float32))
    density *= rng.uniform(0.92, 1.08, 3)
    density = cv2.GaussianBlur(density, (0, 0), rng.uniform(*settings.blur_px))
    lamp = rng.uniform(222, 240) * np.array([1, 1, 1.01]) * rng.uniform(0.98, 1.02, 3)
    illumination = 1 + 0.03 * smooth_noise(shape, max(shape) / 2, rng)
    image = lamp * illumination[..., None] * np.exp(-density)
    return _to_bytes(image + rng.normal(0, rng.uniform(1, 3), image.shape))


def _to_bytes(values: NDArray[np.floating[Any]]) -> NDArray[np.uint8]:
    return values.round().clip(0, 255).astype(np.uint8)
