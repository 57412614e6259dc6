"""A copy is found however it was cut, turned, rescaled or compressed; different images are never taken for one."""

import itertools
from functools import partial

import cv2
import numpy as np
import pytest

from nuclei.data.images import decode_image
from nuclei.data.leaks import Content, KnownImages, compare, measure_content
from nuclei.data.synthetic import KINDS, make_image

N_OF_KIND = 2
SIDE = 320


def draw(kind, seed):
    return make_image(kind, (SIDE, SIDE), np.random.default_rng(seed))[0]


IMAGES = {f"{kind} {n}": draw(kind, n) for kind in KINDS for n in range(N_OF_KIND)}


@pytest.fixture(scope="module")
def known():
    return KnownImages([measure_content(image) for image in IMAGES.values()])


def turned(image, turn):
    """Return one of the eight turns and flips."""
    return np.ascontiguousarray(np.rot90(image[:, ::-1] if turn >= 4 else image, turn % 4))


def resized(image, factor):
    how = cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR
    return cv2.resize(image, None, fx=factor, fy=factor, interpolation=how)


def compressed(image, quality=75):
    data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    return cv2.imdecode(data, cv2.IMREAD_COLOR)


def cut(image, share=0.7):
    side = round(SIDE * share)
    return image[SIDE - side - 9 : SIDE - 9, 5 : 5 + side]


CHANGES = {
    **{f"turn {turn}": partial(turned, turn=turn) for turn in range(8)},
    "cut": cut,
    "half": lambda image: resized(image, 0.5),
    "double": lambda image: resized(image, 2),
    "odd scale": lambda image: resized(image, 1.37),
    "jpeg": compressed,
    "gray": lambda image: np.dstack([cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)] * 3),
    "dimmed": lambda image: (image * 0.6).astype(np.uint8) + np.uint8(9),
    "noise": lambda image: np.clip(image + np.random.default_rng(0).normal(0, 4, image.shape), 0, 255).astype(np.uint8),
    "cut, flipped, doubled, jpeg": lambda image: compressed(resized(turned(cut(image), 5), 2)),
    "flipped, halved, jpeg": lambda image: compressed(resized(turned(image, 6), 0.5), 85),
    "cut, turned, jpeg": lambda image: compressed(turned(cut(image), 3)),
    "part of a larger one": lambda image: cv2.copyMakeBorder(
        image, 40, 90, 0, 120, cv2.BORDER_CONSTANT, value=(9, 9, 9)
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_image_is_found_and_no_other(known, change):
    for number, (name, image) in list(enumerate(IMAGES.items()))[::N_OF_KIND]:
        copies = list(known.find_copies([measure_content(CHANGES[change](image))]))
        assert [copy.known for copy in copies] == [number], name


def test_other_images_are_no_copies(known):
    others = [measure_content(draw(kind, 100 + n)) for kind, n in itertools.product(KINDS, range(3))]
    assert list(known.find_copies(others)) == []


def test_copies_are_named_by_the_number_of_the_image(known):
    images = [draw("purple_on_white", 50), turned(IMAGES["purple_on_white 1"], 5)]
    (copy,) = known.find_copies(map(measure_content, images))
    assert (copy.image, list(IMAGES)[copy.known]) == (1, "purple_on_white 1")
    assert copy.similarity > 0.95


def test_mirrored_descriptors_are_those_of_the_mirrored_image():
    image = IMAGES["purple_on_purple 0"]
    view, truly = measure_content(image).mirror(), measure_content(image[:, ::-1])
    agreeing, similarity = compare(view, truly)
    assert agreeing > 0.8 * len(view.points)
    assert similarity > 0.99
    assert compare(measure_content(image), truly)[0] < 10


@pytest.mark.parametrize("value", [0, 255])
def test_images_without_content_are_no_copies(known, value):
    blank = measure_content(np.full((64, 80, 3), value, np.uint8))
    assert len(blank.points) == 0
    assert list(known.find_copies([blank])) == []
    assert list(KnownImages([]).find_copies([measure_content(IMAGES["purple_on_white 0"])])) == []
    assert list(KnownImages([blank]).find_copies([blank])) == []


def test_nothing_is_similar_where_nothing_overlaps():
    content = measure_content(IMAGES["purple_on_white 0"])
    empty = Content(content.picture, content.points[:3], content.descriptors[:3])
    assert compare(content, empty) == (0, 0.0)


def test_real_external_images_are_none_of_the_training_images(real_external, real_folder):
    """A few of each set against a few of the competition's; the stage external compares all with all."""
    from nuclei.data.archives import open_archive

    archive = open_archive(real_folder / "stage1_train.zip", "train")
    ids = archive.image_ids[::40]
    images = [decode_image(archive.read(archive.image_name(i)), i) for i in ids]
    known = KnownImages([measure_content(image) for image in images])
    paths = [
        p for name in ("tnbc", "nuinsseg", "sbsst265") for p in sorted((real_external / name / "images").iterdir())[:2]
    ]
    others = [measure_content(cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)) for path in paths]
    assert list(known.find_copies(others)) == []
    for number, image in enumerate(images):
        copies = list(known.find_copies([measure_content(compressed(turned(image, 6), 90))]))
        assert number in [copy.known for copy in copies], ids[number]
