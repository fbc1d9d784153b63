"""Plain numbers that tell a usable image from a poor one: focus, tissue, saturation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from glomflow.imaging.pixels import as_gray, robust_limits
from glomflow.imaging.readers import ImageReader

Array = npt.NDArray[Any]

TISSUE_OD = 0.15
"""OM: mean optical density, -ln(I / 255), above which a pixel is tissue (as in Macenko 2009)."""
SIGNAL_SHARE = 0.02
"""IM: least share of the type's range that counts as signal, whatever the histogram says."""
FLAT_SD = 0.02
"""TEM: standard deviation, on the 0 to 1 scale of the image, below which surroundings are blank."""
FLAT_WINDOW = 7
SATURATION_BOX = 1024
"""Edge of the central box that saturation is counted in, px at full resolution."""


@dataclass(frozen=True)
class Quality:
    """What is measured of an image.

    Attributes:
        focus: Variance of the Laplacian of the thumbnail; see :func:`focus`.
        tissue_fraction: Share of the thumbnail that is not background, 0 to 1.
        saturated_fraction: Share of samples at the ends of the range, 0 to 1; NaN for floating point.
    """

    focus: float
    tissue_fraction: float
    saturated_fraction: float


def measure(reader: ImageReader, thumbnail: Array, modality: str) -> Quality:
    """Measures the quality of an image.

    Args:
        reader: The open image.
        thumbnail: Its thumbnail (h, w, C), of its own type.
        modality: OM, IM or TEM.

    Returns:
        The measures.

    Raises:
        ImageError: ``unreadable``, if the central box cannot be decoded.
    """
    return Quality(focus(thumbnail), tissue_fraction(thumbnail, modality), saturated_fraction(reader))


def is_blank(thumbnail: Array) -> bool:
    """Returns whether every channel of a picture (h, w, C) has one value throughout."""
    first = thumbnail[:1, :1]
    same = thumbnail == first
    if thumbnail.dtype.kind == "f":
        same |= np.isnan(thumbnail) & np.isnan(first)
    return bool(same.all())


def focus(picture: Array) -> float:
    """Returns the variance of the Laplacian (Pech-Pacheco 2000), higher for a sharper picture.

    The grey picture is scaled so that its 0.5th and 99.5th percentile are 0 and 1, which makes 8-bit
    and 16-bit images comparable; the Laplacian has the 4-neighbour kernel. Pictures are comparable
    only at one size.

    Args:
        picture: (h, w, C), any type.
    """
    from scipy.ndimage import laplace

    return float(np.var(laplace(_unit_gray(picture), mode="nearest")))


def tissue_fraction(picture: Array, modality: str) -> float:
    """Returns the share of a picture that is not background.

    - OM: optical density above :data:`TISSUE_OD`, the mean over channels.
    - IM: the brightest channel, on a logarithmic scale, above Otsu's threshold and above
      :data:`SIGNAL_SHARE` of the range.
    - TEM: not flat, that is not empty resin or a hole (see :data:`FLAT_SD`).

    Args:
        picture: (h, w, C), any type.
        modality: OM, IM or TEM.
    """
    if modality == "OM":
        return float((_optical_density(picture) > TISSUE_OD).mean())
    if modality == "IM":
        return _signal_fraction(picture)
    from scipy.ndimage import uniform_filter

    gray = _unit_gray(picture)
    mean = uniform_filter(gray, FLAT_WINDOW, mode="nearest")
    variance = uniform_filter(gray * gray, FLAT_WINDOW, mode="nearest") - mean * mean
    return float((variance > FLAT_SD**2).mean())


def saturated_fraction(reader: ImageReader) -> float:
    """Returns the share of samples at the lowest or highest value of an integer type.

    Counted in the central box of :data:`SATURATION_BOX` px at full resolution, because averaging for
    a thumbnail hides single samples.

    Args:
        reader: The open image.

    Returns:
        The share, 0 to 1; NaN for floating-point samples, which have no such ends.

    Raises:
        ImageError: ``unreadable``, if the box cannot be decoded.
    """
    if reader.dtype.kind not in "ui":
        return float("nan")
    width, height = min(reader.width, SATURATION_BOX), min(reader.height, SATURATION_BOX)
    left, top = (reader.width - width) // 2, (reader.height - height) // 2
    box = reader.read_region(left, top, width, height, width, height)
    limits = np.iinfo(reader.dtype)
    return float(((box == limits.min) | (box == limits.max)).mean())


def _unit_gray(picture: Array) -> npt.NDArray[np.float64]:
    gray = np.nan_to_num(as_gray(picture).astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    low, high = robust_limits(gray)
    if not high > low:
        low, high = float(gray.min()), float(gray.max())
    return np.clip((gray - low) / (high - low), 0.0, 1.0) if high > low else np.zeros_like(gray)


def _range(picture: Array) -> float:
    if picture.dtype.kind in "ui":
        return float(np.iinfo(picture.dtype).max)
    return float(np.nanmax(picture, initial=0.0)) or 1.0


def _optical_density(picture: Array) -> npt.NDArray[np.float64]:
    share = np.clip(np.nan_to_num(picture.astype(np.float64)) / _range(picture), 1.0 / 256.0, 1.0)
    density: npt.NDArray[np.float64] = -np.log(share).mean(axis=2)
    return density


def _signal_fraction(picture: Array) -> float:
    floor = SIGNAL_SHARE * _range(picture)
    brightest = np.nan_to_num(picture.astype(np.float64)).max(axis=2)
    # Compressed, so that a few bright deposits do not push dim tissue into the background.
    compressed = np.log1p(np.maximum(brightest, 0.0) / floor)
    if compressed.max() <= compressed.min():
        return 0.0
    return float((compressed > max(_otsu(compressed), np.log(2.0))).mean())


def _otsu(values: npt.NDArray[np.float64]) -> float:
    """Returns the threshold that parts a histogram of 256 bins best into two classes (Otsu 1979)."""
    counts, edges = np.histogram(values, bins=256)
    centres = (edges[:-1] + edges[1:]) / 2
    below, total = np.cumsum(counts), np.cumsum(counts * centres)
    above = below[-1] - below
    with np.errstate(divide="ignore", invalid="ignore"):
        gap = total / below - (total[-1] - total) / above
        between = np.nan_to_num(below * above * gap**2)
    return float(edges[int(np.argmax(between)) + 1])
