"""A glomerulus under the light microscope: concentrations of haematoxylin and PAS."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from glomflow.cohort.phantom.factors import NONDIAGNOSTIC
from glomflow.cohort.phantom.fields import Array, band, blend, nucleus_stamps, paste, ramp, smooth_noise
from glomflow.cohort.phantom.tuft import Tuft, angle_between, draw_tuft, wall_band


@dataclass(frozen=True)
class Pattern:
    """What a disease does to the tuft.

    Attributes:
        wall: Thickness of the capillary walls, µm.
        wall_pas: PAS concentration of the walls.
        spikes: Strength of the spikes on the outer side of the walls, 0 to 1.
        mesangium: Share of the tuft that is mesangium.
        filled: Share of the capillary lumens that cells have closed.
        nuclei: Chance that a place for a nucleus (one per 7 µm square) holds one.
        wire_loops: Share of the loops with a thick, glassy wall.
        loop_um: Distance of neighbouring capillary loops, µm.
    """

    wall: float = 1.4
    wall_pas: float = 1.0
    spikes: float = 0.0
    mesangium: float = 0.08
    filled: float = 0.12
    nuclei: float = 0.36
    wire_loops: float = 0.0
    loop_um: float = 14.0


PATTERNS = {
    NONDIAGNOSTIC: Pattern(),
    "MN": Pattern(wall=3.0, wall_pas=1.55, spikes=0.8, mesangium=0.04, filled=0.0, nuclei=0.22, loop_um=18.0),
    "IgAN": Pattern(wall=1.3, mesangium=0.68, filled=0.0, nuclei=0.34, loop_um=17.0),
    "LN": Pattern(
        wall=2.0, wall_pas=1.1, mesangium=0.20, filled=0.85, nuclei=1.0, wire_loops=0.35, loop_um=15.0
    ),
}


@dataclass(frozen=True)
class Section:
    """Concentrations of the two stains on a patch.

    Attributes:
        haematoxylin: (H, W) concentration.
        pas: (H, W) concentration.
        cover: (H, W) 1 inside the outer edge of Bowman's capsule, 0 outside.
        outline: (k, 2) x and y of Bowman's capsule around the patch's centre, µm.
    """

    haematoxylin: Array
    pas: Array
    cover: Array
    outline: Array


def draw_glomerulus(
    rng: np.random.Generator, um_per_px: float, diameter: float, lesion: str, appearance: str
) -> Section:
    """Draws one glomerulus.

    Args:
        rng: Source of the draws.
        um_per_px: Pixel size.
        diameter: Mean diameter of Bowman's capsule, µm.
        lesion: Lesion class.
        appearance: Disease whose pattern the tuft shows, or ``nondiagnostic``. A globally sclerotic
            tuft shows none.
    """
    pattern = PATTERNS[appearance]
    side = 2 * int(np.ceil(0.58 * diameter / um_per_px)) + 13
    tuft = draw_tuft(rng, side, um_per_px, diameter, lesion, pattern.mesangium, pattern.loop_um)
    texture = smooth_noise(rng, tuft.rho.shape, 1.6 / um_per_px)
    fibrosis = 0.30 + 0.08 * texture if lesion == "ischaemic" else 0.02
    pas = np.full_like(tuft.rho, 0.02)
    haematoxylin = np.full_like(tuft.rho, 0.02)
    blend(pas, ramp(tuft.in_capsule, 0.0, 1.5), fibrosis)
    if lesion == "globally_sclerotic":
        density = _paint_obsolete(rng, tuft, um_per_px, texture, pas, haematoxylin)
    else:
        density = _paint_tuft(rng, tuft, pattern, texture, pas, haematoxylin)
        if lesion == "segmentally_sclerotic":
            _paint_scar(tuft, texture, pas, haematoxylin, density)
        if lesion == "crescentic":
            _paint_crescent(tuft, texture, pas, haematoxylin, density)
    _paint_capsule(tuft, 4.0 if lesion in ("ischaemic", "globally_sclerotic") else 1.6, pas)
    _add_nuclei(rng, tuft, um_per_px, density, haematoxylin, pas)
    return Section(haematoxylin, pas, ramp(tuft.in_capsule, -2.0, 1.5), tuft.capsule.polygon(72))


def _paint_tuft(
    rng: np.random.Generator, tuft: Tuft, pattern: Pattern, texture: Array, pas: Array, haematoxylin: Array
) -> Array:
    """Paints loops and mesangium; returns the chance of a nucleus per pixel."""
    inside = ramp(tuft.in_tuft, 0.0, 1.5)
    wire = tuft.per_cell(tuft.chance < pattern.wire_loops)
    filled = tuft.per_cell(rng.random(len(tuft.chance)) < pattern.filled)
    loop = 1 - tuft.mesangial
    thickness = pattern.wall * (1 + 0.15 * texture) + 2.6 * wire
    walls = wall_band(tuft, thickness)
    roundness = 0.57 * tuft.loop_um - tuft.cells.distance
    lumen = ramp(np.minimum(tuft.cells.border, roundness) - thickness, 1.0, 1.4) * loop * (1 - filled)

    tuft_pas = 0.24 + 0.06 * texture
    tuft_h = 0.20 + 0.05 * texture
    blend(tuft_pas, tuft.mesangial, 1.05 + 0.16 * texture)
    blend(tuft_h, tuft.mesangial, 0.12)
    blend(tuft_pas, lumen, 0.04)
    blend(tuft_h, lumen, 0.03)
    blend(tuft_pas, walls, pattern.wall_pas + 0.7 * wire + 0.10 * texture)
    blend(tuft_h, walls, 0.08)
    if pattern.spikes:
        comb = smooth_noise(rng, texture.shape, 1.5) > 0.7
        reach = band(tuft.cells.border, -1.0, 1.2, 0.8) * loop * comb
        blend(tuft_pas, pattern.spikes * reach, 1.2 * pattern.wall_pas)
    surface = band(tuft.in_tuft, -0.2, 0.2 + 0.8 * pattern.wall, 0.8)
    blend(tuft_pas, surface, pattern.wall_pas)
    cleft = _clefts(rng, tuft)
    blend(pas, inside * (1 - cleft), tuft_pas)
    blend(haematoxylin, inside * (1 - cleft), tuft_h)
    place = (tuft.in_tuft > 2.0) * (1 - lumen) * (1 - 0.9 * wire * walls)
    favoured = 0.55 + 0.45 * tuft.mesangial + 0.6 * filled
    chance: Array = pattern.nuclei * place * favoured
    return chance


def _clefts(rng: np.random.Generator, tuft: Tuft) -> Array:
    """Returns the urinary clefts between lobules, deepest at the surface of the tuft."""
    wave = np.zeros_like(tuft.rho)
    for order in (3, 5):
        wave += np.cos(order * tuft.angle + 0.02 * tuft.rho + np.float32(rng.uniform(0, 2 * np.pi)))
    return ramp(wave, 1.55, 0.3) * ramp(-tuft.in_tuft, -18.0, 10.0)


def _paint_obsolete(
    rng: np.random.Generator, tuft: Tuft, um_per_px: float, texture: Array, pas: Array, haematoxylin: Array
) -> Array:
    """Paints a globally sclerotic tuft; returns the chance of a nucleus per pixel."""
    lamellae = smooth_noise(rng, tuft.rho.shape, 9.0 / um_per_px)
    folds = np.abs(np.sin(0.22 * tuft.rho + 2.2 * lamellae))
    solid = 1.05 + 0.30 * folds + 0.10 * texture
    blend(pas, ramp(tuft.in_capsule, 0.0, 1.5), 0.55 + 0.15 * texture)
    blend(pas, ramp(tuft.in_tuft, 0.0, 3.0), solid)
    blend(haematoxylin, ramp(tuft.in_capsule, 0.0, 1.5), 0.10)
    slits = 0.6 * ramp(-folds, -0.06, 0.10) * ramp(tuft.in_tuft, 8.0, 4.0)
    blend(pas, slits, 0.30)
    return np.float32(0.07) * (tuft.in_tuft > 0)


def _paint_scar(tuft: Tuft, texture: Array, pas: Array, haematoxylin: Array, density: Array) -> None:
    """Solidifies a sector of the tuft and joins it to the capsule."""
    sector = ramp(-angle_between(tuft.angle, tuft.crescent_angle) * tuft.rho, -42.0, 6.0)
    scar = sector * ramp(tuft.rho, 0.22 * tuft.capsule.radius, 4.0) * ramp(tuft.in_capsule, 0.0, 1.5)
    blend(pas, scar, 1.25 + 0.18 * texture)
    blend(haematoxylin, scar, 0.12)
    density *= 1 - 0.85 * scar


def _paint_crescent(tuft: Tuft, texture: Array, pas: Array, haematoxylin: Array, density: Array) -> None:
    """Fills the space between tuft and capsule with cells on the crescent's side."""
    near = ramp(-angle_between(tuft.angle, tuft.crescent_angle), -1.55, 0.3)
    cells = near * ramp(-tuft.in_tuft, 1.5, 1.0) * ramp(tuft.in_capsule, 0.8, 1.0)
    blend(pas, cells, 0.34 + 0.10 * texture)
    blend(haematoxylin, cells, 0.34 + 0.08 * texture)
    np.maximum(density, np.float32(0.68) * (cells > 0.6), out=density)


