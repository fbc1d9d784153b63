"""The phantom's three sites: what changes with the laboratory and says nothing of the disease."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Site:
    """How one laboratory stains, focuses and digitises.

    Attributes:
        name: Site name as written to the sheets.
        om_um_per_px: Pixel size of light microscopy, µm/px.
        im_um_per_px: Pixel size of immunofluorescence, µm/px.
        tem_nm_per_px: Pixel size of electron microscopy, nm/px.
        stain_matrix: Optical density of R, G, B per unit of haematoxylin and of PAS.
        om_blur: Standard deviation of the focus blur, µm.
        om_noise: Standard deviation of the camera noise, grey levels of 255.
        im_background: Autofluorescence, share of the 16-bit range.
        im_blur: Standard deviation of the focus blur, µm.
        tem_blur: Standard deviation of the focus blur, nm.
        tem_noise: Standard deviation of the grain, share of the 16-bit range.
        tem_range: Darkest and brightest tissue, share of the 16-bit range.
        strip_px: Height of the burnt-in information strip of a micrograph, px.
        strip_dark: Whether that strip is white on black instead of black on white.
        bar_nm: Length of the scale bar, nm.
    """

    name: str
    om_um_per_px: float
    im_um_per_px: float
    tem_nm_per_px: float
    stain_matrix: tuple[tuple[float, float, float], tuple[float, float, float]]
    om_blur: float
    om_noise: float
    im_background: float
    im_blur: float
    tem_blur: float
    tem_noise: float
    tem_range: tuple[float, float]
    strip_px: int
    strip_dark: bool
    bar_nm: int


SITES = (
    Site(
        name="site_a",
        om_um_per_px=0.88,
        im_um_per_px=0.48,
        tem_nm_per_px=8.0,
        stain_matrix=((1.00, 0.92, 0.42), (0.22, 0.98, 0.50)),
        om_blur=0.45,
        om_noise=1.6,
        im_background=0.020,
        im_blur=0.55,
        tem_blur=7.0,
        tem_noise=0.026,
        tem_range=(0.08, 0.88),
        strip_px=44,
        strip_dark=False,
        bar_nm=1000,
    ),
    Site(
        name="site_b",
        om_um_per_px=1.00,
        im_um_per_px=0.52,
        tem_nm_per_px=9.0,
        stain_matrix=((0.86, 0.96, 0.34), (0.34, 0.94, 0.40)),
        om_blur=0.65,
        om_noise=2.2,
        im_background=0.032,
        im_blur=0.75,
        tem_blur=11.0,
        tem_noise=0.020,
        tem_range=(0.12, 0.82),
        strip_px=40,
        strip_dark=True,
        bar_nm=1000,
    ),
    Site(
        name="site_c",
        om_um_per_px=0.94,
        im_um_per_px=0.50,
        tem_nm_per_px=10.0,
        stain_matrix=((0.92, 0.80, 0.50), (0.16, 0.90, 0.58)),
        om_blur=0.55,
        om_noise=2.6,
        im_background=0.026,
        im_blur=0.65,
        tem_blur=9.0,
        tem_noise=0.032,
        tem_range=(0.05, 0.92),
        strip_px=36,
        strip_dark=False,
        bar_nm=500,
    ),
)
"""The sites, in the order that patients are dealt to them."""


def site_named(name: str) -> Site:
    """Returns the site of that name.

    Raises:
        KeyError: There is none.
    """
    return {site.name: site for site in SITES}[name]
