"""An image and its nuclei as layers of napari: built here as plain data, shown where napari is installed.

`read_labels` is the reader that napari.yaml names to napari: it opens a label image of predict-images with the table
that lies beside it.
"""

import importlib
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import tifffile

from nuclei.data.axes import Picture
from nuclei.errors import UserError
from nuclei.inference.exports import LABELS
from nuclei.inference.image_files import Reading, find_images, split_file
from nuclei.inference.segmenter import Segmentation, find_nuclei

EXTRA = "napari"
TABLE = "_nuclei.csv"
Layer = tuple[Any, dict[str, Any], str]  # data, settings, kind: napari's LayerData


def image_layer(picture: Picture, name: str) -> Layer:
    """Return the layer of an image, gray or RGB, in µm where the side of a pixel is known.

    A gray image that is stored as RGB becomes gray, for napari brightens only such to what they hold.
    """
    pixels = picture.pixels
    if pixels.ndim == 3 and (pixels == pixels[..., :1]).all():
        pixels = pixels[..., 0]
    return pixels, {"name": name, "rgb": pixels.ndim == 3, **scale(picture.pixel_size_um)}, "image"


def labels_layer(found: Segmentation, name: str, pixel_size_um: float | None = None) -> Layer:
    """Return the layer of labels whose features, shown under the pointer, are measures and predicted IoU of each.

    napari's features have a row per label value, in order of `index`, background included. Its status bar shows as many
    as there is room for: the predicted IoU, of which a picture says nothing, comes first.
    """
    features = found.table.rename(columns={"label": "index"})
    first = [name for name in ("index", "predicted_iou") if name in features]
    features = features[[*first, *features.columns.difference(first, sort=False)]]
    background = pd.DataFrame({"index": [0]})
    features = pd.concat([background, features], ignore_index=True)
    return found.labels, {"name": name, "features": features, **scale(pixel_size_um)}, "labels"


def scale(pixel_size_um: float | None) -> dict[str, Any]:
    return {} if pixel_size_um is None else {"scale": (pixel_size_um, pixel_size_um), "units": ("um", "um")}


def build_layers(path: Path, weights: Path, reading: Reading) -> list[Layer]:
    """Segment the images of a file, time points and series apart, and return two layers of each.

    Raises UserError as find_images, Source.read and load_predictor do.
    """
    from nuclei.inference.bundle import find_run
    from nuclei.inference.predictor import load_predictor, stamp

    run = find_run(weights)
    predictor = load_predictor(run.folder, stamp(run.folder.parent))
    layers = []
    for source in [image for file in find_images([path]) for image in split_file(file, reading)]:
        picture, rgb, _ = source.read(reading)
        labels, table, _ = find_nuclei(predictor, rgb, picture.pixels, picture.pixel_size_um, reading.diameter)
        layers += [
            image_layer(picture, source.name),
            labels_layer(Segmentation(labels, table), f"{source.name} nuclei", picture.pixel_size_um),
        ]
    return layers


def load_napari() -> Any:
    """Return the package napari; raise UserError naming the extra if it is not installed."""
    try:
        return importlib.import_module("napari")
    except ImportError as error:
        raise UserError(f"napari is not installed ({error}): pip install 'nuclei[{EXTRA}]'") from error


def show_layers(layers: list[Layer]) -> Any:
    """Open napari's window with layers and return its viewer; `wait_until_closed` then waits for the user."""
    napari = load_napari()
    viewer = napari.Viewer(title="nuclei")
    for data, settings, kind in layers:
        getattr(viewer, f"add_{kind}")(data, **settings)
    return viewer


def wait_until_closed() -> None:
    """Show napari's window until it is closed, or a signal ends the process.

    That it does at once: what a handler raised, Qt would show as a message and go on.
    """
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    load_napari().run()


def read_labels(path: str | list[str]) -> Callable[[str | list[str]], list[Layer]] | None:
    """Return napari's reader of a label image that predict-images wrote, None for any other file (npe2: readers)."""
    one = path if isinstance(path, str) else path[0]
    if not one.endswith(LABELS) or not Path(one.removesuffix(LABELS) + TABLE).is_file():
        return None
    return lambda paths: [open_labels(Path(p)) for p in ([paths] if isinstance(paths, str) else paths)]


def open_labels(path: Path) -> Layer:
    """Return the layer of a label image, <name>_labels.tif, with the table <name>_nuclei.csv that lies beside it."""
    name = path.name.removesuffix(LABELS)
    table = pd.read_csv(path.with_name(name + TABLE))
    return labels_layer(Segmentation(tifffile.imread(path), table), f"{name} nuclei")
