"""Profiles that bring images to one white level and leave everything else as it is.

For stains that a sum of dyes does not describe. Silver is the case in point: the black of argyrophilic
fibres is metal, which blocks light of every colour without obeying Beer and Lambert's law, so that the
plane of two stain vectors cannot hold the colours of a silver slide. Dividing the light of each channel by
that of the slide's glass corrects lamp and exposure, and cannot change one tissue colour into another.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from glomflow.config import Stain
from glomflow.imaging.stain import (
    PUBLISHED_BACKGROUND,
    StainProfile,
    Vector,
    estimate_background,
    tissue_mask,
)
from glomflow.imaging.stain.density import GLASS_LEVEL, GLASS_SHARE, GLASS_SPREAD
from glomflow.imaging.stain.profile import Method

Bytes = npt.NDArray[np.uint8]

NO_MIXING: tuple[Vector, ...] = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))
"""Three 'stains' that are red, green and blue themselves: optical densities are left as they are."""
_AS_THEY_ARE: Vector = (1.0, 1.0, 1.0)


def white_profile(pixels: Bytes, settings: Stain, slide: str = "") -> StainProfile:
    """Estimates a profile that holds a slide's white level only.

    Args:
        pixels: (N, 3) uint8 or (H, W, 3) uint8.
        settings: Method and tissue threshold.
        slide: Slide identifier to carry along.

    Returns:
        The profile; flagged if the image shows too little glass to tell its white level.
    """
    flat = pixels.reshape(-1, 3)
    lowest, highest = flat.min(axis=1), flat.max(axis=1)
    glass = (lowest >= GLASS_LEVEL) & (highest - lowest <= GLASS_SPREAD)
    white = estimate_background(flat)
    told = bool(glass.sum() >= max(1.0, GLASS_SHARE * len(flat)))
    return StainProfile(
        _method(settings),
        slide,
        matrix=NO_MIXING if told else None,
        concentrations=_AS_THEY_ARE if told else None,
        background=white,
        tissue_pixels=int(tissue_mask(flat, white, settings.tissue_od).sum()),
        flag="" if told else "too little glass to tell the white level",
    )


def standard_white(stain: str, settings: Stain) -> StainProfile:
    """Returns the target of stains that are only brought to one white level: the published 240."""
    return StainProfile(
        _method(settings),
        f"white level {stain}",
        matrix=NO_MIXING,
        concentrations=_AS_THEY_ARE,
        background=PUBLISHED_BACKGROUND,
    )


def _method(settings: Stain) -> Method:
    """Returns the method that applies the profile: Reinhard's knows no white level."""
    return "macenko" if settings.method == "reinhard" else settings.method
