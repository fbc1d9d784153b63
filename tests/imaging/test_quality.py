"""Focus, tissue and saturation."""

import math

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter

from glomflow.imaging.quality import focus, is_blank, measure, saturated_fraction, tissue_fraction
from glomflow.imaging.readers import open_image


def _texture(seed=0, size=200):
    noise = gaussian_filter(np.random.default_rng(seed).normal(size=(size, size)), 1.0)
    return (128 + 40 * noise / noise.std()).clip(0, 255)[:, :, None]


def test_focus_falls_with_blur():
    sharp = _texture()
    values = [focus(gaussian_filter(sharp, (sigma, sigma, 0)).astype(np.uint8)) for sigma in (0, 1, 2)]
    assert values[0] > 3 * values[1] > 9 * values[2] > 0


def test_focus_does_not_depend_on_the_range_of_the_type():
    sharp = _texture()
    assert focus((sharp * 257).astype(np.uint16)) == pytest.approx(focus(sharp.astype(np.uint8)), rel=0.02)


def test_focus_of_a_constant_is_nought():
    assert focus(np.full((20, 20, 3), 9, np.uint8)) == 0.0


@pytest.mark.parametrize("fill", [0, 255, 77])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_constant_images_are_blank(fill, dtype):
    assert is_blank(np.full((5, 6, 3), fill, dtype))


def test_one_channel_with_content_is_not_blank():
    picture = np.zeros((5, 6, 3), np.uint8)
    picture[2, 2, 1] = 1
    assert not is_blank(picture)


def test_an_image_of_missing_samples_is_blank():
    assert is_blank(np.full((5, 6, 1), np.nan, np.float32))


def test_om_tissue_is_what_absorbs_light():
    picture = np.full((10, 10, 3), 240, np.uint8)
    picture[:3] = (180, 90, 160)
    assert tissue_fraction(picture, "OM") == pytest.approx(0.3)


def test_om_tissue_of_sixteen_bit_colour():
    picture = np.full((10, 10, 3), 62000, np.uint16)
    picture[:, :4] = 20000
    assert tissue_fraction(picture, "OM") == pytest.approx(0.4)


def test_im_signal_is_what_shines():
    picture = np.random.default_rng(0).integers(0, 300, (40, 50, 5)).astype(np.uint16)
    picture[:10, :, 2] += 20000
    assert tissue_fraction(picture, "IM") == pytest.approx(0.25)


@pytest.mark.parametrize("level", [0, 3])
def test_a_black_im_image_has_no_signal(level):
    picture = np.random.default_rng(0).integers(0, level + 1, (40, 50, 3)).astype(np.uint8)
    assert tissue_fraction(picture, "IM") == 0.0


def test_tem_blank_share_is_flat():
    picture = _texture().astype(np.uint8)
    picture[:, 100:] = 235
    assert tissue_fraction(picture, "TEM") == pytest.approx(0.5, abs=0.03)


@pytest.fixture
def half_saturated(tmp_path):
    pixels = np.full((40, 60), 100, np.uint8)
    pixels[:10] = 255
    pixels[-10:] = 0
    Image.fromarray(pixels).save(tmp_path / "half.png")
    with open_image(tmp_path / "half.png") as reader:
        yield reader


def test_saturation_counts_both_ends(half_saturated):
    assert saturated_fraction(half_saturated) == pytest.approx(0.5)


def test_measure_gathers_all(half_saturated):
    quality = measure(half_saturated, half_saturated.thumbnail(64), "TEM")
    assert quality.saturated_fraction == pytest.approx(0.5)
    assert 0.0 < quality.tissue_fraction < 1.0
    assert quality.focus > 0.0


def test_saturation_of_floating_point_is_unknown(tmp_path):
    Image.fromarray(np.eye(9, dtype=np.float32)).save(tmp_path / "float.tif")
    with open_image(tmp_path / "float.tif") as reader:
        assert math.isnan(saturated_fraction(reader))