def _paint_capsule(tuft: Tuft, thickness: float, pas: Array) -> None:
    blend(pas, band(tuft.in_capsule, -thickness / 2, thickness / 2 + 0.4, 1.0), 1.15)


def _add_nuclei(
    rng: np.random.Generator, tuft: Tuft, um_per_px: float, density: Array, haematoxylin: Array, pas: Array
) -> None:
    """Places nuclei on a jittered grid where ``density`` allows, and along the capsule."""
    side = tuft.rho.shape[0]
    step = 7.0 / um_per_px
    count = int(side / step)
    grid = np.stack(np.meshgrid(np.arange(count), np.arange(count)), axis=-1).reshape(-1, 2)
    places = ((grid + rng.uniform(0.1, 0.9, grid.shape)) * step).astype(np.float32)
    index = places.astype(int)
    keep = rng.random(len(places)) < density[index[:, 1], index[:, 0]]
    lining = tuft.capsule.polygon(40)[rng.random(40) < 0.45] * 0.985 / um_per_px + (side - 1) / 2
    centres = np.concatenate([places[keep], lining.astype(np.float32)])
    stamps = nucleus_stamps(rng, 16, 3.4, 2.4, um_per_px)
    layer = np.zeros_like(haematoxylin)
    paste(layer, stamps, centres, rng.integers(len(stamps), size=len(centres)))
    cover = np.clip(1.6 * layer, 0, 1)
    blend(haematoxylin, cover, 1.25 * layer)
    blend(pas, cover, 0.34)
