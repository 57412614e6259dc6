"""Files of every kind give the picture that was put into them, and what is ambiguous or damaged is refused by name."""

import importlib
import io
import re
import sys
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image
from shared_cases import find_case
from skimage.filters import threshold_otsu
from skimage.measure import label

from nuclei.data.axes import View
from nuclei.data.images import decode_image
from nuclei.data.label_folder import read_tiff
from nuclei.data.microscope import count_times, list_series, read_picture
from nuclei.data.normalisation import normalise
from nuclei.errors import UserError
from nuclei.limits import MAX_FILE_BYTES

SHAPE = (32, 40)
RNG = np.random.default_rng(0)
STACK = RNG.integers(0, 4000, (4, 3, 2, *SHAPE)).astype(np.uint16)  # T, Z, C
GRAY = RNG.integers(0, 256, SHAPE).astype(np.uint8)
COLOURS = RNG.integers(0, 256, (*SHAPE, 3)).astype(np.uint8)
CHANNELS = {"Channel": {"Name": ["DAPI", "GFP"]}}
UM = {"PhysicalSizeX": 250, "PhysicalSizeXUnit": "nm", "PhysicalSizeY": 0.25, "PhysicalSizeYUnit": "µm"}
SAME_NUCLEI = (
    *("plain8.tif", "plain.bmp", "plain.webp", "gray_alpha8.png", "rgba16.png", "palette.png", "onebit.png"),
    *("camera12in16.png", "hotpixel16.png", "narrow16.png", "offset1000_1400.png", "offset33069_36863.png"),
    *("plain.jpg", "zstack16.tif", "cyx.ome.tif"),
)


def find_nuclei(path, view):
    """Find bright components of an image as the networks see it, without specks: (centre y, centre x) each."""
    gray = normalise(read_picture(path, view).pixels)[0][..., 0]
    parts = label(gray > threshold_otsu(gray))
    return np.array([np.argwhere(parts == i).mean(0) for i in range(1, parts.max() + 1) if (parts == i).sum() > 9])


@pytest.mark.parametrize("name", SAME_NUCLEI)
def test_the_same_nuclei_are_seen_in_every_kind_of_file(name):
    view = View(channel="1") if name.startswith("cyx") else View()
    expected, found = find_nuclei(find_case("gray8.png"), View()), find_nuclei(find_case(name), view)
    assert len(found) == len(expected)
    np.testing.assert_allclose(found, expected, atol=1)


def test_an_inverted_image_is_left_as_it_is():
    pixels = read_picture(find_case("inverted.png"), View()).pixels
    assert pixels.min() > 128
    np.testing.assert_array_equal(normalise(pixels)[0][..., 1], pixels)


@pytest.mark.parametrize("name", ["gray8.png", "exif6.png", "palette.png", "gray_alpha8.png", "rgba16.png"])
def test_images_of_8_bits_reach_the_networks_as_the_competition_s_do(name):
    path = find_case(name)
    image, _ = normalise(read_picture(path, View()).pixels)
    np.testing.assert_array_equal(image, decode_image(path.read_bytes(), name))


@pytest.mark.parametrize("name", ["black.png", "white.png", "tiny8.png", "col200x1.png"])
def test_images_with_nothing_in_them_are_read(name):
    assert normalise(read_picture(find_case(name), View()).pixels)[0].shape[2] == 3


@pytest.mark.parametrize("name", ["cut_short.png", "appledouble_junk.bin"])
def test_a_damaged_file_is_named_with_its_fault(name):
    with pytest.raises(ValueError, match=f"{name} cannot be read: it is (a broken PNG|no image)"):
        read_picture(find_case(name), View())


def test_a_hot_pixel_does_not_matter():
    images = [normalise(read_picture(find_case(n), View()).pixels)[0] for n in ("camera12in16.png", "hotpixel16.png")]
    assert np.count_nonzero(np.abs(np.subtract(*images, dtype=np.int16)) > 1) <= 3  # its three colours


