"""Segmentations in the forms that other tools read: tables, label TIFF, overlays, GeoJSON, ImageJ ROIs and COCO."""

import io
import json
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import cv2
import networkx
import numpy as np
import pandas as pd
import tifffile
from numpy.typing import NDArray
from pycocotools import mask as coco_mask
from roifile import ROI_OPTIONS, ROI_TYPE, ImagejRoi

from nuclei.candidates.tree import find_saddles
from nuclei.data.images import encode_image_png, stretch_contrast
from nuclei.data.labels import find_outlines
from nuclei.inference.outlines import Outlines, Rings, list_rings, trace_outlines, uncollected

# One image of a COCO data set: its id, its labels, int [H, W], and a score for each label, or None.
LabelledImage = tuple[str, NDArray[Any], NDArray[Any] | None]
# Light enough for black, strong enough for white and purple; six are enough for any planar map of neighbours.
OUTLINE_COLOURS = np.array(
    [
        (0, 190, 255),
        (255, 96, 0),
        (255, 225, 0),
        (255, 60, 200),
        (0, 225, 100),
        (170, 130, 255),
        (255, 255, 255),
        (200, 140, 80),
    ],
    np.uint8,
)
NEIGHBOUR_PX = 6  # nuclei this close get different colours
OBJECT_TYPES = ("detection", "annotation")
QUPATH_CLASS = {"name": "Nucleus", "color": [0, 190, 255]}
CATEGORY = {"id": 1, "name": "nucleus", "supercategory": "cell"}
MOVE_TO, LINE_TO, CLOSE = 0, 1, 4  # of java.awt.geom.PathIterator, in which ImageJ stores composite ROIs
LARGEST_COORDINATE = 60535  # of a ROI of whole numbers of 16 bits; beyond it they are stored as real ones
ZIP_DATE = (1980, 1, 1, 0, 0, 0)  # the earliest that a zip can hold: the same nuclei give the same bytes


def label_type(most: int) -> np.dtype[Any]:
    """Return the type that labels up to `most` are written in: 16 bits, or 32 where they do not fit."""
    return np.dtype(np.uint16 if most <= 65535 else np.uint32)


def encode_tiff(labels: NDArray[Any]) -> bytes:
    """Encode labels, int [H, W], as a zlib-compressed gray TIFF of 16 bits, or of 32 where a label exceeds 65535.

    Raises ValueError on labels outside 0..2³² − 1.
    """
    least, most = int(labels.min(initial=0)), int(labels.max(initial=0))
    if least < 0 or most >= 2**32:
        raise ValueError(f"labels {least}..{most} do not fit 32 bits: number the nuclei from 1")
    result = io.BytesIO()
    tifffile.imwrite(result, labels.astype(label_type(most)), photometric="minisblack", compression="zlib")
    return result.getvalue()


def number_colours(labels: NDArray[Any]) -> NDArray[np.int64]:
    """Return for each label, [max label + 1], the number in OUTLINE_COLOURS of a colour that no near neighbour has.

    Near is within NEIGHBOUR_PX.

    Neighbours are labels that meet along an edge when all grow by half of that, in steps to the four sides. Greedy
    colouring, the fewest neighbours last (Matula & Beck 1983), needs six colours at most for nuclei of one piece;
    colours repeat only where nuclei of several pieces would need more than there are.
    """
    near = labels.astype(np.float32)  # as OpenCV does not dilate int32; up to 2^24 labels are exact
    for _ in range(NEIGHBOUR_PX // 2):
        near = np.where(near > 0, near, cv2.dilate(near, cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))))
    # What matters is which labels meet, not how high the pass between them is.
    pairs, _ = find_saddles(near.astype(np.int32), np.zeros(labels.shape, np.uint8))
    number = np.zeros(int(labels.max(initial=0)) + 1, np.int64)
    for label, colour in networkx.greedy_color(networkx.Graph(pairs.tolist()), "smallest_last").items():
        number[label] = colour
    return number % len(OUTLINE_COLOURS)


def draw_outlines(
    image: NDArray[np.uint8],
    labels: NDArray[Any],
    thickness_px: int = 1,
    colour_numbers: NDArray[np.int64] | None = None,
) -> NDArray[np.uint8]:
    """Outline each label, int [H, W], on its image, uint8 [H, W, 3], just inside it, neighbours in different colours.

    Dark images are brightened; returns uint8 [H, W, 3]. colour_numbers: `number_colours` of the labels, if known.
    """
    drawn = stretch_contrast(image).copy()
    edge = find_outlines(labels, thickness_px)
    numbers = number_colours(labels) if colour_numbers is None else colour_numbers
    drawn[edge] = OUTLINE_COLOURS[numbers[labels[edge]]]
    return drawn


