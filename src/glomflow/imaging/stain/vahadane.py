"""Stain vectors by sparse non-negative matrix factorisation, by Vahadane et al. (2016).

IEEE Transactions on Medical Imaging 35(8), "Structure-preserving color normalization and sparse stain
separation for histological images": optical density is written as non-negative amounts of
non-negative stain vectors of unit length, amounts being penalised by their sum.
"""

from __future__ import annotations

import numpy as np

from glomflow.imaging.stain.profile import Array, Vector

SPARSITY = 0.1
"""Weight of the sum of amounts, as in the paper's published code."""
ROUNDS = 200
"""Most alternations between amounts and vectors."""
SWEEPS = 3
"""Passes of coordinate descent over the amounts in each alternation."""
TOLERANCE = 1e-6
"""Largest change of a vector's component at which the search ends."""
START: tuple[Vector, ...] = ((0.65, 0.70, 0.29), (0.07, 0.99, 0.11), (0.27, 0.57, 0.78))
"""Where the search starts: the first vectors of Ruifrok and Johnston (2001)."""


def dictionary_vectors(density: Array, stains: int, initial: tuple[Vector, ...] | None) -> Array:
    """Returns the stain vectors of tissue by dictionary learning.

    Minimises ``sum(|v - h W|² / 2 + 0.1 sum(h))`` over amounts ``h >= 0`` and vectors ``W >= 0`` of unit
    length, by coordinate descent over both in turn (Mairal et al. 2010, JMLR 11). Starts from
    fixed vectors and uses no random numbers.

    Args:
        density: (N, 3) optical density of tissue.
        stains: Number of stains, 2 or 3.
        initial: Vectors to start from; those of Ruifrok and Johnston by default.

    Returns:
        (stains, 3), of unit length; a vector that no pixel uses stays where it started.
    """
    vectors: Array = np.clip(
        np.asarray(initial if initial is not None else START[:stains], dtype=float), 1e-3, None
    )
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    amounts = np.zeros((stains, density.shape[0]))
    columns = np.ascontiguousarray(density.T, dtype=np.float64)
    for _ in range(ROUNDS):
        before = vectors.copy()
        _update_amounts(amounts, columns, vectors)
        _update_vectors(vectors, amounts @ amounts.T, amounts @ columns.T)
        if np.abs(vectors - before).max() < TOLERANCE:
            break
    return vectors


def _update_amounts(amounts: Array, columns: Array, vectors: Array) -> None:
    gram = vectors @ vectors.T
    wanted = vectors @ columns - SPARSITY
    for _ in range(SWEEPS):
        for stain in range(len(vectors)):
            rest = gram[stain] @ amounts - gram[stain, stain] * amounts[stain]
            np.maximum((wanted[stain] - rest) / gram[stain, stain], 0.0, out=amounts[stain])


def _update_vectors(vectors: Array, among: Array, onto: Array) -> None:
    for stain in range(len(vectors)):
        if among[stain, stain] <= 0.0:
            continue
        moved = vectors[stain] + (onto[stain] - among[stain] @ vectors) / among[stain, stain]
        moved = np.maximum(moved, 0.0)
        length = np.linalg.norm(moved)
        if length > 0.0:
            vectors[stain] = moved / length
