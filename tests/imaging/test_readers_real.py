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

REFUSED = [
    ("HAADFscan.mrc", "MRC is not handled; export the image as OME-TIFF"),
    ("RGB-8bit.czi", "Zeiss CZI is not handled; export the image as OME-TIFF"),
    ("s_1_t_1_c_1_z_1.czi", "Zeiss CZI is not handled"),
    ("dmTest_3D_int16_64,65,66.dm3", "Gatan DM3 is not handled"),
    ("dmTest_3D_int16_64,65,66.dm4", "Gatan DM4 is not handled"),
    ("multi_signal.dm3", "Gatan DM3 is not handled"),
    ("test-MonarcCL_mono-image.dm4", "Gatan DM4 is not handled"),
    ("test_STEM_image.dm3", "Gatan DM3 is not handled"),
    ("testdata_2channel_xz.lif", "Leica LIF is not handled"),
]


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


@pytest.mark.parametrize(("name", "message"), REFUSED, ids=[row[0] for row in REFUSED])
def test_formats_that_are_not_handled(real_data, name, message):
    with pytest.raises(ImageError) as error:
        open_image(real_data / "formats" / name)
    assert error.value.status == "unsupported_format"
    assert error.value.reason.startswith(f"{name}: {message}")


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
