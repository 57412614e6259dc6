"""Labels of points cross no error bar, no point and no other label, where there is room."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.transforms import Bbox

from nuclei.report import charts
from nuclei.report.comparisons import CLIMB_COLUMNS, draw_climb
from nuclei.report.placement import place_labels


def boxes_of(labels, axes):
    renderer = axes.figure.canvas.get_renderer()
    return [label.get_window_extent(renderer) for label in labels]


def test_labels_of_near_points_are_moved_apart_and_off_the_bars():
    figure = charts.new_figure(4)
    axes = figure.subplots()
    points = [(1.0, 0.5), (1.02, 0.5), (1.04, 0.52)]
    bars = [np.array([(x, y - 0.1), (x, y + 0.1)]) for x, y in points]
    axes.set(xlim=(0, 2), ylim=(0, 1))
    figure.canvas.draw()
    placed = place_labels(axes, points, ["the first label", "the second label", "the third label"], bars)
    boxes = boxes_of(placed, axes)
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[i + 1 :])
    for bar in bars:
        line = Bbox(axes.transData.transform(bar))
        assert not any(box.overlaps(line) for box in boxes)


def test_a_label_without_room_is_written_all_the_same():
    figure = charts.new_figure(0.8, 0.8)
    axes = figure.subplots()
    figure.canvas.draw()
    (label,) = place_labels(axes, [(0.5, 0.5)], ["far too long for this figure"], [])
    assert label.get_text() == "far too long for this figure"


def test_the_climb_names_the_method_of_each_step():
    rows = [
        ("otsu", "classical", 0.5, 0.45, 0.55, 0.4, None, None, None, 0, 0.0, ""),
        ("small", "watershed", 0.52, 0.48, 0.56, 0.4, 0.02, 0.01, 0.03, 4, 0.06, "x"),
        ("small", "scored", 0.56, 0.52, 0.6, 0.4, 0.04, 0.03, 0.05, 4, 0.06, "x"),
    ]
    axes = draw_climb(pd.DataFrame(rows, columns=CLIMB_COLUMNS)).axes[0]
    texts = {text.get_text() for text in axes.texts} - {""}
    assert texts == {"otsu: classical recipe, no training", "small: watershed", "small: candidate scoring"}


@pytest.mark.parametrize("gain", [[0.0, 0.0, 0.0], [0.1, 0.05, 0.2]])
def test_a_gain_of_zero_is_drawn_on_a_scale_that_can_be_read(gain):
    steps = [
        {"run": "a", "method": "components", "score": [0.4, 0.4, 0.4], "gain": None, "over": None},
        {"run": "a", "method": "watershed", "score": [0.4, 0.4, 0.4], "gain": gain, "over": ["a", "components"]},
    ]
    figure = charts.draw_steps(["components", "watershed"], steps)
    figure.canvas.draw()
    for axes in figure.axes:
        low, high = axes.get_xlim()
        assert high - low >= 0.002 - 1e-12
        assert not axes.xaxis.get_offset_text().get_text()
        assert not any("e" in tick.get_text() for tick in axes.get_xticklabels())
    said = [text.get_text() for text in figure.axes[1].texts]
    assert said == (["identical to components"] if gain[0] == 0 else ["+0.100 over components"])


def test_the_gain_of_a_step_is_written_outside_of_its_axes():
    steps = [
        {"run": "a", "method": "components", "score": [0.4, 0.3, 0.5], "gain": None, "over": None},
        {
            "run": "a",
            "method": "scored",
            "score": [0.6, 0.5, 0.7],
            "gain": [-0.2, -0.3, -0.1],
            "over": ["a", "components"],
        },
    ]
    figure = charts.draw_steps(["components", "candidate scoring"], steps)
    figure.canvas.draw()
    axes = figure.axes[1]
    (box,) = boxes_of(axes.texts, axes)
    assert box.x0 > axes.get_window_extent().x1
    assert box.x1 <= figure.bbox.x1, "within the picture"
