"""Readers on files that the tests write: samples, axes, channels."""

import numpy as np
import pytest
import tifffile
from PIL import Image

from glomflow.imaging.readers import open_image
from imaging.written_images import RGB, noise, open_tiff, whole


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.uint32, np.float32, np.float64])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"bigtiff": True},
        {"byteorder": ">"},
        {"tile": (32, 48)},
        {"tile": (16, 16), "compression": "zlib", "predictor": True},
        {"rowsperstrip": 7, "compression": "lzw"},
        {"compression": "zlib", "byteorder": ">"},
    ],
    ids=lambda options: "-".join(map(str, options)) or "plain",
)
def test_tiff_samples_are_exact(tmp_path, dtype, options):
    array = noise((75, 101), dtype)
    with open_tiff(tmp_path, array, photometric="minisblack", **options) as reader:
        assert (reader.name, reader.width, reader.height) == ("tiff", 101, 75)
        assert (reader.channels, reader.dtype, reader.pixel_size) == (("gray",), dtype, None)
        assert np.array_equal(whole(reader)[:, :, 0], array)
        assert np.array_equal(reader.read_region(20, 30, 17, 41, 17, 41)[:, :, 0], array[30:71, 20:37])
        reader.check()


@pytest.mark.parametrize(
    "options", [{}, {"tile": (32, 32)}, {"compression": "lzw"}, {"tile": (32, 32), "compression": "zlib"}]
)
@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_colour_in_both_planar_configurations(tmp_path, planar, options):
    array = noise((70, 90, 3), np.uint16)
    stored = array if planar == "contig" else np.moveaxis(array, 2, 0)
    with open_tiff(tmp_path, stored, photometric="rgb", planarconfig=planar, **options) as reader:
        assert (reader.channels, reader.dtype, reader.fill) == (RGB, np.uint16, 0.0)
        assert np.array_equal(reader.read_region(5, 60, 40, 10, 40, 10), array[60:70, 5:45])


def test_jpeg_in_tiff(tmp_path):
    array = np.zeros((64, 96, 3), np.uint8)
    array[:, :48], array[:, 48:] = (200, 40, 90), (30, 160, 220)
    with open_tiff(tmp_path, array, tile=(32, 32), compression="jpeg", photometric="rgb") as reader:
        assert np.abs(whole(reader).astype(int) - array).mean() < 3


def test_alpha_is_laid_over_white(tmp_path):
    array = np.full((4, 4, 4), (100, 0, 50, 255), np.uint8)
    array[0, 0, 3], array[1, 1, 3] = 0, 51
    with open_tiff(tmp_path, array, photometric="rgb", extrasamples=["unassalpha"]) as reader:
        shown = whole(reader)
    assert reader.channels == RGB
    assert [shown[i, i].tolist() for i in range(3)] == [[255, 255, 255], [224, 204, 214], [100, 0, 50]]


def test_premultiplied_alpha(tmp_path):
    array = np.full((4, 4, 4), (20, 0, 10, 51), np.uint8)
    with open_tiff(tmp_path, array, photometric="rgb", extrasamples=["assocalpha"]) as reader:
        assert whole(reader)[0, 0].tolist() == [224, 204, 214]


def test_a_fourth_sample_that_is_no_alpha_is_left_out(tmp_path):
    array = noise((8, 8, 4))
    with open_tiff(tmp_path, array, photometric="rgb", extrasamples=["unspecified"]) as reader:
        assert np.array_equal(whole(reader), array[:, :, :3])


@pytest.mark.parametrize(("dtype", "top"), [(np.uint8, 255), (np.uint16, 65535)])
def test_min_is_white_is_inverted(tmp_path, dtype, top):
    array = noise((8, 9), dtype)
    with open_tiff(tmp_path, array, photometric="miniswhite") as reader:
        assert np.array_equal(whole(reader)[:, :, 0], top - array)