def write_stack(path, kind):
    if kind == "imagej":
        tifffile.imwrite(path, STACK, imagej=True, metadata={"axes": "TZCYX", "unit": "um"}, resolution=(4.0, 4.0))
    elif kind == "tiled":
        tifffile.imwrite(
            path, STACK, metadata={"axes": "TZCYX", **CHANNELS, **UM}, tile=(16, 16), compression="zlib", ome=True
        )
    else:
        tifffile.imwrite(
            path, np.moveaxis(STACK, 2, 0), metadata={"axes": "CTZYX", **CHANNELS, **UM}, bigtiff=True, ome=True
        )


@pytest.mark.parametrize("kind", ["imagej", "tiled", "bigtiff"])
def test_channel_plane_and_time_are_those_of_the_metadata(tmp_path, kind):
    path = tmp_path / "stack.tif"
    write_stack(path, kind)
    named = "1" if kind == "imagej" else "gfp"
    for channel, number in ((named, 1), ("0", 0)):
        assert count_times(path, View(channel)) == 4
        highest, one = read_picture(path, View(channel), 3), read_picture(path, View(channel, "2"), 1)
        np.testing.assert_array_equal(highest.pixels, STACK[3, :, number].max(0))
        np.testing.assert_array_equal(one.pixels, STACK[1, 2, number])
        assert (highest.plane, one.plane, one.channel[0]) == ("max of 3", "2", str(number))
        assert one.pixel_size_um == pytest.approx(0.25)


def test_several_channels_without_a_choice_are_refused_with_the_axes_and_the_options(tmp_path):
    write_stack(tmp_path / "stack.tif", "tiled")
    for ask in (count_times, read_picture):
        with pytest.raises(
            ValueError, match=r"stack.tif .* TZCYX 4 x 3 x 2 x 32 x 40.*--channel.*0 \(DAPI\), 1 \(GFP\)"
        ):
            ask(tmp_path / "stack.tif", View())
        with pytest.raises(ValueError, match="no channel is called 'RFP'"):
            ask(tmp_path / "stack.tif", View("RFP"))
        with pytest.raises(ValueError, match="no plane 3: choose --plane max or 0..2"):
            ask(tmp_path / "stack.tif", View("DAPI", "3"))


def test_pages_without_metadata_are_what_the_options_say(tmp_path):
    path = tmp_path / "pages.tif"
    with tifffile.TiffWriter(path) as file:
        for plane in STACK[0, :, 0]:
            file.write(plane, metadata=None)
    with pytest.raises(ValueError, match="does not say what I is: give --plane max .* --channel"):
        count_times(path, View())
    np.testing.assert_array_equal(read_picture(path, View(plane="max")).pixels, STACK[0, :, 0].max(0))
    np.testing.assert_array_equal(read_picture(path, View(plane="1")).pixels, STACK[0, 1, 0])
    np.testing.assert_array_equal(read_picture(path, View(channel="2")).pixels, STACK[0, 2, 0])


@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_colours_of_a_tiff_stay_together_and_one_can_be_chosen(tmp_path, planar):
    path = tmp_path / "rgb.tif"
    stored = COLOURS if planar == "contig" else np.moveaxis(COLOURS, 2, 0)
    tifffile.imwrite(path, stored, photometric="rgb", planarconfig=planar)
    np.testing.assert_array_equal(read_picture(path, View()).pixels, COLOURS)
    np.testing.assert_array_equal(read_picture(path, View("green")).pixels, COLOURS[..., 1])
    np.testing.assert_array_equal(read_picture(path, View("2")).pixels, COLOURS[..., 2])


def test_samples_that_are_no_colours_are_channels(tmp_path):
    tifffile.imwrite(tmp_path / "four.tif", np.dstack([COLOURS, GRAY]), photometric="minisblack", planarconfig="contig")
    np.testing.assert_array_equal(read_picture(tmp_path / "four.tif", View("3")).pixels, GRAY)
    with pytest.raises(ValueError, match="YXC 32 x 40 x 4"):
        read_picture(tmp_path / "four.tif", View())


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "webp", "tif"])
def test_the_content_decides_the_format_not_the_suffix(tmp_path, suffix):
    Image.fromarray(GRAY).save(tmp_path / f"a.{suffix}", **({"lossless": True} if suffix == "webp" else {}))
    renamed = (tmp_path / f"a.{suffix}").rename(tmp_path / "b.png")
    pixels = read_picture(renamed, View()).pixels
    found = pixels if pixels.ndim == 2 else pixels[..., 0]
    assert np.abs(found.astype(int) - GRAY).mean() < (40 if suffix == "jpg" else 1e-9)


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_a_palette_becomes_its_colours(tmp_path, suffix):
    image = Image.fromarray(COLOURS).quantize(16)
    image.save(tmp_path / f"a.{suffix}")
    np.testing.assert_array_equal(
        read_picture(tmp_path / f"a.{suffix}", View()).pixels, np.asarray(image.convert("RGB"))
    )


