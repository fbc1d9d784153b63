"""What a stain profile holds, and the pixels that can have one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from glomflow.errors import GlomflowError

Array = npt.NDArray[Any]
Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
Vector = tuple[float, ...]
Method = Literal["macenko", "vahadane", "reinhard", "none"]

PUBLISHED_BACKGROUND: Vector = (240.0, 240.0, 240.0)
"""White level of the published Macenko reference; taken where an image shows too little glass."""


@dataclass(frozen=True)
class StainProfile:
    """The colours of a slide, or the colours to match.

    Attributes:
        method: ``macenko``, ``vahadane``, ``reinhard`` or ``none``.
        slide: Slide identifier, or the name of a target.
        matrix: Two or three stain vectors (rows), unit optical density of R, G, B. Of two, haematoxylin
            comes first.
        concentrations: 99th percentile of each stain's concentration over tissue.
        lab_mean: Mean of L*, a*, b* over tissue.
        lab_std: Standard deviation of L*, a*, b* over tissue.
        background: White level of R, G, B, 0 to 255.
        tissue_pixels: Pixels that the profile rests on.
        flag: Empty if the profile can be used; else why images pass through unchanged.
    """

    method: Method
    slide: str = ""
    matrix: tuple[Vector, ...] | None = None
    concentrations: Vector | None = None
    lab_mean: Vector | None = None
    lab_std: Vector | None = None
    background: Vector = PUBLISHED_BACKGROUND
    tissue_pixels: int = 0
    flag: str = ""

    @property
    def stains(self) -> int:
        """Number of stain vectors; 0 if the profile has none."""
        return len(self.matrix) if self.matrix else 0


def check_rgb(rgb: Array) -> Bytes:
    """Returns ``rgb`` if it is 8-bit colour.

    Raises:
        GlomflowError: The array is not uint8 or its last axis is not R, G, B.
    """
    if rgb.dtype != np.uint8 or rgb.ndim < 2 or rgb.shape[-1] != 3:
        raise GlomflowError(
            f"stain normalisation expects 8-bit RGB, uint8 of shape (..., 3), not {rgb.dtype} of shape "
            f"{rgb.shape}; drop an alpha channel and convert with glomflow.imaging.pixels.as_rgb_uint8"
        )
    return rgb
