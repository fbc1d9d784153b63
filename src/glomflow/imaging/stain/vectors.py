"""Stain vectors from the statistics of tissue's optical density, by Macenko et al. (2009)."""

from __future__ import annotations

from itertools import combinations, permutations

import numpy as np

from glomflow.errors import GlomflowError
from glomflow.imaging.stain.profile import Array, Vector

CONDITION_LIMIT = 20.0
LEAST_VARIANCE = 5e-4
"""Least variance of optical density along the last axis that stains need; sensor noise stays below."""
SAMPLE = 50_000
"""Most tissue pixels, evenly spaced, that three stains or a dictionary are found from."""
DIRECTIONS = 72
"""Directions in which the extreme colours are sought, for three stains."""


def check_stains(stains: int, initial: tuple[Vector, ...] | None) -> None:
    """Checks the number of stains and the vectors to match them to.

    Raises:
        GlomflowError: The number is not 2 or 3, or ``initial`` has another number of vectors.
    """
    if stains not in (2, 3):
        raise GlomflowError(f"stains can be told apart for 2 or 3 stains, not {stains}; set stains to 2 or 3")
    if initial is not None and np.shape(initial) != (stains, 3):
        raise GlomflowError(
            f"initial stain vectors have shape {np.shape(initial)}, ({stains}, 3) is expected; "
            "give one vector of R, G, B optical density per stain"
        )


def principal_axes(moments: Array, stains: int) -> tuple[Array, str]:
    """Returns the axes that angles are measured between, and a flag.

    Args:
        moments: (10) of tissue's optical density: count, sums of R, G, B, sums of RR, RG, RB, GG, GB, BB.
        stains: Number of stains.

    Returns:
        (3, 2): the plane of the first two principal axes; the first column is the mean colour's
        projection, so that angles never wrap around at 180 degrees. A flag if tissue shows fewer
        colours than stains.
    """
    count = moments[0]
    mean = moments[1:4] / count
    products = moments[[4, 5, 6, 5, 7, 8, 6, 8, 9]].reshape(3, 3)
    covariance = (products - count * np.outer(mean, mean)) / max(1.0, count - 1.0)
    variances, axes = np.linalg.eigh(covariance)
    if not variances[1] >= LEAST_VARIANCE:
        return np.zeros((3, 2)), "tissue has one colour only; two stains cannot be told apart"
    if stains == 3 and not variances[0] >= LEAST_VARIANCE:
        return np.zeros((3, 2)), "tissue has two colours only; three stains cannot be told apart"
    plane = axes[:, 1:]
    forward = plane.T @ mean
    forward /= np.hypot(*forward)
    basis: Array = plane @ np.array([forward, [-forward[1], forward[0]]]).T
    return basis, ""


def amount_weights(matrix: Array) -> Array:
    """Returns the weights, (stains, 3), whose sums of optical density are amounts by least squares.

    Args:
        matrix: (stains, 3) stain vectors.
    """
    try:
        # The transposed pseudo-inverse of rows that are independent, as those of a profile are.
        weights: Array = np.linalg.solve(matrix @ matrix.T, matrix)
    except np.linalg.LinAlgError:
        weights = np.linalg.pinv(matrix).T
    return weights


def vectors_at(angles: Array, axes: Array) -> Array:
    """Returns the stain vectors, (2, 3), at two angles of the plane of ``axes``, (3, 2)."""
    return np.stack([np.cos(angles), np.sin(angles)], axis=1) @ axes.T


def extreme_vectors(density: Array, percentile: float) -> Array:
    """Returns three stain vectors that span tissue's colours.

    Macenko's two vectors are robust ends of the arc of colours. Three are the corners of a triangle:
    on the plane R + G + B = 1 of optical density, where mixtures of three stains fill a triangle, the
    mean of the colours beyond the percentile is taken in each of 72 directions, and of these points
    the three that span the largest triangle (Winter 1999, SPIE 3753, N-FINDR, made robust).

    Args:
        density: (N, 3) optical density of tissue.
        percentile: Percentile that counts as extreme.

    Returns:
        (3, 3), of unit length.
    """
    chroma = density / density.sum(axis=1, keepdims=True)
    across = np.array([[1.0, -1.0, 0.0], [1.0, 1.0, -2.0]]) / np.sqrt([[2.0], [6.0]])
    flat = chroma @ across.T
    turns = 2.0 * np.pi * np.arange(DIRECTIONS) / DIRECTIONS
    points = []
    for direction in np.stack([np.cos(turns), np.sin(turns)], axis=1):
        reach = flat @ direction
        points.append(chroma[reach >= np.percentile(reach, 100.0 - percentile)].mean(axis=0))
    corners = np.array(points)
    triples = np.array(list(combinations(range(DIRECTIONS), 3)))
    first, second, third = (corners[triples[:, corner]] @ across.T for corner in range(3))
    one, other = second - first, third - first
    area = np.abs(one[:, 0] * other[:, 1] - one[:, 1] * other[:, 0])
    vectors = corners[triples[np.argmax(area)]]
    unit: Array = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return unit


def ordered(matrix: Array, initial: tuple[Vector, ...] | None) -> tuple[Array, str]:
    """Orders stain vectors, and flags those that are nearly collinear.

    Two are ordered by the red light that they take, of which haematoxylin takes more; three by their
    cosines with ``initial``, or also by red light.

    Args:
        matrix: (2 or 3, 3) stain vectors.
        initial: As many vectors, to match three to.
    """
    stains = matrix.shape[0]
    if stains == 3 and initial is not None:
        wanted = np.asarray(initial, dtype=float)
        wanted = wanted / np.linalg.norm(wanted, axis=1, keepdims=True)
        cosines = wanted @ matrix.T
        order = max(permutations(range(3)), key=lambda chosen: sum(cosines[range(3), list(chosen)]))
        matrix = matrix[list(order)]
    else:
        matrix = matrix[np.argsort(-matrix[:, 0], kind="stable")]
    condition = float(np.linalg.cond(matrix)) if np.isfinite(matrix).all() else np.inf
    if not condition <= CONDITION_LIMIT:
        return matrix, f"stain vectors are collinear (condition number {condition:.0f})"
    return matrix, ""


def spaced(count: int, most: int = SAMPLE) -> Array:
    """Returns at most ``most`` of the indices 0 to ``count`` - 1, evenly spaced."""
    if count <= most:
        return np.arange(count)
    return np.arange(most, dtype=np.int64) * count // most
