"""Samples of any type as 8-bit pictures for people and for encoders that expect them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

LOW_PERCENTILE = 0.5
HIGH_PERCENTILE = 99.5
RGB = ("R", "G", "B")
COLOURS = ((1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 0), (1, 0, 1), (0, 1, 1), (1, 1, 1))
"""Red, green and blue of the channels of a composite, in turn."""
_MOST_SAMPLES = 1_000_000
_PEAK_SAMPLES = 60_000
_COUNTED = frozenset(map(np.dtype, (np.uint8, np.uint16)))
"""Sample types whose values are counted, and that compiled loops take as they are."""
_LEAST_COUNTED = 20_000
"""With fewer samples than this, sorting is faster than counting."""


def robust_limits(
    array: Array, low: float = LOW_PERCENTILE, high: float = HIGH_PERCENTILE
) -> tuple[float, float]:
    """Returns two percentiles of an array's finite samples; (0, 0) if there are none.

    Large arrays are sampled at a fixed stride, so that the result is the same at every call.

    Args:
        array: Samples of any shape and type.
        low: Lower percentile, 0 to 100.
        high: Upper percentile, 0 to 100.

    Returns:
        The lower and the upper limit.
    """
    flat = np.asarray(array).reshape(-1)
    # An odd stride does not fall into step with the even widths and channel counts of images.
    flat = flat[:: (flat.size // _MOST_SAMPLES) | 1]
    if not np.issubdtype(flat.dtype, np.integer):
        flat = flat[np.isfinite(flat)]
    if not flat.size:
        return 0.0, 0.0
    if flat.dtype in _COUNTED and flat.size > _LEAST_COUNTED:
        return _counted_limits(flat, low, high)
    below, above = percentiles(flat, (low, high))
    return below, above


def percentiles(values: Array, shares: Sequence[float]) -> list[float]:
    """Returns what ``np.percentile`` does, several times faster for many float32.

    Args:
        values: Finite samples, (N,), at least one.
        shares: Percentiles, 0 to 100.
    """
    if values.dtype != np.float32 or values.size < _LEAST_COUNTED:
        return [float(value) for value in np.percentile(values, shares)]
    from glomflow.imaging.pixel_kernels import order_statistics, read_only

    places = np.array(shares) / 100.0 * (values.size - 1)
    below = places.astype(np.int64)
    ranks = np.stack([below, np.minimum(below + 1, values.size - 1)])
    order = np.unique(ranks)
    found = np.empty(len(order), np.float32)
    order_statistics(read_only(values), order, found)
    lower, upper = found[np.searchsorted(order, ranks)].astype(np.float64)
    return [float(value) for value in lower + (upper - lower) * (places - below)]


def _counted_limits(flat: Array, low: float, high: float) -> tuple[float, float]:
    """Returns the same as ``np.percentile``, from how often each value occurs: ten times faster."""
    from glomflow.imaging.pixel_kernels import count_values, read_only

    counts = np.zeros(np.iinfo(flat.dtype).max + 1, np.int64)
    count_values(read_only(flat), counts)
    up_to = counts.cumsum()
    limits = []
    for share in (low, high):
        place = share / 100.0 * (flat.size - 1)
        rank = int(place)
        lower = int(np.searchsorted(up_to, rank, side="right"))
        upper = int(np.searchsorted(up_to, min(rank + 1, flat.size - 1), side="right"))
        limits.append(lower + (upper - lower) * (place - rank))
    return limits[0], limits[1]


def stretch(array: Array, low: float, high: float) -> npt.NDArray[np.uint8]:
    """Maps ``low`` to 0 and ``high`` to 255, clipping beyond; samples that are not finite become 0.

    Args:
        array: Samples of any shape and type.
        low: Value shown black.
        high: Value shown white. Not above ``low``: all samples become mid-grey (128).

    Returns:
        uint8 of the same shape.
    """
    if not high > low:
        return np.full(np.shape(array), 128, np.uint8)
    working = np.float64 if array.dtype.itemsize > 2 else np.float32
    shown: Array = array.astype(working)
    scaled: Array = np.subtract(shown, low) * (255.0 / (high - low))
    if array.dtype.kind == "f":
        np.nan_to_num(scaled, copy=False, nan=0.0, posinf=0.0, neginf=0.0)
    return np.clip(np.rint(scaled, out=scaled), 0, 255, out=scaled).astype(np.uint8)


def as_gray(array: Array) -> Array:
    """Returns one channel: luminance (Rec. 601) of three, the mean of any other number.

    Args:
        array: (H, W) or (H, W, C), any type.

    Returns:
        (H, W); the input's type if it has one channel, else float32.
    """
    if array.ndim == 2:
        return array
    if array.shape[2] == 1:
        return array[:, :, 0]
    if array.shape[2] == 3:
        from glomflow.imaging.pixel_kernels import luminance, read_only

        plain = array if array.dtype in _COUNTED else array.astype(np.float32)
        gray = np.empty(array.shape[:2], np.float32)
        luminance(read_only(plain).reshape(-1, 3), gray.reshape(-1))
        return gray
    mean: Array = array.mean(axis=2, dtype=np.float32)
    return mean


def as_gray_uint8(array: Array) -> npt.NDArray[np.uint8]:
    """Returns a grey picture stretched between the 0.5th and the 99.5th percentile.

    Args:
        array: (H, W) or (H, W, C), any type.

    Returns:
        (H, W) uint8; mid-grey where the image has no contrast.
    """
    gray = as_gray(array)
    return stretch(gray, *robust_limits(gray))


def as_rgb_uint8(array: Array, channels: Sequence[str] | None = None) -> npt.NDArray[np.uint8]:
    """Returns a colour picture.

    8-bit colour passes unchanged and 16-bit colour is scaled by its range; colour of another type is
    stretched jointly, which keeps hues. One channel becomes grey. Other channels (those of a
    fluorescence image) are stretched by the range of the brightest, so that a channel without signal
    stays dark, and laid over each other in the colours of :data:`COLOURS`.

    Args:
        array: (H, W, C), any type.
        channels: Channel names; by default three channels are taken as red, green and blue.

    Returns:
        (H, W, 3) uint8.
    """
    count = array.shape[2]
    colour = count == 3 and (channels is None or tuple(channels) == RGB)
    if colour and array.dtype == np.uint8:
        return array
    if colour and array.dtype == np.uint16:
        return stretch(array, 0.0, 65535.0)
    if colour:
        return stretch(array, *robust_limits(array))
    if count == 1:
        return np.repeat(as_gray_uint8(array)[:, :, None], 3, axis=2)
    return _composite(array)


def _composite(array: Array) -> npt.NDArray[np.uint8]:
    count = array.shape[2]
    limits = [robust_limits(array[:, :, index]) for index in range(count)]
    brightest = max(high for _, high in limits)
    colours = np.array([COLOURS[index % len(COLOURS)] for index in range(count)], np.float32)
    shown = np.zeros(array.shape, np.float32)
    for index, (low, high) in enumerate(limits):
        if high > low:
            shown[:, :, index] = stretch(array[:, :, index], low, max(brightest, high))
    total = (shown.reshape(-1, count) @ colours).reshape(-1)
    peak = float(np.percentile(total[:: (total.size // _PEAK_SAMPLES) | 1], 99.5))
    np.multiply(total, 255.0 / max(peak, 255.0), out=total)
    picture: npt.NDArray[np.uint8] = np.clip(total, 0, 255, out=total).astype(np.uint8)
    return picture.reshape(*array.shape[:2], 3)
