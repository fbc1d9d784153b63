"""Readers on real files: literal sizes, channels, types and pixel sizes."""

import numpy as np
import pytest
import tifffile

from glomflow.errors import ImageError
from glomflow.imaging.readers import open_image

RGB = ("R", "G", "B")
GRAY = ("gray",)

READABLE = [
    ("formats/Fluorescence_example.tif", "tiff", 450, 450, ("C0", "C1"), "uint8", None, 1),
    ("formats/HE_example.tif", "tiff", 1380, 1484, RGB, "uint8", (0.50007992, 0.50007992), 1),
    ("formats/cells-1.jp2", "jpeg2000", 185, 261, RGB, "uint8", None, 1),
    ("formats/cells-2c.ome.tif", "tiff", 93, 131, ("C0", "C1"), "uint8", (0.25, 0.25), 1),
    ("formats/cells-2t.ome.tif", "tiff", 93, 131, GRAY, "uint8", (0.25, 0.25), 1),
    ("formats/cells-2z.ome.tif", "tiff", 93, 131, GRAY, "uint8", (0.25, 0.25), 1),
    ("formats/cells-gray16.tif", "tiff", 93, 131, GRAY, "uint16", (0.25, 0.25), 1),
    ("formats/cells.ome.tif", "tiff", 93, 131, RGB, "uint8", (0.25, 0.25), 1),
    ("formats/cmu-1-small-region.svs", "openslide", 2220, 2967, RGB, "uint8", (0.499, 0.499), 1),
    ("formats/kidney-48-5.tif", "tiff", 1493, 901, RGB, "uint8", None, 1),
    (
        "formats/small_vectra.qptiff",
        "tiff",
        1920,
        1440,
        ("DAPI", "FITC", "Cy3"),
        "uint8",
        (0.49653463, 0.49653463),
        1,
    ),
    ("formats/smalltif.tif", "tiff", 640, 480, GRAY, "uint16", None, 1),
    ("formats/tcga-cr-7395-01a-01-ts1.svs", "openslide", 4443, 3567, RGB, "uint8", None, 2),
    ("tem/fpw_bad.png", "raster", 1024, 1104, GRAY, "uint8", None, 1),
    ("tem/fpw_good.png", "raster", 1024, 1104, GRAY, "uint8", None, 1),
    ("tem/fpw_good2.png", "raster", 1024, 1104, GRAY, "uint8", None, 1),
    ("tem/fpw_okay.png", "raster", 1024, 1104, GRAY, "uint8", None, 1),
    ("tem/gbm_scalebar.jpg", "raster", 3744, 2444, GRAY, "uint8", None, 1),
    ("tem/olympus_sis.tif", "tiff", 1376, 1032, GRAY, "uint8", (0.0151545, 0.0151545), 1),
    ("if/C1q.jpg", "raster", 1600, 1200, RGB, "uint8", None, 1),
    ("if/C3.jpg", "raster", 1600, 1200, RGB, "uint8", None, 1),
    ("if/IgA.jpg", "raster", 1600, 1200, RGB, "uint8", None, 1),
    ("if/IgG.jpg", "raster", 1600, 1200, RGB, "uint8", None, 1),
    ("if/IgM.jpg", "raster", 1600, 1200, RGB, "uint8", None, 1),
    ("stains/kidney_02_pas.png", "raster", 1000, 1000, RGB, "uint8", None, 1),
]

MICROSCOPES = [
    # pixel sizes by hand: camera pixel / magnification (13 µm / 12 and 26 µm / 24) and the file's XML
    ("RGB-8bit.czi", "pylibCZIrw", "czi", 924, 624, RGB, "uint8", (13 / 12, 13 / 12)),
    ("s_1_t_1_c_1_z_1.czi", "pylibCZIrw", "czi", 475, 325, ("Bright",), "uint16", (26 / 24, 26 / 24)),
    # the file's XML: Length 17.81554 µm and 17.81540 µm, from the centre of the first to the last of 128
    (
        "testdata_2channel_xz.lif",
        "readlif",
        "lif",
        128,
        128,
        ("Green", "Red"),
        "uint8",
        (17.81554 / 127, 17.81540 / 127),
    ),
    # the tags Scale and Units of ImageList.[1].ImageData.Calibrations.Dimension, nm and µm
    ("multi_signal.dm3", "ncempy", "dm", 512, 512, GRAY, "uint16", (1.7751578e-5, 1.7751578e-5)),
    ("test-MonarcCL_mono-image.dm4", "ncempy", "dm", 2, 2, GRAY, "uint16", (18.32535, 18.32535)),
    ("test_STEM_image.dm3", "ncempy", "dm", 68, 68, GRAY, "uint32", (2.4853802e-4, 2.4853802e-4)),
    # header: a cell of 908.661 Å over a grid of 16
    ("HAADFscan.mrc", "numpy", "mrc", 16, 16, GRAY, "uint16", (908.661e-4 / 16, 908.661e-4 / 16)),
]

