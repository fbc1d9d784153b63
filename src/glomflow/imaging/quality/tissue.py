"""What of a picture is not background, and what is at the ends of the range."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from glomflow.imaging.pixels import Array
from glomflow.imaging.quality.focus import in_windows, unit_gray
from glomflow.imaging.quality.om import density, density_of_levels

TISSUE_OD = 0.15
"""OM: mean optical density, -ln(I / 255), above which a pixel is tissue (as in Macenko 2009)."""
SIGNAL_SHARE = 0.02
"""IM: least share of the type's range that counts as signal, whatever the histogram says."""
FLAT_SD = 0.02
"""TEM: standard deviation, on the 0 to 1 scale of the image, below which surroundings are blank."""
FLAT_WINDOW = 7

Mask = npt.NDArray[np.bool_]


def is_blank(picture: Array) -> bool:
    """Returns whether every channel of a picture (h, w, C) has one value throughout."""
    first = picture[:1, :1]
    if not np.array_equal(
        picture[:1], np.broadcast_to(first, picture[:1].shape), equal_nan=picture.dtype.kind == "f"
    ):
        return False
    same = picture == first
    if picture.dtype.kind == "f":
        same |= np.isnan(picture) & np.isnan(first)
    return bool(same.all())


def tissue(picture: Array, modality: str) -> Mask:
    """Returns what of a picture is not background.

    - OM: optical density above :data:`TISSUE_OD`, the mean over channels.
    - IM: the brightest channel, on a logarithmic scale, above Otsu's threshold and above
      :data:`SIGNAL_SHARE` of the range.
    - TEM: not flat, that is not empty resin or a hole (see :data:`FLAT_SD`).

    Args:
        picture: (h, w, C), any type.
        modality: OM, IM or TEM.

    Returns:
        (h, w).
    """
    if modality == "OM" and picture.dtype == np.uint8 and picture.shape[2] == 3:
        return _dense(picture)
    if modality == "OM":
        red, green, blue = np.moveaxis(density(picture), 2, 0)
        dense: Mask = red + green + blue > 3 * TISSUE_OD
        return dense
    if modality == "IM":
        return _signal(picture)
    _, variance = in_windows(unit_gray(picture), FLAT_WINDOW)
    structured: Mask = variance > FLAT_SD**2
    return structured


def _dense(picture: Array) -> Mask:
    from glomflow.imaging.pixel_kernels import read_only
    from glomflow.imaging.quality.kernels import dense

    found = np.empty(picture.shape[:2], np.bool_)
    least = np.float32(3 * TISSUE_OD)
    dense(read_only(picture).reshape(-1, 3), density_of_levels(), least, found.reshape(-1))
    return found


def tissue_fraction(picture: Array, modality: str) -> float:
    """Returns the share of a picture that is not background, 0 to 1; see :func:`tissue`."""
    return float(tissue(picture, modality).mean())


def saturated_fraction(picture: Array) -> float:
    """Returns the share of samples at the lowest or highest value of an integer type.

    Args:
        picture: Samples at full resolution, because averaging for a thumbnail hides single ones.

    Returns:
        The share, 0 to 1; NaN for floating-point samples, which have no such ends.
    """
    if picture.dtype.kind not in "ui":
        return float("nan")
    from glomflow.imaging.pixel_kernels import count_ends

    limits = np.iinfo(picture.dtype)
    low, high = picture.dtype.type(limits.min), picture.dtype.type(limits.max)
    height, length = picture.shape[0], picture.shape[1] * picture.shape[2]
    step = picture.strides[0] // picture.itemsize
    if not (picture[0].flags.c_contiguous and step >= length):
        picture, step = np.ascontiguousarray(picture), length
    # The rows as they lie in memory, with what is between them: a box of an image needs no copy.
    span = np.lib.stride_tricks.as_strided(
        picture, ((height - 1) * step + length,), (picture.itemsize,), writeable=False
    )
    return int(count_ends(span, step, length, low, high)) / picture.size


def _range(picture: Array) -> float:
    if picture.dtype.kind in "ui":
        return float(np.iinfo(picture.dtype).max)
    return float(np.nanmax(picture, initial=0.0)) or 1.0


def _signal(picture: Array) -> Mask:
    floor = SIGNAL_SHARE * _range(picture)
    brightest = picture[:, :, 0]
    for index in range(1, picture.shape[2]):
        brightest = np.maximum(brightest, picture[:, :, index])
    if brightest.dtype.itemsize > 2 or brightest.dtype.kind != "u":
        return _shining(brightest, np.ones(brightest.size), floor)
    # Few different values: each is judged once.
    counts = np.bincount(brightest.reshape(-1))
    levels = np.flatnonzero(counts)
    table = np.zeros(len(counts), dtype=bool)
    table[levels] = _shining(levels, counts[levels], floor)
    shining: Mask = table[brightest]
    return shining


def _shining(values: Array, counts: Array, floor: float) -> Mask:
    """Returns which values, each as often as it counts, lie above the background."""
    # Compressed, so that a few bright deposits do not push dim tissue into the background.
    compressed = np.log1p(np.maximum(np.nan_to_num(values.astype(np.float32)), 0.0) / np.float32(floor))
    if compressed.max() <= compressed.min():
        return np.zeros(compressed.shape, dtype=bool)
    shining: Mask = compressed > max(_otsu(compressed.reshape(-1), counts), np.log(2.0))
    return shining


def _otsu(values: npt.NDArray[np.float32], weights: Array) -> float:
    """Returns the threshold that parts a histogram of 256 bins best into two classes (Otsu 1979)."""
    counts, edges = np.histogram(values, bins=256, weights=weights)
    centres = (edges[:-1] + edges[1:]) / 2
    below, total = np.cumsum(counts), np.cumsum(counts * centres)
    above = below[-1] - below
    with np.errstate(divide="ignore", invalid="ignore"):
        gap = total / below - (total[-1] - total) / above
        between = np.nan_to_num(below * above * gap**2)
    return float(edges[int(np.argmax(between)) + 1])
