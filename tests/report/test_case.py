"""The picture of one image shows what there is, closes up where something is missing, and colours errors rightly."""

from itertools import product

import cv2
import matplotlib as mpl
import numpy as np
import pytest

from nuclei.candidates.selection import expected_gain, paint, select_candidates
from nuclei.candidates.tree import make_candidates
from nuclei.config.schema import Config
from nuclei.data.synthetic import make_image
from nuclei.evaluation.metric import best_iou, sort_errors
from nuclei.evaluation.summary import ERRORS
from nuclei.report.case import ERROR_COLOURS, TILE_PX, colour_errors, draw_case, show_candidates, show_maps, show_result
from nuclei.report.charts import render_png
from nuclei.report.pictures import ImageSteps
from nuclei.training.targets import make_targets

CHANNELS = ("mask", "border", "center")


def make_case(kind="purple_on_white", shape=(72, 90)) -> dict:
    """Make everything about a drawn image, its maps blurred and its candidates judged with some error."""
    rng = np.random.default_rng(3)
    image, truth = make_image(kind, shape, rng)
    maps = {name: cv2.GaussianBlur(make_targets(truth, (name,))[0], (0, 0), 1) for name in CHANNELS}
    maps["disagreement"] = maps["mask"] * (1 - maps["mask"])
    candidates = make_candidates(maps, Config().watershed)
    true_iou, _ = best_iou(truth, candidates.indptr, candidates.pixels)
    predicted_iou = np.clip(true_iou + rng.normal(0, 0.1, len(true_iou)), 0, 1)
    chosen = select_candidates(candidates, expected_gain(predicted_iou[:, None].repeat(10, 1), np.full(10, 0.5)))
    return {
        "image": image,
        "truth": truth,
        "maps": maps,
        "candidates": candidates,
        "predicted_iou": predicted_iou,
        "true_iou": true_iou,
        "chosen": chosen,
        "instances": paint(candidates, chosen),
        "title": "a case",
    }


@pytest.fixture(scope="module")
def case():
    return make_case()


def draw(title: str, side_px: int = 256, **steps):
    return draw_case(ImageSteps(**steps), title, side_px)


def list_panels(figure) -> list[str]:
    return [axes.get_title(loc="left") for axes in figure.axes if axes.get_title(loc="left")]


def decode(figure) -> np.ndarray:
    return np.asarray(cv2.imdecode(np.frombuffer(render_png(figure), np.uint8), cv2.IMREAD_COLOR))


def test_everything_is_shown_in_three_rows_of_four(case):
    figure = draw(**case)
    assert list_panels(figure) == [
        "image",
        "truth",
        "prediction",
        "errors (white: prediction)",
        "mask map",
        "border map",
        "center map",
        "disagreement",
        "candidates by predicted IoU",
        "candidates by true IoU",
        "true against predicted IoU",
        "chosen candidates",
    ]
    pixels = decode(figure)
    assert pixels.shape[1] == 1600
    for axes in figure.axes[:12]:
        x0, y0, x1, y1 = np.rint(axes.get_position().extents * np.tile(pixels.shape[1::-1], 2)).astype(int)
        assert pixels[pixels.shape[0] - y1 : pixels.shape[0] - y0, x0:x1].std() > 5, axes.get_title(loc="left")


def test_there_is_a_panel_for_all_that_the_inputs_tell(case):
    window = slice(0, 72), slice(9, 81)
    for with_truth in (True, False):
        truth = case["truth"] if with_truth else None
        assert len(list(show_result(ImageSteps(case["image"], case["instances"], {}, truth), window))) == (
            4 if with_truth else 2
        )
    for predicted, true, with_chosen in product((True, False), repeat=3):
        there = {"predicted_iou": predicted, "true_iou": true, "chosen": with_chosen}
        parts = {name: case[name] if shown else None for name, shown in there.items()}
        steps = ImageSteps(case["image"], case["instances"], {}, candidates=case["candidates"], **parts)
        panels = list(show_candidates(steps, window))
        assert len(panels) == predicted + true + (predicted and true) + with_chosen
    assert [panel.bar is not None for panel in show_maps(case["maps"], window)] == [True] * 4


@pytest.mark.parametrize(
    ("missing", "n_rows", "n_columns", "n_panels"),
    [
        (("truth", "maps", "candidates"), 1, 2, 2),
        (("truth", "maps", "true_iou"), 2, 2, 4),
        (("truth", "candidates"), 2, 4, 6),
        (("maps", "predicted_iou", "true_iou", "chosen"), 1, 4, 4),
    ],
)
def test_the_layout_closes_up_where_something_is_missing(case, missing, n_rows, n_columns, n_panels):
    figure = draw(**case | {name: {} if name == "maps" else None for name in missing})
    width, height = figure.get_size_inches() * figure.dpi
    assert len(list_panels(figure)) == n_panels
    assert width == pytest.approx(12 + n_columns * (TILE_PX + 12))
    assert n_rows * TILE_PX < height < n_rows * (TILE_PX + 100) + 100


