"""Compiled loops over the pictures that quality is measured on; see :mod:`glomflow.imaging.pixel_kernels`."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from glomflow.imaging.pixel_kernels import compiled

Array = npt.NDArray[Any]


@compiled
def scaled(gray: Array, low: float, high: float, unit: Array) -> None:
    """Maps ``low`` to 0 and ``high`` to 1, cutting what is beyond; both arrays are (N,)."""
    span = high - low
    for at in range(gray.size):
        unit[at] = min(max((gray[at] - low) / span, 0.0), 1.0)


@compiled
def dense(pixels: Array, levels: Array, least: Any, found: Array) -> None:
    """Finds the pixels (N, 3) uint8 whose densities add up to more than ``least``; black ones are padding.

    Args:
        pixels: (N, 3).
        levels: (256,) density of each level.
        least: Sum of the three densities.
        found: (N,), filled.
    """
    for at in range(found.size):
        red, green, blue = pixels[at, 0], pixels[at, 1], pixels[at, 2]
        shown = (red | green | blue) != 0
        found[at] = shown & (levels[red] + levels[green] + levels[blue] > least)


@compiled
def laplacian_variance(plane: Array) -> float:
    """Returns the variance of the 4-neighbour Laplacian inside a picture (h, w)."""
    rows, columns = plane.shape[0] - 2, plane.shape[1] - 2
    total, squares = 0.0, 0.0
    line = np.empty(columns, np.float64)
    for row in range(rows):
        above, middle, below = plane[row], plane[row + 1], plane[row + 2]
        for at in range(columns):
            line[at] = (
                np.float64(4.0) * middle[at + 1] - middle[at] - middle[at + 2] - above[at + 1] - below[at + 1]
            )
        for at in range(columns):
            total += line[at]
            squares += line[at] * line[at]
    mean = total / (rows * columns)
    variance: float = max(0.0, squares / (rows * columns) - mean * mean)
    return variance


@compiled
def noise_responses(plane: Array, stride: int, responses: Array) -> None:
    """Fills absolute responses of Immerkaer's kernel at every ``stride``-th place, counted down columns."""
    rows = plane.shape[0] - 2
    for index in range(responses.size):
        place = index * stride
        x, y = place // rows, place % rows
        total = np.float32(0.0)
        for across in range(3):
            upper, middle, lower = plane[y, x + across], plane[y + 1, x + across], plane[y + 2, x + across]
            total += np.float32(2.0 if across == 1 else -1.0) * (np.float32(2.0) * middle - upper - lower)
        responses[index] = abs(total)


@compiled
def smoothed_samples(plane: Array, stride: int, samples: Array) -> None:
    """Fills means over 3 x 3 px at every ``stride``-th pixel of a picture (h, w); its edges are repeated."""
    height, width = plane.shape
    for index in range(samples.size):
        y, x = index * stride // width, index * stride % width
        total = 0.0
        for down in range(-1, 2):
            row = min(max(y + down, 0), height - 1)
            for across in range(-1, 2):
                total += plane[row, min(max(x + across, 0), width - 1)]
        samples[index] = total / 9.0


@compiled
def window_statistics(plane: Array, window: int, mean: Array, variance: Array) -> None:
    """Fills mean and variance within a square window around each pixel; the picture's edges are repeated.

    Args:
        plane: (h, w) float32.
        window: Edge of the window, px, odd.
        mean: (h, w), filled.
        variance: (h, w), filled.
    """
    height, width = plane.shape
    reach = window // 2
    first = np.zeros(width, np.float64)
    second = np.zeros(width, np.float64)
    for down in range(-reach, reach + 1):
        row = plane[min(max(down, 0), height - 1)]
        for at in range(width):
            first[at] += row[at]
            second[at] += np.float64(row[at]) * row[at]
    area = 1.0 / (window * window)
    for y in range(height):
        total, squares = 0.0, 0.0
        for across in range(-reach, reach + 1):
            at = min(max(across, 0), width - 1)
            total += first[at]
            squares += second[at]
        for x in range(width):
            middle = total * area
            mean[y, x] = middle
            variance[y, x] = squares * area - middle * middle
            comes, goes = min(x + reach + 1, width - 1), max(x - reach, 0)
            total += first[comes] - first[goes]
            squares += second[comes] - second[goes]
        enters, leaves = plane[min(y + reach + 1, height - 1)], plane[max(y - reach, 0)]
        for at in range(width):
            first[at] += np.float64(enters[at]) - np.float64(leaves[at])
            second[at] += np.float64(enters[at]) * enters[at] - np.float64(leaves[at]) * leaves[at]


