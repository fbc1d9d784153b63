"""Compiled loops give what numpy and scipy give, only faster."""

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from glomflow.imaging.pixels import percentiles, robust_limits
from glomflow.imaging.quality.focus import focus, focus_of_unit, in_windows, noise_sd, unit_gray
from glomflow.imaging.quality.im import bleached_fraction, overexposed_fraction, strongest_channel
from glomflow.imaging.readers import open_image
from glomflow.imaging.readers.base import area_average

RANDOM = np.random.default_rng(5)


@pytest.mark.parametrize(
    "values",
    [
        RANDOM.normal(size=70_001),
        RANDOM.gamma(0.1, 1.0, 50_000),
        np.round(RANDOM.gamma(0.1, 9.0, 50_000)),
        np.full(30_000, 3.0),
        RANDOM.normal(size=100),
    ],
    ids=["normal", "skewed", "whole", "constant", "few"],
)
def test_percentiles_are_those_of_numpy(values):
    values = values.astype(np.float32)
    shares = (0.5, 99.5, 50.0, 0.0, 100.0)
    expected = np.percentile(values.astype(np.float64), shares)
    assert percentiles(values, shares) == pytest.approx(expected, rel=1e-6, abs=1e-7)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_limits_from_counts_are_the_percentiles(dtype):
    values = (RANDOM.beta(2, 5, (301, 211)) * np.iinfo(dtype).max).astype(dtype)
    assert robust_limits(values) == pytest.approx(np.percentile(values, (0.5, 99.5)))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32, np.int32, np.float64])
@pytest.mark.parametrize("channels", [1, 3, 5])
def test_area_average_is_the_mean_of_whole_blocks(dtype, channels):
    picture = RANDOM.integers(0, 200, (12, 20, channels)).astype(dtype)
    mean = picture.astype(np.float64).reshape(3, 4, 4, 5, channels).mean(axis=(1, 3))
    small = area_average(picture, 4, 3)
    assert small.dtype == dtype
    assert np.abs(small - mean).max() <= (0.5 if np.issubdtype(dtype, np.integer) else 1e-4)


def test_area_average_gives_a_pixel_to_one_box():
    picture = np.array([[[0], [30], [90], [60], [20]]], np.uint8)
    assert area_average(picture, 2, 1)[0, :, 0].tolist() == [40, 40]
    assert area_average(picture, 5, 1) is picture


@pytest.mark.parametrize("shrink", [1.6, 2.5, 3.3])
def test_reduced_noise_is_still_no_focus(shrink):
    noise = np.clip(RANDOM.normal(120, 20, (600, 640, 1)), 0, 255).astype(np.uint8)
    small = area_average(noise, round(640 / shrink), round(600 / shrink))
    assert focus(small) < 0.05 * ndimage.laplace(unit_gray(small)).var()


def test_window_statistics_are_those_of_scipy():
    plane = RANDOM.random((40, 57)).astype(np.float32)
    mean, variance = in_windows(plane, 9)
    exact = plane.astype(np.float64)
    expected = ndimage.uniform_filter(exact, 9, mode="nearest")
    assert np.abs(mean - expected).max() < 1e-6
    squares = ndimage.uniform_filter(exact * exact, 9, mode="nearest")
    assert np.abs(variance - (squares - expected**2)).max() < 1e-6


def test_focus_is_the_variance_of_the_laplacian_less_noise():
    plane = RANDOM.random((60, 80)).astype(np.float32)
    kernel = np.array([[0, -1, 0], [-1, 4, -1], [0, -1, 0]])
    laplacian = ndimage.correlate(plane.astype(np.float64), kernel)[1:-1, 1:-1]
    assert focus_of_unit(plane, 0.0) == pytest.approx(laplacian.var(), rel=1e-6)


def test_noise_is_the_median_response_of_the_kernel():
    plane = RANDOM.random((60, 80)).astype(np.float32)
    response = ndimage.correlate(plane.astype(np.float64), np.outer((-1, 2, -1), (-1, 2, -1)))[1:-1, 1:-1]
    assert noise_sd(plane) == pytest.approx(np.median(np.abs(response)) / 0.6744898 / 6.0, rel=1e-5)


def test_clipped_pixels_are_counted_by_channel():
    picture = np.zeros((70, 10, 2), np.uint8)
    picture[:7, :, 0], picture[:14, :, 1] = 250, 249
    assert overexposed_fraction(picture) == pytest.approx(0.1)


def test_strongest_channel_has_the_widest_range():
    picture = np.zeros((50, 60, 3), np.uint16)
    picture[:20, :, 0], picture[:20, :, 1], picture[..., 2] = 100, 900, 5000
    assert (strongest_channel(picture) == picture[:, :, 1]).all()


def test_a_bleached_rectangle_is_found_where_it_is():
    plane = np.full((480, 480), 1000.0, np.float32) + RANDOM.normal(0, 5, (480, 480)).astype(np.float32)
    plane[::40] = 0.0
    plane[100:300, 150:350] *= 0.35
    assert bleached_fraction(plane) == pytest.approx(400 / 2304, rel=0.15)


@pytest.mark.parametrize("size", [(37, 23), (2600, 2000)], ids=["one block", "several blocks of memory"])
def test_colour_is_read_as_it_was_written(tmp_path, size):
    pixels = np.tile(RANDOM.integers(0, 256, (1, size[0], 3), dtype=np.uint8), (size[1], 1, 1))
    pixels[:, 5, 1] = np.arange(size[1]) % 256
    Image.fromarray(pixels).save(tmp_path / "image.png", compress_level=1)
    with open_image(tmp_path / "image.png") as reader:
        assert (reader.pixels() == pixels).all()
