"""Plain numbers that tell a usable image from a poor one; ``docs/quality.md`` explains each of them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from glomflow.config_quality import Quality as Settings
from glomflow.imaging.pixels import Array, as_gray
from glomflow.imaging.quality import im, om, tem
from glomflow.imaging.quality.flags import Finding, judge
from glomflow.imaging.quality.focus import focus, focus_of_unit, noise_sd, unit_gray
from glomflow.imaging.quality.tissue import is_blank, saturated_fraction, tissue, tissue_fraction
from glomflow.imaging.quality.views import Views, resized
from glomflow.imaging.readers.base import area_average

__all__ = [
    "Finding",
    "Quality",
    "Views",
    "focus",
    "is_blank",
    "judge",
    "measure",
    "saturated_fraction",
    "tissue_fraction",
]

FOCUS_PIXELS = 600_000
"""OM and IM: with more pixels than this at the scale of the focus, regions are judged."""
TEM_PIXELS = 4_000_000
"""TEM: the same."""
OVERLAY_PIXELS = 700_000
"""TEM: scale bar and text are looked for on a picture of at most so many pixels."""


@dataclass(frozen=True)
class Quality:
    """What is measured of an image; NaN where it does not apply or cannot be told.

    Attributes:
        focus: Variance of the Laplacian less that of noise; see :func:`focus`.
        focus_um_per_px: Scale that the focus was read at, µm/px; NaN if the image's is not known.
        tissue_fraction: Share of the thumbnail that is not background, 0 to 1.
        saturated_fraction: Share of samples at the ends of the range, 0 to 1; NaN for floating point.
        pen_fraction: OM: share of the image that is inked.
        fold_fraction: OM: share of the image in folds and their shadows.
        signal_to_noise: IM: signal of the best marker over the noise.
        overexposed_fraction: IM: share of pixels clipped, of the marker with most of them.
        bleached_fraction: IM: share of the image in a patch that was exposed before.
        drift: TEM: smear along one direction, 0 to 1.
        contaminated_fraction: TEM: share of the image that is dirt or precipitate.
        blank_fraction: TEM: share of the image that is bright and without structure.
    """

    focus: float
    focus_um_per_px: float
    tissue_fraction: float
    saturated_fraction: float
    pen_fraction: float = math.nan
    fold_fraction: float = math.nan
    signal_to_noise: float = math.nan
    overexposed_fraction: float = math.nan
    bleached_fraction: float = math.nan
    drift: float = math.nan
    contaminated_fraction: float = math.nan
    blank_fraction: float = math.nan


def measure(views: Views, thumbnail: Array, modality: str, um_per_px: float, settings: Settings) -> Quality:
    """Measures the quality of an image.

    Args:
        views: The open image.
        thumbnail: Its thumbnail (h, w, C), of its own type.
        modality: OM, IM or TEM.
        um_per_px: Pixel size, µm/px (for TEM too); NaN if it is not known.
        settings: The scales.

    Returns:
        The measures. Focus is read at the modality's scale, or at the image's own if that is coarser;
        from the thumbnail if the pixel size is not known.

    Raises:
        ImageError: ``unreadable``, if the pixels cannot be decoded.
    """
    box = views.central_box()
    saturated = saturated_fraction(box)
    shown = tissue(thumbnail, modality)
    share = float(shown.mean())
    pictures, scale = [thumbnail], math.nan
    if not math.isnan(um_per_px):
        scale = max(um_per_px, _scale(modality, settings))
        most = TEM_PIXELS if modality == "TEM" else FOCUS_PIXELS
        pictures = views.at_scale(scale / um_per_px, shown.astype(np.float64), most)
    if modality == "OM":
        return Quality(_median_focus(pictures), scale, share, saturated, **_om(views, um_per_px))
    if modality == "IM":
        im_only = {
            "overexposed_fraction": im.overexposed_fraction(box),
            "bleached_fraction": im.bleached_fraction(im.strongest_channel(thumbnail)),
        }
        return _im(pictures, scale, share, saturated, im_only)
    return _tem(pictures, scale, share, saturated)


def _scale(modality: str, settings: Settings) -> float:
    if modality == "TEM":
        return settings.tem_nm_per_px / 1000.0
    return settings.om_um_per_px if modality == "OM" else settings.im_um_per_px


def _median_focus(pictures: list[Array]) -> float:
    return float(np.median([focus(picture) for picture in pictures]))


def _om(views: Views, um_per_px: float) -> dict[str, float]:
    if math.isnan(um_per_px):
        return {}
    overview = views.overview()
    own = um_per_px * views.reader.width / overview.shape[1]
    shrink = max(1.0, om.SCALE / own)
    height, width = (max(1, round(edge / shrink)) for edge in overview.shape[:2])
    od = om.density(resized(overview, width, height))
    marks = om.pen_marks(od)
    return {
        "pen_fraction": float(marks.mean()),
        "fold_fraction": om.fold_fraction(od, own * overview.shape[1] / width, marks),
    }


def _im(
    pictures: list[Array], scale: float, share: float, saturated: float, further: dict[str, float]
) -> Quality:
    planes = [im.strongest_channel(picture) for picture in pictures if min(picture.shape[:2]) >= 3]
    whole = pictures[0].dtype.kind in "ui"
    ratios = [im.signal_to_noise(plane, whole_numbers=whole) for plane in planes]
    # Of noise alone, the focus says nothing; the best exposed region is judged.
    best = int(np.argmax(ratios)) if ratios else 0
    visible = bool(ratios) and ratios[best] >= im.LEAST_SIGNAL
    return Quality(
        focus(planes[best]) if visible else math.nan,
        scale,
        share,
        saturated,
        signal_to_noise=max(ratios, default=math.nan),
        **further,
    )


def _tem(pictures: list[Array], scale: float, share: float, saturated: float) -> Quality:
    grays = [_without_overlay(as_gray(picture)) for picture in pictures]
    units = [unit_gray(gray) for gray in grays]
    # Pictures with an edge below 3 px have no noise to tell, and no measure that would need it.
    noise = [noise_sd(unit) if min(unit.shape) >= 3 else 0.0 for unit in units]
    noisy = list(zip(units, noise, strict=True))
    dirt = [tem.contaminated_fraction(*pair) for pair in zip(units, grays, strict=True)]
    return Quality(
        float(np.median([focus_of_unit(*pair) for pair in noisy])),
        scale,
        share,
        saturated,
        drift=float(np.median([tem.drift(*pair) for pair in noisy])),
        contaminated_fraction=float(np.mean(dirt)),
        blank_fraction=float(np.mean([tem.blank_fraction(*pair) for pair in noisy])),
    )


def _without_overlay(gray: Array) -> Array:
    """Returns the largest part of a micrograph without a scale bar or text; all if none is free."""
    from glomflow.imaging.tem_overlay import Box, free_box, overlay_boxes

    height, width = gray.shape
    shrink = math.ceil(math.sqrt(gray.size / OVERLAY_PIXELS))
    small = area_average(gray[:, :, None], width // shrink, height // shrink)[:, :, 0]
    # A reduced pixel may hide part of an edge, hence the margin of one.
    boxes = (
        overlay_boxes(small)
        if shrink == 1
        else [Box(box.left - 1, box.top - 1, box.right + 1, box.bottom + 1) for box in overlay_boxes(small)]
    )
    across, down = width / small.shape[1], height / small.shape[0]
    blocks = [
        Box(
            max(0, math.floor(box.left * across)),
            max(0, math.floor(box.top * down)),
            min(width, math.ceil(box.right * across)),
            min(height, math.ceil(box.bottom * down)),
        )
        for box in boxes
    ]
    free = free_box(blocks, (height, width))
    if min(free.width, free.height) < min(gray.shape) // 2:
        return gray
    return gray[free.top : free.bottom, free.left : free.right]
