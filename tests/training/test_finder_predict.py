"""Searching images: tiles, blending, glomeruli that touch or are cut, and degenerate images."""

from __future__ import annotations

import re

import numpy as np
import pytest

from glomflow.errors import GlomflowError
from glomflow.imaging.annotations import polygon_mask
from glomflow.training.finder_image import ArrayReader, ScaledImage, mirrored
from glomflow.training.finder_instances import instances
from glomflow.training.finder_predict import blending_weights, find, predict_maps, tile_starts
from training.finder_synthetic import Violet, circle, draw, settings


@pytest.mark.parametrize(
    ("length", "starts"), [(40, [0]), (64, [0]), (65, [0, 1]), (112, [0, 48]), (150, [0, 43, 86])]
)
def test_tiles_cover_an_axis_with_their_overlap(length: int, starts: list[int]) -> None:
    assert tile_starts(length, 64, 0.25) == starts


def test_the_window_is_smooth_and_nowhere_zero() -> None:
    window = blending_weights(64)
    assert window.min() == pytest.approx(1e-3)
    assert window.max() == pytest.approx(1.0, abs=1e-3)
    assert np.array_equal(window, window[::-1])


@pytest.mark.parametrize("size", [(64, 64), (150, 110), (40, 200), (31, 33)])
def test_the_map_of_tiles_is_that_of_the_whole_image(size: tuple[int, int]) -> None:
    picture = draw(*size, [(size[0] / 2, size[1] / 2, 25), (5, 5, 12)])
    tiled = predict_maps(ScaledImage(picture, 2.0, 2.0), Violet(), settings(skip_glass=False))
    expected = np.where(picture[..., 1] < 110, 204, 0)
    assert tiled.shape == (1, size[1], size[0])
    assert np.array_equal(tiled[0], expected)


def test_a_glomerulus_across_tiles_is_found_once_and_in_its_place() -> None:
    picture = draw(200, 150, [(64, 64, 30), (150, 90, 35)])
    found = find(picture, 2.0, Violet(), settings(min_diameter_um=80.0))
    assert len(found) == 2
    for glomerulus, (x, y, radius) in zip(found, [(64, 64, 30), (150, 90, 35)], strict=True):
        wanted = polygon_mask([circle(x, y, radius).polygon], 200)
        given = polygon_mask([glomerulus.polygon], 200)
        assert (wanted & given).sum() / (wanted | given).sum() > 0.95
        assert glomerulus.area_um2 == pytest.approx(np.pi * (2 * radius) ** 2, rel=0.02)
        assert glomerulus.score == pytest.approx(0.8, abs=0.01)
        assert not glomerulus.at_border


def test_outlines_are_in_pixels_of_the_image_at_full_resolution() -> None:
    picture = draw(400, 300, [(200, 160, 100)])
    (found,) = find(picture, 0.5, Violet(), settings())
    assert found.box == pytest.approx((100, 60, 300, 260), abs=4)
    assert found.area_um2 == pytest.approx(np.pi * 50**2, rel=0.05)


def test_a_glomerulus_that_the_image_cuts_is_flagged() -> None:
    found = find(draw(120, 120, [(0, 60, 30), (90, 60, 20)]), 2.0, Violet(), settings())
    assert sorted((round(each.box[0]), each.at_border) for each in found) == [(0, True), (70, False)]


def test_what_is_too_small_is_no_glomerulus() -> None:
    picture = draw(120, 120, [(30, 60, 20), (90, 60, 8)])
    assert len(find(picture, 2.0, Violet(), settings(min_diameter_um=20.0))) == 2
    assert len(find(picture, 2.0, Violet(), settings(min_diameter_um=50.0))) == 1


def disc_maps(discs: list[tuple[int, int, int]], size: int = 128) -> np.ndarray:
    """Maps as a perfect network gives them, (2, size, size) uint8."""
    y, x = np.mgrid[:size, :size] + 0.5
    away = np.stack([1 - np.hypot(x - left, y - top) / radius for left, top, radius in discs]).max(axis=0)
    return np.rint(255 * np.stack([away > 0, np.clip(away, 0, 1)])).astype(np.uint8)


