"""The shape of a glomerulus: Bowman's capsule, tuft, capillary loops and mesangium.

Light microscopy and immunofluorescence draw the same geometry, each with its own signals.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from glomflow.cohort.phantom.fields import (
    Array,
    Cells,
    Outline,
    draw_outline,
    ramp,
    smooth_noise,
    tessellate,
)


@dataclass(frozen=True)
class Shape:
    """How a lesion shapes the glomerulus.

    Attributes:
        fill: Radius of the tuft as a share of the capsule's.
        shift: Displacement of the tuft towards the vascular pole, as a share of the radius.
        lobes: Depth of the lobulation of the tuft's outline, as a share of its radius.
        wrinkle: Amplitude of the wrinkling of the capillary walls, µm.
        crescent: Thickness of the crescent, as a share of the radius.
        loops: Factor on the distance of neighbouring capillary loops.
    """

    fill: float = 0.90
    shift: float = 0.0
    lobes: float = 0.05
    wrinkle: float = 1.5
    crescent: float = 0.0
    loops: float = 1.0


SHAPES = {
    "normal": Shape(),
    "globally_sclerotic": Shape(fill=0.93, lobes=0.03),
    "segmentally_sclerotic": Shape(),
    "ischaemic": Shape(fill=0.66, shift=0.20, lobes=0.10, wrinkle=3.0, loops=0.85),
    "crescentic": Shape(fill=0.94, crescent=0.36),
}


@dataclass(frozen=True)
class Tuft:
    """A glomerulus on a pixel grid; all distances in µm, positive inside.

    Attributes:
        capsule: Outline of Bowman's capsule around the grid's centre.
        angle: (H, W) angle around the centre, rad.
        rho: (H, W) distance from the centre.
        in_capsule: (H, W) depth below Bowman's capsule.
        in_tuft: (H, W) depth below the surface of the tuft.
        cells: Capillary loops and mesangial areas.
        mesangial: (H, W) 1 where the cell is mesangium, else 0.
        chance: (seeds,) uniform draw per cell.
        loop_um: Distance of neighbouring capillary loops.
        crescent_angle: Direction of the middle of the crescent or of the segmental scar, rad.
    """

    capsule: Outline
    angle: Array
    rho: Array
    in_capsule: Array
    in_tuft: Array
    cells: Cells
    mesangial: Array
    chance: Array
    loop_um: float
    crescent_angle: float

    def per_cell(self, values: npt.NDArray[np.generic]) -> Array:
        """Spreads one value per cell over the pixels of the cells."""
        return values.astype(np.float32)[self.cells.owner]


def angle_between(angle: Array, direction: float) -> Array:
    """Returns the absolute difference of angles, 0 to pi."""
    two_pi = np.float32(2 * np.pi)
    turned: Array = np.abs((angle - np.float32(direction) + np.float32(np.pi)) % two_pi - np.float32(np.pi))
    return turned


def draw_tuft(
    rng: np.random.Generator,
    side: int,
    um_per_px: float,
    diameter: float,
    lesion: str,
    mesangium: float,
    loop_um: float = 14.0,
) -> Tuft:
    """Draws the geometry of one glomerulus, centred in a square patch.

    Args:
        rng: Source of the draws.
        side: Edge of the patch, px.
        um_per_px: Pixel size.
        diameter: Mean diameter of Bowman's capsule, µm.
        lesion: Lesion class, which shapes the tuft.
        mesangium: Share of the tuft's cells that are mesangium.
        loop_um: Distance of neighbouring capillary loops where no lesion crowds them, µm.
    """
    shape = SHAPES[lesion]
    radius = diameter / 2
    line = (np.arange(side, dtype=np.float32) - np.float32((side - 1) / 2)) * np.float32(um_per_px)
    x, y = np.meshgrid(line, line)
    rho, angle = np.hypot(x, y), np.arctan2(y, x)
    capsule = draw_outline(rng, radius, (2, 3, 4), 0.06)
    pole = rng.uniform(0, 2 * np.pi)
    scar = pole + np.pi + rng.uniform(-0.6, 0.6)
    at_capsule = capsule.at(angle)
    in_capsule = at_capsule - rho

    lobes = draw_outline(rng, shape.fill, (4, 5, 6, 7), shape.lobes)
    stalk = 0.10 * np.exp(-((angle_between(angle, pole) / np.float32(0.35)) ** 2))
    dx = x - np.float32(shape.shift * radius * np.cos(pole))
    dy = y - np.float32(shape.shift * radius * np.sin(pole))
    own_rho, own_angle = np.hypot(dx, dy), np.arctan2(dy, dx)
    surface = radius * (lobes.at(own_angle) + stalk)
    in_tuft = np.minimum(surface - own_rho, in_capsule - np.float32(1.5))
    if shape.crescent:
        reach = rng.uniform(1.1, 1.7)
        away = angle_between(angle, scar) / np.float32(reach)
        thickness = shape.crescent * radius * np.sqrt(np.clip(1 - away**2, 0, 1))
        in_tuft = np.minimum(in_tuft, in_capsule - thickness - np.float32(2.5))

    knots = 4.0 / um_per_px
    warp = [shape.wrinkle * smooth_noise(rng, rho.shape, knots) for _ in range(2)]
    cells = tessellate(rng, x + warp[0], y + warp[1], shape.loops * loop_um, 0.33)
    is_mesangial = _choose_mesangium(rng, cells.seeds, radius * shape.fill, mesangium)
    return Tuft(
        capsule=capsule,
        angle=angle,
        rho=rho,
        in_capsule=in_capsule,
        in_tuft=in_tuft,
        cells=cells,
        mesangial=is_mesangial.astype(np.float32)[cells.owner],
        chance=rng.random(len(cells.seeds), dtype=np.float32),
        loop_um=shape.loops * loop_um,
        crescent_angle=float(scar),
    )


def _choose_mesangium(
    rng: np.random.Generator, seeds: Array, radius: float, share: float
) -> npt.NDArray[np.bool_]:
    """Chooses that share of the cells, in branching groups rather than scattered."""
    score = 0.35 * rng.standard_normal(len(seeds))
    for _ in range(6):
        direction, phase = rng.uniform(0, 2 * np.pi, 2)
        wavelength = rng.uniform(35, 60)
        along = seeds[:, 0] * np.cos(direction) + seeds[:, 1] * np.sin(direction)
        score += 0.6 * np.cos(2 * np.pi * along / wavelength + phase)
    inside = np.hypot(seeds[:, 0], seeds[:, 1]) < radius
    return score > np.quantile(score[inside], 1 - share)


def wall_band(tuft: Tuft, thickness: float | Array, gap: float = 0.7) -> Array:
    """Returns the capillary walls (0 to 1): a band inside the border of every loop.

    Args:
        tuft: Geometry.
        thickness: Thickness of the walls, µm, for all or per pixel.
        gap: Distance of the wall's outer surface from the border of the loop, µm.
    """
    outer = ramp(tuft.cells.border, gap, 1.0)
    inner = np.clip(tuft.cells.border - gap - thickness + np.float32(0.5), 0, 1)
    walls: Array = outer * (1 - inner) * (1 - tuft.mesangial)
    return walls
