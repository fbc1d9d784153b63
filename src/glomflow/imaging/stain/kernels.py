"""Compiled loops over pixels.

Each runs over pixels ``start`` to ``stop`` without the interpreter's lock, so that threads can share an
image. Import inside functions only: numba takes a third of a second to load.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba import njit, types
from numba.extending import intrinsic

from glomflow.imaging.stain.profile import Array, Bytes, Floats

PART = 16384
"""Pixels whose sums are taken together; fixed, so that sums do not depend on the number of threads."""
BLOCK = 512
"""Pixels whose intermediate values stay in the processor's first cache; a multiple of 4."""

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


def _generated(function: Callable[..., Any]) -> Callable[..., Any]:
    generated: Callable[..., Any] = intrinsic(function)
    return generated


def _rows(context: Any, builder: Any, signature: Any, arguments: Any, pixel: Any) -> list[Any]:
    """Loads what a (3, 256, 4) table holds for the levels of a pixel: three vectors of four values.

    The first two arguments are the table and the pixels.
    """
    vector = ir.VectorType(context.get_data_type(signature.args[0].dtype), 4).as_pointer()
    table = context.make_array(signature.args[0])(context, builder, arguments[0]).data
    pixels = context.make_array(signature.args[1])(context, builder, arguments[1]).data
    first = builder.mul(pixel, pixel.type(3))
    rows = []
    for channel in range(3):
        sample = builder.gep(pixels, [builder.add(first, first.type(channel))])
        level = builder.zext(builder.load(sample), ir.IntType(64))
        place = builder.add(builder.shl(level, level.type(2)), level.type(channel * 1024))
        rows.append(builder.load(builder.bitcast(builder.gep(table, [place]), vector), align=4))
    return rows


@_generated
def _add_rows(_typing: Any, table: Any, pixels: Any, pixel: Any, last: Any, sums: Any, column: Any) -> Any:
    """Sums rows of a (3, 256, 4) table, chosen by level, for four pixels from ``pixel`` on.

    Writes columns ``column`` to ``column + 3`` of ``sums``, (4, BLOCK). Pixels past ``last`` are as that.
    """

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        def shuffled(one: Any, other: Any, order: tuple[int, ...]) -> Any:
            return builder.shuffle_vector(one, other, ir.Constant(ir.VectorType(ir.IntType(32), 4), order))

        totals = []
        for step in range(4):
            index = builder.add(arguments[2], arguments[2].type(step))
            index = builder.select(builder.icmp_signed("<", index, arguments[3]), index, arguments[3])
            one, two, three = _rows(context, builder, signature, arguments, index)
            totals.append(builder.fadd(builder.fadd(one, two), three))
        first, second = (shuffled(totals[i], totals[i + 1], (0, 4, 1, 5)) for i in (0, 2))
        third, fourth = (shuffled(totals[i], totals[i + 1], (2, 6, 3, 7)) for i in (0, 2))
        data = context.make_array(signature.args[4])(context, builder, arguments[4]).data
        for row, (one, two) in enumerate(((first, second), (third, fourth))):
            for half, order in enumerate(((0, 1, 4, 5), (2, 3, 6, 7))):
                place = builder.add(arguments[5], arguments[5].type((2 * row + half) * BLOCK))
                values = shuffled(one, two, order)
                pointer = builder.bitcast(builder.gep(data, [place]), values.type.as_pointer())
                builder.store(values, pointer, align=4)
        return context.get_dummy_value()

    return types.void(table, pixels, pixel, last, sums, column), code


@_generated
def _signs(_typing: Any, table: Any, pixels: Any, pixel: Any) -> Any:
    """Returns one bit for each sum of three rows of a (3, 256, 4) table: whether it is 0 or less."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        one, two, three = _rows(context, builder, signature, arguments, arguments[2])
        sums = builder.fadd(builder.fadd(one, two), three)
        bits = builder.bitcast(builder.fcmp_ordered("<=", sums, sums.type([0.0] * 4)), ir.IntType(4))
        return builder.zext(bits, ir.IntType(64))

    return types.uint64(table, pixels, pixel), code


@_generated
def _lowest_bit(_typing: Any, word: Any) -> Any:
    """Returns the place of the lowest bit of a word that is not 0."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 1))

    return types.uint64(types.uint64), code


