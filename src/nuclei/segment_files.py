"""A trained run applied to a folder of a user's images: label images, outlines, measurements and what other tools open."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path

import pandas as pd
from tqdm import tqdm

from nuclei import runs
from nuclei.exports import draw_outlines, encode_tiff, measure_nuclei, to_geojson, to_rois
from nuclei.images import encode_image_png
from nuclei.predictor import Predictor

SUFFIXES = (".png", ".tif", ".tiff", ".jpg", ".jpeg", ".bmp", ".webp")


def find_images(paths: Iterable[Path]) -> list[Path]:
    """Return the image files among files and folders, in order.

    Raises ValueError on a path that is not there, a folder without images, and two images of one name, whose results
    would replace each other.
    """
    found = []
    for path in paths:
        if not path.exists():
            raise ValueError(f"no image or folder {path}")
        files = sorted(p for p in path.iterdir() if p.suffix.lower() in SUFFIXES) if path.is_dir() else [path]
        if not files:
            raise ValueError(f"no images in {path}; looked for *{', *'.join(SUFFIXES)}")
        found += files
    names = pd.Series([path.stem for path in found])
    if names.duplicated().any():
        raise ValueError(f"two images are called {names[names.duplicated()].iloc[0]}: rename one, or give them in two calls")
    return found


def segment_files(images: Iterable[Path], weights: Path, output: Path, force: bool = False) -> pd.DataFrame:
    """Segment image files by the run in the folder `weights` and write their results; return one row per image.

    Per image: <name>_labels.tif, <name>_outlines.png, <name>_nuclei.csv, <name>.geojson (QuPath), <name>_rois.zip
    (ImageJ). An image whose results are there is passed over unless `force`; its results are written last to first, so
    that a killed call is not taken for a finished one. Raises what find_images and Predictor raise, and ValueError
    naming a damaged image.
    """
    found, predictor, rows = find_images(images), Predictor(runs.Run(weights.resolve().name, weights.resolve().parent)), []
    for path in tqdm(found, "segment", unit="image"):
        table = output / f"{path.stem}_nuclei.csv"
        if force or not table.is_file():
            segment_file(path, predictor.segment, output)
        rows.append({"image": path.name, "n_nuclei": len(pd.read_csv(table))})
    return pd.DataFrame(rows)


def segment_file(path: Path, segment: Callable, output: Path) -> None:
    """Segment one image file and write its results, the table of nuclei last."""
    image = runs.read_image(path)
    labels, iou = segment(image)
    measures = measure_nuclei(labels, image)
    if iou is not None:
        measures["predicted_iou"] = iou[measures["label"].to_numpy() - 1]
    for name, content in {
        f"{path.stem}_labels.tif": encode_tiff(labels),
        f"{path.stem}_outlines.png": encode_image_png(draw_outlines(image, labels)),
        f"{path.stem}.geojson": json.dumps(to_geojson(labels, measures)).encode(),
        f"{path.stem}_rois.zip": to_rois(labels),
    }.items():
        runs.write_bytes(output / name, content)
    runs.write_table(output / f"{path.stem}_nuclei.csv", measures)
