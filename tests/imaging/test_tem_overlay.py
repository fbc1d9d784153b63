"""Burnt-in graphics are found whatever their form, and tissue is left alone."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont
from scipy.ndimage import gaussian_filter

from glomflow.imaging.tem_overlay import Box, covered, find_overlay, free_box, overlay_boxes

FONT = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
HEIGHT, WIDTH = 600, 800
Draw = Callable[[ImageDraw.ImageDraw, int, int], None]


def micrograph(seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    field = gaussian_filter(rng.normal(size=(HEIGHT, WIDTH)), 12)
    noise = gaussian_filter(rng.normal(size=(HEIGHT, WIDTH)), 0.7)
    return np.clip(140 + 35 * field / field.std() + 8 * noise / noise.std(), 4, 251).astype(np.uint8)


def burn(image: np.ndarray, draw: Draw, ink: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the image with graphics, and where they changed it visibly."""
    canvas = Image.fromarray(image)
    draw(ImageDraw.Draw(canvas), ink, 255 - ink)
    burnt = np.asarray(canvas)
    return burnt, np.abs(burnt.astype(int) - image) > 25


def font(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(str(FONT), size)


def strip(draw: ImageDraw.ImageDraw, ink: int, paper: int, top: int) -> None:
    draw.rectangle([0, top, WIDTH, top + 44], fill=ink)
    draw.rectangle([20, top + 20, 180, top + 25], fill=paper)
    draw.text((200, top + 8), "1 µm   HV 80 kV   Mag 8000x   case 17", font=font(20), fill=paper)


def strip_below(draw: ImageDraw.ImageDraw, ink: int, paper: int) -> None:
    strip(draw, ink, paper, HEIGHT - 45)


def strip_above(draw: ImageDraw.ImageDraw, ink: int, paper: int) -> None:
    strip(draw, ink, paper, 0)


def framed_strip(draw: ImageDraw.ImageDraw, ink: int, paper: int) -> None:
    strip(draw, ink, paper, HEIGHT - 45)
    draw.rectangle([0, HEIGHT - 45, WIDTH - 1, HEIGHT - 1], outline=paper, width=2)


def side_strip(draw: ImageDraw.ImageDraw, ink: int, paper: int) -> None:
    draw.rectangle([WIDTH - 30, 0, WIDTH, HEIGHT], fill=ink)
    draw.text((WIDTH - 26, 80), "7", font=font(20), fill=paper)


def gray_strip(draw: ImageDraw.ImageDraw, ink: int, paper: int) -> None:
    draw.rectangle([0, HEIGHT - 40, WIDTH, HEIGHT], fill=128)
    draw.text((20, HEIGHT - 34), "Print Mag: 9820x   TEM Mode: Imaging", font=font(18), fill=ink)


def bar(left: int, top: int) -> Draw:
    def draw(canvas: ImageDraw.ImageDraw, ink: int, paper: int) -> None:
        canvas.rectangle([left, top, left + 140, top + 4], fill=ink)
        canvas.text((left + 40, top - 24), "500 nm", font=font(18), fill=ink)

    return draw


def segmented_bar(draw: ImageDraw.ImageDraw, ink: int, paper: int) -> None:
    draw.rectangle([600, 560, 760, 567], fill=ink, outline=paper)
    for left in (632, 696):
        draw.rectangle([left, 562, left + 31, 565], fill=paper)
    draw.text((665, 570), "5 µm", font=font(16), fill=ink, stroke_width=1, stroke_fill=paper)


def text_beside_bar(draw: ImageDraw.ImageDraw, ink: int, paper: int) -> None:
    draw.rectangle([30, 570, 150, 573], fill=ink)
    draw.text((156, 560), "2 µm", font=font(18), fill=ink)


def label_box(draw: ImageDraw.ImageDraw, ink: int, paper: int) -> None:
    draw.rectangle([400, 540, 650, 575], fill=ink)
    draw.text((406, 544), "Name: A1--0024", font=font(24), fill=paper)


def text_only(draw: ImageDraw.ImageDraw, ink: int, paper: int) -> None:
    draw.text((20, 15), "Image_0024 case 17", font=font(22), fill=ink)


GRAPHICS: list[Draw] = [
    strip_below,
    strip_above,
    framed_strip,
    side_strip,
    gray_strip,
    bar(30, 60),
    bar(620, 60),
    bar(30, 570),
    bar(620, 570),
    segmented_bar,
    text_beside_bar,
    label_box,
    text_only,
]


@pytest.mark.parametrize("ink", [0, 255], ids=["black", "white"])
@pytest.mark.parametrize("number", range(len(GRAPHICS)))
def test_graphics_are_covered_and_little_else(number: int, ink: int) -> None:
    burnt, changed = burn(micrograph(), GRAPHICS[number], ink)
    mask = find_overlay(burnt)
    assert mask[changed].mean() > 0.97
    assert mask.mean() < 0.1


@pytest.mark.parametrize(("level", "spread"), [(190, 30), (205, 25), (220, 20)])
@pytest.mark.parametrize("draw", [bar(30, 570), bar(620, 60), text_beside_bar, label_box])
def test_white_graphics_partly_on_white_tissue(draw: Draw, level: int, spread: int) -> None:
    rng = np.random.default_rng(0)
    field = gaussian_filter(rng.normal(size=(HEIGHT, WIDTH)), 12)
    noise = gaussian_filter(rng.normal(size=(HEIGHT, WIDTH)), 0.7)
    bright = level + spread * field / field.std() + 8 * noise / noise.std()
    tissue = np.clip(bright, 4, 255).astype(np.uint8)
    assert find_overlay(tissue).mean() < 0.01
    burnt, changed = burn(tissue, draw, 255)
    mask = find_overlay(burnt)
    assert mask[changed].mean() > 0.93
    assert mask.mean() < 0.1


@pytest.mark.parametrize("draw", [strip_below, bar(620, 570), label_box])
@pytest.mark.parametrize("ink", [0, 255], ids=["black", "white"])
def test_sixteen_bits_with_a_narrow_range_of_tissue(draw: Draw, ink: int) -> None:
    burnt, changed = burn(micrograph(), draw, ink)
    tissue = micrograph().astype(np.uint16) * 12 + 900
    wide = np.where(changed, np.where(burnt > 128, 65535, 0), tissue).astype(np.uint16)
    assert find_overlay(wide)[changed].mean() > 0.97


@pytest.mark.parametrize("draw", [strip_below, bar(620, 570), label_box])
@pytest.mark.parametrize("ink", [0, 255], ids=["black", "white"])
def test_jpeg_artefacts_do_not_hide_graphics(draw: Draw, ink: int) -> None:
    burnt, changed = burn(micrograph(), draw, ink)
    buffer = io.BytesIO()
    Image.fromarray(burnt).save(buffer, "JPEG", quality=80)
    assert find_overlay(np.asarray(Image.open(buffer)))[changed].mean() > 0.97


@pytest.mark.parametrize("seed", range(6))
def test_no_overlay_is_seen_in_plain_tissue(seed: int) -> None:
    assert overlay_boxes(micrograph(seed)) == []


def test_saturated_tissue_is_no_overlay() -> None:
    image = micrograph().astype(int)
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    image[(rows - 560) ** 2 + (columns - 400) ** 2 < 70**2] = 0
    image[(rows - 30) ** 2 / 2 + (columns - 200) ** 2 / 9 < 900] = 255
    soft = gaussian_filter(image.astype(float), 1.0).clip(0, 255).astype(np.uint8)
    assert find_overlay(soft).mean() < 0.01


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((300, 400), np.uint8),
        np.full((300, 400), 65535, np.uint16),
        np.full((300, 400), np.nan, np.float32),
        np.zeros((1, 1), np.uint8),
        np.eye(40, dtype=np.float64),
    ],
    ids=["black", "white", "nan", "pixel", "line"],
)
def test_degenerate_images_pass(image: np.ndarray) -> None:
    mask = find_overlay(image)
    assert mask.shape == image.shape
    assert not mask.all()


@pytest.mark.parametrize(
    ("boxes", "least", "expected"),
    [
        ([], (0, 0), Box(0, 0, 100, 60)),
        ([Box(0, 50, 100, 60)], (0, 0), Box(0, 0, 100, 50)),
        ([Box(70, 50, 95, 58)], (0, 0), Box(0, 0, 100, 50)),
        ([Box(40, 0, 60, 60)], (0, 0), Box(0, 0, 40, 60)),
        ([Box(0, 20, 70, 25)], (0, 0), Box(0, 25, 100, 60)),
        ([Box(0, 20, 70, 25)], (20, 50), Box(70, 0, 100, 60)),
        ([Box(0, 20, 70, 25)], (90, 90), Box(0, 25, 100, 60)),
        ([Box(0, 0, 100, 60)], (0, 0), Box(0, 0, 0, 0)),
    ],
)
def test_free_box(boxes: list[Box], least: tuple[float, float], expected: Box) -> None:
    assert free_box(boxes, (60, 100), least) == expected
    mask = covered(boxes, (60, 100))
    assert not mask[expected.top : expected.bottom, expected.left : expected.right].any()