def to_geojson(
    outlines: Outlines,
    measures: pd.DataFrame | None = None,
    object_type: str = "detection",
    rings: Rings | None = None,
) -> dict[str, Any]:
    """Turn the outlines of labels into a GeoJSON FeatureCollection that QuPath imports, one feature per nucleus.

    Coordinates are pixels, x first, (0, 0) the upper left corner of the image (qupath.lib.io.QuPathTypeAdapters, from
    version 0.4). measures: a row for every label and a column `label`, as `measure_nuclei` returns; its numbers become
    the measurements, without it the area does. rings: `list_rings` of the outlines, if known. Raises ValueError on an
    object type that is not in OBJECT_TYPES and on a label without a row.
    """
    if object_type not in OBJECT_TYPES:
        raise ValueError(f"unknown object type {object_type!r}; valid: {', '.join(OBJECT_TYPES)}")
    if measures is None:
        measures = pd.DataFrame({"label": list(outlines), "area_px": [outline.area for outline in outlines.values()]})
    columns = [str(name) for name in measures.columns if name != "label"]
    values = measures[columns].astype(float).to_numpy()
    rows = {
        label: dict(zip(columns, row, strict=True))
        for label, row in zip(measures["label"].tolist(), values.tolist(), strict=True)
    }
    for row, column in np.argwhere(np.isnan(values)).tolist():  # JSON has no NaN
        del rows[int(measures["label"].iloc[row])][columns[column]]
    if missing := outlines.keys() - rows.keys():
        raise ValueError(f"measures have no row of label {min(missing)}: measure the same labels")
    features = [
        {
            "type": "Feature",
            "geometry": {"type": "Polygon", "coordinates": parts[0]}
            if len(parts) == 1
            else {"type": "MultiPolygon", "coordinates": parts},
            "properties": {
                "objectType": object_type,
                "name": str(label),
                "classification": QUPATH_CLASS,
                "measurements": rows[label],
            },
        }
        for label, parts in (list_rings(outlines) if rings is None else rings).items()
    ]
    return {"type": "FeatureCollection", "features": features}


def to_rois(outlines: Outlines, rings: Rings | None = None) -> bytes:
    """Turn the outlines of labels into a zip for ImageJ's ROI Manager with one ROI per nucleus, named by its label.

    A nucleus of one piece is a traced polygon, one with holes or several pieces a composite ROI. rings: `list_rings` of
    the outlines, if known.
    """
    result = io.BytesIO()
    with zipfile.ZipFile(result, "w") as archive, uncollected():
        for label, parts in (list_rings(outlines) if rings is None else rings).items():
            entry = zipfile.ZipInfo(f"{label:05d}.roi", ZIP_DATE)
            archive.writestr(entry, make_roi(parts, f"{label:05d}").tobytes(), zipfile.ZIP_DEFLATED)
    return result.getvalue()


def make_roi(parts: list[list[list[list[float]]]], name: str) -> ImagejRoi:
    """Turn an outline along pixel edges, as list_rings gives it, into an ImageJ ROI."""
    if len(parts) == len(parts[0]) == 1:
        return make_traced(parts[0][0][:-1], name)
    rings = [np.array(ring[:-1], np.int32) for rings in parts for ring in rings]
    path: list[int] = []
    for ring in rings:
        path += [MOVE_TO, *ring[0]]
        for corner in ring[1:]:
            path += [LINE_TO, *corner]
        path.append(CLOSE)
    (left, top), (right, bottom) = (end(np.concatenate(rings), axis=0).tolist() for end in (np.min, np.max))
    return ImagejRoi(
        roitype=ROI_TYPE.RECT,
        name=name,
        left=left,
        top=top,
        right=right,
        bottom=bottom,
        shape_roi_size=len(path),
        multi_coordinates=np.array(path, np.float32),
    )


def make_traced(ring: list[list[float]], name: str) -> ImagejRoi:
    """Turn the corners of one ring into a traced ROI, as ImagejRoi.frompoints does, without its work on arrays."""
    xs, ys = ([int(corner[axis]) for corner in ring] for axis in (0, 1))
    left, top, right, bottom = min(xs), min(ys), max(xs), max(ys)
    if max(right, bottom) > LARGEST_COORDINATE:
        roi = ImagejRoi.frompoints(np.array(ring, np.int32), name=name)
        roi.roitype = ROI_TYPE.TRACED
        return roi
    return ImagejRoi(
        roitype=ROI_TYPE.TRACED,
        options=ROI_OPTIONS.OVERLAY_BACKGROUNDS | ROI_OPTIONS.OVERLAY_LABELS,
        name=name,
        left=left,
        top=top,
        right=right + 1,
        bottom=bottom + 1,
        n_coordinates=len(ring),
        integer_coordinates=np.array([xs, ys], np.int32).T - (left, top),
    )