@compiled
def gradient_energy(plane: Array, edge: int, energy: Array) -> None:
    """Adds up products of the gradient by block.

    Args:
        plane: (h, w).
        edge: Edge of a block, px; blocks start at the second pixel.
        energy: (rows, columns, 3), zeros: sums over each block of gx gx, gy gy and gx gy.
    """
    rows, columns, _ = energy.shape
    for y in range(1, min(rows * edge, plane.shape[0] - 2) + 1):
        above, middle, below = plane[y - 1], plane[y], plane[y + 1]
        for column in range(columns):
            xx, yy, xy = 0.0, 0.0, 0.0
            first = column * edge + 1
            for x in range(first, min(first + edge, plane.shape[1] - 1)):
                gx = np.float32(0.5) * (middle[x + 1] - middle[x - 1])
                gy = np.float32(0.5) * (below[x] - above[x])
                xx += gx * gx
                yy += gy * gy
                xy += gx * gy
            block = energy[(y - 1) // edge, column]
            block[0] += xx
            block[1] += yy
            block[2] += xy


@compiled
def surroundings(labels: Array, plane: Array, rim: Array, inside: Array, around: Array) -> None:
    """Adds up what lies within and around labelled areas.

    A pixel without a label belongs to the rim of the highest label within two pixels of it.

    Args:
        labels: (h, w), 0 where there is no area.
        plane: (h, w) values.
        rim: (h, w), zeros; filled with the label whose rim a pixel is.
        inside: (labels + 1, 2), zeros: pixels and sum of their values, within.
        around: (labels + 1, 2), zeros: the same of the rim.
    """
    height, width = labels.shape
    for y in range(height):
        for x in range(width):
            label = labels[y, x]
            if label == 0:
                continue
            inside[label, 0] += 1
            inside[label, 1] += plane[y, x]
            for row in range(max(y - 2, 0), min(y + 3, height)):
                for column in range(max(x - 2, 0), min(x + 3, width)):
                    before = rim[row, column]
                    if labels[row, column] == 0 and label > before:
                        value = plane[row, column]
                        if before != 0:
                            around[before, 0] -= 1
                            around[before, 1] -= value
                        rim[row, column] = label
                        around[label, 0] += 1
                        around[label, 1] += value


@compiled
def dimmest_rectangle(across: Array, down: Array, least: int, step: float, largest: float) -> int:
    """Returns the area, in cells, of the rectangle whose every side is a drop; 0 if there is none.

    Args:
        across: (rows + 1, columns + 1) sums down the rows of the drop over each vertical border.
        down: (columns + 1, rows + 1) the same of the transposed grid.
        least: Least edge, cells.
        step: Least mean drop over every side but those on the image's own edge, at most two.
        largest: Largest area, cells.
    """
    rows, columns = across.shape[0] - 1, across.shape[1] - 1
    best, area = step, 0
    for top in range(rows + 1):
        for bottom in range(top + least, rows + 1):
            height = bottom - top
            for x0 in range(columns + 1):
                left = (across[bottom, x0] - across[top, x0]) / height if x0 > 0 else np.inf
                if left < best:
                    continue
                for x1 in range(x0 + least, columns + 1):
                    right = (across[top, x1] - across[bottom, x1]) / height if x1 < columns else np.inf
                    width = x1 - x0
                    inner = int(x0 > 0) + int(x1 < columns) + int(top > 0) + int(bottom < rows)
                    if right < best or inner < 2 or width * height > largest:
                        continue
                    drop = min(left, right)
                    if top > 0:
                        drop = min(drop, (down[x1, top] - down[x0, top]) / width)
                    if bottom < rows:
                        drop = min(drop, (down[x0, bottom] - down[x1, bottom]) / width)
                    if drop >= best:
                        best, area = drop, width * height
    return area
