"""Electron micrographs of the phantom: the glomerular capillary wall and what lies beside it.

Everything is laid out in two coordinates: ``along`` the basement membrane and ``across`` it, the
podocyte's side positive; both in nm.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from glomflow.cohort.phantom.fields import (
    Array,
    Mask,
    band,
    blend,
    draw_outline,
    ramp,
    smooth_noise,
)

MEMBRANE, MATRIX, CYTOPLASM, LIGHT, DARK = 0.50, 0.56, 0.44, 0.86, 0.26
"""Brightness of basement membrane, mesangial matrix, cytoplasm, empty space, and cell borders."""

SOFT_NM = 22.0


@dataclass(frozen=True)
class Wall:
    """Coordinates of a view on the capillary wall; arrays are (H, W), distances in nm.

    Attributes:
        nm_per_px: Pixel size.
        along: Position along the membrane, 0 in the middle of the image.
        across: Distance from the membrane's middle, positive towards the podocyte.
        half: Half thickness of the membrane.
        outer: Height of what lies between membrane and podocyte.
        inner: Depth of what lies between membrane and endothelium.
        fused: 1 where the foot processes are effaced, 0 where they are separate.
    """

    nm_per_px: float
    along: Array
    across: Array
    half: float
    outer: Array
    inner: Array
    fused: Array

    @property
    def podocyte(self) -> Array:
        """Distance above the outer surface of the wall."""
        return self.across - self.half - self.outer

    @property
    def endothelial(self) -> Array:
        """Distance below the inner surface of the wall."""
        return -self.across - self.half - self.inner


@dataclass(frozen=True)
class Bend:
    """The course of the basement membrane through the image.

    Attributes:
        angle: Direction of the membrane, rad.
        middle: Distance of the membrane from the image's centre, nm, towards the podocyte.
        waves: (k, 3) amplitude (nm), wavelength (nm) and phase.
    """

    angle: float
    middle: float
    waves: Array

    def coordinates(self, shape: tuple[int, int], nm_per_px: float) -> tuple[Array, Array]:
        """Returns position along and signed distance across the membrane of every pixel, nm."""
        y, x = np.meshgrid(
            (np.arange(shape[0], dtype=np.float32) - shape[0] / 2) * np.float32(nm_per_px),
            (np.arange(shape[1], dtype=np.float32) - shape[1] / 2) * np.float32(nm_per_px),
            indexing="ij",
        )
        cos, sin = np.float32(np.cos(self.angle)), np.float32(np.sin(self.angle))
        along, across = x * cos + y * sin, y * cos - x * sin
        course = np.full_like(along, self.middle)
        slope = np.zeros_like(along)
        for amplitude, wavelength, phase in self.waves:
            turn = along * np.float32(2 * np.pi / wavelength) + np.float32(phase)
            course += amplitude * np.sin(turn)
            slope += np.float32(amplitude * 2 * np.pi / wavelength) * np.cos(turn)
        return along, (across - course) / np.sqrt(1 + slope * slope)


def draw_bend(rng: np.random.Generator, middle: float) -> Bend:
    """Draws a smooth course at a random angle, through the middle or ``middle`` nm off it."""
    waves = [
        (rng.uniform(180, 420), rng.uniform(5500, 9000), rng.uniform(0, 2 * np.pi)),
        (rng.uniform(40, 110), rng.uniform(2200, 3600), rng.uniform(0, 2 * np.pi)),
    ]
    return Bend(rng.uniform(0, 2 * np.pi), middle, np.array(waves, np.float32))


def paint_podocyte(rng: np.random.Generator, wall: Wall, image: Array) -> None:
    """Paints foot processes with slits, the urinary space and a podocyte's body beyond it."""
    shape, nm = image.shape, wall.nm_per_px
    above = wall.podocyte
    texture = smooth_noise(rng, shape, 26 / nm)
    image += (above > 0) * (np.float32(LIGHT) + 0.02 * texture - image)
    _paint_body(rng, wall, above, texture, image)

    wobble = 110 * smooth_noise(rng, shape, 320 / nm)
    period = rng.uniform(380, 460)
    place = (wall.along + wobble) / np.float32(period)
    number = np.floor(place).astype(np.int32)
    number -= number.min()
    count = int(number.max()) + 1
    height = rng.uniform(300, 520, count).astype(np.float32)[number]
    middle = np.abs(place - np.floor(place) - np.float32(0.5)) * np.float32(period)
    narrowing = 0.45 * np.clip(above / height, 0, 1) ** 2
    side = (period / 2 - 26) * (1 - narrowing) - middle
    side = np.where(wall.fused > 0.5, np.float32(120), side)
    height = np.where(wall.fused > 0.5, 260 + 50 * smooth_noise(rng, shape, 400 / nm), height)
    depth = np.minimum(np.minimum(side, height - above), above - 8)
    blend(image, ramp(depth, 0, SOFT_NM), CYTOPLASM + 0.035 * texture)
    blend(image, 0.65 * band(depth, -6, 14, 14), DARK + 0.06)


