"""A TIFF that was cut short anywhere: it is refused, or what is read is whole. tifffile reads on with fewer planes."""

import logging

import numpy as np
import pytest
import tifffile

from nuclei.data.axes import View
from nuclei.data.microscope import read_picture
from nuclei.errors import UserError

PLANES = np.random.default_rng(0).integers(0, 4000, (5, 40, 48), np.uint16)
# How a stack is written: what TiffWriter is made with, and what each write is given.
FORMS = {
    "imagej": ({"imagej": True}, {"metadata": {"axes": "ZYX"}}),
    "ome": ({"ome": True}, {"metadata": {"axes": "ZYX"}}),
    "ome, compressed": ({"ome": True}, {"metadata": {"axes": "ZYX"}, "compression": "zlib"}),
    "pages": ({}, {"metadata": None}),
    "pages, compressed": ({}, {"metadata": None, "compression": "zlib"}),
    "pages, tiled": ({}, {"metadata": None, "tile": (16, 16)}),
    "BigTIFF": ({"bigtiff": True}, {"metadata": None}),
    "tifffile's own": ({}, {}),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_tiff_cut_short_is_refused_or_read_whole(form, tmp_path, caplog, capfd):
    path, view = tmp_path / "stack.tif", View(plane="max")
    made, written = FORMS[form]
    with tifffile.TiffWriter(path, **made) as writer:
        writer.write(PLANES, photometric="minisblack", **written)
    data = path.read_bytes()
    whole = read_picture(path, view).pixels
    assert np.array_equal(whole, PLANES.max(0))
    refused = []
    for cut in {*range(8, len(data), len(data) // 40), *range(len(data) - 40, len(data), 3)}:
        path.write_bytes(data[:cut])
        try:
            pixels = read_picture(path, view).pixels
        except UserError as error:
            refused.append(str(error))
        else:
            assert np.array_equal(pixels, whole), f"cut at {cut} of {len(data)}: some of it, as if it were all"
    assert len(refused) > 30
    assert all(str(path) in message for message in refused)
    assert not caplog.records
    assert not capfd.readouterr().err, "it is said once, by us"


def test_what_tifffile_logs_for_others_is_left_to_them(tmp_path, caplog):
    path = tmp_path / "pages.tif"
    tifffile.imwrite(path, PLANES, metadata=None)
    read_picture(path, View(plane="max"))
    with caplog.at_level(logging.WARNING):
        tifffile.logger().warning("of another reader")
    assert [record.getMessage() for record in caplog.records] == ["of another reader"]
