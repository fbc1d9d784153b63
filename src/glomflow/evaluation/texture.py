"""Colour and texture of a crop as a few numbers: the floor that learned features have to beat."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from glomflow.errors import GlomflowError
from glomflow.evaluation.metrics import Floats

RADII = (1, 2, 3)
"""Radii of the local binary patterns, px; each with 8 points per px of radius."""

LENGTH = 6 * 3 + sum(8 * radius + 2 for radius in RADII)
"""Numbers per crop: three moments of six channels, then a histogram per radius."""


def _moments(channels: Floats) -> Floats:
    """Returns mean, standard deviation and skewness of each channel; (n, C) to (3 C,).

    The skewness of a channel without spread is 0.
    """
    mean = channels.mean(axis=0)
    centred = channels - mean
    spread = centred.std(axis=0)
    cubes = (centred**3).mean(axis=0)
    flat = spread < 1e-6
    skewness = np.where(flat, 0.0, cubes / np.where(flat, 1.0, spread) ** 3)
    return np.concatenate([mean, spread, skewness])


def texture_features(crop: NDArray[np.generic]) -> Floats:
    """Describes a crop by colour moments and uniform local binary patterns.

    Colour: mean, standard deviation and skewness of R, G, B and of L*, a*, b* (Stricker & Orengo,
    SPIE 1995). Texture: histograms of rotation-invariant uniform patterns of the grey image at
    radii 1, 2 and 3 (Ojala, Pietikäinen & Mäenpää, PAMI 2002).

    Args:
        crop: (H, W, 3) uint8 RGB.

    Returns:
        (LENGTH,) float64.

    Raises:
        GlomflowError: The crop is not uint8 RGB, or smaller than 8 px.
    """
    from skimage import feature
    from skimage.color import rgb2gray, rgb2lab

    if crop.dtype != np.uint8 or crop.ndim != 3 or crop.shape[2] != 3 or min(crop.shape[:2]) < 8:
        raise GlomflowError(
            f"colour_texture: a crop of shape {crop.shape} and type {crop.dtype}; "
            "expected (height, width, 3) uint8 of at least 8 px"
        )
    lbp: Callable[..., Floats] = feature.local_binary_pattern
    rgb = crop.reshape(-1, 3).astype(np.float64) / 255
    lab = rgb2lab(crop).reshape(-1, 3)
    grey = np.round(rgb2gray(crop) * 255).astype(np.uint8)
    parts = [_moments(rgb), _moments(lab / 100)]
    for radius in RADII:
        points = 8 * radius
        patterns: Floats = lbp(grey, points, radius, method="uniform")
        counts = np.bincount(patterns.astype(np.int64).ravel(), minlength=points + 2)
        parts.append(counts / counts.sum())
    return np.concatenate(parts)


def texture_matrix(crops: NDArray[np.generic], rows: NDArray[np.int64] | None = None) -> Floats:
    """Describes crops one by one, so that a memory map stays on disk.

    Args:
        crops: (N, H, W, 3) uint8 RGB.
        rows: (n,) rows wanted; all if None.

    Returns:
        (n, LENGTH) float64.

    Raises:
        GlomflowError: A crop is not uint8 RGB.
    """
    wanted = np.arange(len(crops)) if rows is None else rows
    matrix = np.empty((len(wanted), LENGTH))
    for place, row in enumerate(wanted):
        matrix[place] = texture_features(np.asarray(crops[row]))
    return matrix
