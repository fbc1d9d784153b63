"""Focus: the variance of the Laplacian at a stated scale, less what noise contributes to it."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from glomflow.imaging.pixels import as_gray, robust_limits

Array = npt.NDArray[Any]

NOISE_SHARE = 1.05
"""Noise is taken off with this surplus, which covers the error of its estimate."""
_SAMPLES = 60_000
_NORMAL_MEDIAN = 0.6744898
"""Median of the absolute value of a standard normal variable."""


def unit_gray(picture: Array) -> npt.NDArray[np.float32]:
    """Returns a grey picture, its 0.5th percentile 0 and its 99.5th 1; all 0 where it has no contrast.

    Args:
        picture: (h, w) or (h, w, C), any type.
    """
    gray = np.nan_to_num(as_gray(picture).astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    low, high = robust_limits(thinned(gray))
    if not high > low:
        low, high = float(gray.min()), float(gray.max())
    if not high > low:
        return np.zeros(gray.shape, np.float32)
    unit: npt.NDArray[np.float32] = np.clip((gray - low) / (high - low), 0.0, 1.0).astype(np.float32)
    return unit


def focus(picture: Array) -> float:
    """Returns the variance of the Laplacian (Pech-Pacheco 2000) less that of noise.

    The grey picture is scaled so that its 0.5th and 99.5th percentile are 0 and 1, which makes 8-bit
    and 16-bit images comparable; the Laplacian has the 4-neighbour kernel. White noise of variance s²
    adds 20 s² to its variance; s is estimated with the kernel of Immerkaer (1996), by the median
    absolute response, which edges do not move. Pictures are comparable only at one scale.

    Args:
        picture: (h, w) or (h, w, C), any type.

    Returns:
        The focus, at least 0; 0 for a picture smaller than 3 x 3 px.
    """
    return focus_of_unit(unit_gray(picture))


def focus_of_unit(unit: npt.NDArray[np.float32]) -> float:
    """Returns the focus of a grey picture that is scaled already; see :func:`focus`."""
    if min(unit.shape) < 3:
        return 0.0
    down, across = _second_difference(unit), _second_difference(unit.T).T
    laplacian = down[:, 1:-1] + across[1:-1]
    noise = noise_sd(unit)
    return max(0.0, float(laplacian.var(dtype=np.float64)) - NOISE_SHARE * 20.0 * noise**2)


def noise_sd(plane: npt.NDArray[np.float32]) -> float:
    """Returns the standard deviation of white noise in a picture (h, w) (after Immerkaer 1996).

    The kernel, a second difference along both axes, has no response to planes and straight edges;
    the median of its absolute value ignores the few places that are left.

    Args:
        plane: (h, w), at least 3 x 3 px.
    """
    response = thinned(_second_difference(_second_difference(plane).T))
    return float(np.median(np.abs(response))) / _NORMAL_MEDIAN / 6.0


def thinned(values: Array) -> Array:
    """Returns samples of an array at a fixed stride, enough for its percentiles, (n,)."""
    flat = values.reshape(-1)
    # An odd stride does not fall into step with the even widths of images.
    return flat[:: (flat.size // _SAMPLES) | 1]


def _second_difference(plane: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    difference: npt.NDArray[np.float32] = 2.0 * plane[1:-1] - plane[:-2] - plane[2:]
    return difference