@pytest.mark.parametrize("maps", [1, 2])
def test_discs_that_touch_are_told_apart(maps: int) -> None:
    discs = [(36, 64, 28), (90, 64, 28)]
    found = instances(disc_maps(discs)[:maps], settings(), 1.0, (128, 128))
    assert [each.area_um2 for each in found] == pytest.approx([4 * np.pi * 28**2] * 2, rel=0.03)
    assert sorted(each.box[0] for each in found) == pytest.approx([8, 62], abs=2)


def test_a_small_glomerulus_beside_a_large_one_is_told_apart_by_the_distance_map() -> None:
    discs = [(45, 64, 40), (97, 64, 14)]
    assert len(instances(disc_maps(discs), settings(), 1.0, (128, 128))) == 2


@pytest.mark.parametrize("maps", [1, 2])
def test_one_disc_stays_one(maps: int) -> None:
    noisy = disc_maps([(64, 64, 40)])
    noise = np.random.default_rng(3).integers(-12, 12, noisy[1].shape)
    noisy[1] = np.clip(noisy[1] + noise, 0, 255)
    assert len(instances(noisy[:maps], settings(), 1.0, (128, 128))) == 1


def test_holes_are_filled() -> None:
    maps = disc_maps([(64, 64, 40)])[:1]
    maps[0, 60:70, 60:70] = 0
    (found,) = instances(maps, settings(), 1.0, (128, 128))
    assert found.area_um2 == pytest.approx(4 * np.pi * 40**2, rel=0.02)


def test_fewer_points_with_a_coarser_tolerance() -> None:
    maps = disc_maps([(64, 64, 40)])
    counts = [
        len(instances(maps, settings(simplify_um=tolerance), 1.0, (128, 128))[0].polygon)
        for tolerance in (0.0, 2.0, 8.0)
    ]
    assert counts[0] > counts[1] > counts[2] >= 3


@pytest.mark.parametrize("size", [(10, 10), (1, 1), (1, 90), (300, 3)])
@pytest.mark.parametrize("value", [0, 128, 255])
def test_plain_and_tiny_images_show_no_glomeruli(size: tuple[int, int], value: int) -> None:
    plain = np.full((size[1], size[0], 3), value, np.uint8)
    assert find(plain, 2.0, Violet(), settings(min_diameter_um=150.0)) == []


def test_glass_is_passed_over() -> None:
    picture = np.full((300, 300, 3), 244, np.uint8)
    picture[200:280, 200:280] = draw(80, 80, [(40, 40, 30)])
    model, thorough = Violet(), Violet()
    found = find(picture, 2.0, model, settings())
    again = find(picture, 2.0, thorough, settings(skip_glass=False))
    assert len(thorough.seen) == 36
    assert 0 < len(model.seen) < 12
    assert [each.box for each in found] == [each.box for each in again]
    assert len(found) == 1
    white = Violet()
    assert find(np.full((300, 300, 3), 255, np.uint8), 2.0, white, settings()) == []
    assert white.seen == []


def test_a_model_of_one_size_gets_that_size_and_a_small_image_mirrored() -> None:
    model = Violet()
    model.any_size = False
    picture = draw(40, 50, [(20, 25, 15)])
    (found,) = find(picture, 2.0, model, settings())
    assert set(model.seen) == {(64, 64, 3)}
    assert found.box == pytest.approx((5, 10, 35, 40), abs=1)


def test_beyond_its_edges_an_image_is_mirrored() -> None:
    assert mirrored(-3, 9, 3).tolist() == [2, 1, 0, 0, 1, 2, 2, 1, 0]
    picture = np.arange(4 * 5 * 3, dtype=np.uint8).reshape(4, 5, 3)
    part = ScaledImage(picture, 1.0, 1.0).read(-2, -1, 9, 6)
    assert np.array_equal(part, np.pad(picture, ((1, 1), (2, 2), (0, 0)), mode="symmetric"))


def test_an_image_of_another_kind_is_refused() -> None:
    message = "an image in memory must be (H, W, 3) uint8, not float64 of shape (4, 4, 3)"
    with pytest.raises(GlomflowError, match=re.escape(message)):
        ArrayReader(np.zeros((4, 4, 3)))


@pytest.mark.parametrize("um_per_px", [0.0, -1.0, float("nan"), float("inf")])
def test_a_pixel_size_that_is_none_is_refused(um_per_px: float) -> None:
    with pytest.raises(GlomflowError, match=r"the pixel size of the image is .* give a positive number"):
        find(np.zeros((9, 9, 3), np.uint8), um_per_px, Violet(), settings())
