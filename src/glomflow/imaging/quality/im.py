"""Immunofluorescence: exposure, and patches that an earlier exposure bleached."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from glomflow.imaging.pixels import Array, percentiles, robust_limits
from glomflow.imaging.quality.focus import noise_sd, stride_of, thinned
from glomflow.imaging.quality.views import shrunk_plane

Plane = npt.NDArray[np.float32]

TOP_SHARE = 0.98
"""Samples from this share of the full scale on are clipped highlights."""
BIT_DEPTHS = (10, 12, 14)
"""Bit depths of cameras whose samples are stored in 16 bits."""
QUANTISATION = 0.29
"""Standard deviation of rounding to whole numbers."""

LEAST_SIGNAL = 3.0
"""Below this signal-to-noise ratio the focus is not told: there is nothing to be sharp."""
BLEACH_CELLS = 48
"""The longer edge of the grid that bleached patches are looked for on."""
BLEACH_STEP = 0.42
"""Least mean drop of the logarithm of the signal over every side of a bleached patch."""
BLEACH_EDGE = 0.22
"""Least edge of a bleached patch, as a share of the image's longer edge."""
BLEACH_LARGEST = 0.6
"""Largest share of the image that a bleached patch covers."""
_MOST_STEP = 0.7
"""Steps are cut here, so that no single bright structure makes up a side."""
_BAND = 32
_SIDE = 2
"""Cells that are averaged on either side of a border."""


def full_scale(picture: Array) -> float:
    """Returns the sample value that a picture is clipped at.

    The end of the type's range; for 16 bits, that of a camera of fewer bits if the picture reaches
    just that value; for floating point, infinity.
    """
    if picture.dtype.kind not in "ui":
        return float("inf")
    if picture.dtype.itemsize == 2:
        highest = int(picture.max(initial=0))
        for bits in BIT_DEPTHS:
            if highest == 2**bits - 1:
                return float(highest)
    return float(np.iinfo(picture.dtype).max)


def overexposed_fraction(picture: Array) -> float:
    """Returns the share of pixels whose highlights are clipped, in the channel with most of them.

    Args:
        picture: (h, w, C) at full resolution, any type.

    Returns:
        The share, 0 to 1; NaN for floating point, which has no end.
    """
    top = full_scale(picture)
    if not np.isfinite(top):
        return float("nan")
    from glomflow.imaging.pixel_kernels import count_from, read_only

    least = TOP_SHARE * top
    clipped = np.zeros(picture.shape[2], np.int64)
    for row in range(0, picture.shape[0], _BAND):  # bands, whose copies stay in the processor's cache
        band = read_only(picture[row : row + _BAND])
        if band.max() >= least:
            count_from(band.reshape(-1, picture.shape[2]), least, clipped)
    share: float = int(clipped.max(initial=0)) / (picture.shape[0] * picture.shape[1])
    return share


def strongest_channel(picture: Array) -> Plane:
    """Returns the channel (h, w) with the widest range between its 0.5th and 99.5th percentile."""
    samples = picture.reshape(-1, picture.shape[2])
    samples = samples[:: (len(samples) // 60_000) | 1]
    limits = [robust_limits(samples[:, index]) for index in range(picture.shape[2])]
    widest = int(np.argmax([high - low for low, high in limits]))
    return _clean(np.ascontiguousarray(picture[:, :, widest]))


def _clean(samples: Array) -> Plane:
    values: Plane = samples.astype(np.float32)
    return np.nan_to_num(values, copy=False, nan=0.0, posinf=0.0, neginf=0.0)


def signal_to_noise(plane: Plane, *, whole_numbers: bool) -> float:
    """Returns how far the signal rises above the background, in standard deviations of the noise.

    Signal is the 99.5th percentile after averaging over 3 x 3 px, background the 25th; the noise is
    estimated as for the focus and is at least that of rounding. Noise alone gives about 1.

    Args:
        plane: (h, w), at least 3 x 3 px.
        whole_numbers: Whether samples were rounded to whole numbers.
    """
    from glomflow.imaging.pixel_kernels import read_only
    from glomflow.imaging.quality.kernels import smoothed_samples

    smooth = np.empty(-(-plane.size // stride_of(plane.size)), np.float32)
    smoothed_samples(read_only(plane), stride_of(plane.size), smooth)
    low, high = percentiles(smooth, (25.0, 99.5))
    noise = max(noise_sd(plane), QUANTISATION if whole_numbers else 1e-12)
    return (high - low) / noise


def bleached_fraction(plane: Plane) -> float:
    """Returns the share of a single frame that is covered by a rectangle that was exposed before.

    An earlier exposure at higher magnification bleaches what its camera saw: a rectangle along the
    axes, dimmer than its surroundings by one factor. After subtraction of the background (the 1st
    percentile), the rectangle is looked for over whose every side, but for those on the image's own
    edge (at most two), the logarithm of the signal drops.

    Args:
        plane: (h, w), one channel.

    Returns:
        The share, 0 to 1; 0 if there is none, and where the signal is too weak to tell.
    """
    from glomflow.imaging.quality.kernels import dimmest_rectangle

    cells = _log_cells(plane)
    if cells is None:
        return 0.0
    rows, columns = cells.shape
    least = max(4, round(BLEACH_EDGE * max(rows, columns)))
    across, down = _cumulated_steps(cells), _cumulated_steps(cells.T)
    area = dimmest_rectangle(across, down, least, BLEACH_STEP, BLEACH_LARGEST * cells.size)
    return float(area) / cells.size


def _log_cells(plane: Plane) -> npt.NDArray[np.float64] | None:
    height, width = plane.shape
    shrink = max(1.0, max(height, width) / BLEACH_CELLS)
    small = shrunk_plane(plane, max(1, round(width / shrink)), max(1, round(height / shrink)))
    signal = small.astype(np.float64) - percentiles(thinned(plane), (1.0,))[0]
    middle = float(np.median(signal))
    if min(small.shape) < 8 or middle <= 0:
        return None
    cells: npt.NDArray[np.float64] = np.log(np.maximum(signal, 0.1 * middle))
    return cells


def _cumulated_steps(cells: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Returns (h + 1, w + 1): sums down the rows of the drop from left to right over each border."""
    total = np.pad(cells.cumsum(axis=1), ((0, 0), (1, 0)))
    width = cells.shape[1]
    steps = np.zeros((cells.shape[0], width + 1))
    for x in range(1, width):
        low, high = max(0, x - _SIDE), min(width, x + _SIDE)
        before = (total[:, x] - total[:, low]) / (x - low)
        after = (total[:, high] - total[:, x]) / (high - x)
        steps[:, x] = before - after
    summed: npt.NDArray[np.float64] = np.clip(steps, -_MOST_STEP, _MOST_STEP).cumsum(axis=0)
    return np.pad(summed, ((1, 0), (0, 0)))
