"""Immunofluorescence of the phantom: one glomerulus in five channels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from glomflow.cohort.phantom.factors import NONDIAGNOSTIC
from glomflow.cohort.phantom.fields import Array, ramp, smooth_noise, tessellate
from glomflow.cohort.phantom.sites import Site
from glomflow.cohort.phantom.tuft import Tuft, draw_tuft, wall_band

MARKERS = ("IgG", "IgA", "IgM", "C3", "C1q")
SIDE_PX = 448

_FULL = 0.42
"""Share of the 16-bit range that a deposit of intensity 1 (about 3+) reaches."""

_LEVELS = 4095
"""The camera digitises 12 bits into the upper bits of 16."""


@dataclass(frozen=True)
class Staining:
    """Intensity of each marker (1 is about 3+) and where it lies.

    Attributes:
        intensity: One value per marker, in the order of ``MARKERS``.
        wall: Share of the signal along the capillary walls; the rest is mesangial.
    """

    intensity: tuple[float, float, float, float, float]
    wall: float


STAININGS = {
    NONDIAGNOSTIC: Staining((0.16, 0.15, 0.18, 0.16, 0.12), 0.5),
    "MN": Staining((1.0, 0.08, 0.10, 0.45, 0.05), 1.0),
    "IgAN": Staining((0.15, 1.0, 0.20, 0.50, 0.04), 0.0),
    "LN": Staining((0.95, 0.75, 0.70, 0.85, 0.90), 0.55),
}


def draw_immunofluorescence(rng: np.random.Generator, site: Site, appearance: str) -> npt.NDArray[np.uint16]:
    """Draws the five channels of one glomerulus.

    Args:
        rng: Source of the draws.
        site: Pixel size, focus and autofluorescence.
        appearance: Disease whose pattern is shown, or ``nondiagnostic``: traces of every marker.

    Returns:
        (5, H, W) samples in the order of ``MARKERS``.
    """
    staining = STAININGS[appearance]
    um_per_px = site.im_um_per_px
    mesangium = 0.40 if staining.wall < 0.6 else 0.2
    tuft = draw_tuft(rng, SIDE_PX, um_per_px, rng.uniform(140, 180), "normal", mesangium)
    where = _deposit_sites(tuft, staining.wall)
    background = _autofluorescence(rng, tuft, um_per_px)
    deposits = where * _granules(rng, tuft, um_per_px, coarse=staining.wall < 0.6)
    severity = rng.uniform(0.65, 1.15)
    channels = np.empty((len(MARKERS), SIDE_PX, SIDE_PX), np.uint16)
    for number, intensity in enumerate(staining.intensity):
        level = intensity * severity * rng.uniform(0.75, 1.2)
        uneven = np.clip(1 + 0.25 * smooth_noise(rng, tuft.rho.shape, 3 / um_per_px), 0.3, 1.6)
        haze = site.im_background * rng.uniform(0.8, 1.3) * background
        channels[number] = _expose(rng, _FULL * level * deposits * uneven + haze, site)
    return channels


def _deposit_sites(tuft: Tuft, wall: float) -> Array:
    """Returns where deposits lie (0 to 1): along the walls, in the mesangium, or both."""
    walls = wall_band(tuft, 2.4, gap=0.4) + ramp(-np.abs(tuft.in_tuft - 1.5), -1.6, 1.0)
    core = tuft.mesangial * ramp(tuft.cells.border, 0.8, 2.0)
    both = np.clip(walls, 0, 1) * min(1.0, 2 * wall) + core * min(1.0, 2 * (1 - wall))
    inside: Array = np.clip(both, 0, 1) * ramp(tuft.in_tuft, 0.5, 2.0)
    return inside


def _granules(rng: np.random.Generator, tuft: Tuft, um_per_px: float, *, coarse: bool) -> Array:
    """Returns the granularity of the deposits: fine beads along walls, coarse clumps in the mesangium."""
    fine = smooth_noise(rng, tuft.rho.shape, (1.5 if coarse else 1.0) / um_per_px)
    patchy = smooth_noise(rng, tuft.rho.shape, 14 / um_per_px)
    granules: Array = np.clip(0.62 + 0.42 * fine, 0, 1.4) * np.clip(1 + 0.18 * patchy, 0.4, 1.5)
    return granules


def _autofluorescence(rng: np.random.Generator, tuft: Tuft, um_per_px: float) -> Array:
    """Returns the faint outlines of tissue, about 1 on average."""
    line = (np.arange(SIDE_PX, dtype=np.float32)) * np.float32(um_per_px)
    x, y = np.meshgrid(line, line)
    warp = 6 * smooth_noise(rng, tuft.rho.shape, 30 / um_per_px)
    tubules = tessellate(rng, x + warp, y - warp, 50.0, 0.3)
    outside = ramp(-tuft.in_capsule, 1.0, 2.0)
    shade = 0.7 + 0.5 * ramp(tubules.border, 3.0, 2.0) - 0.5 * ramp(tubules.border, 13.0, 5.0)
    cells = 0.8 + 0.3 * ramp(-tuft.cells.border, -2.5, 2.0)
    inside = ramp(tuft.in_tuft, 0.0, 2.0) * cells + 0.25
    capsule = ramp(-np.abs(tuft.in_capsule), -1.6, 1.2)
    return outside * shade + (1 - outside) * inside + 0.5 * capsule


def _expose(rng: np.random.Generator, light: Array, site: Site) -> npt.NDArray[np.uint16]:
    """Adds focus blur, shot noise and read noise; digitises to 12 bits in 16."""
    from scipy import ndimage

    blurred = ndimage.gaussian_filter(light, site.im_blur / site.im_um_per_px, truncate=3)
    scatter = np.sqrt(np.clip(blurred, 0, None) * np.float32(2.0e-4) + np.float32(6e-6))
    noisy = blurred + scatter * rng.standard_normal(light.shape, dtype=np.float32)
    samples: npt.NDArray[np.uint16] = np.clip(np.rint(noisy * _LEVELS), 0, _LEVELS).astype(np.uint16)
    return samples << np.uint16(4)
