"""Time the competition metric on all real training images, beside ``stardist.matching`` if it is installed.

    PYTHONPATH=src python benchmarks/metric.py --archive stage1_train.zip

Truth is the merged masks; the prediction is the truth with every nucleus kept, dropped, dilated or eroded
at random. Both functions see the same arrays in the same process, image after image, on one thread.

stardist counts a match at IoU >= t, the competition at IoU > t. So its true positives are ours plus the pairs
whose IoU is exactly t, which this script counts: the remaining difference has to be 0.
``stardist.matching`` needs, beside requirements.txt,
``pip install --no-deps stardist csbdeep numba llvmlite six``.
"""

import argparse
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import time
from collections.abc import Iterator
from fractions import Fraction
from functools import partial

import cv2
import numpy as np
from numpy.typing import NDArray

from nuclei.data.archives import open_archive, prepare_image
from nuclei.evaluation.metric import THRESHOLDS, count_matches, overlap_labels, score_image
from nuclei.evaluation.rle import encode_labels

MAX_EDGE_SHIFT_PX = 2
DROPPED = 0.1


def read_label_images(path: str) -> Iterator[NDArray[np.int32]]:
    """Yield the merged masks of each image of the official train archive, int32 [H, W]."""
    archive = open_archive(path, "train")
    for image_id in archive.image_ids:
        _, labels, _ = prepare_image(archive, image_id)
        if labels is not None:
            yield labels


def perturb(labels: NDArray[np.int32], rng: np.random.Generator) -> NDArray[np.int32]:
    """Drop a tenth of the nuclei of a label image and shift the edges of the others by up to 2 px."""
    height, width = labels.shape
    changed = np.zeros_like(labels)
    rows, columns = np.nonzero(labels)
    owner = labels[rows, columns]
    order = np.argsort(owner, kind="stable")
    cuts = np.flatnonzero(np.diff(owner[order])) + 1
    for pixels in np.split(order, cuts) if len(order) else []:
        if rng.random() < DROPPED:
            continue
        label, pad = owner[pixels[0]], MAX_EDGE_SHIFT_PX
        top, bottom = max(rows[pixels].min() - pad, 0), min(rows[pixels].max() + pad + 1, height)
        left, right = max(columns[pixels].min() - pad, 0), min(columns[pixels].max() + pad + 1, width)
        window = slice(top, bottom), slice(left, right)
        mask = (labels[window] == label).astype(np.uint8)
        shift_px = int(rng.integers(-MAX_EDGE_SHIFT_PX, MAX_EDGE_SHIFT_PX + 1))
        morph = cv2.dilate if shift_px > 0 else cv2.erode
        mask = morph(mask, np.ones((3, 3), np.uint8), iterations=abs(shift_px))
        changed[window][(mask > 0) & (changed[window] == 0)] = label
    return changed


def count_exact(truth: NDArray[np.int32], prediction: NDArray[np.int32]) -> NDArray[np.int64]:
    """Count the pairs whose IoU equals each threshold, int [10]."""
    overlaps = overlap_labels(truth, prediction)
    pairs = zip(overlaps.intersection_px.tolist(), overlaps.union_px().tolist(), strict=True)
    iou = [Fraction(shared, union) for shared, union in pairs]
    return np.array([sum(value == Fraction(k, 20) for value in iou) for k in range(10, 20)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--archive", required=True, help="stage1_train.zip")
    archive = parser.parse_args().archive
    try:
        from stardist.matching import matching
    except ImportError as error:
        matching = None
        print(f"stardist.matching is not installed ({error}); timing ours alone")

    rng = np.random.default_rng(0)
    seconds = dict.fromkeys(["score_image", "encode_labels", "stardist.matching"], 0.0)
    tp = {name: np.zeros(len(THRESHOLDS), dtype=int) for name in ["ours", "stardist", "exact"]}
    scores, n_nuclei = [], 0

    def timed(name, function, *arguments):
        start = time.perf_counter()
        result = function(*arguments)
        seconds[name] += time.perf_counter() - start
        return result

    if matching:
        # Compiles numba's functions outside the clock.
        matching(np.eye(9, dtype=np.int32), np.eye(9, dtype=np.int32), thresh=tuple(THRESHOLDS))
    for truth in read_label_images(archive):
        prediction = perturb(truth, rng)
        score, _ = timed("score_image", score_image, truth, prediction)
        timed("encode_labels", encode_labels, prediction)
        scores.append(score)
        n_nuclei += len(np.unique(truth[truth > 0]))
        if matching:
            theirs = timed("stardist.matching", partial(matching, thresh=tuple(THRESHOLDS)), truth, prediction)
            overlaps = overlap_labels(truth, prediction)
            tp["ours"] += count_matches(overlaps)["tp"]
            tp["stardist"] += [result.tp for result in theirs]
            tp["exact"] += count_exact(truth, prediction)

    print(f"{len(scores)} images, {n_nuclei} nuclei, score {np.mean(scores):.4f}")
    for name, elapsed in seconds.items():
        if elapsed:
            print(f"{name:18} {elapsed:7.2f} s")
    if matching:
        print(f"ratio stardist / ours {seconds['stardist.matching'] / seconds['score_image']:.1f}")
        print("t       TP ours (>)  TP stardist (>=)  pairs at exactly t  unexplained")
        for t, ours, theirs, exact in zip(THRESHOLDS, tp["ours"], tp["stardist"], tp["exact"], strict=True):
            print(f"{t:.2f} {ours:14} {theirs:17} {exact:19} {theirs - ours - exact:12}")


if __name__ == "__main__":
    main()
