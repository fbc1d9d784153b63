"""Measures of a map: where it points, what it holds, how it differs from another."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from glomflow.evaluation.metrics import Floats

Mask = NDArray[np.bool_]


def upsampled(values: Floats, shape: tuple[int, int]) -> Floats:
    """Enlarges a map to the pixels of its crop, bilinearly between the centres of its cells.

    Args:
        values: (h, w).
        shape: Rows and columns of the crop.

    Returns:
        (H, W); beyond the outer centres the outer values go on.
    """
    rows, columns = (_weights(small, large) for small, large in zip(values.shape, shape, strict=True))
    enlarged: Floats = rows @ values @ columns.T
    return enlarged


def _weights(small: int, large: int) -> Floats:
    places = np.clip((np.arange(large) + 0.5) * small / large - 0.5, 0, small - 1)
    below = np.minimum(places.astype(np.int64), max(small - 2, 0))
    share = places - below
    weights = np.zeros((large, small))
    weights[np.arange(large), below] = 1 - share
    weights[np.arange(large), np.minimum(below + 1, small - 1)] += share
    return weights


def widened(mask: Mask, tolerance: float) -> Mask:
    """Returns a mask with all that lies within ``tolerance`` px of it."""
    from scipy.ndimage import distance_transform_edt

    if tolerance <= 0 or not mask.any():
        return mask
    near: Mask = distance_transform_edt(~mask) <= tolerance
    return near


def pointing(values: Floats, mask: Mask) -> float:
    """Returns whether the highest place of a map lies in a mask (pointing game, Zhang 2018).

    Args:
        values: (H, W).
        mask: (H, W), widened by the tolerance.

    Returns:
        1 or 0; where several places are equally high, the share of them that lies in the mask. A flat map
        thus gets the share of the area.
    """
    highest = values >= values.max() - 1e-12
    return float(mask[highest].mean())


def energy_share(values: Floats, mask: Mask) -> float:
    """Returns the share of a map's positive part that lies in a mask (Wang 2020).

    Args:
        values: (H, W).
        mask: (H, W).

    Returns:
        0 to 1; for a map without a positive part the share of the area.
    """
    positive = np.maximum(values, 0)
    total = float(positive.sum())
    return float(positive[mask].sum()) / total if total > 0 else float(mask.mean())


def area_under(shares: Floats, probabilities: Floats) -> float:
    """Returns the area under a curve by the trapezoidal rule; ``shares`` run from 0 to 1."""
    return float(np.trapezoid(probabilities, shares))


def rank_correlation(first: Floats, second: Floats) -> float:
    """Returns Spearman's rank correlation, ties with their mean rank; NaN where a map is flat."""
    from scipy.stats import rankdata

    if np.ptp(first) == 0 or np.ptp(second) == 0:
        return float("nan")
    return float(np.corrcoef(rankdata(first.ravel()), rankdata(second.ravel()))[0, 1])


def similarity(first: Floats, second: Floats) -> float:
    """Returns the structural similarity of two maps, each scaled to a maximum of 1 (Wang 2004).

    The whole map is one window: a map has few cells.

    Args:
        first: (h, w).
        second: (h, w).

    Returns:
        -1 to 1; NaN where a map is zero.
    """
    tops = [float(np.abs(values).max()) for values in (first, second)]
    if min(tops) == 0:
        return float("nan")
    a, b = first / tops[0], second / tops[1]
    brightness = (2 * a.mean() * b.mean() + 1e-4) / (a.mean() ** 2 + b.mean() ** 2 + 1e-4)
    covariance = float(((a - a.mean()) * (b - b.mean())).mean())
    return float(brightness * (2 * covariance + 9e-4) / (a.var() + b.var() + 9e-4))