@pytest.mark.parametrize("suffix", ["jpg", "tif"])
def test_cmyk_becomes_rgb(tmp_path, suffix):
    colour = np.full((*SHAPE, 3), (200, 40, 90), np.uint8)
    Image.fromarray(colour).convert("CMYK").save(tmp_path / f"a.{suffix}")
    np.testing.assert_allclose(read_picture(tmp_path / f"a.{suffix}", View()).pixels, colour, atol=3)


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_transparency_is_dropped(tmp_path, suffix):
    for stored, wanted in ((np.dstack([GRAY, 255 - GRAY]), GRAY), (np.dstack([COLOURS, GRAY]), COLOURS)):
        Image.fromarray(stored, "LA" if stored.shape[2] == 2 else "RGBA").save(tmp_path / f"a.{suffix}")
        image, _ = normalise(read_picture(tmp_path / f"a.{suffix}", View()).pixels)
        np.testing.assert_array_equal(image, wanted if wanted.ndim == 3 else np.dstack([wanted] * 3))


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif"])
def test_one_bit_becomes_0_and_255(tmp_path, suffix):
    Image.fromarray(GRAY > 100).save(tmp_path / f"a.{suffix}")
    image, _ = normalise(read_picture(tmp_path / f"a.{suffix}", View()).pixels)
    np.testing.assert_array_equal(image[..., 0], np.where(GRAY > 100, 255, 0))