@_generated
def _product_of_rows(_typing: Any, table: Any, pixels: Any, pixel: Any) -> Any:
    """Returns the product of three rows of a (3, 256, 4) table less a half, as four bytes in a word."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        one, two, three = _rows(context, builder, signature, arguments, arguments[2])
        product = builder.fmul(builder.fmul(one, two), three)
        # Less one, the inverse of I + 1; plus a half, for rounding by truncation.
        value = builder.fsub(product, product.type([0.5] * 4))
        for bound, beyond in ((0.0, "<"), (255.0, ">")):
            limit = value.type([bound] * 4)
            value = builder.select(builder.fcmp_ordered(beyond, value, limit), limit, value)
        whole = builder.fptosi(value, ir.VectorType(ir.IntType(32), 4))
        samples = builder.trunc(whole, ir.VectorType(ir.IntType(8), 4))
        return builder.bitcast(samples, ir.IntType(32))

    return types.uint32(table, pixels, pixel), code


@_generated
def _read_word(_typing: Any, pixels: Any, index: Any) -> Any:
    """Reads a pixel, R in the lowest byte, and a fourth byte beyond it, in one go."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        place = builder.gep(data, [builder.mul(arguments[1], arguments[1].type(3))])
        return builder.load(builder.bitcast(place, ir.IntType(32).as_pointer()), align=1)

    return types.uint32(pixels, index), code


