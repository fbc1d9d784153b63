"""Compiled loops over pixels.

Each runs over pixels ``start`` to ``stop`` without the interpreter's lock, so that threads can share an
image. Import inside functions only: numba takes a third of a second to load.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
from numba import njit

from glomflow.imaging.stain.profile import Array, Bytes, Floats

PART = 16384
"""Pixels whose sums are taken together; fixed, so that sums do not depend on the number of threads."""
BLOCK = 512
"""Pixels whose intermediate values stay in the processor's first cache."""

Function = TypeVar("Function", bound=Callable[..., Any])


def _compiled(function: Function) -> Function:
    flags = {"reassoc", "contract", "nsz", "arcp", "nnan", "ninf"}
    options: dict[str, Any] = {"nogil": True, "error_model": "numpy", "fastmath": flags}
    try:
        compiled: Function = njit(cache=True, **options)(function)
    except RuntimeError:
        # Neither the package's folder nor the user's cache can be written: compiled in each process.
        compiled = njit(**options)(function)
    return compiled


@_compiled
def glass_histograms(pixels: Bytes, start: int, stop: int, level: int, spread: int, counts: Array) -> None:
    """Counts the levels of each channel, (3, 256), over bright and nearly neutral pixels."""
    for i in range(start, stop):
        red, green, blue = pixels[i, 0], pixels[i, 1], pixels[i, 2]
        lowest = min(red, green, blue)
        # Signed: levels are unsigned, and so would their difference be. Two conditions in one run slower.
        if lowest >= level:  # noqa: SIM102
            if np.int64(max(red, green, blue)) - np.int64(lowest) <= spread:
                counts[0, red] += 1
                counts[1, green] += 1
                counts[2, blue] += 1


@_compiled
def keep_tissue(pixels: Bytes, start: int, stop: int, table: Bytes, kept: Bytes) -> Any:
    """Copies the pixels that are tissue, from ``start`` on.

    Args:
        pixels: (N, 3) uint8.
        start: First pixel.
        stop: One past the last.
        table: (3, 256) of what each level adds; tissue adds up to 1 to 63.
        kept: (N, 3), filled.

    Returns:
        How many.
    """
    # Unsigned, so that no index is checked for counting from the end.
    last = np.uint64(start)
    for i in range(start, stop):
        red, green, blue = pixels[i, 0], pixels[i, 1], pixels[i, 2]
        # Written whether kept or not: a branch that cannot be predicted costs more than the rest.
        kept[last, 0] = red
        kept[last, 1] = green
        kept[last, 2] = blue
        total = table[0, red] + table[1, green] + table[2, blue]
        last += np.uint64(np.uint8(total - 1) < np.uint8(63))
    return np.int64(last) - start


@_compiled
def density_moments(pixels: Bytes, start: int, stop: int, table: Array, sums: Array) -> None:
    """Sums optical density by parts: (parts, 9) of 3 sums and 6 products."""
    for part in range(start, stop):
        r = g = b = rr = rg = rb = gg = gb = bb = 0.0
        for i in range(part * PART, min((part + 1) * PART, pixels.shape[0])):
            x, y, z = table[0, pixels[i, 0]], table[1, pixels[i, 1]], table[2, pixels[i, 2]]
            r += x
            g += y
            b += z
            rr += x * x
            rg += x * y
            rb += x * z
            gg += y * y
            gb += y * z
            bb += z * z
        sums[part, 0], sums[part, 1], sums[part, 2] = r, g, b
        sums[part, 3], sums[part, 4], sums[part, 5] = rr, rg, rb
        sums[part, 6], sums[part, 7], sums[part, 8] = gg, gb, bb


