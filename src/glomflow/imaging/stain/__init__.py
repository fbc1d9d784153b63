"""Stain profiles of slides, and colours matched from one profile to another.

Three methods are offered. Macenko et al. (2009, ISBI, "A method for normalizing histology slides for
quantitative analysis") finds the optical-density vectors of two stains and matches their amounts.
Reinhard et al. (2001, IEEE CG&A 21(5), "Color transfer between images") matches mean and standard
deviation of each colour channel; here in CIELAB (D65) and over tissue.

Vahadane et al. (2016, IEEE TMI 35(8), "Structure-preserving color normalization and sparse stain
separation for histological images") finds the stain vectors by sparse non-negative factorisation.
Macenko and Vahadane tell two or three stains apart.

Optical density is ``-ln((I + 1) / background)``, natural logarithm, as in the widespread
implementations of Macenko's method, so that their published reference values apply.
"""

from glomflow.imaging.stain.density import estimate_background, optical_density, tissue_mask
from glomflow.imaging.stain.engine import estimate_profile, is_changed, normalise, normalise_image
from glomflow.imaging.stain.lab import rgb_to_lab
from glomflow.imaging.stain.profile import PUBLISHED_BACKGROUND, StainProfile, Vector, check_rgb

__all__ = [
    "PUBLISHED_BACKGROUND",
    "StainProfile",
    "Vector",
    "check_rgb",
    "estimate_background",
    "estimate_profile",
    "is_changed",
    "normalise",
    "normalise_image",
    "optical_density",
    "rgb_to_lab",
    "tissue_mask",
]
