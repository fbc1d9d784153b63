"""Electron microscopy of the phantom: micrographs of the capillary wall with a burnt-in scale bar."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from glomflow.cohort.phantom.deposits import Layout, lay_out, paint_deposits
from glomflow.cohort.phantom.fields import Array, Mask, smooth_noise
from glomflow.cohort.phantom.sites import Site
from glomflow.cohort.phantom.wall import (
    Wall,
    draw_bend,
    paint_lumen,
    paint_membrane,
    paint_mesangium,
    paint_podocyte,
)

WIDTH_NM, HEIGHT_NM = 5040, 4700
"""Extent of the tissue in a micrograph, less the information strip, nm (to within 16 px)."""

_STEP = 64
"""The camera digitises 10 bits into the upper bits of 16."""


@dataclass(frozen=True)
class Micrograph:
    """A drawn TEM image.

    Attributes:
        image: (H, W) samples, the information strip at the bottom included.
        mask: (H, W) where deposits are, same size; None for an image without deposits.
    """

    image: npt.NDArray[np.uint16]
    mask: Mask | None


def tissue_shape(site: Site) -> tuple[int, int]:
    """Returns height and width of a micrograph without its strip, px."""
    height, width = (round(extent / site.tem_nm_per_px / 16) * 16 for extent in (HEIGHT_NM, WIDTH_NM))
    return height, width


def draw_micrograph(
    rng: np.random.Generator,
    site: Site,
    view: str,
    *,
    deposits: bool,
    appearance: str,
    stage: str | None,
) -> Micrograph:
    """Draws one micrograph.

    Args:
        rng: Source of the draws.
        site: Pixel size, focus, grain and style of the information strip.
        view: ``capillary``: wall and lumen; ``mesangium``: wall and mesangial matrix.
        deposits: Whether to draw deposits; without them, the image says nothing of the disease.
        appearance: Disease whose deposits are drawn, or ``nondiagnostic``.
        stage: Stage of membranous nephropathy, if it is that.
    """
    shape, nm = tissue_shape(site), site.tem_nm_per_px
    half = rng.uniform(150, 200)
    middle = rng.uniform(450, 950) if view == "mesangium" else rng.uniform(-500, 300)
    bend = draw_bend(rng, middle)
    effaced = rng.random() < 0.2
    layout = lay_out(rng, appearance, stage, view, half) if deposits else Layout()
    along, across = bend.coordinates(shape, nm)
    wall = Wall(
        nm_per_px=nm,
        along=along,
        across=across,
        half=half,
        outer=layout.envelope(along, half, outside=True),
        inner=layout.envelope(along, half, outside=False),
        fused=np.full_like(along, 1.0 if effaced or layout.fused else 0.0),
    )
    brightness = np.full(shape, 0.5, np.float32)
    paint_podocyte(rng, wall, brightness)
    matrix = None
    if view == "mesangium":
        matrix = paint_mesangium(rng, wall, brightness)
    else:
        paint_lumen(rng, wall, brightness)
    paint_membrane(rng, wall, layout.outer > 0, brightness)
    mask = paint_deposits(rng, wall, layout, matrix, brightness) if deposits else None
    image = _expose(rng, brightness, site)
    strip = draw_strip(site, shape[1])
    if mask is not None:
        mask = np.concatenate([mask, np.zeros(strip.shape, np.bool_)])
    return Micrograph(np.concatenate([image, strip]), mask)


def _expose(rng: np.random.Generator, brightness: Array, site: Site) -> npt.NDArray[np.uint16]:
    """Adds focus blur, uneven illumination and grain, and digitises."""
    from scipy import ndimage

    blurred = ndimage.gaussian_filter(brightness, site.tem_blur / site.tem_nm_per_px, truncate=3)
    blurred *= 1 + np.float32(0.02) * smooth_noise(rng, brightness.shape, 250)
    contrast = rng.uniform(0.88, 1.12)
    blurred = (blurred - np.float32(0.5)) * np.float32(contrast) + np.float32(0.5 + rng.uniform(-0.04, 0.04))
    low, high = site.tem_range
    level = low + (high - low) * blurred
    level += np.float32(site.tem_noise) * rng.standard_normal(brightness.shape, dtype=np.float32)
    steps = 65536 // _STEP - 1
    samples: npt.NDArray[np.uint16] = np.clip(np.rint(level * steps), 0, steps).astype(np.uint16)
    return samples * np.uint16(_STEP)


def draw_strip(site: Site, width: int) -> npt.NDArray[np.uint16]:
    """Draws the information strip: a scale bar and its length in writing.

    Args:
        site: Height and colours of the strip, length of the bar and pixel size.
        width: Width of the micrograph, px.

    Returns:
        (strip_px, width) samples at the ends of the 16-bit range.
    """
    from PIL import Image, ImageDraw, ImageFont

    strip = Image.new("L", (width, site.strip_px), 0)
    pen = ImageDraw.Draw(strip)
    length = round(site.bar_nm / site.tem_nm_per_px)
    left, middle = 16, site.strip_px // 2
    pen.rectangle((left, middle - 3, left + length - 1, middle + 2), fill=255)
    text = f"{site.bar_nm // 1000} um" if site.bar_nm % 1000 == 0 else f"{site.bar_nm} nm"
    font = ImageFont.load_default(size=20)
    pen.text((left + length + 14, middle), text, fill=255, font=font, anchor="lm")
    ink = np.asarray(strip).astype(np.uint16) * np.uint16(257)
    return ink if site.strip_dark else np.uint16(65535) - ink