@_compiled
def angle_tails(pixels: Bytes, start: int, stop: int, along: Array, bounds: Array, found: Array) -> Any:
    """Collects the pixels whose angle between two axes lies outside two bounds.

    Args:
        pixels: (N, 3) uint8.
        start: First pixel.
        stop: One past the last.
        along: (2, 3, 256) part of each level in the position along the two axes.
        bounds: (2, 2) cosine and sine of the lower and of the upper bound, both within 90 degrees of 0.
        found: (N, 2): filled from ``start`` with positions.

    Returns:
        How many.
    """
    low_x, low_y, high_x, high_y = bounds[0, 0], bounds[0, 1], bounds[1, 0], bounds[1, 1]
    last = np.uint64(start)
    for i in range(start, stop):
        red, green, blue = pixels[i, 0], pixels[i, 1], pixels[i, 2]
        x = along[0, 0, red] + along[0, 1, green] + along[0, 2, blue]
        y = along[1, 0, red] + along[1, 1, green] + along[1, 2, blue]
        found[last, 0] = x
        found[last, 1] = y
        # Past 90 degrees the two comparisons alone would not tell the sides apart.
        last += np.uint64((y * low_x <= x * low_y) | (y * high_x >= x * high_y) | (x <= 0.0))
    return np.int64(last) - start


@_compiled
def amount_tail(pixels: Bytes, start: int, stop: int, parts: Array, floor: float, found: Array) -> Any:
    """Collects amounts of a stain that reach a floor.

    Args:
        pixels: (N, 3) uint8.
        start: First pixel.
        stop: One past the last.
        parts: (3, 256) part of each level in the amount.
        floor: Least amount to collect.
        found: (N): filled from ``start`` with amounts.

    Returns:
        How many.
    """
    last = np.uint64(start)
    for i in range(start, stop):
        amount = parts[0, pixels[i, 0]] + parts[1, pixels[i, 1]] + parts[2, pixels[i, 2]]
        found[last] = amount
        last += np.uint64(amount >= floor)
    return np.int64(last) - start


@_compiled
def rebuild(pixels: Bytes, start: int, stop: int, factors: Array, result: Bytes) -> None:
    """Writes the product of three factors per channel, (3, 3, 256), looked up by level, less 1."""
    for i in range(start, stop):
        red, green, blue = pixels[i, 0], pixels[i, 1], pixels[i, 2]
        for channel in range(3):
            value = factors[channel, 0, red] * factors[channel, 1, green] * factors[channel, 2, blue]
            # Less one, the inverse of I + 1; plus a half, for rounding by truncation.
            result[i, channel] = np.uint8(min(max(value - 0.5, 0.0), 255.0))


@_compiled
def _cube_root(x: Any) -> Any:
    # The inverse cube root from a third of the exponent, then two steps of the binomial series; divisions
    # and roots would cost more. Exact to float32.
    bits = np.float32(np.float32(x).view(np.int32))
    y = np.int32(np.float32(1419967116.0) - bits * np.float32(1.0 / 3.0)).view(np.float32)
    for _ in range(2):
        h = np.float32(1.0) - x * (y * y * y)
        y += y * h * (np.float32(1.0 / 3.0) + h * (np.float32(2.0 / 9.0) + h * np.float32(14.0 / 81.0)))
    return x * y * y


@_compiled
def _root(x: Any) -> Any:
    foot = np.float32(7.787037037037037) * x + np.float32(16.0 / 116.0)
    root = _cube_root(x)
    return root if x > np.float32(216.0 / 24389.0) else foot


@_compiled
def lab_moments(pixels: Bytes, start: int, stop: int, linear: Floats, relative: Floats, sums: Array) -> None:
    """Sums CIELAB values by parts: (parts, 6) of 3 sums and 3 squares."""
    light = np.empty((3, BLOCK), np.float32)
    m = relative
    for part in range(start, stop):
        s0 = s1 = s2 = q0 = q1 = q2 = 0.0
        last = min((part + 1) * PART, pixels.shape[0])
        for first in range(part * PART, last, BLOCK):
            size = min(BLOCK, last - first)
            for i in range(size):
                light[0, i] = linear[pixels[first + i, 0]]
                light[1, i] = linear[pixels[first + i, 1]]
                light[2, i] = linear[pixels[first + i, 2]]
            for i in range(size):
                red, green, blue = light[0, i], light[1, i], light[2, i]
                fx = _root(m[0, 0] * red + m[0, 1] * green + m[0, 2] * blue)
                fy = _root(m[1, 0] * red + m[1, 1] * green + m[1, 2] * blue)
                fz = _root(m[2, 0] * red + m[2, 1] * green + m[2, 2] * blue)
                lightness = np.float64(np.float32(116.0) * fy - np.float32(16.0))
                a = np.float64(np.float32(500.0) * (fx - fy))
                b = np.float64(np.float32(200.0) * (fy - fz))
                s0 += lightness
                s1 += a
                s2 += b
                q0 += lightness * lightness
                q1 += a * a
                q2 += b * b
        sums[part, 0], sums[part, 1], sums[part, 2] = s0, s1, s2
        sums[part, 3], sums[part, 4], sums[part, 5] = q0, q1, q2