@pytest.mark.parametrize("photometric", ["minisblack", "miniswhite"])
def test_the_ends_of_64_bits_do_not_overflow(tmp_path, photometric):
    array = np.array([[0, 2**64 - 1]] * 4, np.uint64)
    with open_tiff(tmp_path, array, photometric=photometric) as reader:
        ends = whole(reader)[0, :, 0].tolist()
        assert ends == ([0, 2**64 - 1] if photometric == "minisblack" else [2**64 - 1, 0])
        halves = reader.read_region(0, 0, 2, 4, 2, 2)[0, :, 0].tolist()
        assert sorted(halves) == [0, 2**64 - 2048]


def test_one_bit_becomes_black_and_white(tmp_path):
    array = noise((16, 16)) > 100
    with open_tiff(tmp_path, array, photometric="minisblack") as reader:
        assert reader.dtype == np.uint8
        assert np.array_equal(whole(reader)[:, :, 0], array * np.uint8(255))


def _palette(entries):
    colormap = np.zeros((3, 256), np.uint16)
    for index, colour in entries.items():
        colormap[:, index] = np.array(colour) * 257
    return colormap


def test_a_palette_is_applied(tmp_path):
    array = np.array([[1, 2], [3, 1]], np.uint8)
    colormap = _palette({1: (255, 0, 0), 2: (0, 128, 0), 3: (9, 9, 200)})
    with open_tiff(tmp_path, array, photometric="palette", colormap=colormap) as reader:
        assert reader.channels == RGB
        assert whole(reader).tolist() == [[[255, 0, 0], [0, 128, 0]], [[9, 9, 200], [255, 0, 0]]]


def test_a_gray_palette_stays_gray(tmp_path):
    colormap = _palette({index: (255 - index,) * 3 for index in range(256)})
    with open_tiff(
        tmp_path, np.array([[10, 200]], np.uint8), photometric="palette", colormap=colormap
    ) as reader:
        assert reader.channels == ("gray",)
        assert whole(reader)[:, :, 0].tolist() == [[245, 55]]


def test_system_colours_in_a_gray_ramp_are_not_colour(tmp_path):
    colormap = _palette({index: (index,) * 3 for index in range(256)} | {1: (128, 0, 0), 250: (0, 255, 0)})
    array = np.array([[1, 250, 90]], np.uint8)
    with open_tiff(tmp_path, array, photometric="palette", colormap=colormap) as reader:
        assert reader.channels == ("gray",)
        assert whole(reader)[:, :, 0].tolist() == [[1, 250, 90]]


def test_display_colours_of_ome_are_not_applied(tmp_path):
    array = noise((8, 9))
    options = {"photometric": "palette", "colormap": _palette({5: (255, 0, 0)}), "name": "a.ome.tif"}
    with open_tiff(tmp_path, array, **options) as reader:
        assert np.array_equal(whole(reader)[:, :, 0], array)


@pytest.mark.parametrize(
    ("axes", "shape", "pick"),
    [
        ("CYX", (4, 30, 40), lambda a: np.moveaxis(a, 0, 2)),
        ("ZYX", (3, 30, 40), lambda a: a.max(0)[..., None]),
        ("TYX", (3, 30, 40), lambda a: a[0][..., None]),
        ("ZCYX", (3, 2, 30, 40), lambda a: np.moveaxis(a.max(0), 0, 2)),
        ("CZYX", (2, 3, 30, 40), lambda a: np.moveaxis(a.max(1), 0, 2)),
        ("TCZYX", (2, 2, 3, 30, 40), lambda a: np.moveaxis(a[0].max(1), 0, 2)),
        ("YXS", (30, 40, 3), lambda a: a),
        ("ZYXS", (2, 30, 40, 3), lambda a: a[0]),
    ],
)
@pytest.mark.parametrize("options", [{}, {"tile": (16, 16), "compression": "zlib"}])
def test_axes_of_ome(tmp_path, axes, shape, pick, options):
    array = noise(shape, np.uint16)
    photometric = "rgb" if axes.endswith("S") else "minisblack"
    options = options | {"name": "stack.ome.tif", "metadata": {"axes": axes}, "photometric": photometric}
    with open_tiff(tmp_path, array, **options) as reader:
        assert np.array_equal(whole(reader), pick(array))


