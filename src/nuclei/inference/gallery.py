"""The page of segmented images, and what it loads of each: a picture to look at, and its nuclei to draw and ask.

The page needs no network and no server. It is one HTML file; what it shows of an image lies in VIEWS beside it and is
loaded when the image is seen, so that thousands of images are no burden. Nuclei come as a script, for a page of a disk
may load scripts and pictures and nothing else.
"""

import base64
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from string import Template
from typing import Any

import cv2
import numpy as np
import pandas as pd
import shapely
from numpy.typing import NDArray

from nuclei.data.images import stretch_contrast
from nuclei.inference.exports import OUTLINE_COLOURS, Outlines, Segmented

VIEWS = "index_files"  # the folder, beside the page, of what it loads
PARTS = Path(__file__).parent / "viewer"
GENERATOR = '<meta name="generator" content="nuclei predict-images">'
THUMBNAIL_PX, PICTURE_PX = 320, 4096  # the longer side at most
SMOOTHING_PX = 0.75  # more than the 0.71 by which the corners of a diagonal row of pixels lie off a line
# Column of the summary -> its heading.
HEADINGS = {
    "image": "Image",
    "state": "State",
    "nuclei": "Nuclei",
    "novelty": "Novelty",
    "known": "Known?",
    "width": "Width",
    "height": "Height",
    "pixel_size_um": "µm / pixel",
    "diameter_px": "Diameter (px)",
    "axes": "Axes",
    "channel": "Channel",
    "plane": "Plane",
    "values": "Values",
    "normalisation": "Normalisation",
    "notes": "Notes",
    "seconds": "Seconds",
}
# Measurement -> how many decimals the page holds of it.
SHOWN = {
    "label": 0,
    "area_px": 0,
    "area_um2": 2,
    "equivalent_diameter_px": 1,
    "equivalent_diameter_um": 2,
    "predicted_iou": 3,
    "gray_mean_raw": 3,
}
SHOWN_ALWAYS = ("label", "area_px", "equivalent_diameter_px")
BOX = tuple(f"box_{side}_px" for side in ("left", "top", "right", "bottom"))


def shrink(image: NDArray[np.uint8], longer_px: int) -> NDArray[np.uint8]:
    """Return an image, uint8 [H, W, 3], with its longer side brought down to `longer_px` where it exceeds that."""
    height, width = image.shape[:2]
    scale = longer_px / max(height, width)
    if scale >= 1:
        return image
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)


def encode_jpeg(image: NDArray[np.uint8], quality: int) -> bytes:
    """Encode an image, uint8 [H, W, 3] RGB, as JPEG of a quality, 0..100."""
    return cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])[
        1
    ].tobytes()


def draw_picture(segmented: Segmented) -> bytes:
    """Return the image to look at as JPEG, its longer side PICTURE_PX at most; dark images are brightened."""
    return encode_jpeg(shrink(stretch_contrast(segmented.image), PICTURE_PX), 90)


def draw_paths(outlines: Outlines) -> list[str]:
    """Return each outline as a path of SVG in pixels of the image, corners of single pixels smoothed away."""
    smooth = shapely.simplify(np.array(list(outlines.values()), object), SMOOTHING_PX)
    return ["".join(map(_draw_ring, shapely.get_rings(shapely.get_parts(outline)))) for outline in smooth]


def _draw_ring(ring: Any) -> str:
    points = shapely.get_coordinates(ring)[:-1].astype(int)
    steps = np.diff(points, axis=0).ravel().tolist()
    return f"M{points[0, 0]} {points[0, 1]}l{' '.join(map(str, steps))}z"


def encode_view(segmented: Segmented) -> bytes:
    """Return the script that gives the page an image's thumbnail and its nuclei: measurements, outlines, colours."""
    colours = segmented.colour_numbers[list(segmented.outlines)]
    picture = stretch_contrast(segmented.image)
    return encode_script(picture, segmented.labels.shape, segmented.measures, segmented.outlines, colours)


def encode_script(
    picture: NDArray[np.uint8],
    shape: tuple[int, ...],
    measures: pd.DataFrame | None,
    outlines: Outlines,
    colours: NDArray[np.int64],
) -> bytes:
    """Return the script of an image of this shape, [H, W]; picture: of any size, uint8 [h, w, 3], for the thumbnail.

    measures, outlines and the numbers of their colours, [N]: of the same nuclei; None: of none.
    """
    if measures is None:
        measures = pd.DataFrame(columns=[*SHOWN_ALWAYS, *BOX])
    columns = {
        name: [None if np.isnan(value) else value for value in measures[name].astype(float).round(digits).tolist()]
        for name, digits in SHOWN.items()
        if name in measures
    }
    thumbnail = encode_jpeg(shrink(picture, THUMBNAIL_PX), 85)
    view = {
        "width": shape[1],
        "height": shape[0],
        "thumbnail": f"data:image/jpeg;base64,{base64.b64encode(thumbnail).decode()}",
        "columns": columns,
        "boxes": measures[list(BOX)].to_numpy().tolist(),
        "colours": colours.tolist(),
        "paths": draw_paths(outlines),
    }
    return f"receive({json.dumps(view, separators=(',', ':'))});\n".encode()


# What a file of VIEWS is called after the image's name -> its content.
VIEW_FORMATS: dict[str, Callable[[Segmented], bytes]] = {".js": encode_view, ".jpg": draw_picture}


def describe_image(image: Mapping[str, Any], endings: Sequence[str], folder: str = "") -> dict[str, Any]:
    """Return what the page holds of an image, the record of its results with its row of the summary.

    endings: of the names of its results, which are linked; folder: where they lie, relative to the page, with a slash.
    """
    has_results = bool(image.get("finished"))
    known = {key: image[key] for key in (*HEADINGS, "file", "scored", "why") if image.get(key) not in (None, "")}
    if has_results:
        known.pop("why", None)  # it was made, which nobody asks of a page
    files = image.get("files", [f"{image['image']}{ending}" for ending in endings])  # a large image lacks some
    made = [ending for ending in endings if has_results and f"{image['image']}{ending}" in files]
    return known | {"folder": folder, "results": made}


def gallery_page(images: Sequence[Mapping[str, Any]], endings: Sequence[str], lead: str = "") -> str:
    """Return the page of images: arguments as `describe_image` and `render_page` take them."""
    return render_page({"images": [describe_image(image, endings) for image in images]}, lead=lead)


def render_page(data: Mapping[str, Any], parts: Sequence[str] = ("viewer",), lead: str = "") -> str:
    """Return the page as HTML. data: what its scripts are given. parts: of PARTS, scripts and styles. lead: HTML."""
    shared = {"headings": HEADINGS, "views": VIEWS, "colours": [f"rgb({r} {g} {b})" for r, g, b in OUTLINE_COLOURS]}
    return Template((PARTS / "page.html").read_text(encoding="utf-8")).substitute(
        generator=GENERATOR,
        style="".join(_read_part(part, ".css") for part in parts),
        script="".join(_read_part(part, ".js") for part in parts),
        lead=lead,
        data=embed_json(shared | dict(data)),
    )


def _read_part(part: str, ending: str) -> str:
    path = PARTS / f"{part}{ending}"
    return path.read_text(encoding="utf-8")


def embed_json(data: Any) -> str:
    """Return JSON that may stand in a <script> of HTML, whatever texts it holds: no "<" can end the element."""
    return json.dumps(data).replace("<", "\\u003c")
