"""Compare the shape features with `skimage.measure.regionprops_table`: candidates per second, side by side.

    python benchmarks/features.py                                 synthetic nuclei
    python benchmarks/features.py --archive stage1_train.zip      real annotated nuclei

The candidates are the nuclei, each cut at five thresholds of a blurred mask map. skimage has no nested
candidates: it gets a label image per threshold, and its time is one call of regionprops_table per label
image, for SKIMAGE_PROPERTIES. Ours is one call of compute_features per image for the shape group, which
measures the same and more (convexity, circularity, inscribed radius, frame). Label images and pixel lists
exist before the clock starts; the third line adds making pixel lists, which the pipeline has anyway.
"""

import argparse
import time
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from skimage.measure import regionprops_table

from nuclei.candidates.features import FEATURES, compute_features
from nuclei.candidates.table import Candidates
from nuclei.data.archives import open_archive, prepare_image
from nuclei.data.labels import drop_small

SKIMAGE_PROPERTIES = (
    "area", "bbox", "centroid", "axis_major_length", "axis_minor_length", "eccentricity", "extent",
    "equivalent_diameter_area", "area_convex", "solidity", "perimeter_crofton", "euler_number",
)  # fmt: skip
THRESHOLDS = np.array([0.3, 0.4, 0.5, 0.6, 0.7], np.float32)


def draw_nuclei(rng: np.random.Generator, size_px: int = 512, n_nuclei: int = 120) -> NDArray[np.int32]:
    """Return labels, int32, of random ellipses of about 20 to 2000 px, the later drawn on top."""
    labels = np.zeros((size_px, size_px), np.int32)
    for i in range(1, n_nuclei + 1):
        axes = np.exp(rng.uniform(np.log(3), np.log(26), 1) * rng.uniform(0.8, 1.2, 2)).astype(int)
        axes = np.clip(axes, 3, 26)
        centre = rng.integers(0, size_px, 2)
        cv2.ellipse(labels, centre.tolist(), axes.tolist(), rng.uniform(0, 180), 0, 360, i, -1)
    return drop_small(labels, 1)


def read_labels(path: Path, n_images: int) -> list[NDArray[np.int32]]:
    """Return the labels of evenly spaced annotated images of an archive in the official layout."""
    archive = open_archive(path, "train")
    chosen = archive.image_ids[:: max(1, len(archive.image_ids) // n_images)][:n_images]
    prepared = (prepare_image(archive, image_id)[1] for image_id in chosen)
    return [labels for labels in prepared if labels is not None]


def cut_labels(labels: NDArray[np.int32], mask: NDArray[np.float32]) -> list[NDArray[np.int32]]:
    """Return the labels cut at each of THRESHOLDS of the mask map."""
    return [np.where(mask > threshold, labels, 0) for threshold in THRESHOLDS]


def list_pixels(cuts: list[NDArray[np.int32]]) -> Candidates:
    """Return each label of each cut as a candidate; a label is a root with no children."""
    pixels, node, area = [], [], []
    for labels in cuts:
        inside = np.flatnonzero(labels)
        label = labels.reshape(-1)[inside]
        pixels.append(inside[np.argsort(label, kind="stable")])
        count = np.bincount(label)[1:]
        node.append(np.flatnonzero(count))
        area.append(count[count > 0])
    n_nodes = int(cuts[0].max())
    return Candidates(
        shape=(cuts[0].shape[0], cuts[0].shape[1]),
        indptr=np.append(0, np.cumsum(np.concatenate(area))),
        pixels=np.concatenate(pixels).astype(np.int32),
        node=np.concatenate(node).astype(np.int32),
        threshold=np.repeat(THRESHOLDS, [len(n) for n in node]),
        parent=np.full(n_nodes, -1, np.int32),
        level=np.zeros(n_nodes, np.float32),
        peak=np.ones(n_nodes, np.float32),
    )


def draw_maps(
    rng: np.random.Generator, labels: NDArray[np.int32]
) -> tuple[dict[str, NDArray[np.float32]], NDArray[np.uint8]]:
    """Return blurred maps and a noisy image that fit the labels."""
    mask = np.asarray(cv2.GaussianBlur((labels > 0).astype(np.float32), (0, 0), 1.5), np.float32)
    image = np.clip(mask[..., None] * 150 + rng.normal(40, 10, (*labels.shape, 3)), 0, 255).astype(np.uint8)
    maps = {"mask": mask, "border": mask * (1 - mask), "center": mask**4, "disagreement": mask * (1 - mask)}
    return maps, image


def main() -> None:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--archive", type=Path, help="stage1_train.zip; without it the nuclei are synthetic")
    parser.add_argument("--images", type=int, default=20)
    options = parser.parse_args()
    cv2.setNumThreads(1)
    rng = np.random.default_rng(0)
    source = options.archive.name if options.archive else "synthetic"
    if options.archive:
        pictures = read_labels(options.archive, options.images)
    else:
        pictures = [draw_nuclei(rng) for _ in range(options.images)]
    cuts = [(cut_labels(labels, maps["mask"]), maps, image)
            for labels in pictures for maps, image in [draw_maps(rng, labels)]]  # fmt: skip

    start = time.perf_counter()
    tables = [(list_pixels(cut), maps, image) for cut, maps, image in cuts]
    listing_s = time.perf_counter() - start
    n_candidates = sum(len(candidates) for candidates, _, _ in tables)
    median_px = np.median(np.concatenate([candidates.area_px() for candidates, _, _ in tables]))
    compute_features(*tables[0])

    start = time.perf_counter()
    for cut, _, _ in cuts:
        for labels in cut:
            regionprops_table(labels, properties=SKIMAGE_PROPERTIES)
    skimage_s = time.perf_counter() - start
    start = time.perf_counter()
    for candidates, maps, image in tables:
        compute_features(candidates, maps, image, groups=["shape"])
    shape_s = time.perf_counter() - start
    start = time.perf_counter()
    for candidates, maps, image in tables:
        compute_features(candidates, maps, image)
    all_s = time.perf_counter() - start

    print(f"{source}: {len(pictures)} images, {n_candidates} nested candidates, median {median_px:.0f} px")
    for what, seconds in (
        (f"regionprops_table, {len(SKIMAGE_PROPERTIES)} properties", skimage_s),
        (f"shape group, {len(FEATURES['shape'])} features", shape_s),
        ("the same, label images to pixel lists included", shape_s + listing_s),
        (f"all groups, {sum(map(len, FEATURES.values()))} features", all_s),
    ):
        speed, ratio = n_candidates / seconds, skimage_s / seconds
        print(f"{what:50s} {speed:8.0f} candidates/s, {ratio:5.1f} x regionprops_table")
    print("The second line is the one that must be at least 10.")


if __name__ == "__main__":
    main()
