"""An external data set in small, in the generic layout."""

import numpy as np

from nuclei.data.images import encode_image_png, encode_labels_png
from nuclei.data.synthetic import make_image
from nuclei.runs.files import write_bytes

COPY, LARGE = "copy", "large"  # images of the set below: one is cut from a test image, one is at another scale


def write_set(folder, copied):
    """Write three external images in the generic layout; one is a part of `copied`, turned, one has large nuclei."""
    for number, name in enumerate(("plain", LARGE, COPY)):
        image, labels = make_image("purple_on_white", (160, 160), np.random.default_rng(70 + number))
        if name == LARGE:
            image, labels = (np.repeat(np.repeat(a, 4, 0), 4, 1) for a in (image, labels))
        if name == COPY:
            image = np.ascontiguousarray(np.rot90(copied[10:120, 5:115]))
            labels = labels[:110, :110]
        write_bytes(folder / f"images/{name}.png", encode_image_png(image))
        write_bytes(folder / f"labels/{name}.png", encode_labels_png(labels))
    write_bytes(folder / "index.csv", b"name,licence,source\nplain,CC0,me\nlarge,CC0,me\ncopy,CC0,me\n")