def _paint_body(rng: np.random.Generator, wall: Wall, above: Array, texture: Array, image: Array) -> None:
    shape, nm = image.shape, wall.nm_per_px
    gap = rng.uniform(850, 1250)
    shore = above - gap - 190 * smooth_noise(rng, shape, 480 / nm)
    pillars = smooth_noise(rng, shape, 420 / nm) > 1.35
    shore = np.where(pillars & (above > 150), np.maximum(shore, 60), shore)
    coarse = smooth_noise(rng, shape, 110 / nm)
    blend(image, ramp(shore, 0, SOFT_NM), 0.53 + 0.04 * coarse + 0.04 * texture)
    blend(image, 0.7 * band(shore, -4, 16, 14), DARK + 0.06)
    deep = np.argwhere(shore[::8, ::8] > 260) * 8
    for _ in range(int(rng.integers(0, 4))):
        if len(deep):
            paint_mitochondrion(rng, deep[int(rng.integers(len(deep)))], nm, image)


def paint_mitochondrion(rng: np.random.Generator, centre: Array, nm: float, image: Array) -> None:
    """Paints a striped organelle around ``centre`` (row, column), clipped to the image."""
    long, short = rng.uniform(220, 380), rng.uniform(100, 140)
    rows, cols, y, x = _window(image.shape, centre, long * 1.2, nm)
    angle = rng.uniform(0, np.pi)
    u, v = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    depth = (1 - np.sqrt((u / long) ** 2 + (v / short) ** 2)).astype(np.float32) * np.float32(short)
    stripes = 0.06 * np.sin(u.astype(np.float32) * np.float32(2 * np.pi / 75))
    blend(image[rows, cols], ramp(depth, 0, SOFT_NM), 0.44 + stripes)
    blend(image[rows, cols], 0.8 * band(depth, -4, 16, 14), DARK + 0.08)


def _window(
    shape: tuple[int, ...], centre: Array, reach: float, nm: float
) -> tuple[slice, slice, Array, Array]:
    """Returns slices around ``centre`` and distances from it, nm."""
    half = int(np.ceil(reach / nm))
    row, col = (int(value) for value in centre)
    rows = slice(max(0, row - half), min(shape[0], row + half + 1))
    cols = slice(max(0, col - half), min(shape[1], col + half + 1))
    y, x = np.meshgrid(
        (np.arange(rows.start, rows.stop, dtype=np.float32) - row) * np.float32(nm),
        (np.arange(cols.start, cols.stop, dtype=np.float32) - col) * np.float32(nm),
        indexing="ij",
    )
    return rows, cols, y, x


def paint_membrane(rng: np.random.Generator, wall: Wall, thickened: bool, image: Array) -> None:
    """Paints the glomerular basement membrane.

    Args:
        rng: Source of the draws.
        wall: Coordinates.
        thickened: Whether what lies between membrane and podocyte is new membrane.
        image: (H, W) brightness, painted in place.
    """
    shape, nm = image.shape, wall.nm_per_px
    texture = smooth_noise(rng, shape, 22 / nm)
    upper = wall.half + wall.outer if thickened else np.float32(wall.half)
    depth = np.minimum(upper - wall.across, wall.across + wall.half)
    blend(image, ramp(depth, 0, SOFT_NM), MEMBRANE + 0.022 * texture)
    blend(image, 0.5 * band(depth, 0, 35, 20), MEMBRANE + 0.08)


