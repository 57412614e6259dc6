"""The size of nuclei in images unlike training: it is looked for there, and used where it is far from known ones."""

from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest

from nuclei.data.normalisation import choose_rule
from nuclei.errors import UserError
from nuclei.inference.segmenter import find_nuclei
from nuclei.inference.slide import KNOWN, choose_diameter, examine
from nuclei.inference.tiles import TILED_ABOVE_PX

TRAINED = 20.0


class Sizes:
    """Stand for a Predictor that finds one square, surely where it is as large as the trained size, else hardly."""

    has_networks, trained_diameter = True, TRAINED

    def __init__(self, diameter_px, novelty, doubts=1.0):
        self.doubts = doubts
        self.side, self.novelty, self.seen = round(diameter_px * np.sqrt(np.pi) / 2), lambda _: novelty, []

    def segment(self, image, **_):
        self.seen.append(image.shape)
        labels, side = np.zeros(image.shape[:2], np.int32), round(self.side * image.shape[0] / 400)
        labels[:side, :side] = side > 0
        doubt = abs(np.log2(max(side, 1) / (TRAINED * np.sqrt(np.pi) / 2)))
        return labels, np.full(labels.max(), np.exp(-self.doubts * doubt), np.float32)

    def survey(self, *_):
        return None


IMAGE = np.zeros((400, 400, 3), np.uint8)


@pytest.mark.parametrize(
    ("diameter_px", "used"), [(5, True), (9, True), (11, False), (20, False), (70, False), (90, True), (300, True)]
)
def test_images_unlike_training_are_resized_where_nuclei_are_far_from_known_sizes(diameter_px, used):
    assert used == (not KNOWN[0] * TRAINED <= diameter_px <= KNOWN[1] * TRAINED)
    predictor = Sizes(diameter_px, 1.5)
    found = choose_diameter(predictor, "unlike", IMAGE, IMAGE.shape, 1.5)
    assert found == (pytest.approx(diameter_px, rel=0.15) if used else None)
    assert choose_diameter(predictor, "auto", IMAGE, IMAGE.shape, 1.5) == pytest.approx(diameter_px, rel=0.15)


@pytest.mark.parametrize("diameter_px", [5, 9, 90, 300])
def test_an_image_in_which_resizing_finds_hardly_more_is_left_as_it_is(diameter_px):
    predictor = Sizes(diameter_px, 1.5, doubts=0.01)
    assert choose_diameter(predictor, "unlike", IMAGE, IMAGE.shape, 1.5) is None


@pytest.mark.parametrize("novelty", [None, 0.0, 0.99, 1.0])
@pytest.mark.parametrize("wanted", ["unlike", None, 7.0])
def test_images_like_training_are_not_even_looked_at(novelty, wanted):
    predictor = Sizes(300, novelty)
    found = choose_diameter(predictor, wanted, IMAGE, IMAGE.shape, novelty)
    assert found == (7.0 if wanted == 7.0 else None)
    assert not predictor.seen


def test_a_run_without_networks_or_a_known_size_leaves_images_as_they_are():
    predictor = Sizes(300, 2)
    predictor.has_networks = False
    assert choose_diameter(predictor, "unlike", IMAGE, IMAGE.shape, 2) is None
    assert not predictor.seen

    class Unknown(Sizes):
        @property
        def trained_diameter(self):
            raise UserError("it does not say")

    assert choose_diameter(Unknown(300, 2), "unlike", IMAGE, IMAGE.shape, 2) is None


def test_unasked_no_image_is_enlarged_beyond_what_is_segmented_in_one_piece():
    # 5 px are enlarged four times.
    side = round(np.sqrt(TILED_ABOVE_PX) / 4)
    choose = partial(choose_diameter, Sizes(5, 2), "unlike", IMAGE)
    assert choose((side // 2, side // 2), 2) == pytest.approx(5, rel=0.15)
    assert choose((2 * side, 2 * side), 2) is None
    assert choose_diameter(Sizes(300, 2), "unlike", IMAGE, (10**5, 10**5), 2) is not None, "shrunk it may be"


def test_images_in_one_piece_and_in_tiles_are_treated_alike_and_those_of_the_competition_as_they_are():
    predictor = Sizes(300, 2)
    slide = examine(predictor, IMAGE, IMAGE.shape, choose_rule(lambda: [IMAGE]), "unlike")
    find = partial(find_nuclei, predictor, IMAGE, IMAGE, None, "unlike")
    assert find()[2] == slide.diameter == pytest.approx(300, rel=0.15)
    assert slide.factor == TRAINED / slide.diameter
    predictor.seen.clear()
    assert find(of_competition=True)[2] is None
    assert predictor.seen == [IMAGE.shape]
    assert (
        find_nuclei(SimpleNamespace(novelty=None, segment=predictor.segment), IMAGE, IMAGE, None, "unlike")[2] is None
    )