STACK = (
    "a stack of 66 frames is not one image; export one frame of it, or their sum, as TIFF with its pixel size"
)


@pytest.mark.parametrize(
    ("path", "name", "width", "height", "channels", "dtype", "pixel_size", "levels"),
    READABLE,
    ids=[row[0] for row in READABLE],
)
def test_header(real_data, path, name, width, height, channels, dtype, pixel_size, levels):
    with open_image(real_data / path) as reader:
        assert reader.name == name
        assert (reader.width, reader.height) == (width, height)
        assert reader.channels == channels
        assert reader.dtype == dtype
        assert reader.pixel_size == (pytest.approx(pixel_size, rel=1e-6) if pixel_size else None)
        assert len(reader.levels) == levels


@pytest.mark.parametrize("path", [row[0] for row in READABLE])
def test_pixels(real_data, path):
    with open_image(real_data / path) as reader:
        reader.check()
        thumbnail = reader.thumbnail(100)
        assert max(thumbnail.shape[:2]) <= 100
        assert thumbnail.shape[2] == len(reader.channels)
        assert thumbnail.dtype == reader.dtype
        assert thumbnail.std() > 1
        corner = reader.read_region(reader.width - 16, reader.height - 8, 16, 8, 16, 8)
        assert corner.shape == (8, 16, len(reader.channels))


@pytest.mark.parametrize(
    ("file", "library", "name", "width", "height", "channels", "dtype", "pixel_size"),
    MICROSCOPES,
    ids=[row[0] for row in MICROSCOPES],
)
def test_files_of_microscopes(real_data, file, library, name, width, height, channels, dtype, pixel_size):
    pytest.importorskip(library, reason=f"the optional library {library} is not installed")
    with open_image(real_data / "formats" / file) as reader:
        reader.check()
        assert (reader.name, reader.levels, reader.channels) == (name, ((width, height),), channels)
        assert reader.dtype == dtype
        assert reader.pixel_size == pytest.approx(pixel_size, rel=1e-6)
        pixels = reader.read_region(0, 0, width, height, width, height)
        assert (pixels.shape, pixels.dtype) == ((height, width, len(channels)), dtype)
        assert pixels.std() > 0.3
        corner = reader.read_region(width - 2, height - 1, 2, 1, 2, 1)
        assert np.array_equal(corner, pixels[-1:, -2:])


@pytest.mark.parametrize("suffix", ["dm3", "dm4"])
def test_a_stack_of_micrographs_is_refused(real_data, suffix):
    pytest.importorskip("ncempy", reason="the optional library ncempy is not installed")
    name = f"dmTest_3D_int16_64,65,66.{suffix}"
    with pytest.raises(ImageError) as error:
        open_image(real_data / "formats" / name)
    assert error.value.status == "unsupported_format"
    assert error.value.reason == f"{name}: {STACK}"


def test_every_file_is_tested(real_data):
    tested = {row[0] for row in READABLE} | {f"formats/{row[0]}" for row in MICROSCOPES}
    tested |= {"formats/broken.svs"} | {f"formats/dmTest_3D_int16_64,65,66.dm{n}" for n in "34"}
    there = {
        f"{folder}/{file.name}" for folder in ("formats", "tem") for file in (real_data / folder).iterdir()
    }
    assert there - tested == set()


def test_a_lif_is_read_as_readlif_reads_it(real_data):
    reader_module = pytest.importorskip("readlif.reader", reason="the optional library readlif is missing")
    path = real_data / "formats" / "testdata_2channel_xz.lif"
    first = reader_module.LifFile(str(path)).get_image(0)
    with open_image(path) as reader:
        pixels = reader.read_region(0, 0, 128, 128, 128, 128)
    for channel in range(2):
        assert np.array_equal(
            pixels[:, :, channel], np.asarray(first.get_plane(c=channel, requested_dims={4: 0}))
        )


def test_micrographs_are_read_as_ncempy_reads_them(real_data):
    dm = pytest.importorskip("ncempy.io.dm", reason="the optional library ncempy is not installed")
    for name in ("multi_signal.dm3", "test_STEM_image.dm3", "test-MonarcCL_mono-image.dm4"):
        with dm.fileDM(str(real_data / "formats" / name)) as file:
            expected = file.getDataset(0)["data"]
        with open_image(real_data / "formats" / name) as reader:
            size = reader.width, reader.height
            assert np.array_equal(reader.read_region(0, 0, *size, *size)[:, :, 0], expected)