def test_where_0_is_white_values_are_inverted(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", GRAY, photometric="miniswhite")
    np.testing.assert_array_equal(read_picture(tmp_path / "a.tif", View()).pixels, 255 - GRAY)


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
def test_pixels_lie_as_stored_whatever_the_orientation_tag(tmp_path, suffix):
    exif = Image.Exif()
    exif[274] = 6  # turned by a quarter
    Image.fromarray(GRAY).save(tmp_path / f"a.{suffix}", exif=exif)
    assert Image.open(tmp_path / f"a.{suffix}").getexif()[274] == 6
    assert read_picture(tmp_path / f"a.{suffix}", View()).pixels.shape[:2] == SHAPE


def test_values_that_are_no_finite_number_become_the_least_one_and_are_counted(tmp_path):
    values = GRAY.astype(np.float32) / 255 + 1
    values[3, 4], values[5, 6] = np.nan, np.inf
    tifffile.imwrite(tmp_path / "a.tif", values)
    picture = read_picture(tmp_path / "a.tif", View())
    assert picture.pixels[3, 4] == picture.pixels[5, 6] == np.nanmin(values)
    assert picture.notes == ("2 values that are no finite number",)
    tifffile.imwrite(tmp_path / "nan.tif", np.full(SHAPE, np.nan, np.float32))
    with pytest.raises(ValueError, match="nan.tif .*finite"):
        read_picture(tmp_path / "nan.tif", View())


@pytest.mark.parametrize("dtype", ["uint16", "int16", "int32", "uint32", "float16", "float32", "float64", ">u2"])
def test_a_narrow_range_on_an_offset_is_spread_whatever_the_type(tmp_path, dtype):
    values = (1000 + 2 * GRAY.astype(np.int32)).astype(dtype)
    tifffile.imwrite(tmp_path / "a.tif", values)
    picture = read_picture(tmp_path / "a.tif", View())
    np.testing.assert_array_equal(picture.pixels, values)
    image, rule = normalise(picture.pixels)
    assert (image.min(), image.max()) == (0, 255)
    assert rule.startswith("percentiles 1 and 99.8: 100")


def test_without_normalisation_the_upper_bits_are_taken():
    values = np.array([[0, 100, 4095]], np.uint16)
    assert normalise(values, robust=False)[0][..., 0].tolist() == [[0, 6, 255]]
    assert normalise(values / 4095.0, robust=False)[0][..., 0].tolist() == [[0, 6, 255]]
    for outside in (values.astype(np.float32), values.astype(np.int32) - 5, values.astype(np.uint32) << 8):
        with pytest.raises(ValueError, match="--no-normalise"):
            normalise(outside, robust=False)


def test_a_constant_image_and_one_with_a_single_bright_pixel_have_no_noise_blown_up():
    constant = np.full((64, 64), 777, np.uint16)
    assert not normalise(constant)[0].any()
    constant[5, 5] = 60000
    assert np.count_nonzero(normalise(constant)[0]) == 3


@pytest.mark.parametrize("unit", [None, "INCH", "CENTIMETER"])
def test_a_resolution_for_print_is_no_pixel_size(tmp_path, unit):
    tifffile.imwrite(tmp_path / "a.tif", GRAY, resolution=(300, 300), resolutionunit=unit)
    assert read_picture(tmp_path / "a.tif", View()).pixel_size_um is None
    tifffile.imwrite(tmp_path / "b.tif", GRAY, resolution=(20000, 20000), resolutionunit="CENTIMETER")
    assert read_picture(tmp_path / "b.tif", View()).pixel_size_um == pytest.approx(0.5)
    tifffile.imwrite(tmp_path / "c.tif", GRAY, resolution=(20000, 10000), resolutionunit="CENTIMETER")
    assert read_picture(tmp_path / "c.tif", View()).pixel_size_um is None  # not square


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "webp", "tif"])
def test_files_cut_at_any_place_are_refused_by_name(tmp_path, suffix):
    Image.fromarray(COLOURS).save(tmp_path / "whole", "JPEG" if suffix == "jpg" else suffix.replace("tif", "tiff"))
    data = (tmp_path / "whole").read_bytes()
    for part in (0, 3, 20, len(data) // 3, len(data) // 2, len(data) * 3 // 4):
        (tmp_path / f"cut.{suffix}").write_bytes(data[:part])
        with pytest.raises(ValueError, match=f"cut.{suffix} cannot be read"):
            read_picture(tmp_path / f"cut.{suffix}", View())


def test_images_of_several_sizes_in_one_file_are_refused(tmp_path):
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        file.write(GRAY, metadata=None)
        file.write(STACK[0, 0, 0, :9], metadata=None)
    with pytest.raises(ValueError, match="a.tif .* holds 2 images .*choose one by --series 0..1"):
        list_series(tmp_path / "a.tif", View())
    assert list_series(tmp_path / "a.tif", View(series=1)) == [1]
    np.testing.assert_array_equal(read_picture(tmp_path / "a.tif", View(series=1), series=1).pixels, STACK[0, 0, 0, :9])


def test_images_of_an_ome_tiff_are_read_each_with_its_own_metadata(tmp_path):
    path = tmp_path / "a.ome.tif"
    with tifffile.TiffWriter(path, ome=True) as file:
        file.write(GRAY, metadata={"axes": "YX", **UM})
        file.write(STACK[:, 0], metadata={"axes": "TCYX", **CHANNELS})
        file.write(STACK[0, 0, 1], metadata={"axes": "YX", "PhysicalSizeX": 2, "PhysicalSizeY": 2})
    assert list_series(path, View()) == [0, 1, 2]
    assert list_series(path, View(series=2)) == [2]
    first, last = read_picture(path, View(), series=0), read_picture(path, View(), series=2)
    np.testing.assert_array_equal(first.pixels, GRAY)
    np.testing.assert_array_equal(last.pixels, STACK[0, 0, 1])
    assert (first.pixel_size_um, last.pixel_size_um) == pytest.approx((0.25, 2))
    assert count_times(path, View("gfp"), 1) == 4
    middle = read_picture(path, View("gfp"), 2, 1)
    np.testing.assert_array_equal(middle.pixels, STACK[2, 0, 1])
    assert middle.channel == "1 GFP"
    with pytest.raises(ValueError, match="a.ome.tif: it holds 3 images, and no series 3: choose --series 0..2"):
        list_series(path, View(series=3))


OME = """<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"{own}>
<Image ID="Image:0"><Pixels ID="Pixels:0" DimensionOrder="XYZCT" Type="uint8" SizeX="{x}" SizeY="{y}"
SizeZ="2" SizeC="1" SizeT="1">{planes}</Pixels></Image></OME>"""
PLANE = '<TiffData FirstZ="{z}" IFD="{ifd}" PlaneCount="1"><UUID FileName="{name}">urn:uuid:{uuid}</UUID></TiffData>'


def write_planes(path, pixels, planes, own=' UUID="urn:uuid:a"'):
    lines = (PLANE.format(z=z, ifd=ifd, name=name, uuid=uuid) for z, (ifd, name, uuid) in enumerate(planes))
    text = OME.format(own=own, y=pixels.shape[-2], x=pixels.shape[-1], planes="".join(lines))
    tifffile.imwrite(path, pixels, description=text, metadata=None, photometric="minisblack")


@pytest.mark.parametrize("own", [' UUID="urn:uuid:a"', ""])
@pytest.mark.parametrize("name", ["a.ome.tif", "b.ome.tif"])
def test_planes_of_an_ome_tiff_may_lie_in_a_file_beside_it(tmp_path, name, own):
    both = np.stack([GRAY // 2, GRAY])
    if name == "a.ome.tif":
        write_planes(tmp_path / "a.ome.tif", both, [(0, name, "a"), (1, name, "a")], own)
    else:
        write_planes(tmp_path / "a.ome.tif", both[0], [(0, "a.ome.tif", "a"), (0, name, "b")], own)
        tifffile.imwrite(tmp_path / name, both[1])
    np.testing.assert_array_equal(read_picture(tmp_path / "a.ome.tif", View(plane="1")).pixels, GRAY)


@pytest.mark.parametrize(
    "name", ["../b.ome.tif", "/etc/passwd", "..\\b.tif", "b/c.tif", "gone.tif", "folder.tif", "", "."]
)
@pytest.mark.parametrize("own", [' UUID="urn:uuid:a"', ""])
def test_a_file_that_ome_xml_names_elsewhere_is_neither_opened_nor_taken_for_black(tmp_path, name, own):
    (tmp_path / "in/folder.tif").mkdir(parents=True)
    tifffile.imwrite(tmp_path / "b.ome.tif", GRAY)
    path = tmp_path / "in/a.ome.tif"
    write_planes(path, GRAY, [(0, "a.ome.tif", "a"), (0, name, "b")], own)
    with pytest.raises(UserError, match=r"a\.ome\.tif cannot be read: its OME-XML has planes in"):
        read_picture(path, View())


def test_planes_that_ome_xml_claims_and_the_file_lacks_are_not_taken_for_black(tmp_path):
    path = tmp_path / "a.ome.tif"
    write_planes(path, GRAY, [(0, "a.ome.tif", "a"), (7, "a.ome.tif", "a")])
    with pytest.raises(UserError, match=r"a\.ome\.tif cannot be read: it lacks 1 of the 2 planes"):
        read_picture(path, View())


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_a_file_of_one_image_has_series_0_alone(tmp_path, suffix):
    Image.fromarray(GRAY).save(tmp_path / f"a.{suffix}")
    assert list_series(tmp_path / f"a.{suffix}", View()) == list_series(tmp_path / f"a.{suffix}", View(series=0)) == [0]
    with pytest.raises(ValueError, match="it holds 1 image, and no series 1"):
        list_series(tmp_path / f"a.{suffix}", View(series=1))


def test_a_pyramid_is_read_at_full_size(tmp_path):
    with tifffile.TiffWriter(tmp_path / "a.ome.tif") as file:
        file.write(GRAY, subifds=1, metadata={"axes": "YX"})
        file.write(GRAY[::2, ::2], subfiletype=1)
    np.testing.assert_array_equal(read_picture(tmp_path / "a.ome.tif", View()).pixels, GRAY)


@pytest.mark.parametrize("compression", ["lzw", "jpeg"])
def test_a_compression_that_needs_imagecodecs_is_read_or_the_package_is_named(tmp_path, compression):
    names = {"lzw": "tiff_lzw", "jpeg": "jpeg"}
    Image.fromarray(GRAY // 64 * 64).save(tmp_path / "a.tif", compression=names[compression])
    try:
        importlib.import_module("imagecodecs")
    except ImportError:
        with pytest.raises(ValueError, match="a.tif .*pip install imagecodecs"):
            read_picture(tmp_path / "a.tif", View())
    else:
        assert np.abs(read_picture(tmp_path / "a.tif", View()).pixels.astype(int) - GRAY // 64 * 64).mean() < 30


@pytest.mark.parametrize("suffix", ["czi", "nd2", "lif"])
def test_files_of_vendors_name_the_extra_that_reads_them(tmp_path, monkeypatch, suffix):
    (tmp_path / f"a.{suffix}").write_bytes(b"something")
    monkeypatch.setitem(sys.modules, "bioio", None)
    with pytest.raises(ValueError, match=rf"a.{suffix}: .{suffix} files need .*pip install 'nuclei\[microscopes\]'"):
        count_times(tmp_path / f"a.{suffix}", View())


def test_files_of_vendors_are_read_by_bioio(tmp_path, monkeypatch):
    class Reader:
        """What of bioio.BioImage is used, for the stack in its order TCZYX."""

        scenes, dims, channel_names = ("one",), SimpleNamespace(order="TCZYX"), ["DAPI", "GFP"]
        physical_pixel_sizes = SimpleNamespace(X=0.2, Y=0.2)
        array = np.moveaxis(STACK, 2, 1)
        shape = array.shape

        def __init__(self, path):
            assert path.name == "a.czi"

        def get_image_data(self, order, T, C, Z):
            assert order == "ZYX"
            return self.array[T, C][Z]

    (tmp_path / "a.czi").write_bytes(b"something")
    monkeypatch.setitem(sys.modules, "bioio", SimpleNamespace(BioImage=Reader))
    view = View("GFP")
    assert count_times(tmp_path / "a.czi", view) == 4
    picture = read_picture(tmp_path / "a.czi", view, 2)
    np.testing.assert_array_equal(picture.pixels, STACK[2, :, 1].max(0))
    assert (picture.channel, picture.pixel_size_um) == ("1 GFP", 0.2)


def test_scenes_of_vendors_are_images_of_their_own(tmp_path, monkeypatch):
    class Reader:
        scenes, dims, channel_names = ("one", "two"), SimpleNamespace(order="YX"), None
        physical_pixel_sizes, shape = SimpleNamespace(X=None, Y=None), SHAPE

        def __init__(self, path):
            assert path.name == "a.lif"
            self.scene = 0

        def set_scene(self, number):
            self.scene = number

        def get_image_data(self, order):
            assert order == "YX"
            return GRAY + np.uint8(self.scene)

    (tmp_path / "a.lif").write_bytes(b"something")
    monkeypatch.setitem(sys.modules, "bioio", SimpleNamespace(BioImage=Reader))
    assert list_series(tmp_path / "a.lif", View()) == [0, 1]
    for number in (0, 1):
        assert count_times(tmp_path / "a.lif", View(), number) == 1
        np.testing.assert_array_equal(
            read_picture(tmp_path / "a.lif", View(), series=number).pixels, GRAY + np.uint8(number)
        )


def test_too_many_pixels_are_refused_before_their_memory_is_taken(tmp_path, monkeypatch):
    monkeypatch.setattr("nuclei.data.axes.MAX_PIXELS", 1000)
    for suffix in ("png", "jpg", "tif"):
        cv2.imwrite(str(tmp_path / f"a.{suffix}"), GRAY)
        with pytest.raises(ValueError, match=f"a.{suffix} .*more than 1,000"):
            read_picture(tmp_path / f"a.{suffix}", View())


@pytest.mark.parametrize("ome", [True, False])
def test_a_stack_that_does_not_fit_into_memory_is_refused_unread_and_a_plane_of_it_is_not(tmp_path, monkeypatch, ome):
    monkeypatch.setattr("nuclei.data.axes.MAX_VALUES", 5 * 16 * 16)
    path = tmp_path / "stack.tif"
    tifffile.imwrite(path, np.ones((6, 16, 16), np.uint16), metadata={"axes": "ZYX"}, ome=ome, imagej=not ome)
    with pytest.raises(UserError, match=r"stack\.tif cannot be read: 1,536 values .* choose a plane by --plane"):
        read_picture(path, View())
    if ome:
        assert read_picture(path, View(plane="2")).pixels.shape == (16, 16)


def write_ome(path, **claims):
    """Write an OME-TIFF of two channels whose XML claims other attributes of its pixels."""
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, np.stack([GRAY, GRAY]), ome=True, metadata={"axes": "CYX"})
    buffer.seek(0)
    with tifffile.TiffFile(buffer) as file:
        xml = file.ome_metadata
    for name, value in claims.items():
        xml = re.sub(rf' {name}="[^"]*"', "", xml).replace("<Pixels ", f'<Pixels {name}="{value}" ')
    tifffile.imwrite(path, np.stack([GRAY, GRAY]), description=xml, metadata=None, photometric="minisblack")
    return path


@pytest.mark.parametrize("axis", ["C", "Z", "T"])
@pytest.mark.parametrize("n", [2_000_000, 2_000_000_000, 10**30])
def test_more_planes_than_any_file_has_are_refused_before_a_list_is_made_of_them(tmp_path, axis, n):
    path = write_ome(tmp_path / "claims.ome.tif", **{f"Size{axis}": n})
    for read in (
        lambda: list_series(path, View()),
        lambda: read_picture(path, View(channel="0")),
        lambda: read_tiff(path),
    ):
        with pytest.raises(UserError, match="claims.ome.tif.* claims .* planes"):
            read()


@pytest.mark.parametrize(("said", "known"), [("0.5", 0.5), ("inf", None), ("nan", None), ("-1", None), ("wide", None)])
def test_a_pixel_is_of_a_finite_size_or_of_none_that_is_known(tmp_path, said, known):
    path = write_ome(tmp_path / "a.ome.tif", PhysicalSizeX=said, PhysicalSizeY=said)
    assert read_picture(path, View(channel="0")).pixel_size_um == known


@pytest.mark.parametrize("suffix", ["webp", "png"])
@pytest.mark.parametrize("frames", [1, 3])
def test_an_animation_is_refused(tmp_path, suffix, frames):
    path = tmp_path / f"a.{suffix}"
    pictures = [Image.fromarray(np.roll(COLOURS, shift, axis=0)) for shift in range(frames)]
    pictures[0].save(path, save_all=True, append_images=pictures[1:], lossless=True)
    if frames == 1:
        np.testing.assert_array_equal(read_picture(path, View()).pixels, COLOURS)
    else:
        with pytest.raises(UserError, match=f"a.{suffix} .*animation"):
            read_picture(path, View())


def test_the_limit_of_pixels_is_ours_and_not_that_of_pillow(tmp_path, monkeypatch):
    Image.fromarray(GRAY).save(tmp_path / "a.bmp")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    np.testing.assert_array_equal(read_picture(tmp_path / "a.bmp", View()).pixels, GRAY)


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a"])
def test_a_file_that_is_too_large_is_refused_unread(tmp_path, name):
    with (tmp_path / name).open("wb") as file:
        file.truncate(MAX_FILE_BYTES + 1)  # takes no room
    with pytest.raises(UserError, match=f"{name} is refused: 1,073,741,825 bytes"):
        read_picture(tmp_path / name, View())


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_values_as_large_as_a_float_holds_are_spread(kind):
    most = np.finfo(kind).max
    image, _ = normalise(np.where(GRAY > 128, most, -most).astype(kind))
    np.testing.assert_array_equal(image[..., 0], np.where(GRAY > 128, 255, 0))


def test_of_many_channels_a_few_are_named(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((500, 8, 9), np.uint8), metadata={"axes": "CYX"}, ome=True)
    with pytest.raises(UserError) as raised:
        read_picture(tmp_path / "a.tif", View())
    assert len(str(raised.value)) < 500
    assert "… 499" in str(raised.value)
