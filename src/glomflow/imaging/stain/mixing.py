"""Colours rebuilt from the amounts of stains, for every method that has stain vectors."""

from __future__ import annotations

import numpy as np

from glomflow.imaging.stain.density import density_table, flat_pixels
from glomflow.imaging.stain.parallel import in_threads
from glomflow.imaging.stain.profile import Array, Bytes, StainProfile
from glomflow.imaging.stain.vectors import amount_weights

LARGEST_LOGARITHM = 200.0
"""Keeps a product of three factors within float64; reached by no colour that a camera records."""


def mixing_matrix(source: StainProfile, target: StainProfile) -> Array:
    """Returns the (3, 3) matrix from optical density to that with the target's vectors and amounts.

    Amounts are the least squares solution; they are scaled so that their 99th percentiles agree.
    """
    scale = np.asarray(target.concentrations) / np.asarray(source.concentrations)
    mix: Array = (amount_weights(np.asarray(source.matrix)).T * scale) @ np.asarray(target.matrix)
    return mix


def level_factors(source: StainProfile, target: StainProfile) -> Array:
    """Returns what each level of each channel contributes to each channel of the result.

    The exponential of a sum over channels is a product of factors, of which there are 256 per channel:
    no pixel needs an exponential.

    Returns:
        (3, 3, 256) float64: result channel, source channel, level. The product over source channels is
        the result plus 1, unrounded.
    """
    logarithms = density_table(source.background)[:, :, None] * -mixing_matrix(source, target)[:, None, :]
    np.maximum(logarithms, -LARGEST_LOGARITHM, out=logarithms)
    np.minimum(logarithms, LARGEST_LOGARITHM, out=logarithms)
    factors: Array = np.exp(logarithms, out=logarithms)
    factors[0] *= np.asarray(target.background)
    return factors.transpose(2, 0, 1)


def apply_vectors(
    rgb: Bytes, source: StainProfile, target: StainProfile, threads: int | None = None
) -> Bytes:
    """Recolours images between two profiles with stain vectors.

    Args:
        rgb: (..., 3) uint8.
        source: Profile of the slide.
        target: Profile to match.
        threads: Number of threads; the process's allowance by default.

    Returns:
        uint8 of the same shape.
    """
    from glomflow.imaging.stain.kernels import PART, rebuild

    pixels = flat_pixels(rgb)
    factors = np.ones((3, 256, 4))
    factors[:, :, :3] = level_factors(source, target).transpose(1, 2, 0)
    result = np.empty(pixels.shape, np.uint8)
    size = pixels.shape[0]

    def work(worker: int, first: int, last: int) -> None:
        rebuild(pixels, first * PART, min(last * PART, size), factors, result)

    in_threads(work, -(-size // PART), threads)
    return result.reshape(rgb.shape)
