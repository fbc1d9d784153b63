"""Regions lie where they should, at every level and resolution."""

import tracemalloc

import numpy as np
import pytest
import tifffile

from glomflow.imaging.readers import open_image
from imaging.written_images import noise, open_tiff, pyramid


def _ramp(width, height):
    """Returns an image whose samples are the x and y of their pixels' centres."""
    y, x = np.mgrid[:height, :width] + 0.5
    return np.stack([x, y, np.zeros_like(x)], axis=2).astype(np.float32)


@pytest.fixture(scope="module")
def ramp(tmp_path_factory):
    path = tmp_path_factory.mktemp("ramp") / "ramp.tif"
    pyramid(path, _ramp(1003, 779), (2, 4, 8))
    with open_image(path) as reader:
        yield reader


@pytest.mark.parametrize(
    ("box", "size", "level"),
    [
        ((100, 200, 300, 200), (300, 200), 0),
        ((100.25, 200.75, 300, 200), (300, 200), 0),
        ((10.3, 20.7, 100.1, 90.9), (333, 301), 0),
        ((100.4, 50.2, 411.3, 300.9), (300, 224), 0),
        ((100, 200, 400, 240), (200, 120), 1),
        ((33.3, 44.4, 700.7, 600.6), (224, 224), 1),
        ((11.1, 22.2, 960, 720), (240, 180), 2),
        ((1.0, 2.0, 1000, 770), (61, 47), 3),
    ],
)
def test_every_sample_lies_where_it_should(ramp, box, size, level):
    x, y, width, height = box
    assert ramp.level_for(min(width / size[0], height / size[1])) == level
    region = ramp.read_region(*box, *size)
    assert region.shape == (size[1], size[0], 3)
    expected_x = x + (np.arange(size[0]) + 0.5) * width / size[0]
    expected_y = y + (np.arange(size[1]) + 0.5) * height / size[1]
    reach = 8.0  # the last, partly covered samples of a level
    inner_x, inner_y = expected_x < ramp.width - reach, expected_y < ramp.height - reach
    tolerance = 0.1 * 2**level  # a tenth of a pixel of the level
    assert np.abs(region[:, :, 0] - expected_x)[:, inner_x].max() < tolerance
    assert np.abs(region[:, :, 1] - expected_y[:, None])[inner_y].max() < tolerance


def test_levels_agree(ramp):
    box, size = (120.5, 80.25, 640, 512), (80, 64)
    regions = []
    levels = ramp.levels
    try:
        for keep in (4, 3, 2, 1):
            ramp.levels = levels[:keep]
            regions.append(ramp.read_region(*box, *size))
    finally:
        ramp.levels = levels
    for region in regions[1:]:
        assert np.abs(region - regions[0]).max() < 0.02


def test_sizes_that_were_rounded_do_not_shift_the_far_edge(ramp):
    assert ramp.levels == ((1003, 779), (501, 389), (250, 194), (125, 97))
    assert [ramp.level_scale(level)[0] for level in range(4)] == [1.0, 2.0, 4.0, 8.0]


def test_the_thumbnail_keeps_the_aspect_and_is_never_enlarged(ramp):
    assert ramp.thumbnail(100).shape == (78, 100, 3)
    assert ramp.thumbnail(5000).shape == (779, 1003, 3)


def test_shrinking_averages_areas(tmp_path):
    array = noise((60, 90))
    with open_tiff(tmp_path, array, photometric="minisblack") as reader:
        region = reader.read_region(30, 0, 60, 60, 20, 15)[:, :, 0]
    assert np.abs(region - array[:, 30:].reshape(15, 4, 20, 3).mean(axis=(1, 3))).max() <= 0.5001


def test_enlarging_is_bilinear(tmp_path):
    array = np.array([[0, 100]], np.uint8)
    with open_tiff(tmp_path, array, photometric="minisblack") as reader:
        assert reader.read_region(0, 0, 2, 1, 8, 1)[0, :, 0].tolist() == [0, 0, 12, 38, 62, 88, 100, 100]


