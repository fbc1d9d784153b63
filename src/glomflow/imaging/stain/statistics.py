"""Exact statistics of pixels: tissue, and moments and percentiles of its optical density."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from glomflow.imaging.stain.density import Tissue, flat_pixels, tissue_table
from glomflow.imaging.stain.parallel import in_threads
from glomflow.imaging.stain.profile import Array, Bytes

SAMPLE = (1024, 4096)
"""About how many pixels bounds of the tails are estimated from, in small images and in large ones."""
LARGE = 131_072
"""Pixels from which an image is large: sorting the larger sample pays off by shorter tails."""
LEAST_SAMPLE = 256
_LAST_TWO = 0b1100
_ANY_BUT_SECOND = 0b1101
"""Bits of the sums that are tested."""


def tissue_pixels(pixels: Bytes, tissue: Tissue, threads: int | None) -> Bytes:
    """Returns the pixels, (M, 3), that are tissue, in order.

    Args:
        pixels: (N, 3) of :func:`glomflow.imaging.stain.density.flat_pixels`.
        tissue: What counts as tissue.
        threads: Number of threads.
    """
    from glomflow.imaging.stain.kernels import keep_tissue

    table = tissue_table(tissue)

    def fill(start: int, stop: int, found: Array) -> Any:
        return keep_tissue(pixels, start, stop, table, found)

    kept = _joined(np.empty_like(pixels), fill, threads).view()
    kept.flags.writeable = False
    return kept


def density_moments(pixels: Bytes, table: Array, threads: int | None) -> Array:
    """Returns count, sums and products, (10), of optical density.

    Args:
        pixels: (N, 3) uint8.
        table: (3, 256) optical density by level.
        threads: Number of threads.
    """
    from glomflow.imaging.stain import kernels

    sums = np.zeros((-(-pixels.shape[0] // kernels.PART), 9))

    def work(worker: int, first: int, last: int) -> None:
        kernels.density_moments(pixels, first, last, table, sums)

    in_threads(work, len(sums), threads)
    return np.concatenate([[pixels.shape[0]], sums.sum(axis=0)])


def angle_percentiles(
    pixels: Bytes, table: Array, axes: Array, percentile: float, threads: int | None
) -> Array:
    """Returns the lower and the upper percentile, exactly, of the angle of optical density, radian.

    Args:
        pixels: (N, 3) uint8, at least one.
        table: (3, 256) optical density by level.
        axes: (3, 2): angles are counted from the first axis to the second.
        percentile: The lower percentile, 0 to 50; the upper is 100 less this.
        threads: Number of threads.
    """
    rows = np.empty((3, 256, 4))
    x, y, above, below = np.moveaxis(rows, 2, 0)
    x[:], y[:] = table * axes[:, :1], table * axes[:, 1:]

    def tails(counted: Bytes, low: float, high: float) -> Array:
        # Slopes y / x of at most ``low`` or at least ``high``, and what is not in front of the axes' origin.
        np.subtract(y, low * x, out=above)
        np.subtract(high * x, y, out=below)
        return _collected(counted, rows, _ANY_BUT_SECOND, threads)

    sample = _sample(pixels)
    share = _share(percentile, sample.shape[0])
    if share < 0.5:
        slopes = _slopes(tails(sample, 0.0, 0.0))
        # Any bounds will do that hold enough pixels: no interpolation.
        outer = int(share * slopes.size)
        if outer < slopes.size:
            low, high = np.partition(slopes, [outer, slopes.size - 1 - outer])[[outer, -1 - outer]]
            slopes = _slopes(tails(pixels, low, high))
            ends = _ends(pixels.shape[0], slopes[slopes <= low], slopes[slopes >= high], percentile)
            if ends is not None:
                return ends
    # Between bounds of 0 and 0 lies no pixel: all are collected.
    every = tails(pixels, 0.0, 0.0)
    return np.percentile(np.arctan2(every[:, 1], every[:, 0]), [percentile, 100.0 - percentile])


def _slopes(positions: Array) -> Array:
    """Returns y / x, whose order is that of angles below 90 degrees; nothing if an angle is not."""
    x, y = positions.T
    slopes: Array = y / x if x.min(initial=np.inf) > 0.0 else x[:0]
    return slopes


def amount_percentiles(
    pixels: Bytes, table: Array, weights: Array, percentile: float, threads: int | None
) -> Array:
    """Returns a high percentile, exactly, of each of several weighted sums of optical densities.

    Args:
        pixels: (N, 3) uint8, at least one.
        table: (3, 256) optical density by level.
        weights: (S, 3).
        percentile: Percentile, 0 to 100.
        threads: Number of threads.

    Returns:
        (S).
    """
    # Two at a time; an odd one is its own second.
    pairs = [weights[[first, min(first + 1, len(weights) - 1)]] for first in range(0, len(weights), 2)]
    found = [_pair_percentiles(pixels, table, pair, percentile, threads) for pair in pairs]
    return np.concatenate(found)[: len(weights)]


def _pair_percentiles(
    pixels: Bytes, table: Array, weights: Array, percentile: float, threads: int | None
) -> Array:
    rows = np.empty((3, 256, 4))
    rows[:, :, :2] = table[:, :, None] * weights.T[:, None, :]
    rows[:, :, 2:] = -rows[:, :, :2]
    first = rows[0, :, 2:].copy()

    def tails(counted: Bytes, floors: Array) -> Array:
        np.add(first, floors, out=rows[0, :, 2:])
        return _collected(counted, rows, _LAST_TWO, threads)

    sample = _sample(pixels)
    share = _share(100.0 - percentile, sample.shape[0])
    lower, upper, between = ranks_of(percentile, pixels.shape[0])
    if share < 0.5:
        place = sample.shape[0] - 1 - int(share * sample.shape[0])
        floors = np.partition(tails(sample, np.full(2, -np.inf)), place, axis=0)[place]
        found = tails(pixels, floors)
        tops = [amounts[amounts >= floor] for amounts, floor in zip(found.T, floors, strict=True)]
    else:
        tops = [np.empty(0)] * 2
    if lower < pixels.shape[0] - min(top.size for top in tops):
        tops = list(tails(pixels, np.full(2, -np.inf)).T)
    values = []
    for top in tops:
        missing = pixels.shape[0] - top.size
        ordered = np.partition(top, [lower - missing, upper - missing])
        low, high = ordered[lower - missing], ordered[upper - missing]
        values.append(low + (high - low) * between)
    return np.array(values)


def ranks_of(percentile: float, count: int) -> tuple[int, int, float]:
    """Returns the ranks on both sides of a percentile of ``count`` values, and the share between them."""
    position = percentile / 100.0 * (count - 1)
    lower = int(position)
    return lower, min(lower + 1, count - 1), position - lower


def _sample(pixels: Bytes) -> Bytes:
    count = pixels.shape[0]
    return flat_pixels(pixels[:: max(1, count // SAMPLE[count >= LARGE])])


def _share(percentile: float, sample: int) -> float:
    """Returns a share of the sample that all but surely bounds more than the percentile of all pixels."""
    share = percentile / 100.0
    return 1.5 * share + 4.0 * float(np.sqrt(share / sample)) if sample >= LEAST_SAMPLE else 1.0


def _collected(pixels: Bytes, rows: Array, tested: int, threads: int | None) -> Array:
    """Returns the first two sums of the pixels of which one sum that is tested is 0 or less, (M, 2).

    Args:
        pixels: (N, 3) uint8.
        rows: (3, 256, 4) part of each level in four sums.
        tested: Bits of the sums that are tested.
        threads: Number of threads.
    """
    from glomflow.imaging.stain.kernels import collect

    def fill(start: int, stop: int, found: Array) -> Any:
        return collect(pixels, start, stop, rows, tested, found)

    return _joined(np.empty((pixels.shape[0], 2)), fill, threads)


def _joined(room: Array, fill: Callable[[int, int, Array], Any], threads: int | None) -> Array:
    """Returns what ``fill(start, stop, room)`` wrote for shares of the rows, joined in order."""
    from glomflow.imaging.stain.kernels import PART

    size = room.shape[0]
    parts = -(-size // PART)
    spans = [(0, 0)] * max(1, parts)

    def work(worker: int, first: int, last: int) -> None:
        start = first * PART
        spans[worker] = (start, start + fill(start, min(last * PART, size), room))

    workers = in_threads(work, parts, threads)
    shares = [room[start:stop] for start, stop in spans[:workers]]
    return shares[0] if workers == 1 else np.concatenate(shares)


def _ends(count: int, bottom: Array, top: Array, percentile: float) -> Array | None:
    """Returns both percentiles of ``count`` angles, if the tails of their slopes hold them."""
    lower, upper, share = ranks_of(percentile, count)
    if upper >= min(bottom.size, top.size):
        return None
    ranks = [lower, upper]
    bottom, top = np.partition(bottom, ranks)[ranks], -np.partition(-top, ranks)[ranks]
    near, far = np.arctan([bottom, top]).T
    ends: Array = near + (far - near) * share
    return ends
