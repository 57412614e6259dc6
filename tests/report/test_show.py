"""One image of a finished run is drawn with all that was made of it; what does not exist is refused by name."""

import cv2
import numpy as np
import pytest
from finished_run import copy_run

from nuclei.errors import UserError
from nuclei.report import show
from nuclei.report.show import find_split, show_image
from nuclei.runs.layout import Dataset, Run


@pytest.fixture(scope="module")
def made(tmp_path_factory, tiny):
    return copy_run(tiny, tmp_path_factory.mktemp("runs"))


@pytest.fixture
def run(made) -> Run:
    return made[0]


def find_images(run: Run, split: str) -> list[str]:
    return sorted(path.stem for path in run.instances(split).iterdir())


def test_an_image_is_drawn_with_every_step_and_the_candidates_that_make_its_nuclei(run, monkeypatch):
    drawn = []
    draw = show.draw_case
    monkeypatch.setattr(show, "draw_case", lambda steps, title: drawn.append((steps, title)) or draw(steps, title))
    for split in ("oof", "test"):
        image_id = find_images(run, split)[0]
        path = show_image(run.name, image_id[:12], run.folder.parent)
        assert path == run.folder / f"show/{image_id}.png"
        assert cv2.imread(str(path)).shape[1] <= 1600
    (own, title), (unseen, _) = drawn
    assert "oof, by tiny: score 0." in title
    assert own.truth is not None
    assert own.true_iou is not None
    assert unseen.truth is None
    assert unseen.true_iou is None
    for steps in (own, unseen):
        assert set(steps.maps) >= {"mask", "border", "center"}
        assert len(steps.chosen) == len(np.unique(steps.instances)) - 1


def test_what_was_deleted_of_maps_is_left_out_and_missing_nuclei_are_an_error(run):
    image_id = find_images(run, "oof")[1]
    (run.maps("oof") / f"{image_id}.npz").unlink()
    assert show_image(run.name, image_id, run.folder.parent).is_file()
    (run.instances("oof") / f"{image_id}.png").unlink()
    with pytest.raises(UserError, match=f"{image_id}.png is missing"):
        show_image(run.name, image_id, run.folder.parent)


def test_an_image_that_is_not_named_exactly_is_refused_with_the_nearest(made):
    run, config, _ = made
    dataset = Dataset(config.data, run.folder.parent)
    image_id = find_images(run, "test")[0]
    assert find_split(image_id[:12], dataset) == ("test", image_id)
    with pytest.raises(ValueError, match=r"0 images of demo begin with .*; nearest: "):
        find_split(image_id[:-1] + "x", dataset)
    with pytest.raises(ValueError, match=r"16 images of demo begin with ; nearest: "):
        find_split("", dataset)