def test_channel_names_and_pixel_size_of_ome(tmp_path):
    metadata = {
        "axes": "CYX",
        "Channel": {"Name": ["IgG", "IgA", "C3"]},
        "PhysicalSizeX": 325.0,
        "PhysicalSizeXUnit": "nm",
        "PhysicalSizeY": 0.5,
        "PhysicalSizeYUnit": "µm",
    }
    with open_tiff(
        tmp_path, noise((3, 8, 9), np.uint16), name="a.ome.tif", metadata=metadata, photometric="minisblack"
    ) as reader:
        assert reader.channels == ("IgG", "IgA", "C3")
        assert reader.pixel_size == (0.325, 0.5)


def test_channels_named_red_green_blue_are_colour(tmp_path):
    metadata = {"axes": "CYX", "Channel": {"Name": ["Red", "Green", "Blue"]}}
    options = {"name": "a.ome.tif", "metadata": metadata, "photometric": "minisblack"}
    with open_tiff(tmp_path, noise((3, 8, 9)), **options) as reader:
        assert reader.channels == RGB


def test_the_first_series_is_read(tmp_path):
    first, second = noise((20, 30)), noise((40, 50))
    with tifffile.TiffWriter(tmp_path / "two.ome.tif", ome=True) as writer:
        writer.write(first, photometric="minisblack")
        writer.write(second, photometric="minisblack")
    with open_image(tmp_path / "two.ome.tif") as reader:
        assert np.array_equal(whole(reader)[:, :, 0], first)


def test_pages_of_a_plain_stack_are_channels(tmp_path):
    array = noise((5, 20, 30), np.uint16)
    with open_tiff(tmp_path, array, photometric="minisblack", metadata=None) as reader:
        assert reader.channels == ("C0", "C1", "C2", "C3", "C4")
        assert np.array_equal(whole(reader), np.moveaxis(array, 0, 2))


@pytest.mark.parametrize("truncate", [False, True])
def test_imagej_hyperstacks(tmp_path, truncate):
    array = noise((2, 3, 20, 30), np.uint16)
    if truncate:
        tifffile.imwrite(tmp_path / "image.tif", array, imagej=True, metadata={"axes": "ZCYX"}, truncate=True)
    else:
        tifffile.imwrite(
            tmp_path / "image.tif",
            array,
            imagej=True,
            metadata={"axes": "ZCYX", "unit": "um"},
            resolution=(4, 4),
        )
    with open_image(tmp_path / "image.tif") as reader:
        assert np.array_equal(whole(reader), np.moveaxis(array.max(0), 0, 2))
        assert reader.pixel_size == (None if truncate else (0.25, 0.25))


def test_pages_that_are_smaller_versions_are_levels(tmp_path):
    base = noise((256, 320, 3))
    with tifffile.TiffWriter(tmp_path / "pages.tif") as writer:
        for step in (1, 2, 4):
            writer.write(
                base[::step, ::step],
                tile=(64, 64),
                photometric="rgb",
                subfiletype=int(step > 1),
                metadata=None,
            )
    with open_image(tmp_path / "pages.tif") as reader:
        assert reader.levels == ((320, 256), (160, 128), (80, 64))
        assert np.array_equal(reader.read_region(0, 0, 320, 256, 80, 64), base[::4, ::4])


def test_a_thumbnail_page_of_another_kind_is_no_level(tmp_path):
    with tifffile.TiffWriter(tmp_path / "pages.tif") as writer:
        writer.write(noise((128, 160), np.uint16), photometric="minisblack", metadata=None)
        writer.write(noise((64, 80, 3)), photometric="rgb", metadata=None)
    with open_image(tmp_path / "pages.tif") as reader:
        assert (reader.levels, reader.channels) == (((160, 128),), ("gray",))


