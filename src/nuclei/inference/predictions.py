"""What networks predict, on disk: maps/<split>/<id>.npz in steps of 1/255, and detections/<split>/<id>.npz of a detector."""

from nuclei.decoding.methods import Prediction
from nuclei.networks.maps import dequantise, quantise
from nuclei.runs.files import read_arrays, write_arrays
from nuclei.runs.layout import Run


def write_prediction(run: Run, split: str, image_id: str, prediction: Prediction) -> None:
    """Write the maps of one image, and before them its detections, so that what has maps is complete."""
    if prediction.detections is not None:
        write_arrays(run.detections(split) / f"{image_id}.npz", prediction.detections)
    write_arrays(run.maps(split) / f"{image_id}.npz", quantise(prediction.maps))


def read_prediction(run: Run, split: str, image_id: str) -> Prediction:
    """Read the maps of one image, and its detections if there are any; raise FileNotFoundError if there are no maps."""
    detections = run.detections(split) / f"{image_id}.npz"
    maps = dequantise(read_arrays(run.maps(split) / f"{image_id}.npz"))
    return Prediction(maps, read_arrays(detections) if detections.is_file() else None)