def test_wide_boxes_are_read_in_bands_to_the_same_end(ramp, monkeypatch):
    expected = ramp.read_region(3.3, 4.4, 950, 700, 190, 140)
    monkeypatch.setattr("glomflow.imaging.readers.base.BAND_SAMPLES", 5000)
    assert np.allclose(ramp.read_region(3.3, 4.4, 950, 700, 190, 140), expected, atol=1e-3)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.float32])
def test_a_shift_by_part_of_a_pixel_is_bilinear(tmp_path, monkeypatch, dtype):
    array = noise((60, 90), dtype)
    with open_tiff(tmp_path, array, photometric="minisblack") as reader:
        fast = reader.read_region(20.25, 7.5, 30, 40, 30, 40)[:, :, 0]
        monkeypatch.setattr("glomflow.imaging.readers.base.BAND_SAMPLES", 300)
        bands = reader.read_region(20.25, 7.5, 30, 40, 30, 40)[:, :, 0]
        monkeypatch.setattr("glomflow.imaging.readers.base._Axis.shift", lambda *_: None)
        slow = reader.read_region(20.25, 7.5, 30, 40, 30, 40)[:, :, 0]
        edge = reader.read_region(-0.5, 0, 4, 1, 4, 1)[0, :, 0]
    part = array[7:48, 20:51].astype(float)
    part = (part[1:] + part[:-1]) / 2
    expected = part[:, :-1] * 0.75 + part[:, 1:] * 0.25
    tolerance = 1e-6 if dtype == np.float32 else 0.501
    assert np.abs(fast - expected).max() <= tolerance
    assert np.array_equal(fast, bands)
    assert np.abs(fast.astype(float) - slow).max() <= (1e-6 if dtype == np.float32 else 1)
    assert edge[0] == array[0, 0]


def test_beyond_a_colour_image_it_is_white(tmp_path):
    array = np.zeros((10, 20, 3), np.uint8)
    with open_tiff(tmp_path, array, photometric="rgb") as reader:
        region = reader.read_region(-5, -5, 30, 20, 30, 20)
        assert region.shape == (20, 30, 3)
        assert (region[5:15, 5:25] == 0).all()
        assert region.sum() == 255 * 3 * (600 - 200)
        assert (reader.read_region(100, 100, 5, 5, 5, 5) == 255).all()
        assert (reader.read_region(-9, 0, 5, 5, 2, 2) == 255).all()
        assert reader.read_region(-1, 0, 2, 10, 1, 5)[:, 0, 0].tolist() == [128] * 5
        reader.fill = 0.0
        assert (reader.read_region(-9, 0, 5, 5, 2, 2) == 0).all()


def test_beyond_other_images_it_is_nought(tmp_path):
    with open_tiff(tmp_path, np.full((10, 20), 9, np.uint16), photometric="minisblack") as reader:
        assert reader.read_region(-4, 0, 8, 1, 8, 1)[0, :, 0].tolist() == [0, 0, 0, 0, 9, 9, 9, 9]
        assert reader.read_region(18, 0, 4, 1, 8, 1)[0, :, 0].tolist() == [9, 9, 9, 9, 0, 0, 0, 0]


@pytest.mark.parametrize("box", [(0, 0, 0, 5, 1, 1), (0, 0, 5, -1, 1, 1), (0, 0, 5, 5, 0, 1)])
def test_a_region_needs_an_area(ramp, box):
    with pytest.raises(ValueError, match="a region needs an area"):
        ramp.read_region(*box)


def test_only_tiles_of_the_region_are_decoded(tmp_path):
    size = 4096
    rows = (np.full((256, 256), index % 251, np.uint8) for index in range((size // 256) ** 2))
    options = {"shape": (size, size), "dtype": np.uint8, "tile": (256, 256), "compression": "zlib"}
    tifffile.imwrite(tmp_path / "large.tif", rows, photometric="minisblack", **options)
    with open_image(tmp_path / "large.tif") as reader:
        reader.read_region(0, 0, 8, 8, 8, 8)
        tracemalloc.start()
        region = reader.read_region(1000, 1000, 512, 512, 512, 512)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert region[0, 0, 0] == (3 * 16 + 3) % 251
    assert peak < 4e6
