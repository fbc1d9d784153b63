"""Samples of any type as 8-bit pictures."""

import numpy as np
import pytest

from glomflow.imaging.pixels import as_gray, as_gray_uint8, as_rgb_uint8, robust_limits, stretch


def test_limits_are_the_percentiles():
    assert robust_limits(np.arange(1001)) == (5.0, 995.0)


def test_limits_of_large_arrays_are_sampled_and_the_same_each_time():
    array = np.random.default_rng(0).integers(0, 65536, (1500, 1500, 2), dtype=np.uint16)
    low, high = robust_limits(array)
    assert (low, high) == robust_limits(array)
    assert low == pytest.approx(0.005 * 65535, rel=0.05)
    assert high == pytest.approx(0.995 * 65535, rel=0.05)


def test_limits_leave_out_what_is_not_finite():
    assert robust_limits(np.array([np.nan, np.inf, 2.0, 2.0])) == (2.0, 2.0)
    assert robust_limits(np.array([np.nan])) == (0.0, 0.0)


def test_stretch_clips_and_rounds():
    values = np.array([90, 100, 150, 200, 300], np.uint16)
    assert stretch(values, 100, 200).tolist() == [0, 0, 128, 255, 255]


def test_stretch_of_no_contrast_is_mid_gray():
    assert stretch(np.full((2, 2), 7, np.uint8), 7, 7).tolist() == [[128, 128], [128, 128]]


def test_stretch_shows_missing_samples_black():
    assert stretch(np.array([np.nan, 1.0]), 0.0, 1.0).tolist() == [0, 255]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.float32, np.float64])
def test_gray_takes_every_type(dtype):
    ramp = np.tile(np.arange(200), (10, 1)).astype(dtype)[:, :, None]
    gray = as_gray_uint8(ramp)
    assert gray.shape == (10, 200)
    assert gray.dtype == np.uint8
    assert (gray[0, 0], gray[0, 100], gray[0, -1]) == (0, 128, 255)


def test_gray_of_colour_is_luminance():
    assert as_gray(np.array([[[100, 0, 0], [0, 100, 0], [0, 0, 100]]], np.uint8)).tolist() == [
        pytest.approx([29.9, 58.7, 11.4])
    ]


def test_gray_of_other_channels_is_their_mean():
    assert as_gray(np.array([[[1, 3, 5, 7]]], np.uint16)).tolist() == [[4.0]]
    assert as_gray(np.array([[1, 3]], np.uint16)).tolist() == [[1, 3]]


def test_eight_bit_colour_passes_unchanged():
    picture = np.random.default_rng(1).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    assert as_rgb_uint8(picture) is picture


def test_sixteen_bit_colour_is_scaled_by_its_range():
    assert as_rgb_uint8(np.array([[[0, 32768, 65535]]], np.uint16)).tolist() == [[[0, 128, 255]]]


def test_floating_colour_is_stretched_jointly():
    picture = np.zeros((10, 10, 3), np.float32)
    picture[..., 0], picture[..., 1] = 1.0, 0.5
    assert as_rgb_uint8(picture)[0, 0].tolist() == [255, 128, 0]


def test_one_channel_becomes_gray():
    picture = as_rgb_uint8(np.tile(np.arange(100, dtype=np.uint16), (3, 1))[:, :, None])
    assert picture.shape == (3, 100, 3)
    assert (picture[..., 0] == picture[..., 2]).all()


def test_channels_share_the_range_of_the_brightest_and_are_laid_over_each_other():
    picture = np.zeros((1, 300, 4), np.uint16)
    for channel, value in enumerate((1000, 500, 1000, 100)):
        picture[0, channel * 60 : channel * 60 + 50, channel] = value
    shown = as_rgb_uint8(picture, ("IgG", "IgA", "IgM", "C3"))
    assert [shown[0, at].tolist() for at in (25, 85, 145, 205, 290)] == [
        [255, 0, 0],
        [0, 128, 0],
        [0, 0, 255],
        [26, 26, 0],
        [0, 0, 0],
    ]


def test_overlaid_channels_do_not_saturate():
    picture = np.zeros((1, 100, 5), np.uint16)
    picture[0, 50:] = 1000
    shown = as_rgb_uint8(picture, ("IgG", "IgA", "IgM", "C3", "C1q"))
    assert shown[0, 75].max() == 255
    assert len(set(shown[0, 75].tolist())) > 1
    assert shown[0, 25].tolist() == [0, 0, 0]


def test_three_named_markers_are_no_colour_image():
    picture = np.zeros((2, 2, 3), np.uint8)
    picture[0, 0] = 10
    assert as_rgb_uint8(picture, ("IgG", "IgA", "IgM"))[0, 0].tolist() == [255, 255, 255]