def test_missing_tiles_of_a_colour_image_are_white(tmp_path):
    tiles = (None if index == 1 else np.zeros((16, 16, 3), np.uint8) for index in range(4))
    options = {"shape": (32, 32, 3), "dtype": np.uint8, "tile": (16, 16), "photometric": "rgb"}
    tifffile.imwrite(tmp_path / "sparse.tif", tiles, compression="zlib", **options)
    with open_image(tmp_path / "sparse.tif") as reader:
        shown = whole(reader)
    assert (shown[:16, 16:] == 255).all()
    assert shown.mean() == pytest.approx(255 / 4)


@pytest.mark.parametrize(
    ("array", "mode", "channels", "expected"),
    [
        (np.array([[7, 200]], np.uint8), None, ("gray",), [[[7], [200]]]),
        (np.array([[7, 60000]], np.uint16), None, ("gray",), [[[7], [60000]]]),
        (np.array([[[1, 2, 3]]], np.uint8), None, RGB, [[[1, 2, 3]]]),
        (np.array([[[100, 0, 50, 51]]], np.uint8), None, RGB, [[[224, 204, 214]]]),
        (np.array([[[100, 51]]], np.uint8), "LA", ("gray",), [[[224]]]),
        (np.array([[0, 255]], np.uint8), "1", ("gray",), [[[0], [255]]]),
    ],
    ids=["gray", "gray16", "rgb", "rgba", "gray-alpha", "one-bit"],
)
def test_png(tmp_path, array, mode, channels, expected):
    image = Image.fromarray(array) if mode != "1" else Image.fromarray(array).convert("1")
    image.save(tmp_path / "a.png")
    with open_image(tmp_path / "a.png") as reader:
        assert (reader.name, reader.channels) == ("raster", channels)
        assert whole(reader).tolist() == expected
        assert whole(reader).dtype == reader.dtype


def test_png_palette_with_transparency(tmp_path):
    image = Image.fromarray(np.array([[0, 1]], np.uint8)).convert("P")
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.save(tmp_path / "a.png", transparency=0)
    with open_image(tmp_path / "a.png") as reader:
        assert whole(reader).tolist() == [[[255, 255, 255], [40, 50, 60]]]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(tmp_path, orientation):
    upright = np.full((16, 32, 3), 255, np.uint8)
    upright[:8, :8] = 0
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}
    image = Image.fromarray(upright)
    if orientation > 1:
        image = image.transpose(Image.Transpose(undo[orientation]))
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.save(tmp_path / "a.jpg", quality=100, subsampling=0, exif=exif)
    with open_image(tmp_path / "a.jpg") as reader:
        assert (reader.width, reader.height) == (32, 16)
        assert np.abs(whole(reader).astype(int) - upright).max() < 10


def test_cmyk_jpeg_becomes_rgb(tmp_path):
    Image.new("CMYK", (8, 8), (0, 255, 0, 0)).save(tmp_path / "a.jpg")
    with open_image(tmp_path / "a.jpg") as reader:
        assert reader.channels == RGB
        assert whole(reader)[0, 0, 1] < 30 < 200 < whole(reader)[0, 0, 0]


@pytest.mark.parametrize("array", [noise((9, 11)), noise((9, 11, 3)), noise((9, 11), np.uint16)])
def test_jpeg2000(tmp_path, array):
    import imagecodecs

    (tmp_path / "a.jp2").write_bytes(imagecodecs.jpeg2k_encode(array, level=0))
    with open_image(tmp_path / "a.jp2") as reader:
        assert (reader.name, reader.dtype) == ("jpeg2000", array.dtype)
        assert np.array_equal(whole(reader), array.reshape(9, 11, -1))


def test_a_name_does_not_decide_what_content_tells(tmp_path):
    Image.fromarray(noise((8, 9, 3))).save(tmp_path / "a.tif", format="PNG")
    with open_image(tmp_path / "a.tif") as reader:
        assert reader.name == "raster"
