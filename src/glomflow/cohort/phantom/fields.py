"""Building blocks of the drawings: smooth noise, cells, closed outlines, stamps.

All arrays are float32 and none of the functions uses BLAS, so that the same seed gives the same
bytes whatever the number of threads.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int32]
Mask = npt.NDArray[np.bool_]


def smooth_noise(rng: np.random.Generator, shape: tuple[int, int], scale: float) -> Array:
    """Draws smooth noise of zero mean and a standard deviation of 0.9.

    Args:
        rng: Source of the draws.
        shape: Height and width, px.
        scale: Distance between the knots of the quadratic B-spline, px; features are about twice that.

    Returns:
        (H, W) values.
    """
    height, width = shape
    rows, cols = (int(np.ceil(length / scale)) + 3 for length in shape)
    # A quadratic B-spline keeps 11/20 of the knots' variance along each axis.
    knots = rng.standard_normal((rows, cols), dtype=np.float32) * np.float32(1.65)
    return _interpolate(_interpolate(knots, width, scale, axis=1), height, scale, axis=0)


def _interpolate(knots: Array, length: int, scale: float, axis: int) -> Array:
    position = (np.arange(length, dtype=np.float32) + np.float32(0.5)) / np.float32(scale)
    index = position.astype(np.intp)
    t = position - np.floor(position)
    weights = [0.5 * (1 - t) ** 2, 0.5 + t * (1 - t), 0.5 * t**2]
    shape = (-1, 1) if axis == 0 else (1, -1)
    result: Array = knots.take(index, axis=axis) * weights[0].reshape(shape)
    for offset in (1, 2):
        result += knots.take(index + offset, axis=axis) * weights[offset].reshape(shape)
    return result


def ramp(x: Array, edge: float, softness: float) -> Array:
    """Rises linearly from 0 to 1 over ``softness``, centred at ``edge``."""
    share: Array = np.clip((x - np.float32(edge)) / np.float32(softness) + np.float32(0.5), 0, 1)
    return share


def band(x: Array, low: float, high: float, softness: float) -> Array:
    """1 between ``low`` and ``high``, with edges of width ``softness``."""
    return ramp(x, low, softness) - ramp(x, high, softness)


def blend(base: Array, cover: Array, value: Array | float) -> None:
    """Paints ``value`` over ``base`` in place, where ``cover`` says how opaquely (0 to 1)."""
    paint = value if isinstance(value, np.ndarray) else np.float32(value)
    base += cover * (paint - base)


@dataclass(frozen=True)
class Cells:
    """A tessellation of the plane into cells around jittered seeds.

    Attributes:
        border: (H, W) distance to the nearest border of the pixel's cell.
        distance: (H, W) distance to the seed of the pixel's cell.
        owner: (H, W) number of the pixel's cell, an index into ``seeds``.
        seeds: (n, 2) x and y of the seeds.
    """

    border: Array
    distance: Array
    owner: Labels
    seeds: Array


def tessellate(rng: np.random.Generator, x: Array, y: Array, spacing: float, jitter: float) -> Cells:
    """Divides an area into Voronoi cells of a jittered, staggered grid.

    Worley's cellular texture (SIGGRAPH 1996), with the exact distance to the bisector.

    Args:
        rng: Source of the draws.
        x: (H, W) horizontal positions, warped or not, in any unit.
        y: (H, W) vertical positions.
        spacing: Distance of neighbouring seeds, same unit.
        jitter: Largest displacement of a seed, as a share of ``spacing`` (at most 0.5).
    """
    spacing32 = np.float32(spacing)
    gx, gy = x / spacing32, y / spacing32
    left, top = int(np.floor(gx.min())) - 2, int(np.floor(gy.min())) - 2
    cols, rows = int(np.floor(gx.max())) - left + 3, int(np.floor(gy.max())) - top + 3
    offsets = rng.uniform(0.5 - jitter, 0.5 + jitter, (rows, cols, 2)).astype(np.float32)
    offsets[..., 0] += np.float32(0.5) * (np.arange(rows, dtype=np.float32) % 2)[:, None] - np.float32(0.25)
    seed_x: Array = np.ravel(offsets[..., 0] + np.arange(left, left + cols, dtype=np.float32))
    seed_y: Array = np.ravel(offsets[..., 1] + np.arange(top, top + rows, dtype=np.float32)[:, None])
    first, second, owner, runner = _two_nearest(gx, gy, seed_x, seed_y, (left, top, cols))
    apart = np.hypot(seed_x[owner] - seed_x[runner], seed_y[owner] - seed_y[runner])
    border = (second - first) / (2 * apart + np.float32(1e-6)) * spacing32
    seeds = np.stack([seed_x, seed_y], axis=1) * spacing32
    return Cells(border, np.sqrt(first) * spacing32, owner, seeds)


def _two_nearest(
    gx: Array, gy: Array, seed_x: Array, seed_y: Array, grid: tuple[int, int, int]
) -> tuple[Array, Array, Labels, Labels]:
    """Returns squared distances to and numbers of the two nearest seeds."""
    left, top, cols = grid
    base = (np.floor(gy).astype(np.int32) - top) * cols + np.floor(gx).astype(np.int32) - left
    first = np.full(gx.shape, 1e9, np.float32)
    second = first.copy()
    owner = np.zeros(gx.shape, np.int32)
    runner = np.zeros(gx.shape, np.int32)
    for step in (-cols - 1, -cols, -cols + 1, -1, 0, 1, cols - 1, cols, cols + 1):
        index = base + step
        distance = (seed_x[index] - gx) ** 2 + (seed_y[index] - gy) ** 2
        nearer = distance < first
        middle = (distance < second) & ~nearer
        np.copyto(second, distance, where=middle)
        np.copyto(runner, index, where=middle)
        np.copyto(second, first, where=nearer)
        np.copyto(runner, owner, where=nearer)
        np.copyto(first, distance, where=nearer)
        np.copyto(owner, index, where=nearer)
    return first, second, owner, runner


@dataclass(frozen=True)
class Outline:
    """A closed, star-shaped outline: radius as a sum of harmonics of the angle.

    Attributes:
        radius: Mean radius.
        harmonics: (k, 3) order, relative amplitude and phase.
    """

    radius: float
    harmonics: Array

    def at(self, angle: Array) -> Array:
        """Returns the radius at these angles (rad)."""
        wave = np.ones_like(angle)
        for order, amplitude, phase in self.harmonics:
            wave += amplitude * np.cos(order * angle + phase)
        return np.float32(self.radius) * wave

    def polygon(self, points: int) -> Array:
        """Returns (points, 2) x and y around the origin."""
        angle = np.linspace(0, 2 * np.pi, points, endpoint=False, dtype=np.float32)
        radius = self.at(angle)
        return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)


def draw_outline(
    rng: np.random.Generator, radius: float, orders: tuple[int, ...], amplitude: float
) -> Outline:
    """Draws a closed outline whose harmonics have about that relative amplitude in all."""
    share = amplitude / np.sqrt(len(orders))
    harmonics = [(order, rng.uniform(0.3, 1.0) * share, rng.uniform(0, 2 * np.pi)) for order in orders]
    return Outline(radius, np.array(harmonics, np.float32))


def nucleus_stamps(
    rng: np.random.Generator, count: int, major: float, minor: float, um_per_px: float
) -> list[Array]:
    """Draws soft, chromatin-textured ellipses at random angles.

    Args:
        rng: Source of the draws.
        count: Number of stamps.
        major: Mean half length, µm.
        minor: Mean half width, µm.
        um_per_px: Pixel size.

    Returns:
        Square odd-sized stamps, values 0 to 1.
    """
    half = int(np.ceil(1.3 * major / um_per_px)) + 1
    line = np.arange(-half, half + 1, dtype=np.float32) * np.float32(um_per_px)
    x, y = np.meshgrid(line, line)
    stamps = []
    for _ in range(count):
        angle = rng.uniform(0, np.pi)
        a, b = major * rng.uniform(0.8, 1.2), minor * rng.uniform(0.8, 1.2)
        u = (x * np.cos(angle) + y * np.sin(angle)) / a
        v = (y * np.cos(angle) - x * np.sin(angle)) / b
        radius = np.sqrt(u * u + v * v).astype(np.float32)
        inside = np.clip((1 - radius) * np.float32(b / um_per_px) + np.float32(0.5), 0, 1)
        texture = 0.72 + 0.28 * radius**2 + 0.10 * rng.standard_normal(x.shape, dtype=np.float32)
        stamps.append((inside * np.clip(texture, 0, 1.1)).astype(np.float32))
    return stamps


def paste(target: Array, stamps: list[Array], centres: Array, choice: npt.NDArray[np.int64]) -> None:
    """Lays stamps onto ``target`` in place, keeping the larger value.

    Args:
        target: (H, W) canvas.
        stamps: Odd-sized stamps.
        centres: (n, 2) x and y, px; stamps beyond the canvas are cut.
        choice: (n,) stamp to use at each centre.
    """
    height, width = target.shape
    for (x, y), number in zip(np.rint(centres).astype(int).tolist(), choice.tolist(), strict=True):
        stamp = stamps[number]
        half = stamp.shape[0] // 2
        top, left = max(0, y - half), max(0, x - half)
        bottom, right = min(height, y + half + 1), min(width, x + half + 1)
        if top >= bottom or left >= right:
            continue
        inner = (slice(top - y + half, bottom - y + half), slice(left - x + half, right - x + half))
        window = target[top:bottom, left:right]
        np.maximum(window, stamp[inner], out=window)