def test_broken_slide(real_data):
    with pytest.raises(
        ImageError, match=r"^broken\.svs: .*not a slide that OpenSlide knows.*export it again"
    ) as e:
        open_image(real_data / "formats" / "broken.svs")
    assert e.value.status == "unreadable"


def test_a_slide_reads_alike_through_openslide_and_tifffile(real_data):
    from glomflow.imaging.readers.tiff import TiffReader
    from glomflow.imaging.readers.wsi import SlideReader

    path = real_data / "formats" / "cmu-1-small-region.svs"
    with SlideReader(path) as slide, TiffReader(path) as tiff:
        assert slide.levels == tiff.levels
        assert slide.pixel_size == tiff.pixel_size
        regions = [reader.read_region(700, 900, 300, 200, 300, 200).astype(int) for reader in (slide, tiff)]
    assert np.abs(regions[0] - regions[1]).mean() < 1


def test_levels_of_a_slide_agree(real_data):
    path = real_data / "formats" / "tcga-cr-7395-01a-01-ts1.svs"
    with open_image(path) as reader:
        assert reader.levels == ((4443, 3567), (2221, 1783))
        assert reader.level_scale(1) == (2.0, 2.0)
        assert [reader.level_for(scale) for scale in (1.0, 1.9, 2.0, 8.0)] == [0, 0, 1, 1]
        coarse = reader.read_region(1000.0, 800.0, 1200.0, 1000.0, 300, 250).astype(float)
        reader.levels = reader.levels[:1]
        fine = reader.read_region(1000.0, 800.0, 1200.0, 1000.0, 300, 250).astype(float)
    best = min(
        (np.abs(np.roll(coarse, (dy, dx), (0, 1)) - fine)[5:-5, 5:-5].mean(), (dy, dx))
        for dy in (-1, 0, 1)
        for dx in (-1, 0, 1)
    )
    assert best[1] == (0, 0)
    assert best[0] < 5


def test_z_is_projected_by_its_maximum_and_time_by_its_first(real_data):
    stack = tifffile.imread(real_data / "formats" / "cells-2z.ome.tif")
    with open_image(real_data / "formats" / "cells-2z.ome.tif") as reader:
        assert np.array_equal(reader.read_region(0, 0, 93, 131, 93, 131)[:, :, 0], stack.max(axis=0))
    series = tifffile.imread(real_data / "formats" / "cells-2t.ome.tif")
    with open_image(real_data / "formats" / "cells-2t.ome.tif") as reader:
        assert np.array_equal(reader.read_region(0, 0, 93, 131, 93, 131)[:, :, 0], series[0])


def test_a_truncated_slide_shows_in_the_check(real_data, tmp_path):
    path = tmp_path / "cut.svs"
    data = (real_data / "formats" / "cmu-1-small-region.svs").read_bytes()
    path.write_bytes(data[: int(len(data) * 0.9)])
    with pytest.raises(ImageError, match=r"^cut\.svs: cannot be read \(.*export it again") as error:
        _check(path)
    assert error.value.status == "unreadable"


def test_tiles_beyond_the_end_of_a_slide_show_in_the_check(real_data, tmp_path):
    path = tmp_path / "cut.svs"
    path.write_bytes((real_data / "formats" / "cmu-1-small-region.svs").read_bytes())
    with tifffile.TiffFile(path, mode="r+") as file:
        tag = file.pages[0].tags["TileByteCounts"]
        tag.overwrite((*tag.value[:-1], 10**7))
    with pytest.raises(ImageError, match=r"truncated: it should hold \d+ bytes and holds 1938955"):
        _check(path)


def _check(path):
    with open_image(path) as reader:
        reader.check()


def test_openslide_takes_over_where_tifffile_fails(real_data, tmp_path, monkeypatch):
    path = tmp_path / "slide.tif"
    path.write_bytes((real_data / "formats" / "cmu-1-small-region.svs").read_bytes())

    def fail(_, path):
        raise ImageError("unreadable", f"{path.name}: cannot be read")

    with open_image(path) as reader:
        assert (reader.name, reader.pixel_size) == ("tiff", (0.499, 0.499))
    monkeypatch.setattr("glomflow.imaging.readers.tiff.TiffReader.__init__", fail)
    with open_image(path) as reader:
        assert (reader.name, reader.width) == ("openslide", 2220)
    plain = real_data / "formats" / "kidney-48-5.tif"
    with pytest.raises(ImageError, match=r"kidney-48-5\.tif: cannot be read"):
        open_image(plain)
