"""Colour statistics by Reinhard et al. (2001), in CIELAB over tissue."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np

from glomflow.imaging.stain.density import Tissue, density_table, flat_pixels, tissue_table
from glomflow.imaging.stain.lab import FROM_RELATIVE, LAB_OF_ROOTS, ROOTS_OF_LAB, TO_RELATIVE, linear_table
from glomflow.imaging.stain.parallel import in_threads
from glomflow.imaging.stain.profile import Array, Bytes, Floats, StainProfile, Vector

LEAST_LAB_STD = (0.5, 2.5)
"""Least standard deviation over tissue of each of L*, a* and b*, and of the one that varies most."""
FADE_DENSITY = 0.15
"""Pixels of less mean optical density keep their colour in part, glass keeps it whole."""


def lab_moments(pixels: Bytes, tissue: Tissue, threads: int | None) -> Array:
    """Returns count, sums and sums of squares, (7), of CIELAB values of tissue.

    Args:
        pixels: (N, 3) of :func:`glomflow.imaging.stain.density.flat_pixels`.
        tissue: What counts as tissue.
        threads: Number of threads.
    """
    from glomflow.imaging.stain import kernels

    sums = np.zeros((-(-pixels.shape[0] // kernels.PART), 7))
    levels, _ = _single_precision()
    parts = levels.copy()
    parts[:, :, 3] = tissue_table(tissue)

    def work(worker: int, first: int, last: int) -> None:
        kernels.lab_moments(pixels, first, last, parts, sums)

    in_threads(work, len(sums), threads)
    moments: Array = sums.sum(axis=0)
    return moments


def reinhard_profile(moments: Array, common: dict[str, Any]) -> StainProfile:
    """Returns the profile of tissue from the moments of its CIELAB values.

    Args:
        moments: (7) count, sums and sums of squares of L*, a*, b*.
        common: The profile's other attributes.
    """
    count, *sums = moments.tolist()
    mean = tuple(total / count for total in sums[:3])
    std = tuple(
        math.sqrt(max(squares / count - middle * middle, 0.0))
        for squares, middle in zip(sums[3:], mean, strict=True)
    )
    if not (min(std) >= LEAST_LAB_STD[0] and max(std) >= LEAST_LAB_STD[1]):
        return StainProfile(
            **common,
            flag="tissue has one colour only (standard deviation "
            f"{min(std):.2f} to {max(std):.2f} in CIELAB)",
        )
    return StainProfile(**common, lab_mean=mean, lab_std=std)


def lab_mapping(source: StainProfile, target: StainProfile) -> tuple[Array, Array]:
    """Returns how the roots behind CIELAB move from one profile to another: (3, 3) and offset (3)."""
    scale = np.asarray(target.lab_std) / np.asarray(source.lab_std)
    shift = np.asarray(target.lab_mean) - scale * np.asarray(source.lab_mean)
    # L*, a*, b* are linear in the roots, and so is the whole step, but for L* = 116 f - 16.
    mix = ROOTS_OF_LAB @ (scale[:, None] * LAB_OF_ROOTS)
    return mix, ROOTS_OF_LAB @ (shift + (1.0 - scale) * np.array([16.0, 0.0, 0.0]))


def fade_table(background: Vector) -> Array:
    """Returns the part, (3, 256), that each level has in how far a pixel is recoloured, clipped to 0 to 1."""
    return density_table(background) / (3.0 * FADE_DENSITY)


def apply_reinhard(
    rgb: Bytes, source: StainProfile, target: StainProfile, threads: int | None = None
) -> Bytes:
    """Recolours images so that mean and standard deviation of L*, a*, b* over tissue match.

    Args:
        rgb: (..., 3) uint8.
        source: Profile of the slide.
        target: Profile to match.
        threads: Number of threads; the process's allowance by default.

    Returns:
        uint8 of the same shape.
    """
    from glomflow.imaging.stain.kernels import PART, match_lab

    pixels = flat_pixels(rgb)
    size = pixels.shape[0]
    levels, to_rgb = _single_precision()
    matrix, shift = lab_mapping(source, target)
    mix, offset = (matrix - np.eye(3)).astype(np.float32), shift.astype(np.float32)
    parts = levels.copy()
    parts[:, :, 3] = fade_table(source.background)
    result = np.empty(pixels.shape, np.uint8)

    def work(worker: int, first: int, last: int) -> None:
        stop = min(last * PART, size)
        match_lab(pixels, first * PART, stop, parts, mix, offset, to_rgb, result)

    in_threads(work, -(-size // PART), threads)
    return result.reshape(rgb.shape)


@lru_cache(maxsize=1)
def _single_precision() -> tuple[Floats, Floats]:
    """Returns the part of each level in X / Xn, Y / Yn, Z / Zn, (3, 256, 4), and the way back to sRGB."""
    parts = np.zeros((3, 256, 4), np.float32)
    parts[:, :, :3] = linear_table()[None, :, None] * TO_RELATIVE.T[:, None, :]
    return parts, np.ascontiguousarray(FROM_RELATIVE).astype(np.float32)
