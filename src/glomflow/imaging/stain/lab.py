"""CIELAB (D65): constants and conversion."""

from __future__ import annotations

import numpy as np

from glomflow.imaging.stain.profile import Array, Bytes, Floats

TO_XYZ = np.array(
    [
        [0.4124564, 0.3575761, 0.1804375],
        [0.2126729, 0.7151522, 0.0721750],
        [0.0193339, 0.1191920, 0.9503041],
    ]
)
"""Linear sRGB to CIE XYZ (IEC 61966-2-1, D65)."""
XYZ_OF_WHITE = TO_XYZ.sum(axis=1)
TO_RELATIVE = TO_XYZ / XYZ_OF_WHITE[:, None]
"""Linear sRGB to X / Xn, Y / Yn, Z / Zn."""
FROM_RELATIVE = np.linalg.inv(TO_RELATIVE)
LAB_OF_ROOTS = np.array([[0.0, 116.0, 0.0], [500.0, -500.0, 0.0], [0.0, 200.0, -200.0]])
"""L* + 16, a*, b* of the cube roots of X, Y, Z (CIE 15)."""
ROOTS_OF_LAB = np.linalg.inv(LAB_OF_ROOTS)
EPSILON = 216.0 / 24389.0
KAPPA = 24389.0 / 27.0


def linear_table() -> Array:
    """Returns the linear intensity, 0 to 1, of each sRGB level, (256)."""
    levels = np.arange(256) / 255.0
    return np.where(levels <= 0.04045, levels / 12.92, ((levels + 0.055) / 1.055) ** 2.4)


def rgb_to_lab(rgb: Bytes) -> Floats:
    """Converts sRGB to CIELAB (D65).

    Args:
        rgb: (..., 3) uint8.

    Returns:
        (..., 3) float32: L* 0 to 100, a*, b*.
    """
    xyz = linear_table().astype(np.float32)[rgb] @ TO_RELATIVE.T.astype(np.float32)
    foot = (xyz * np.float32(KAPPA) + np.float32(16.0)) / np.float32(116.0)
    lab: Floats = np.where(xyz > EPSILON, np.cbrt(xyz), foot) @ LAB_OF_ROOTS.T.astype(np.float32)
    lab[..., 0] -= 16.0
    return lab
