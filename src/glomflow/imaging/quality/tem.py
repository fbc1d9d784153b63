"""Electron micrographs: drift, contamination, blank area."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from glomflow.imaging.pixels import percentiles
from glomflow.imaging.quality.focus import in_windows, noise_sd, thinned

Plane = npt.NDArray[np.float32]

BLOCKS = 8
"""The longer edge is parted into so many blocks, whose directions are compared."""
ANGLES = 18
"""Directions tried, over half a turn."""
LEAST_BLOCKS = 12
"""Blocks with structure that drift has to be judged from."""
BLOCK_QUANTILE = 0.8
"""Drift smears this share of the blocks."""

DIRT_LEVEL = 0.1
"""Dirt is darker than this share of the bright level (95th percentile) above the darkest."""
DIRT_TRANSMISSION = 0.25
"""Dirt: samples are below this share of those of the bright level, counted from 0."""
DIRT_STEP = 0.35
"""Least step over the border of dirt within two pixels, on the 0 to 1 scale of the image."""
DIRT_PIXELS = 4

BLANK_SD = 0.03
"""Blank: the standard deviation within 9 x 9 px, less noise, is below this on the 0 to 1 scale..."""
BLANK_LEVEL = 0.7
"""...and the mean is above this share of the bright level."""
BLANK_WINDOW = 9


def drift(unit: Plane, noise: float | None = None) -> float:
    """Returns how strongly one direction is smeared all over a micrograph, 0 (not) to 1.

    In every block the energy of the gradient along a direction is compared with that across it, less
    what noise adds. Structure has its own direction in every block; drift takes fine detail from the
    same direction in all. The result is 1 - 2 q, where q is the share of energy along the direction
    that :data:`BLOCK_QUANTILE` of the blocks do not exceed, for the direction that makes it least.

    Args:
        unit: (h, w) on a scale of 0 to 1, see :func:`glomflow.imaging.quality.focus.unit_gray`.
        noise: What :func:`glomflow.imaging.quality.focus.noise_sd` tells of it, if that is known.

    Returns:
        The index; NaN with fewer than :data:`LEAST_BLOCKS` blocks of structure.
    """
    from glomflow.imaging.pixel_kernels import read_only
    from glomflow.imaging.quality.kernels import gradient_energy

    edge = max(unit.shape) // BLOCKS
    rows, columns = unit.shape[0] // max(edge, 1), unit.shape[1] // max(edge, 1)
    if edge < 16 or rows * columns < LEAST_BLOCKS:
        return math.nan
    # Pixels on the picture's edge have no gradient, and blocks that lack some are left out.
    energy = np.zeros(((unit.shape[0] - 2) // edge, (unit.shape[1] - 2) // edge, 3))
    gradient_energy(read_only(unit), edge, energy)
    variance = 0.5 * (noise_sd(unit) if noise is None else noise) ** 2
    xx, yy, xy = energy.reshape(-1, 3).T / edge**2
    xx, yy = np.maximum(xx - variance, 0.0), np.maximum(yy - variance, 0.0)
    total = xx + yy
    structured = total > max(variance, 1e-7)
    if structured.sum() < LEAST_BLOCKS:
        return math.nan
    angle = math.pi * np.arange(ANGLES)[:, None] / ANGLES
    along = (
        np.cos(angle) ** 2 * xx[structured]
        + np.sin(angle) ** 2 * yy[structured]
        + np.sin(2 * angle) * xy[structured]
    )
    share = np.quantile(along / total[structured], BLOCK_QUANTILE, axis=1)
    return float(np.clip(1.0 - 2.0 * share.min(), 0.0, 1.0))


def contaminated_fraction(unit: Plane, gray: npt.NDArray[Any]) -> float:
    """Returns the share of a micrograph that is dirt or stain precipitate.

    Dirt lets no electrons through and has a sharp border: the darkest of the image, near black by its
    samples too (in a faint micrograph red cells are the darkest, but not black), and bright again
    within two pixels of its border.

    Args:
        unit: (h, w) on a scale of 0 to 1.
        gray: (h, w), the same as it was recorded.

    Returns:
        The share, 0 to 1.
    """
    from scipy import ndimage

    from glomflow.imaging.pixel_kernels import read_only
    from glomflow.imaging.quality.kernels import surroundings

    dark = unit < DIRT_LEVEL * percentiles(thinned(unit), (95.0,))[0]
    dark &= gray < DIRT_TRANSMISSION * percentiles(thinned(gray), (95.0,))[0]
    if not dark.any():
        return 0.0
    labels, count = ndimage.label(dark)
    inside, around = np.zeros((count + 1, 2)), np.zeros((count + 1, 2))
    surroundings(read_only(labels), read_only(unit), np.zeros_like(labels), inside, around)
    sizes = inside[1:, 0]
    step = around[1:, 1] / np.maximum(around[1:, 0], 1.0) - inside[1:, 1] / sizes
    dirt = (sizes >= DIRT_PIXELS) & (step >= DIRT_STEP)
    return float(sizes[dirt].sum()) / unit.size


def blank_fraction(unit: Plane, noise: float | None = None) -> float:
    """Returns the share of a micrograph that is bright and without structure: resin, holes, lumens.

    Args:
        unit: (h, w) on a scale of 0 to 1.
        noise: What :func:`glomflow.imaging.quality.focus.noise_sd` tells of it, if that is known.

    Returns:
        The share, 0 to 1.
    """
    if min(unit.shape) < BLANK_WINDOW:
        return 0.0
    mean, variance = in_windows(unit, BLANK_WINDOW)
    flat = variance < BLANK_SD**2 + (noise_sd(unit) if noise is None else noise) ** 2
    return float((flat & (mean > BLANK_LEVEL * percentiles(thinned(unit), (95.0,))[0])).mean())