@_generated
def _write_word(_typing: Any, pixels: Any, index: Any, word: Any) -> Any:
    """Writes a pixel, R in the lowest byte, and a fourth byte beyond it, in one go."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        place = builder.gep(data, [builder.mul(arguments[1], arguments[1].type(3))])
        builder.store(arguments[2], builder.bitcast(place, arguments[2].type.as_pointer()), align=1)
        return context.get_dummy_value()

    return types.void(pixels, index, word), code


@_compiled
def _write_pixel(pixels: Bytes, index: Any, word: Any) -> None:
    pixels[index, 0] = np.uint8(word)
    pixels[index, 1] = np.uint8(word >> np.uint32(8))
    pixels[index, 2] = np.uint8(word >> np.uint32(16))


@_compiled
def glass_histograms(pixels: Bytes, start: int, stop: int, level: int, spread: int, counts: Array) -> None:
    """Counts the levels of each channel, (3, 256), over bright and nearly neutral pixels."""
    for i in range(np.uint64(start), np.uint64(stop)):
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
    last, end = np.uint64(start), np.uint64(max(start, stop - 1))
    low = np.uint32(255)
    for i in range(np.uint64(start), end):
        # Whole words, of which the next overwrites the fourth byte: written whether kept or not, as a branch
        # that cannot be predicted costs more than the rest.
        word = _read_word(pixels, i)
        total = table[0, word & low] + table[1, (word >> np.uint32(8)) & low]
        total += table[2, (word >> np.uint32(16)) & low]
        _write_word(kept, last, word)
        last += np.uint64(np.uint8(total - 1) < np.uint8(63))
    for i in range(end, np.uint64(stop)):
        red, green, blue = pixels[i, 0], pixels[i, 1], pixels[i, 2]
        total = table[0, red] + table[1, green] + table[2, blue]
        if np.uint8(total - 1) < np.uint8(63):
            kept[last, 0], kept[last, 1], kept[last, 2] = red, green, blue
            last += np.uint64(1)
    return np.int64(last) - start


@_compiled
def density_moments(pixels: Bytes, start: int, stop: int, table: Array, sums: Array) -> None:
    """Sums optical density by parts: (parts, 9) of 3 sums and 6 products."""
    for part in range(start, stop):
        r = g = b = rr = rg = rb = gg = gb = bb = 0.0
        for i in range(np.uint64(part * PART), np.uint64(min((part + 1) * PART, pixels.shape[0]))):
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
def collect(pixels: Bytes, start: int, stop: int, table: Array, tested: Any, found: Array) -> Any:
    """Collects two sums over channels of the pixels for which a condition holds.

    Args:
        pixels: (N, 3) uint8.
        start: First pixel.
        stop: One past the last.
        table: (3, 256, 4) part of each level in four sums.
        tested: Which sums are tested, one bit each: a pixel is collected if one of them is 0 or less.
        found: (N, 2): filled from ``start`` with the first two sums.

    Returns:
        How many.
    """
    last, end, bits = np.uint64(start), np.uint64(stop), np.uint64(tested)
    for first in range(np.uint64(start), end, np.uint64(64)):
        # Few pixels are collected: 64 at a time are marked first, without a write whose place is yet unknown.
        marks = np.uint64(0)
        for i in range(min(np.uint64(64), end - first)):
            marks |= np.uint64((_signs(table, pixels, first + i) & bits) != 0) << i
        while marks != 0:
            i = first + _lowest_bit(marks)
            red, green, blue = pixels[i, 0], pixels[i, 1], pixels[i, 2]
            for part in range(2):
                found[last, part] = table[0, red, part] + table[1, green, part] + table[2, blue, part]
            last += np.uint64(1)
            marks &= marks - np.uint64(1)
    return np.int64(last) - start


@_compiled
def rebuild(pixels: Bytes, start: int, stop: int, factors: Array, result: Bytes) -> None:
    """Writes the product of three factors per channel less 1.

    Args:
        pixels: (N, 3) uint8.
        start: First pixel.
        stop: One past the last.
        factors: (3, 256, 4) by source channel, level, and channel of the result, the fourth unused.
        result: (N, 3) uint8, filled.
    """
    for i in range(start, stop - 1):
        _write_word(result, i, _product_of_rows(factors, pixels, i))
    if stop > start:
        # The byte beyond the last pixel is another thread's.
        _write_pixel(result, stop - 1, _product_of_rows(factors, pixels, stop - 1))


@_compiled
def _cube_root(x: Any) -> Any:
    # The inverse cube root from a third of the exponent, then two steps of the binomial series; divisions
    # and roots would cost more. Exact to float32.
    bits = np.float32(np.float32(x).view(np.int32))
    y = np.int32(np.float32(1419967116.0) - bits * np.float32(1.0 / 3.0)).view(np.float32)
    h = np.float32(1.0) - x * (y * y * y)
    y += y * h * (np.float32(1.0 / 3.0) + h * (np.float32(2.0 / 9.0) + h * np.float32(14.0 / 81.0)))
    # The second step is taken on x y y, the root itself.
    root = x * (y * y)
    return root + root * (np.float32(1.0) - root * y) * np.float32(2.0 / 3.0)


@_compiled
def _root(x: Any) -> Any:
    foot = np.float32(7.787037037037037) * x + np.float32(16.0 / 116.0)
    root = _cube_root(x)
    return root if x > np.float32(216.0 / 24389.0) else foot


@_compiled
def lab_moments(pixels: Bytes, start: int, stop: int, parts: Floats, sums: Array) -> None:
    """Sums CIELAB values of tissue by parts.

    Those of a part's first pixel are taken off first and added at last: so squares stay small and precise,
    also where all pixels are alike.

    Args:
        pixels: (N, 3) uint8.
        start: First part.
        stop: One past the last.
        parts: (3, 256, 4) part of each level in X / Xn, Y / Yn, Z / Zn, and in what adds up to 1 to 63 for
            tissue.
        sums: (parts, 7), filled from row ``start`` to ``stop``: count, 3 sums, 3 sums of squares.
    """
    light = np.empty((4, BLOCK), np.float32)
    for part in range(start, stop):
        _add_rows(parts, pixels, part * PART, pixels.shape[0] - 1, light, 0)
        fx, fy, fz = _root(light[0, 0]), _root(light[1, 0]), _root(light[2, 0])
        m0 = np.float32(116.0) * fy - np.float32(16.0)
        m1, m2 = np.float32(500.0) * (fx - fy), np.float32(200.0) * (fy - fz)
        count = s0 = s1 = s2 = q0 = q1 = q2 = 0.0
        last = min((part + 1) * PART, pixels.shape[0])
        for first in range(part * PART, last, BLOCK):
            size = min(BLOCK, last - first)
            # Single precision within a block, whose sums are short; double precision over blocks.
            n = t0 = t1 = t2 = p0 = p1 = p2 = np.float32(0.0)
            for i in range(0, size, 4):
                _add_rows(parts, pixels, first + i, last - 1, light, i)
            for i in range(size):
                fx, fy, fz = _root(light[0, i]), _root(light[1, i]), _root(light[2, i])
                inside = (light[3, i] >= np.float32(1.0)) & (light[3, i] < np.float32(64.0))
                counted = np.float32(1.0) if inside else np.float32(0.0)
                lightness = counted * (np.float32(116.0) * fy - np.float32(16.0) - m0)
                a = counted * (np.float32(500.0) * (fx - fy) - m1)
                b = counted * (np.float32(200.0) * (fy - fz) - m2)
                n += counted
                t0 += lightness
                t1 += a
                t2 += b
                p0 += lightness * lightness
                p1 += a * a
                p2 += b * b
            count += np.float64(n)
            s0 += np.float64(t0)
            s1 += np.float64(t1)
            s2 += np.float64(t2)
            q0 += np.float64(p0)
            q1 += np.float64(p1)
            q2 += np.float64(p2)
        b0, b1, b2 = np.float64(m0), np.float64(m1), np.float64(m2)
        sums[part, 0] = count
        sums[part, 1] = s0 + count * b0
        sums[part, 2] = s1 + count * b1
        sums[part, 3] = s2 + count * b2
        sums[part, 4] = q0 + (2.0 * s0 + count * b0) * b0
        sums[part, 5] = q1 + (2.0 * s1 + count * b1) * b1
        sums[part, 6] = q2 + (2.0 * s2 + count * b2) * b2


@_compiled
def _encoded(x: Any) -> Any:
    # sRGB: x ** (1 / 2.4) is x times the seventh power of its inverse twelfth root, found as above.
    x = min(max(x, np.float32(0.0)), np.float32(1.0))
    bits = np.float32(np.float32(x).view(np.int32))
    y = np.int32(np.float32(1153723282.0) - bits * np.float32(1.0 / 12.0)).view(np.float32)
    y2 = y * y
    y4 = y2 * y2
    h = np.float32(1.0) - x * (y4 * y4 * y4)
    series = np.float32(13.0 / 288.0) + h * np.float32(325.0 / 10368.0)
    y += y * h * (np.float32(1.0 / 12.0) + h * series)
    # The second step is taken on x y ** 7, the power itself.
    y2 = y * y
    y4 = y2 * y2
    power = x * (y4 * y2 * y)
    h = np.float32(1.0) - power * (y4 * y)
    series = np.float32(1.055 * 255.0 * 7.0 / 12.0) + h * np.float32(1.055 * 255.0 * 133.0 / 288.0)
    curve = power * (np.float32(1.055 * 255.0) + h * series) - np.float32(0.055 * 255.0)
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
    parts: Floats,
    mix: Floats,
    offset: Floats,
    to_rgb: Floats,
    result: Bytes,
) -> None:
    """Maps the roots behind CIELAB by ``mix`` and ``offset``, in part where the tissue is thin.

    Args:
        pixels: (N, 3) uint8.
        start: First pixel.
        stop: One past the last.
        parts: (3, 256, 4) part of each level in X / Xn, Y / Yn, Z / Zn, and in how far to map.
        mix: (3, 3), less 1 on its diagonal.
        offset: (3): how far the roots move where they move wholly.
        to_rgb: (3, 3) linear sRGB of X / Xn, Y / Yn, Z / Zn.
        result: (N, 3) uint8, filled.
    """
    light = np.empty((4, BLOCK), np.float32)
    words = np.empty(BLOCK, np.uint32)
    # Unpacked, and not as arrays, which compiled loops read again and again.
    w00, w01, w02 = mix[0, 0], mix[0, 1], mix[0, 2]
    w10, w11, w12 = mix[1, 0], mix[1, 1], mix[1, 2]
    w20, w21, w22 = mix[2, 0], mix[2, 1], mix[2, 2]
    o0, o1, o2 = offset[0], offset[1], offset[2]
    v00, v01, v02 = to_rgb[0, 0], to_rgb[0, 1], to_rgb[0, 2]
    v10, v11, v12 = to_rgb[1, 0], to_rgb[1, 1], to_rgb[1, 2]
    v20, v21, v22 = to_rgb[2, 0], to_rgb[2, 1], to_rgb[2, 2]
    for first in range(start, stop, BLOCK):
        size = min(BLOCK, stop - first)
        for i in range(0, size, 4):
            _add_rows(parts, pixels, first + i, stop - 1, light, i)
        for i in range(size):
            fx, fy, fz = _root(light[0, i]), _root(light[1, i]), _root(light[2, i])
            share = min(max(light[3, i], np.float32(0.0)), np.float32(1.0))
            x = _cubed(fx + share * (w00 * fx + w01 * fy + w02 * fz + o0))
            y = _cubed(fy + share * (w10 * fx + w11 * fy + w12 * fz + o1))
            z = _cubed(fz + share * (w20 * fx + w21 * fy + w22 * fz + o2))
            red = np.int32(_encoded(v00 * x + v01 * y + v02 * z))
            green = np.int32(_encoded(v10 * x + v11 * y + v12 * z))
            blue = np.int32(_encoded(v20 * x + v21 * y + v22 * z))
            words[i] = np.uint32(red | green << np.int32(8) | blue << np.int32(16))
        for i in range(size - 1):
            _write_word(result, first + i, words[i])
        # The byte beyond the last pixel may be another thread's.
        _write_pixel(result, first + size - 1, words[size - 1])