def paint_lumen(rng: np.random.Generator, wall: Wall, image: Array) -> None:
    """Paints a fenestrated endothelium and the capillary lumen, at times with a red blood cell."""
    shape, nm = image.shape, wall.nm_per_px
    below = wall.endothelial
    texture = smooth_noise(rng, shape, 24 / nm)
    grains = smooth_noise(rng, shape, 60 / nm)
    blend(image, ramp(below, 0, SOFT_NM), 0.78 + 0.035 * texture + 0.03 * grains)
    _paint_endothelium(rng, wall, texture, image)
    if rng.random() < 0.15:
        _paint_red_cell(rng, wall, image)


def _paint_endothelium(rng: np.random.Generator, wall: Wall, texture: Array, image: Array) -> None:
    shape, nm = image.shape, wall.nm_per_px
    below = wall.endothelial
    thickness = 95 + 22 * smooth_noise(rng, shape, 250 / nm)
    swelling = smooth_noise(rng, shape, 900 / nm)
    thickness += 300 * np.clip(swelling - 1.2, 0, 1.2)
    pores = (
        np.sin(wall.along * np.float32(2 * np.pi / 310) + 2 * smooth_noise(rng, shape, 420 / nm)) > 0.80
    ) & (thickness < 140)
    depth = np.minimum(below - 12, thickness - below)
    depth = np.where(pores, np.minimum(depth, -30), depth)
    blend(image, ramp(depth, 0, SOFT_NM), CYTOPLASM + 0.03 * texture)
    blend(image, 0.6 * band(depth, -6, 12, 14), DARK + 0.06)


def _paint_red_cell(rng: np.random.Generator, wall: Wall, image: Array) -> None:
    far = np.argwhere(wall.endothelial[::8, ::8] > 1150) * 8
    if not len(far):
        return
    centre = far[int(rng.integers(len(far)))]
    reach = 1000.0
    rows, cols, y, x = _window(image.shape, centre, 1.3 * reach, wall.nm_per_px)
    outline = draw_outline(rng, 0.9 * reach, (2, 3), 0.16)
    depth = outline.at(np.arctan2(y, x)) - np.hypot(x, y)
    blend(image[rows, cols], ramp(depth, 0, 1.5 * SOFT_NM), 0.34)


def paint_mesangium(rng: np.random.Generator, wall: Wall, image: Array) -> Mask:
    """Paints mesangial matrix with cell processes and a nucleus below the membrane.

    Returns:
        (H, W) where the matrix is, at least 120 nm from cells and membrane.
    """
    shape, nm = image.shape, wall.nm_per_px
    below = wall.endothelial
    fibres = smooth_noise(rng, shape, 40 / nm)
    texture = smooth_noise(rng, shape, 22 / nm)
    blend(image, ramp(below, 0, 60), MATRIX + 0.035 * fibres + 0.015 * texture)
    swirl = smooth_noise(rng, shape, 430 / nm)
    depth = 170 * (swirl - 0.75) - 0.10 * np.clip(700 - below, 0, None)
    blend(image, ramp(depth, 0, SOFT_NM), CYTOPLASM + 0.02 + 0.05 * texture)
    blend(image, 0.7 * band(depth, -6, 14, 14), DARK + 0.06)
    if rng.random() < 0.4:
        _paint_nucleus(rng, wall, image, depth)
    return (below > 80) & (depth < -40)


def _paint_nucleus(rng: np.random.Generator, wall: Wall, image: Array, cells: Array) -> None:
    far = np.argwhere(wall.endothelial[::8, ::8] > 1700) * 8
    if not len(far):
        return
    centre = far[int(rng.integers(len(far)))]
    rows, cols, y, x = _window(image.shape, centre, 1300, wall.nm_per_px)
    outline = draw_outline(rng, rng.uniform(750, 950), (2, 3, 5), 0.10)
    depth = outline.at(np.arctan2(y, x)) - np.hypot(x, y)
    chromatin = smooth_noise(rng, depth.shape, 90 / wall.nm_per_px)
    blend(image[rows, cols], ramp(depth, -170, SOFT_NM), CYTOPLASM + 0.05)
    blend(image[rows, cols], ramp(depth, 0, SOFT_NM), 0.58 + 0.05 * chromatin)
    rim = ramp(-depth, -110, 40) * ramp(depth, 0, SOFT_NM)
    clumps = np.maximum(rim, ramp(chromatin, 1.1, 0.4) * ramp(depth, 0, SOFT_NM))
    blend(image[rows, cols], clumps, 0.38)
    np.maximum(cells[rows, cols], depth + 170, out=cells[rows, cols])
