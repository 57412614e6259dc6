"""A finished run looked at: what was made of one image, in one picture."""

import difflib
from dataclasses import replace
from pathlib import Path

from nuclei.decoding.methods import choose_candidates
from nuclei.errors import UserError
from nuclei.evaluation.metric import score_image
from nuclei.report.case import CASE_COLOURS, draw_case
from nuclei.report.charts import render_png
from nuclei.report.pictures import ImageSteps
from nuclei.report.reader import RunReader
from nuclei.runs.files import write_bytes
from nuclei.runs.layout import Dataset, open_run


def find_split(image_id: str, dataset: Dataset) -> tuple[str, str]:
    """Return the split and full id of an image named by its id or by what it begins with.

    Raises UserError with the nearest ids if no image, or several, begin so.
    """
    splits = dataset.splits()
    found = [(split, one) for split, ids in splits.items() for one in ids if one.startswith(image_id)]
    if len(found) != 1:
        near = difflib.get_close_matches(image_id, [one for ids in splits.values() for one in ids], n=3, cutoff=0.3)
        near = [one for _, one in found[:3]] or near
        raise UserError(
            f"{len(found)} images of {dataset.name} begin with {image_id}"
            + (f"; nearest: {', '.join(near)}" if near else "")
        )
    return found[0]


def show_image(name: str, image_id: str, root: Path) -> Path:
    """Draw truth, maps, candidates and selection of one image of a run and return the picture's path."""
    run, config, dataset = open_run(name, root)
    reader = RunReader(run, config)
    split, image_id = find_split(image_id, dataset)
    labels_path = run.instances(split) / f"{image_id}.png"
    if not labels_path.is_file():
        raise UserError(f"{labels_path} is missing: run the stages of {name} up to select first")
    path = run.folder / "show" / f"{image_id}.png"
    write_bytes(path, draw_steps_of(reader, split, image_id))
    return path


def draw_steps_of(reader: RunReader, split: str, image_id: str) -> bytes:
    """Draw truth, maps, candidates and selection of one image of a run, as PNG.

    Raises FileNotFoundError naming a file that is missing; maps may have been deleted to save space.
    """
    with_maps = reader.maps_path(split, image_id).is_file()
    steps = add_chosen(reader, reader.steps(split, image_id, with_maps), split, image_id)
    title = f"{image_id}, {split}, by {reader.run.name}"
    if steps.truth is not None:
        title += f": score {score_image(steps.truth, steps.instances)[0]:.3f}"
    return render_png(draw_case(steps, title), CASE_COLOURS)


def add_chosen(reader: RunReader, steps: ImageSteps, split: str, image_id: str) -> ImageSteps:
    """Return the steps with the candidates that the selection chose, if the run scores candidates."""
    if steps.candidates is None:
        return steps
    scores, setting = reader.scores(split, image_id), reader.tuned.setting(reader.dataset.fold_of(split, image_id))
    chosen = choose_candidates(
        steps.candidates, scores, setting, reader.config.selection, reader.is_other(split, image_id)
    )
    return replace(steps, chosen=chosen)
