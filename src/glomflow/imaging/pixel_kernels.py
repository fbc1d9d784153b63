"""Compiled loops that resample pictures and count their samples.

They run without the interpreter's lock. Import inside functions only: numba takes a third of a second to
load. What is only read is passed through :func:`read_only`, so that each loop is compiled once per type.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from numba import njit

Array = npt.NDArray[Any]
Function = TypeVar("Function", bound=Callable[..., Any])


def compiled(function: Function) -> Function:
    """Compiles a function; the machine code is kept on disk where a folder for it can be written."""
    options: dict[str, Any] = {"nogil": True, "error_model": "numpy"}
    try:
        made: Function = njit(cache=True, **options)(function)
    except RuntimeError:
        # Neither the package's folder nor the user's cache can be written: compiled in each process.
        made = njit(**options)(function)
    return made


def read_only(array: Array) -> Array:
    """Returns a C-contiguous view (or copy, if it is not) that cannot be written to."""
    view = np.ascontiguousarray(array).view()
    view.flags.writeable = False
    return view


@compiled
def _sum_of_rows(samples: Array, rows: Array, shares: Array, line: Array) -> None:
    # Four rows at a time, in order: the sums stay in registers.
    line[:] = 0
    fours = rows.size // 4 * 4
    for tap in range(0, fours, 4):
        one, two = samples[rows[tap]], samples[rows[tap + 1]]
        three, four = samples[rows[tap + 2]], samples[rows[tap + 3]]
        s1, s2, s3, s4 = shares[tap], shares[tap + 1], shares[tap + 2], shares[tap + 3]
        for at in range(line.size):
            line[at] = line[at] + s1 * one[at] + s2 * two[at] + s3 * three[at] + s4 * four[at]
    for tap in range(fours, rows.size):
        share = shares[tap]
        if share != 0:
            taken = samples[rows[tap]]
            for at in range(line.size):
                line[at] += share * taken[at]


@compiled
def _sum_of_places(line: Array, source: Array, weight: Array, mixed: Array) -> None:
    mixed[:] = 0
    fours = source.shape[0] // 4 * 4
    for tap in range(0, fours, 4):
        p1, p2, p3, p4 = source[tap], source[tap + 1], source[tap + 2], source[tap + 3]
        s1, s2, s3, s4 = weight[tap], weight[tap + 1], weight[tap + 2], weight[tap + 3]
        for at in range(mixed.size):
            total = mixed[at] + s1[at] * line[p1[at]] + s2[at] * line[p2[at]]
            mixed[at] = total + s3[at] * line[p3[at]] + s4[at] * line[p4[at]]
    for tap in range(fours, source.shape[0]):
        places, shares = source[tap], weight[tap]
        for at in range(mixed.size):
            mixed[at] += shares[at] * line[places[at]]


@compiled
def mix(
    samples: Array,
    row_source: Array,
    row_weight: Array,
    source: Array,
    weight: Array,
    fill: float,
    whole: bool,
    result: Array,
) -> None:
    """Makes each sample of ``result`` a weighted mean of samples, down the rows and then along them.

    Args:
        samples: (h, n), n samples of all channels in a row.
        row_source: (H, T) rows of ``samples`` that make up each row of the result.
        row_weight: (H, T) their weights, which sum to the part that is covered; 0 where there are fewer.
        source: (U, N) places in a row, unsigned, that make up each place of a row of the result.
        weight: (U, N) their weights, likewise. Its type is worked in.
        fill: Value of what is not covered.
        whole: Whether results are rounded.
        result: (H, N), filled.
    """
    line = np.empty(samples.shape[1], weight.dtype)
    mixed = np.empty(result.shape[1], weight.dtype)
    across = weight.sum(axis=0)
    for row in range(result.shape[0]):
        _sum_of_rows(samples, row_source[row], row_weight[row], line)
        _sum_of_places(line, source, weight, mixed)
        if fill != 0:
            down = row_weight[row].sum()
            for at in range(mixed.size):
                bare = 1.0 - down * across[at]
                if bare > 1e-6:
                    mixed[at] += bare * fill
        shown = result[row]
        for at in range(mixed.size):
            shown[at] = np.rint(mixed[at]) if whole else mixed[at]


@compiled
def shift(samples: Array, weights: Array, whole: bool, result: Array) -> None:
    """Interpolates between neighbours that lie one pixel apart.

    Args:
        samples: (H + 1, W + 1, C).
        weights: (4,) of the upper, the lower, the left and the right sample; their type is worked in.
        whole: Whether results are rounded.
        result: (H, W, C), filled.
    """
    height, width, channels = result.shape
    flat = samples.reshape(samples.shape[0], (width + 1) * channels)
    shown = result.reshape(height, width * channels)
    line = np.empty(flat.shape[1], weights.dtype)
    up, down, left, right = weights
    for row in range(height):
        upper, lower = flat[row], flat[row + 1]
        for at in range(line.size):
            line[at] = upper[at] * up + lower[at] * down
        for at in range(width * channels):
            value = line[at] * left + line[at + channels] * right
            shown[row, at] = np.rint(value) if whole else value


@compiled
def without_padding(pixels: Array, words: Array) -> None:
    """Packs pixels (4 N,), little-endian words whose last byte is padding, into words (3 N,) without it."""
    for at in range(words.size // 3):
        one, two = pixels[4 * at] & np.uint32(0xFFFFFF), pixels[4 * at + 1] & np.uint32(0xFFFFFF)
        three, four = pixels[4 * at + 2] & np.uint32(0xFFFFFF), pixels[4 * at + 3]
        words[3 * at] = one | two << np.uint32(24)
        words[3 * at + 1] = two >> np.uint32(8) | three << np.uint32(16)
        words[3 * at + 2] = three >> np.uint32(16) | four << np.uint32(8)


@compiled
def luminance(pixels: Array, result: Array) -> None:
    """Fills the luminance (Rec. 601), float32 (N,), of colours (N, 3)."""
    for at in range(result.size):
        result[at] = (
            np.float32(0.299) * np.float32(pixels[at, 0])
            + np.float32(0.587) * np.float32(pixels[at, 1])
            + np.float32(0.114) * np.float32(pixels[at, 2])
        )


@compiled
def count_values(samples: Array, counts: Array) -> None:
    """Counts how often each value of an unsigned integer type occurs.

    Args:
        samples: (N,).
        counts: (values of the type,), added to.
    """
    for at in range(samples.size):
        counts[samples[at]] += 1


@compiled
def count_ends(samples: Array, step: int, length: int, low: Any, high: Any) -> Any:
    """Returns how many samples have the value ``low`` or ``high``.

    Args:
        samples: (N,) from the first sample of the first row to the last one of the last row.
        step: Samples from the start of a row to that of the next.
        length: Samples of a row that count.
        low: One value.
        high: The other.
    """
    found: Any = 0
    for start in range(0, samples.size, step):
        row = samples[start : start + length]
        here = np.uint32(0)
        for at in range(row.size):
            here += np.uint32((row[at] == low) | (row[at] == high))
        found += np.int64(here)
    return found


@compiled
def count_from(samples: Array, least: float, counts: Array) -> None:
    """Counts the samples (N, C) that are at least ``least``, by channel, (C,)."""
    for at in range(samples.shape[0]):
        for channel in range(samples.shape[1]):
            counts[channel] += np.int64(samples[at, channel] >= least)


@compiled
def order_statistics(values: Array, ranks: Array, found: Array) -> None:
    """Finds the values at some ranks, without sorting the rest.

    Args:
        values: (N,) finite floating-point numbers.
        ranks: (K,) places in ascending order, 0 to N - 1.
        found: (K,), filled.
    """
    low, high = values[0], values[0]
    for at in range(values.size):
        low, high = min(low, values[at]), max(high, values[at])
    if not high > low:
        found[:] = low
        return
    bins = 4096
    step = (bins - 1) / (np.float64(high) - np.float64(low))
    places = np.empty(values.size, np.int16)
    counts = np.zeros(bins + 1, np.int64)
    for at in range(values.size):
        place = np.int16((np.float64(values[at]) - np.float64(low)) * step)
        places[at] = place
        counts[place + 1] += 1
    begins = counts.cumsum()
    done = -1
    inside = values[:0].copy()
    for index in range(ranks.size):
        place = np.searchsorted(begins, ranks[index], side="right") - 1
        if place != done:
            inside = values[places == place]
            done = place
        rank = ranks[index] - begins[place]
        found[index] = np.partition(inside, rank)[rank]
