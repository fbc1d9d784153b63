"""Optical density, the white level of glass, and which pixels are tissue."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from glomflow.imaging.stain.parallel import in_threads
from glomflow.imaging.stain.profile import PUBLISHED_BACKGROUND, Array, Bytes, Floats, Vector, check_rgb

GLASS_LEVEL = 200
"""A pixel whose three samples are at least this, and nearly equal, can be glass."""
GLASS_SPREAD = 30
GLASS_PERCENTILE = 90.0
GLASS_SHARE = 0.002
_LEVELS = np.arange(256)
PAINTED_BLACK = 5
"""Pixels with no sample above this are borders painted black, not tissue."""


@dataclass(frozen=True)
class Tissue:
    """Which pixels are tissue: no sample above ``limits``, (3) int64, one at least above ``black``."""

    limits: Array
    black: int


def flat_pixels(rgb: Bytes) -> Bytes:
    """Returns the pixels, (N, 3), contiguous and not to be written to: one type for compiled loops.

    Raises:
        GlomflowError: The image is not 8-bit RGB.
    """
    pixels = np.ascontiguousarray(check_rgb(rgb).reshape(-1, 3)).view()
    pixels.flags.writeable = False
    return pixels


def estimate_background(rgb: Bytes, *, threads: int | None = None) -> Vector:
    """Estimates the white level of an image from its glass.

    Glass is bright (every sample at least 200) and nearly neutral (samples within 30 of each other);
    tubular and capillary lumina count. Its 90th percentile per channel is taken, which thin tissue
    among the candidates does not move. If less than 0.2 % of the pixels qualify, the white level is
    the published 240.

    Args:
        rgb: (..., 3) uint8.
        threads: Number of threads; the process's allowance by default.

    Returns:
        White level of R, G, B, 0 to 255.

    Raises:
        GlomflowError: ``rgb`` is not 8-bit RGB.
    """
    from glomflow.imaging.stain.kernels import PART, glass_histograms

    pixels = flat_pixels(rgb)
    size = pixels.shape[0]
    counts: dict[int, Array] = {}

    def work(worker: int, first: int, last: int) -> None:
        counts[worker] = np.zeros((3, 256), np.int64)
        stop = min(last * PART, size)
        glass_histograms(pixels, first * PART, stop, GLASS_LEVEL, GLASS_SPREAD, counts[worker])

    in_threads(work, -(-size // PART), threads)
    return background_of(sum(counts.values(), np.zeros((3, 256), np.int64)), size)


def background_of(histograms: Array, pixels: int) -> Vector:
    """Returns the white level of an image from the levels of its glass.

    Args:
        histograms: (3, 256) pixels of glass by channel and level.
        pixels: Pixels of the image.
    """
    glass = int(histograms[0].sum())
    if glass < max(1.0, GLASS_SHARE * pixels):
        return PUBLISHED_BACKGROUND
    position = GLASS_PERCENTILE / 100.0 * (glass - 1)
    lower = int(position)
    ranks = np.array([lower, min(lower + 1, glass - 1)])
    white = []
    for up_to in histograms.cumsum(axis=1):
        low, high = up_to.searchsorted(ranks, side="right").tolist()
        white.append(float(low + (high - low) * (position - lower)))
    return tuple(white)


def optical_density(rgb: Bytes, background: Vector) -> Floats:
    """Returns optical density, ``-ln((I + 1) / background)``.

    Args:
        rgb: (..., 3) uint8.
        background: White level of R, G, B.

    Returns:
        (..., 3) float32.
    """
    table = density_table(background).astype(np.float32)
    density = np.empty(rgb.shape, np.float32)
    for channel in range(3):
        density[..., channel] = table[channel][rgb[..., channel]]
    return density


def tissue_mask(rgb: Bytes, background: Vector, threshold: float) -> npt.NDArray[np.bool_]:
    """Returns which pixels are tissue: optical density reaches ``threshold`` in every channel.

    Pixels painted black are none.

    Args:
        rgb: (..., 3) uint8.
        background: White level of R, G, B.
        threshold: Optical density.

    Returns:
        (...) bool.
    """
    tissue = tissue_of(background, threshold)
    red, green, blue = (rgb[..., channel] for channel in range(3))
    limits = [int(limit) for limit in tissue.limits]
    mask: npt.NDArray[np.bool_] = (red <= limits[0]) & (green <= limits[1]) & (blue <= limits[2])
    mask &= (red > tissue.black) | (green > tissue.black) | (blue > tissue.black)
    return mask


def tissue_of(background: Vector, threshold: float) -> Tissue:
    """Returns which pixels are tissue, for :func:`tissue_mask`'s arguments."""
    stained = density_table(background) >= threshold
    return Tissue(stained.sum(axis=1).astype(np.int64) - 1, PAINTED_BLACK)


def tissue_table(tissue: Tissue) -> Bytes:
    """Returns what each level of each channel adds, (3, 256): tissue adds up to 1 to 63."""
    table: Bytes = (tissue.limits[:, None] < _LEVELS).view(np.uint8) * np.uint8(64)
    table += tissue.black < _LEVELS
    return table


def density_table(background: Vector) -> npt.NDArray[np.float64]:
    """Returns the optical density of each level, (3, 256), by channel; it must not be written to."""
    return _density_table(*map(float, background))


@lru_cache(maxsize=64)
def _density_table(*background: float) -> npt.NDArray[np.float64]:
    levels = np.arange(1.0, 257.0)
    table: npt.NDArray[np.float64] = -np.log(levels[None, :] / np.array(background)[:, None])
    table.flags.writeable = False
    return table
