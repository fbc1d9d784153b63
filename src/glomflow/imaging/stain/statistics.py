"""Exact statistics of pixels: tissue, and moments and percentiles of its optical density."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from glomflow.imaging.stain.density import Tissue, tissue_table
from glomflow.imaging.stain.parallel import in_threads
from glomflow.imaging.stain.profile import Array, Bytes

SAMPLE = (1024, 4096)
"""About how many pixels bounds of the tails are estimated from, in small images and in large ones."""
LARGE = 131_072
"""Pixels from which an image is large: sorting the larger sample pays off by shorter tails."""
LEAST_SAMPLE = 256
RIGHT_ANGLE = 1.5
"""A little less than 90 degrees."""


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

    kept = _collected(np.empty_like(pixels), fill, threads).view()
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
    from glomflow.imaging.stain.kernels import angle_tails

    along = np.ascontiguousarray(table[None] * axes.T[:, :, None])
    room = np.empty((pixels.shape[0], 2))

    def tails(low: float, high: float) -> Array:
        bounds = np.array([[np.cos(low), np.sin(low)], [np.cos(high), np.sin(high)]])

        def fill(start: int, stop: int, found: Array) -> Any:
            return angle_tails(pixels, start, stop, along, bounds, found)

        found = _collected(room, fill, threads)
        return np.arctan2(found[:, 1], found[:, 0])

    sample = _sample(pixels)
    share = _share(percentile, sample.shape[0])
    if share < 0.5:
        angles = np.arctan2(sum_of_levels(sample, along[1]), sum_of_levels(sample, along[0]))
        angles.sort()
        # Any bounds will do that hold enough pixels: no interpolation.
        low, high = angles[int(share * angles.size)], angles[-1 - int(share * angles.size)]
        if -RIGHT_ANGLE < low < high < RIGHT_ANGLE:
            found = tails(low, high)
            ends = _ends(pixels.shape[0], found[found <= low], found[found >= high], percentile)
            if ends is not None:
                return ends
    # Between bounds of 0 and 0 lies no pixel: all are collected.
    every = tails(0.0, 0.0)
    return np.percentile(every, [percentile, 100.0 - percentile])


def amount_percentile(
    pixels: Bytes, table: Array, weights: Array, percentile: float, threads: int | None
) -> float:
    """Returns a high percentile, exactly, of a weighted sum of optical densities.

    Args:
        pixels: (N, 3) uint8, at least one.
        table: (3, 256) optical density by level.
        weights: (3).
        percentile: Percentile, 0 to 100.
        threads: Number of threads.
    """
    from glomflow.imaging.stain.kernels import amount_tail

    parts = table * weights[:, None]
    room = np.empty(pixels.shape[0])

    def tail(floor: float) -> Array:
        def fill(start: int, stop: int, found: Array) -> Any:
            return amount_tail(pixels, start, stop, parts, floor, found)

        return _collected(room, fill, threads)

    sample = _sample(pixels)
    share = _share(100.0 - percentile, sample.shape[0])
    found = room[:0]
    if share < 0.5:
        amounts = np.sort(sum_of_levels(sample, parts))
        found = tail(float(amounts[-1 - int(share * amounts.size)]))
    lower, upper, between = ranks_of(percentile, pixels.shape[0])
    missing = pixels.shape[0] - found.size
    if lower < missing:
        found, missing = tail(-np.inf), 0
    found = np.partition(found, [lower - missing, upper - missing])
    low, high = found[lower - missing], found[upper - missing]
    return float(low + (high - low) * between)


def sum_of_levels(pixels: Bytes, parts: Array) -> Array:
    """Returns the sum over channels of what ``parts``, (3, 256), holds for each level of (N, 3) pixels."""
    total: Array = parts[0][pixels[:, 0]] + parts[1][pixels[:, 1]] + parts[2][pixels[:, 2]]
    return total


def ranks_of(percentile: float, count: int) -> tuple[int, int, float]:
    """Returns the ranks on both sides of a percentile of ``count`` values, and the share between them."""
    position = percentile / 100.0 * (count - 1)
    lower = int(position)
    return lower, min(lower + 1, count - 1), position - lower


def _sample(pixels: Bytes) -> Bytes:
    count = pixels.shape[0]
    return pixels[:: max(1, count // SAMPLE[count >= LARGE])]


def _share(percentile: float, sample: int) -> float:
    """Returns a share of the sample that all but surely bounds more than the percentile of all pixels."""
    share = percentile / 100.0
    return 1.5 * share + 4.0 * float(np.sqrt(share / sample)) if sample >= LEAST_SAMPLE else 1.0


def _collected(room: Array, fill: Callable[[int, int, Array], Any], threads: int | None) -> Array:
    """Returns what ``fill(start, stop, room)`` wrote for shares of the rows, joined in order."""
    from glomflow.imaging.stain.kernels import PART

    size = room.shape[0]
    parts = -(-size // PART)
    spans = [(0, 0)] * max(1, parts)

    def work(worker: int, first: int, last: int) -> None:
        start = first * PART
        spans[worker] = (start, start + fill(start, min(last * PART, size), room))

    workers = in_threads(work, parts, threads)
    return np.concatenate([room[start:stop] for start, stop in spans[:workers]])


def _ends(count: int, bottom: Array, top: Array, percentile: float) -> Array | None:
    """Returns both percentiles of ``count`` angles, if the tails hold them."""
    lower, upper, share = ranks_of(percentile, count)
    if upper >= min(bottom.size, top.size):
        return None
    bottom, top = np.partition(bottom, [lower, upper]), -np.partition(-top, [lower, upper])
    return np.array([low[lower] + (low[upper] - low[lower]) * share for low in (bottom, top)])
