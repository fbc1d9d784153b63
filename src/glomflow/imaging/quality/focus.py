"""Focus: the variance of the Laplacian at a stated scale, less what noise contributes to it."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from glomflow.imaging.pixels import as_gray, percentiles, robust_limits

Array = npt.NDArray[Any]

NOISE_SHARE = 1.05
"""Noise is taken off with this surplus, which covers the error of its estimate."""
_SAMPLES = 60_000
_COMPILED_TYPES = frozenset(map(np.dtype, (np.uint8, np.uint16, np.float32, np.float64)))
_NORMAL_MEDIAN = 0.6744898
"""Median of the absolute value of a standard normal variable."""


def unit_gray(picture: Array) -> npt.NDArray[np.float32]:
    """Returns a grey picture, its 0.5th percentile 0 and its 99.5th 1; all 0 where it has no contrast.

    Args:
        picture: (h, w) or (h, w, C), any type.
    """
    from glomflow.imaging.pixel_kernels import read_only
    from glomflow.imaging.quality.kernels import scaled

    gray = as_gray(picture)
    if gray.dtype.kind == "f" and not np.isfinite(gray).all():
        gray = np.nan_to_num(gray, nan=0.0, posinf=0.0, neginf=0.0)
    elif gray.dtype not in _COMPILED_TYPES:
        gray = gray.astype(np.float64)
    gray = np.ascontiguousarray(gray)
    low, high = robust_limits(thinned(gray))
    if not high > low:
        low, high = float(gray.min()), float(gray.max())
    if not high > low:
        return np.zeros(gray.shape, np.float32)
    unit = np.empty(gray.shape, np.float32)
    scaled(read_only(gray).reshape(-1), low, high, unit.reshape(-1))
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


def focus_of_unit(unit: npt.NDArray[np.float32], noise: float | None = None) -> float:
    """Returns the focus of a grey picture that is scaled already; see :func:`focus`.

    Args:
        unit: (h, w) on a scale of 0 to 1.
        noise: What :func:`noise_sd` tells of it, if that is known.
    """
    from glomflow.imaging.pixel_kernels import read_only
    from glomflow.imaging.quality.kernels import laplacian_variance

    if min(unit.shape) < 3:
        return 0.0
    noise = noise_sd(unit) if noise is None else noise
    return max(0.0, float(laplacian_variance(read_only(unit))) - NOISE_SHARE * 20.0 * noise**2)


def noise_sd(plane: npt.NDArray[np.float32]) -> float:
    """Returns the standard deviation of white noise in a picture (h, w) (after Immerkaer 1996).

    The kernel, a second difference along both axes, has no response to planes and straight edges;
    the median of its absolute value ignores the few places that are left. Large pictures are sampled.

    Args:
        plane: (h, w), at least 3 x 3 px.
    """
    from glomflow.imaging.pixel_kernels import read_only
    from glomflow.imaging.quality.kernels import noise_responses

    places = (plane.shape[0] - 2) * (plane.shape[1] - 2)
    stride = stride_of(places)
    responses = np.empty(-(-places // stride), np.float32)
    noise_responses(read_only(plane), stride, responses)
    return percentiles(responses, (50.0,))[0] / _NORMAL_MEDIAN / 6.0


def stride_of(size: int) -> int:
    """Returns the stride at which an array of a size is sampled."""
    # An odd stride does not fall into step with the even widths of images.
    return (size // _SAMPLES) | 1


def thinned(values: Array) -> Array:
    """Returns samples of an array at a fixed stride, enough for its percentiles, (n,)."""
    flat = values.reshape(-1)
    return flat[:: stride_of(flat.size)]


def in_windows(plane: npt.NDArray[np.float32], window: int) -> tuple[Array, Array]:
    """Returns mean and variance within a square window around each pixel; edges are repeated.

    Args:
        plane: (h, w).
        window: Edge of the window, px, odd.

    Returns:
        Two (h, w) float32 arrays.
    """
    from glomflow.imaging.pixel_kernels import read_only
    from glomflow.imaging.quality.kernels import window_statistics

    mean, variance = np.empty(plane.shape, np.float32), np.empty(plane.shape, np.float32)
    window_statistics(read_only(plane), window, mean, variance)
    return mean, variance
