"""The burnt-in bar's length in pixels, and what it says of the pixel size."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image, ImageDraw
from scipy.ndimage import gaussian_filter

from glomflow.cohort.phantom.sites import SITES
from glomflow.cohort.phantom.tem import draw_micrograph
from glomflow.imaging.tem_overlay import overlay_boxes
from glomflow.imaging.tem_scale_bar import check_scale_bar, find_scale_bar, implied_length

HEIGHT, WIDTH = 600, 800
Draw = Callable[[ImageDraw.ImageDraw, int, int], None]


def background(seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    field = gaussian_filter(rng.normal(size=(HEIGHT, WIDTH)), 12)
    noise = gaussian_filter(rng.normal(size=(HEIGHT, WIDTH)), 0.7)
    return np.clip(140 + 35 * field / field.std() + 8 * noise / noise.std(), 4, 251).astype(np.uint8)


def plain(draw: ImageDraw.ImageDraw, ink: int, paper: int) -> None:
    draw.rectangle([60, 560, 259, 565], fill=ink)


def with_ticks(draw: ImageDraw.ImageDraw, ink: int, paper: int) -> None:
    draw.rectangle([60, 560, 259, 562], fill=ink)
    draw.rectangle([60, 552, 62, 570], fill=ink)
    draw.rectangle([257, 552, 259, 570], fill=ink)


def outlined(draw: ImageDraw.ImageDraw, ink: int, paper: int) -> None:
    draw.rectangle([58, 558, 261, 567], fill=paper)
    draw.rectangle([60, 560, 259, 565], fill=ink)


def chequered(draw: ImageDraw.ImageDraw, ink: int, paper: int) -> None:
    draw.rectangle([60, 560, 259, 567], fill=ink, outline=paper)
    for left in (100, 180):
        draw.rectangle([left, 562, left + 39, 565], fill=paper)


def in_strip(draw: ImageDraw.ImageDraw, ink: int, paper: int) -> None:
    draw.rectangle([0, 556, WIDTH, HEIGHT], fill=paper)
    draw.rectangle([60, 575, 259, 580], fill=ink)
    draw.text((270, 570), "1 um  80 kV", fill=ink)


def two_bars(draw: ImageDraw.ImageDraw, ink: int, paper: int) -> None:
    plain(draw, ink, paper)
    draw.rectangle([500, 560, 599, 565], fill=ink)


@pytest.mark.parametrize("ink", [0, 255], ids=["black", "white"])
@pytest.mark.parametrize("draw", [plain, with_ticks, outlined, chequered, in_strip, two_bars])
def test_a_bar_is_measured(draw: Draw, ink: int) -> None:
    canvas = Image.fromarray(background(1))
    draw(ImageDraw.Draw(canvas), ink, 255 - ink)
    burnt = np.asarray(canvas)
    bar = find_scale_bar(burnt, overlay_boxes(burnt))
    assert bar is not None
    assert bar.length == pytest.approx(200, abs=0.7)
    assert bar.left == pytest.approx(60, abs=0.5)


def test_ends_between_pixels_are_found() -> None:
    image = np.full((HEIGHT, WIDTH), 100.0)
    image += np.random.default_rng(0).normal(0, 3, image.shape)
    image[560:566, 60:260] = 255.0
    image[560:566, 59] = 100 + 0.25 * 155
    image[560:566, 260] = 100 + 0.4 * 155
    bar = find_scale_bar(image, overlay_boxes(image))
    assert bar is not None
    assert bar.length == pytest.approx(200.65, abs=0.35)


def label_box(draw: ImageDraw.ImageDraw, ink: int, paper: int) -> None:
    draw.rectangle([60, 540, 300, 580], outline=ink, width=2)
    draw.text((70, 550), "Name: A1--0024", fill=ink)


def nothing(draw: ImageDraw.ImageDraw, ink: int, paper: int) -> None:
    pass


@pytest.mark.parametrize("ink", [0, 255], ids=["black", "white"])
@pytest.mark.parametrize("draw", [label_box, nothing])
def test_what_is_no_bar_is_not_measured(draw: Draw, ink: int) -> None:
    canvas = Image.fromarray(background(1))
    draw(ImageDraw.Draw(canvas), ink, 255 - ink)
    burnt = np.asarray(canvas)
    assert find_scale_bar(burnt, overlay_boxes(burnt)) is None


@pytest.mark.parametrize("site", SITES, ids=lambda site: site.name)
def test_bars_of_the_phantom(site: object) -> None:
    drawn = draw_micrograph(
        np.random.default_rng(4), site, "capillary", deposits=True, appearance="MN", stage="II"
    )
    bar = find_scale_bar(drawn.image, overlay_boxes(drawn.image))
    assert bar is not None
    assert bar.length == pytest.approx(round(site.bar_nm / site.tem_nm_per_px), abs=0.1)
    assert check_scale_bar(bar.length, site.tem_nm_per_px, None, "a.tif", "from tags") is None
    assert check_scale_bar(bar.length, site.tem_nm_per_px, site.bar_nm, "a.tif", "from tags") is None
    assert check_scale_bar(bar.length, 1.2 * site.tem_nm_per_px, None, "a.tif", "from tags") is not None


@pytest.mark.parametrize(
    ("nm", "expected", "agrees"),
    [
        (1000.0, 1000.0, True),
        (1019.0, 1000.0, True),
        (1021.0, 1000.0, False),
        (985.0, 1000.0, True),
        (252.0, 250.0, True),
        (2000.0, 2000.0, True),
        (2940.0, 3000.0, True),
        (0.5, 0.5, True),
        (700.0, 500.0, False),
        (7500.0, 10000.0, False),
        (4000.0, 5000.0, False),
    ],
)
def test_round_lengths(nm: float, expected: float, agrees: bool) -> None:
    nearest, does = implied_length(nm, 400.0)
    assert nearest == pytest.approx(expected)
    assert does is agrees


def test_short_bars_have_a_wider_tolerance() -> None:
    assert implied_length(1028.0, 50.0)[1]
    assert not implied_length(1028.0, 200.0)[1]


def test_the_warning_names_image_bar_and_length() -> None:
    warning = check_scale_bar(125.0, 9.6, None, "TEM/a.tif", "from tags")
    assert warning == (
        "TEM image TEM/a.tif: its scale bar is 125.0 px long, 1200 nm at 9.6 nm/px (from tags), which is no "
        "round length; 1000 nm would mean 8 nm/px: check the pixel size"
    )


def test_a_stated_length_is_compared_directly() -> None:
    assert check_scale_bar(125.0, 8.0, 1000.0, "a.tif", "from tags") is None
    warning = check_scale_bar(125.0, 80.0, 1000.0, "a.tif", "from config")
    assert warning == (
        "TEM image a.tif: its scale bar is 125.0 px long, 1e+04 nm at 80 nm/px (from config), but "
        "imaging.tem.scale_bar_nm states 1000 nm, which means 8 nm/px; find out which is right"
    )
    assert check_scale_bar(125.0, 80.0, None, "a.tif", "from config") is None
