"""The section ``imaging.quality`` of the configuration."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from glomflow.config_base import Fraction, Positive, Section

Flag = Literal[
    "blurred",
    "little_tissue",
    "saturated",
    "pen",
    "fold",
    "underexposed",
    "overexposed",
    "bleached",
    "drift",
    "contaminated",
    "blank_area",
]


class Quality(Section):
    """Thresholds below or above which an image is flagged as poor.

    A flag is told in the inventory and the report; it leaves an image out only if ``exclude`` names it.
    """

    om_um_per_px: Positive = Field(1.0, description="Scale that the focus of OM images is read at, µm/px.")
    im_um_per_px: Positive = Field(1.0, description="Scale that IM images are judged at, µm/px.")
    tem_nm_per_px: Positive = Field(20.0, description="Scale that TEM images are judged at, nm/px.")
    min_focus_om: float = Field(0.003, ge=0.0, description="`blurred`: OM images of less focus than this.")
    min_focus_im: float = Field(0.0005, ge=0.0, description="`blurred`: IM images of less focus than this.")
    min_focus_tem: float = Field(0.002, ge=0.0, description="`blurred`: TEM images of less focus than this.")
    min_tissue: Fraction = Field(
        0.01, description="`little_tissue`: OM and TEM images with a smaller share of tissue."
    )
    max_saturated: Fraction = Field(
        0.5, description="`saturated`: OM and TEM images with a larger share of samples at the range's ends."
    )
    max_pen: Fraction = Field(0.002, description="`pen`: OM images with more of their area inked.")
    max_fold: Fraction = Field(0.01, description="`fold`: OM images with more of their area in folds.")
    min_signal_to_noise: float = Field(
        5.0,
        ge=0.0,
        description="`underexposed`: IM images whose best marker rises less above the background, in "
        "standard deviations of the noise. A negative marker looks the same.",
    )
    max_overexposed: Fraction = Field(
        0.02,
        description="`overexposed`: IM images with a marker that is clipped in a larger share of pixels.",
    )
    max_bleached: Fraction = Field(
        0.05, description="`bleached`: IM images with a larger share in a patch that was exposed before."
    )
    max_drift: Fraction = Field(
        0.1, description="`drift`: TEM images smeared along one direction beyond this, 0 to 1."
    )
    max_contaminated: Fraction = Field(
        0.01, description="`contaminated`: TEM images with a larger share of dirt or precipitate."
    )
    max_blank: Fraction = Field(
        0.7, description="`blank_area`: TEM images with a larger share that is bright and empty."
    )
    exclude: list[Flag] = Field(
        [], description="Flags that leave an image out, with status `poor_quality`; by default none does."
    )
