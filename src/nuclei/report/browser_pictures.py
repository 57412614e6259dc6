"""The pictures of a browser of images, written beside its page."""

from functools import partial
from pathlib import Path

from nuclei.report.browser import FOLDER, choose_cases, draw_layers
from nuclei.report.reader import RunReader
from nuclei.report.show import draw_steps_of
from nuclei.runs.files import write_bytes
from nuclei.runs.parallel import each_image

FEW = 40  # images


def write_pictures(reader: RunReader, folder: Path, jobs: int) -> None:
    """Write the layers of every out-of-fold image, and every step of choose_cases, into a folder's own for them.

    An image that lacks a file has no picture: the report names what is missing.
    """
    if not reader.run.per_image("oof").is_file():
        return
    images = reader.per_image
    cases = choose_cases(images)
    image_ids = images["image_id"].tolist()
    work = partial(write_picture, reader, folder / FOLDER)
    # Further processes take longer to start than a few pictures take to draw.
    jobs = jobs if len(image_ids) > FEW else 1
    each_image(image_ids, work, f"{reader.run.name} report", jobs, [image_id in cases for image_id in image_ids])


def write_picture(reader: RunReader, folder: Path, image_id: str, is_case: bool) -> None:
    """Write the layers of one image and, if it is a case, every step."""
    try:
        drawn = draw_layers(reader.image(image_id), reader.truth(image_id), reader.instances("oof", image_id))
        for end, data in drawn.items():
            write_bytes(folder / f"{image_id}{end}", data)
        if is_case:
            write_bytes(folder / f"{image_id}_steps.png", draw_steps_of(reader, "oof", image_id))
    except FileNotFoundError:
        return