@_compiled
def _encoded(x: Any) -> Any:
    # sRGB: x ** (1 / 2.4) is x times the seventh power of its inverse twelfth root, found as above.
    x = min(max(x, np.float32(0.0)), np.float32(1.0))
    bits = np.float32(np.float32(x).view(np.int32))
    y = np.int32(np.float32(1153723282.0) - bits * np.float32(1.0 / 12.0)).view(np.float32)
    for _ in range(2):
        y2 = y * y
        y4 = y2 * y2
        h = np.float32(1.0) - x * (y4 * y4 * y4)
        series = np.float32(13.0 / 288.0) + h * np.float32(325.0 / 10368.0)
        y += y * h * (np.float32(1.0 / 12.0) + h * series)
    curve = np.float32(1.055 * 255.0) * (x * (y * y * y) * (y * y) * (y * y)) - np.float32(0.055 * 255.0)
    foot = np.float32(12.92 * 255.0) * x
    return (curve if x > np.float32(0.0031308) else foot) + np.float32(0.5)


@_compiled
def _cubed(f: Any) -> Any:
    cube = f * f * f
    foot = (f - np.float32(16.0 / 116.0)) * np.float32(1.0 / 7.787037037037037)
    return cube if cube > np.float32(216.0 / 24389.0) else foot


@_compiled
def match_lab(
    pixels: Bytes,
    start: int,
    stop: int,
    linear: Floats,
    fade: Floats,
    relative: Floats,
    mix: Floats,
    offset: Floats,
    to_rgb: Floats,
    result: Bytes,
) -> None:
    """Maps the roots behind CIELAB by ``mix`` and ``offset``, in part where ``fade`` adds to under 1."""
    light = np.empty((4, BLOCK), np.float32)
    m, w, o, v = relative, mix, offset, to_rgb
    for first in range(start, stop, BLOCK):
        size = min(BLOCK, stop - first)
        for i in range(size):
            red, green, blue = pixels[first + i, 0], pixels[first + i, 1], pixels[first + i, 2]
            light[0, i] = linear[red]
            light[1, i] = linear[green]
            light[2, i] = linear[blue]
            light[3, i] = fade[0, red] + fade[1, green] + fade[2, blue]
        for i in range(size):
            red, green, blue = light[0, i], light[1, i], light[2, i]
            fx = _root(m[0, 0] * red + m[0, 1] * green + m[0, 2] * blue)
            fy = _root(m[1, 0] * red + m[1, 1] * green + m[1, 2] * blue)
            fz = _root(m[2, 0] * red + m[2, 1] * green + m[2, 2] * blue)
            share = min(max(light[3, i], np.float32(0.0)), np.float32(1.0))
            x = _cubed(fx + share * (w[0, 0] * fx + w[0, 1] * fy + w[0, 2] * fz + o[0] - fx))
            y = _cubed(fy + share * (w[1, 0] * fx + w[1, 1] * fy + w[1, 2] * fz + o[1] - fy))
            z = _cubed(fz + share * (w[2, 0] * fx + w[2, 1] * fy + w[2, 2] * fz + o[2] - fz))
            light[0, i] = _encoded(v[0, 0] * x + v[0, 1] * y + v[0, 2] * z)
            light[1, i] = _encoded(v[1, 0] * x + v[1, 1] * y + v[1, 2] * z)
            light[2, i] = _encoded(v[2, 0] * x + v[2, 1] * y + v[2, 2] * z)
        for i in range(size):
            result[first + i, 0] = np.uint8(light[0, i])
            result[first + i, 1] = np.uint8(light[1, i])
            result[first + i, 2] = np.uint8(light[2, i])
