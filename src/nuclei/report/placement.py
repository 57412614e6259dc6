"""Labels of points placed where they lie on nothing else: greedily, each at the first place that is free."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.text import Annotation
from matplotlib.transforms import Bbox
from numpy.typing import NDArray

PAD_PX = 2.0
# Places of a label about its point, in points: beside it, then higher and lower, then farther away.
OFFSETS = [
    (side * away, up) for away in (7, 22, 40) for up in (0, 11, -11, 22, -22, 34, -34, 48, -48) for side in (1, -1)
]


def place_labels(
    axes: Axes, points: Sequence[tuple[float, float]], texts: Sequence[str], bars: Sequence[NDArray[np.float64]]
) -> list[Annotation]:
    """Write a text beside each of N points, in data units, where it crosses neither a bar nor a point nor another text.

    bars: lines that no label may cross, [2, 2] each: (x, y) of both ends. Limits and size of the axes must be final. A
    label that lies away from its point has a thin line to it; one that finds no free place is left at its first.
    """
    canvas: Any = axes.figure.canvas  # of Agg
    renderer = canvas.get_renderer()
    transform, frame = axes.transData, axes.get_window_extent(renderer)
    taken = [_box(transform.transform(bar)) for bar in bars]
    taken += [_box(np.array([transform.transform(point)] * 2), 4.0) for point in points]
    placed = []
    for point, text in zip(points, texts, strict=True):
        label = axes.annotate(text, point, OFFSETS[0], textcoords="offset points", va="center", fontsize=8)
        for offset in OFFSETS:
            label.set_position(offset)
            label.set_horizontalalignment("left" if offset[0] > 0 else "right")
            box = label.get_window_extent(renderer).padded(PAD_PX)
            inside = box.x0 >= frame.x0 and box.x1 <= frame.x1 and box.y0 >= frame.y0 and box.y1 <= frame.y1
            if inside and not any(box.overlaps(other) for other in taken):
                break
        else:
            label.set_position(OFFSETS[0])
            label.set_horizontalalignment("left")
        if label.get_position() not in OFFSETS[:2]:
            axes.annotate(
                "",
                point,
                label.get_position(),
                textcoords="offset points",
                arrowprops={"arrowstyle": "-", "color": "#9aa5b1", "linewidth": 0.7, "shrinkA": 0, "shrinkB": 3},
            )
        taken.append(label.get_window_extent(renderer).padded(PAD_PX))
        placed.append(label)
    return placed


def _box(ends: NDArray[np.float64], pad: float = 1.0) -> Bbox:
    (x0, y0), (x1, y1) = ends.min(axis=0), ends.max(axis=0)
    return Bbox([[x0 - pad, y0 - pad], [x1 + pad, y1 + pad]])