def to_coco(images: Sequence[dict[str, Any]], labels_of: Iterable[LabelledImage]) -> dict[str, Any]:
    """Turn label images into COCO instances with compressed RLE (cocodataset.org/#format-data).

    images: dicts of `id`, the project's own, `file_name`, which should contain it, `height` and `width`; they are
    numbered from 1 in their order, as COCO needs integers. labels_of: (id, labels int [H, W], scores [N] of the N
    labels in ascending order, or None); scores are kept, though COCO has none in instances. Raises ValueError on an
    image that is not in the list, is in it twice, or has another size.
    """
    annotations: list[dict[str, Any]] = []
    for annotation, score in encode_instances(images, labels_of):
        rle = annotation["segmentation"]
        box, area = coco_mask.toBbox(rle).tolist(), int(coco_mask.area(rle))
        annotations.append({"id": len(annotations) + 1, **annotation, "area": area, "bbox": box, "iscrowd": 0})
        if score is not None:
            annotations[-1]["score"] = score
    return {
        "info": {"description": "nuclei, one annotation each", "version": "1.0"},
        "licenses": [],
        "images": [image | {"id": number} for number, image in enumerate(images, start=1)],
        "annotations": annotations,
        "categories": [CATEGORY],
    }


def to_coco_results(images: Sequence[dict[str, Any]], labels_of: Iterable[LabelledImage]) -> list[dict[str, Any]]:
    """Turn predicted label images into COCO results, numbered as `to_coco` numbers the same images.

    Arguments and errors are those of `to_coco`; a nucleus without a score gets 1.
    """
    found = encode_instances(images, labels_of)
    return [annotation | {"score": 1.0 if score is None else score} for annotation, score in found]


def encode_instances(
    images: Sequence[dict[str, Any]], labels_of: Iterable[LabelledImage]
) -> Iterator[tuple[dict[str, Any], float | None]]:
    """Yield what COCO instances and results share for each nucleus, and its score: arguments as `to_coco`."""
    numbered = {image["id"]: (number, image) for number, image in enumerate(images, start=1)}
    if len(numbered) < len(images):
        raise ValueError(f"{len(images)} images have {len(numbered)} different ids: list each image once")
    for image_id, labels, scores in labels_of:
        if image_id not in numbered:
            raise ValueError(f"image {image_id} is not among the {len(images)} images of the dataset: add it to them")
        number, image = numbered[image_id]
        if labels.shape != (image["height"], image["width"]):
            size = image["height"], image["width"]
            raise ValueError(f"image {image_id} is {size} in the dataset, but its labels have shape {labels.shape}")
        present = np.unique(labels[labels > 0]).tolist()
        if scores is not None and len(scores) != len(present):
            raise ValueError(f"image {image_id}: {len(scores)} scores for {len(present)} nuclei, one each is needed")
        # COCO's runs go down the columns.
        columns = np.asfortranarray(labels)
        for i, label in enumerate(present):
            rle = coco_mask.encode((columns == label).view(np.uint8))
            counts: Any = rle["counts"]  # bytes, though their type allows str
            segmentation = {"size": rle["size"], "counts": counts.decode("ascii")}
            annotation = {"image_id": number, "category_id": CATEGORY["id"], "segmentation": segmentation}
            yield annotation, None if scores is None else float(scores[i])


@dataclass(frozen=True)
class Segmented:
    """Hold an image as the networks saw it, uint8 [H, W, 3], its labels, int [H, W], and what was measured of them."""

    image: NDArray[np.uint8]
    labels: NDArray[Any]
    measures: pd.DataFrame  # a row per label, as of `measure_nuclei`

    @cached_property
    def outlines(self) -> Outlines:
        """The outlines of all labels, traced once for all formats that need them."""
        return trace_outlines(self.labels)

    @cached_property
    def rings(self) -> Rings:
        """The rings of all outlines, listed once for all formats that need them."""
        return list_rings(self.outlines)

    @cached_property
    def colour_numbers(self) -> NDArray[np.int64]:
        """The numbers of all labels' colours, as of `number_colours`."""
        return number_colours(self.labels)


def encode_geojson(segmented: Segmented) -> bytes:
    """Return the GeoJSON of all nuclei with what was measured of them."""
    with uncollected():
        return json.dumps(to_geojson(segmented.outlines, segmented.measures, rings=segmented.rings)).encode()


# What an image's file is called after the image's name -> its content. An export format is one entry here.
FORMATS: dict[str, Callable[[Segmented], bytes]] = {
    "_labels.tif": lambda s: encode_tiff(s.labels),
    "_outlines.png": lambda s: encode_image_png(draw_outlines(s.image, s.labels, colour_numbers=s.colour_numbers)),
    ".geojson": encode_geojson,
    "_rois.zip": lambda s: to_rois(s.outlines, s.rings),
    "_nuclei.csv": lambda s: s.measures.to_csv(index=False, lineterminator="\n").encode(),
}
LABELS = "_labels.tif"
