"""Copies found by content: whether an image, or a part, turn, flip or rescaling of it, is one of the known images.

Local features (SIFT) are the same wherever, at whatever angle and size a content lies in an image; those of its mirror
image are the same numbers in another order. The known images that have the nearest features are compared closely: a
similarity that many features agree on is looked for at random (RANSAC), and where it lays one image over the other,
both must show the same. Colours do not matter, and images are smoothed and spread over the gray values first, so that
compression, noise and brightness matter little.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

WORK_SIDE_PX = 512  # images are halved until their shorter side is below it
SMOOTH_PX = 1.5
LEAST_FEATURES = 250
PX_PER_FEATURE = 200
CONTRAST = 0.01  # below SIFT's own threshold: nuclei out of focus have weak outlines
KD_TREES = 1  # the number of this algorithm in FLANN
NEIGHBOURS = 8  # of a feature among those of all known images
CLOSE = 8  # known images compared closely
AGREEING = 6  # features that must agree on where a content lies
TOLERANCE_PX = 3.0
SIMILAR = 0.9  # correlation of both images where they lie over one another
OVERLAP_PX = 1000
MOST_SCALE = 6.0
# A descriptor has 4 rows x 4 columns x 8 directions, all along its own axes; mirrored, rows and turns are reversed.
MIRRORED = np.arange(128).reshape(4, 4, 8)[::-1, :, -np.arange(8) % 8].ravel()


@dataclass(frozen=True)
class Content:
    """What an image is known by: a small gray picture, uint8 [h, w], features at points (x, y), float32 [n, 2], and
    their descriptors, float32 [n, 128], of length 1."""

    picture: NDArray[np.uint8]
    points: NDArray[np.float32]
    descriptors: NDArray[np.float32]

    def mirror(self) -> "Content":
        """Return the content of the image mirrored left to right."""
        points = self.points.copy()
        points[:, 0] = self.picture.shape[1] - 1 - points[:, 0]
        return replace(
            self,
            picture=np.ascontiguousarray(self.picture[:, ::-1]),
            points=points,
            descriptors=np.ascontiguousarray(self.descriptors[:, MIRRORED]),
        )


@dataclass(frozen=True)
class Copy:
    """Say that an image and a known one, by their numbers, show the same.

    agreeing: features that agree on it; similarity: correlation where one lies over the other, in SIMILAR..1.
    """

    image: int
    known: int
    agreeing: int
    similarity: float


def measure_content(image: NDArray[np.uint8]) -> Content:
    """Return what an image, uint8 [H, W, 3] RGB, is known by."""
    gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    while min(gray.shape) >= WORK_SIDE_PX:
        gray = cv2.resize(gray, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    smooth = np.asarray(cv2.GaussianBlur(gray.astype(np.float32), (0, 0), SMOOTH_PX), np.float32)
    low, high = np.percentile(smooth, (0.5, 99.8))
    spread = np.clip((smooth - low) / max(high - low, 4), 0, 1)
    if np.median(spread) < 0.35:  # faint nuclei beside bright ones
        spread = np.sqrt(spread)
    picture = np.rint(255 * spread).astype(np.uint8)
    n = max(LEAST_FEATURES, picture.size // PX_PER_FEATURE)
    sift = cv2.SIFT.create(n, contrastThreshold=CONTRAST, edgeThreshold=20)
    keypoints, found = sift.detectAndCompute(picture, None)  # type: ignore[call-overload]  # no mask
    points = np.array([keypoint.pt for keypoint in keypoints[:n]], np.float32).reshape(-1, 2)
    descriptors = np.zeros((0, 128), np.float32) if found is None else found[:n].astype(np.float32)
    # Roots of shares of the sum have length 1 and compare better (Arandjelovic and Zisserman 2012).
    descriptors = np.sqrt(descriptors / (descriptors.sum(1, keepdims=True) + 1e-6))
    return Content(picture, points, descriptors)


class KnownImages:
    """Hold the contents of known images, and find those that an image shows in whole or in part."""

    def __init__(self, contents: Sequence[Content]):
        self.contents = contents
        self.owners = np.repeat(np.arange(len(contents)), [len(one.points) for one in contents])
        self.index = cv2.FlannBasedMatcher({"algorithm": KD_TREES, "trees": 4}, {"checks": 48})
        if len(self.owners) >= NEIGHBOURS:
            self.index.add([np.concatenate([one.descriptors for one in contents])])
            self.index.train()

    def find_copies(self, images: Iterable[Content]) -> Iterator[Copy]:
        """Yield each pair of an image and a known one that show the same, image by image."""
        for number, image in enumerate(images):
            found: dict[int, Copy] = {}
            for view in (image, image.mirror()):
                for other in self.find_nearest(view):
                    agreeing, similarity = compare(view, self.contents[other])
                    if agreeing >= AGREEING and similarity >= SIMILAR:
                        found.setdefault(other, Copy(number, other, agreeing, similarity))
            yield from found.values()

    def find_nearest(self, view: Content) -> list[int]:
        """Return the numbers of the known images whose features come closest to those of a view, at most CLOSE."""
        if len(view.points) < AGREEING or len(self.owners) < NEIGHBOURS:
            return []
        matches = [
            of_one for of_one in self.index.knnMatch(view.descriptors, k=NEIGHBOURS) if len(of_one) == NEIGHBOURS
        ]
        if not matches:
            return []
        near = np.array([[match.distance for match in of_one] for of_one in matches])
        owner = self.owners[[[match.trainIdx for match in of_one] for of_one in matches]]
        # How much nearer than the last of its neighbours, which is what chance brings.
        weight = 1 - near / np.maximum(near[:, -1:], 1e-6)
        votes = np.bincount(owner.ravel(), weight.ravel(), minlength=len(self.contents))
        return [int(i) for i in np.argsort(-votes, kind="stable")[:CLOSE] if votes[i] > 0]


def compare(view: Content, other: Content) -> tuple[int, float]:
    """Return how many features of two contents agree on how one lies over the other, and how similar they are there.

    Flips aside: `view` is to be compared mirrored as well. The similarity is a correlation, -1..1, 0 where there is
    nothing to compare.
    """
    if min(len(view.points), len(other.points)) < AGREEING:
        return 0, 0.0
    pairs = cv2.BFMatcher(cv2.NORM_L2, crossCheck=True).match(view.descriptors, other.descriptors)
    if len(pairs) < AGREEING:
        return 0, 0.0
    mine, theirs = [pair.queryIdx for pair in pairs], [pair.trainIdx for pair in pairs]
    cv2.setRNGSeed(0)
    matrix, agree = cv2.estimateAffinePartial2D(
        view.points[mine], other.points[theirs], ransacReprojThreshold=TOLERANCE_PX, maxIters=1000
    )
    if matrix is None or not 1 / MOST_SCALE < np.hypot(matrix[0, 0], matrix[1, 0]) < MOST_SCALE:
        return 0, 0.0
    agreeing = int(agree.sum())
    return agreeing, _similarity(view.picture, other.picture, matrix) if agreeing >= AGREEING else 0.0


def _similarity(first: NDArray[np.uint8], second: NDArray[np.uint8], matrix: NDArray[Any]) -> float:
    """Return the correlation of two pictures where `matrix` lays the first over the second, at the coarser's scale."""
    if np.hypot(matrix[0, 0], matrix[1, 0]) > 1:
        first, second, matrix = second, first, cv2.invertAffineTransform(matrix)
    size = second.shape[1], second.shape[0]
    scale = float(np.hypot(matrix[0, 0], matrix[1, 0]))
    # What is made smaller is smoothed first, as it would be by a coarser camera.
    smooth = cv2.GaussianBlur(first, (0, 0), 0.5 / scale) if scale < 0.8 else first
    moved = cv2.warpAffine(smooth, matrix, size)
    inside = cv2.warpAffine(np.full_like(first, 255), matrix, size, flags=cv2.INTER_NEAREST) > 0
    if np.count_nonzero(inside) < OVERLAP_PX:
        return 0.0
    a, b = (cv2.GaussianBlur(one, (0, 0), SMOOTH_PX)[inside].astype(np.float64) for one in (moved, second))
    if min(a.std(), b.std()) < 1e-6:
        return 0.0
    return float(np.corrcoef(a, b)[0, 1])
