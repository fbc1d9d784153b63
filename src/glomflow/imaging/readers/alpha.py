"""Transparency, which images of tissue have no use for."""

from __future__ import annotations

import numpy as np

from glomflow.imaging.pixels import Array


def over_white(samples: Array, alpha: Array, *, associated: bool = False) -> Array:
    """Lays partly transparent samples over white.

    Args:
        samples: (h, w, C), any type.
        alpha: (h, w) of the same type, its highest value (1 for floating point) opaque.
        associated: Whether the samples were multiplied by alpha already.

    Returns:
        (h, w, C) of the same type.
    """
    top = np.iinfo(alpha.dtype).max if alpha.dtype.kind in "ui" else 1
    if (alpha == top).all():
        return samples
    share = alpha.astype(np.float64)[:, :, None] / top
    # Absurd floating-point samples become infinite or NaN, which readers refuse.
    with np.errstate(over="ignore", invalid="ignore"):
        mixed = samples * (1.0 if associated else share) + (1.0 - share) * top
        if samples.dtype.kind in "ui":
            # The highest number of 64 bits lies between two floats; the upper one would overflow.
            mixed = np.clip(np.rint(mixed), 0, np.nextafter(float(top), 0.0) if alpha.itemsize == 8 else top)
        return mixed.astype(samples.dtype)