def test_more_than_four_maps_take_another_row(case):
    maps = case["maps"] | {"core": case["maps"]["center"], "fold_disagreement": case["maps"]["mask"] * 0}
    figure = draw(**case | {"maps": maps})
    assert list_panels(figure)[8:10] == ["core map", "fold disagreement"]
    assert figure.get_size_inches()[0] * figure.dpi == pytest.approx(1600)


def test_an_image_without_nuclei_and_candidates_is_drawn():
    nothing = np.zeros((40, 64), np.int32)
    maps = {name: np.zeros(nothing.shape, np.float32) for name in (*CHANNELS, "disagreement")}
    none, no_iou = make_candidates(maps, Config().watershed), np.zeros(0, np.float32)
    image = np.random.default_rng(0).integers(0, 30, (*nothing.shape, 3)).astype(np.uint8)
    no_indices = np.zeros(0, np.int64)
    steps = ImageSteps(image, nothing, maps, nothing, None, none, no_iou, no_iou, no_indices)
    figure = draw_case(steps, "empty")
    assert len(list_panels(figure)) == 12
    assert decode(figure).std() > 5


def test_a_large_image_is_cropped_to_its_busiest_window_and_says_so(case):
    texts = " ".join(text.get_text() for text in draw(**case, side_px=48).texts)
    assert "72 × 90 px, shown: rows" in texts
    whole = case | {"truth": None, "maps": {}, "candidates": None}
    square = whole | {"image": case["image"][:, :72], "instances": case["instances"][:, :72]}
    assert "shown" not in " ".join(text.get_text() for text in draw(**square).texts)


def test_counts_and_score_are_those_of_the_whole_image(case):
    found = case | {"instances": case["truth"]}
    texts = " ".join(text.get_text() for text in draw(**found, side_px=30).texts)
    n = len(np.unique(case["truth"])) - 1
    assert texts.count(f"{n} nuclei") == 2
    assert "score 1.000" in texts
    assert "1.00 at 0.75" in texts


def test_large_chosen_candidates_have_both_numbers_written_on_them():
    case = make_case("dark_fluorescence_large", (128, 128))
    axes = draw(**case).axes[11]
    written = {text.get_text() for text in axes.texts}
    hundredths = [np.rint(100 * case[name][case["chosen"]]).astype(int) for name in ("predicted_iou", "true_iou")]
    assert written
    assert written <= {f"{p}\n{t}" for p, t in zip(*hundredths, strict=True)}


def test_long_titles_are_wrapped(case):
    only = case | {"truth": None, "maps": {}, "candidates": None, "title": "run " + "8" * 64}
    figure = draw(**only)
    title = next(text for text in figure.texts if text.get_text().startswith("run"))
    assert title.get_window_extent().x1 < figure.bbox.width


def test_each_nucleus_has_the_colour_of_its_kind():
    assert tuple(ERROR_COLOURS) == ERRORS
    truth, prediction = np.zeros((2, 80, 80), np.int32)
    for i in range(5):
        truth[16 * i + 2 : 16 * i + 14, 10:30] = i + 1
    truth[2:14, 30:50] = 9  # merged with nucleus 1
    prediction[2:14, 10:50] = 1
    prediction[18:30, 10:20], prediction[18:30, 20:30] = 2, 3
    prediction[34:46, 10:24] = 4
    prediction[50:62, 10:30] = 5
    prediction[66:78, 50:70] = 6
    kinds, false = sort_errors(truth, prediction)
    assert kinds == {1: "merged", 9: "merged", 2: "split", 3: "badly_outlined", 4: "found", 5: "missed"}
    assert false == [6]
    image = np.zeros((80, 80, 3), np.uint8)
    tile = colour_errors(image, truth, prediction, kinds, false, (slice(0, 80), slice(0, 80)))
    seen = {
        (8, 15): "merged",
        (8, 40): "merged",
        (24, 15): "split",
        (40, 15): "badly_outlined",
        (56, 15): "found",
        (72, 20): "missed",
        (72, 60): "false",
    }
    for (y, x), kind in seen.items():
        colour = tile[y * TILE_PX // 80, x * TILE_PX // 80].astype(float)
        expected = 0.55 * 255 * np.array(mpl.colors.to_rgb(ERROR_COLOURS[kind]))
        np.testing.assert_allclose(colour, expected, atol=2)
