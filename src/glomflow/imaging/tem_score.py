"""What a micrograph shows, place by place: dense material, membranes, or nothing worth keeping.

Everything is measured once per image, on a grid of about 40 nm; a tile's numbers are read off it. Grey
values count in units of the image's own tissue: 0 is the darker quarter of what has structure, 1 is
white (empty resin or an open lumen). Gain and offset of the camera cancel, and unlike with limits taken
from the darkest pixels an image without dense material does not have its darkest structure called dense.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Float = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]

SCORE_NM = 40.0
"""Grid that images are measured on, nm; tiles coarser than this are measured as they are."""

_FINE_NM, _BLOB_NM, _COARSE_NM, _AROUND_NM = 60.0, 120.0, 350.0, 500.0
_FULL_CONTRAST, _TISSUE_CONTRAST = 0.15, 0.02
_FULL_DENSITY, _DENSEST = 0.5, 0.02
_ENOUGH_TISSUE, _DENSITY_WEIGHT = 0.5, 0.75
_LEAST_SPAN = 0.2
_FEATURELESS, _OPAQUE, _OUTLYING = 0.25, -0.25, -1.25
_BLACK, _WHITE = 0.08, 0.99
_BAR_NM = 1500.0
_NOISE_BLOCK, _NOISE_STEP = 64, 4
_SAMPLES = 20_000
_LEAST_WHITE = 9


@dataclass(frozen=True)
class TileMeasures:
    """What is known of a tile; shares are of its area, 0 to 1.

    Attributes:
        information: The score, 0 to 1; see :meth:`ScoreMaps.measure`.
        empty: Neither structure nor anything opaque: resin, an open lumen, or far out of focus.
        grid_bar: Black without structure, in one piece of more than 1.5 µm x 1.5 µm.
        saturated: At the upper end of the image's range, without structure: a hole, or overexposed.
        dirt: Black without structure, in smaller pieces: precipitate, dust.
    """

    information: float
    empty: float
    grid_bar: float
    saturated: float
    dirt: float


@dataclass(frozen=True)
class ScoreMaps:
    """An image measured on a coarse grid; all arrays are (h, w).

    Attributes:
        step: Pixels of the image along the edge of a grid cell.
        density: How dark and compact the surroundings are, at the scale of dense deposits, from 0.
        contrast: Contrast at the scale of membranes and foot processes, 0 to 1.
        textured: Whether there is structure within about 0.5 µm.
        grid_bar: Part of a grid bar.
        saturated: Saturated white.
        dirt: Part of opaque dirt.
    """

    step: int
    density: Float
    contrast: Float
    textured: Mask
    grid_bar: Mask
    saturated: Mask
    dirt: Mask

    def measure(self, x: int, y: int, width: int, height: int) -> TileMeasures:
        """Measures a tile.

        The score is ``min(1, share / 0.5) * (0.75 * density + 0.25 * contrast)``: *share* of the tile
        with structure; *density* the root mean of the densest 2 % of the tile; *contrast* its mean.

        Args:
            x: Left edge, px of the image.
            y: Top edge.
            width: Width, px.
            height: Height, px.
        """
        (top, bottom), (left, right) = (
            (
                min(round(start / self.step), limit - 1),
                min(max(round((start + extent) / self.step), round(start / self.step) + 1), limit),
            )
            for start, extent, limit in zip((y, x), (height, width), self.density.shape, strict=True)
        )
        density = self.density[top:bottom, left:right]
        densest = max(1, round(_DENSEST * density.size))
        some = density[density > 0]
        if some.size > densest:
            some = np.partition(some, some.size - densest)[-densest:]
        dense = float(some.sum()) / densest
        sums = self._sums
        within = sums[bottom, right] - sums[top, right] - sums[bottom, left] + sums[top, left]
        share, contrast, bar, white, dirt = np.clip(within / density.size, 0.0, 1.0).tolist()
        both = (
            _DENSITY_WEIGHT * min(1.0, math.sqrt(dense) / _FULL_DENSITY) + (1.0 - _DENSITY_WEIGHT) * contrast
        )
        return TileMeasures(
            information=min(1.0, share / _ENOUGH_TISSUE) * both,
            empty=max(0.0, 1.0 - share - bar - dirt),
            grid_bar=bar,
            saturated=white,
            dirt=dirt,
        )

    @functools.cached_property
    def _sums(self) -> npt.NDArray[np.float64]:
        """Summed-area tables of what is averaged over a tile, (h + 1, w + 1, 5)."""
        averaged = (
            self.textured,
            self.contrast * self.textured,
            self.grid_bar,
            self.saturated,
            self.dirt,
        )
        sums = np.zeros((*(edge + 1 for edge in self.density.shape), len(averaged)))
        for number, values in enumerate(averaged):
            if not values.any():
                continue
            sums[1:, 1:, number] = values.cumsum(axis=0, dtype=np.float64).cumsum(axis=1)
        return sums


@dataclass(frozen=True)
class Grid:
    """An image, or a band of its rows, reduced to the grid that is measured.

    Attributes:
        mean: (h, w) mean grey value of each cell.
        noise: (h, w) standard deviation of white noise around it, per pixel of the image.
    """

    mean: Float
    noise: Float


def grid_step(nm_per_px: float) -> int:
    """Returns the edge of a grid cell, px: about 40 nm, at least one pixel."""
    return max(1, math.floor(SCORE_NM / nm_per_px + 1e-6))


def reduce_image(image: Array, step: int) -> Grid:
    """Reduces an image, or a band of rows, to the grid.

    Args:
        image: (H, W) grey values of any type; what is not finite counts as 0.
        step: Edge of a grid cell, px.
    """
    if image.dtype.kind == "f":
        image = np.nan_to_num(image, nan=0.0, posinf=0.0, neginf=0.0)
    step = max(1, min(step, *image.shape))
    mean = _block_mean(image, step)
    return Grid(mean, _noise(image, step, mean.shape))


def score_maps(image: Array, nm_per_px: float) -> ScoreMaps:
    """Measures an image.

    Args:
        image: (H, W) grey values of any type, free of burnt-in graphics.
        nm_per_px: Pixel size, nm.

    Returns:
        The maps, on a grid of ``floor(40 / nm_per_px)`` pixels, at least one.
    """
    return maps_of(reduce_image(image, grid_step(nm_per_px)), nm_per_px, grid_step(nm_per_px))


def maps_of(grid: Grid, nm_per_px: float, step: int) -> ScoreMaps:
    """Measures a reduced image.

    - *Structure*: the band of 60 to 350 nm (difference of Gaussians), less what white noise of the
      image's own level would give, averaged over about 0.5 µm.
    - *Density*: how far the mean over 120 nm is darker than the darker quarter of the tissue, times the
      smaller eigenvalue of the Hessian at that scale (scale-normalised, Lindeberg 1998), which is
      positive in compact dark spots and not along membranes or in the even interior of large cells.
    - *Opaque*: under 8 % of white, and either with less than a quarter of the tissue's local variation or
      far below all tissue. Electron-dense tissue keeps its grain; a grid bar or a crystal that lets no
      electron through has none, and a red blood cell, which is even too, is not black.

    Args:
        grid: The reduced image.
        nm_per_px: Pixel size of the image, nm.
        step: Edge of a grid cell, px of the image.

    Returns:
        The maps.
    """
    from scipy.ndimage import gaussian_filter

    small, pixel = grid.mean, step * nm_per_px
    low, white, high = _percentiles(small, 0.5, 98.0, 99.5)
    if not high > low:
        nothing, zero = np.zeros(small.shape, np.bool_), np.zeros(small.shape, np.float32)
        return ScoreMaps(step, zero, zero, nothing, nothing, nothing, nothing)
    fine = gaussian_filter(small, _FINE_NM / pixel, truncate=3.0)
    band = np.abs(fine - _smooth(small, _COARSE_NM / pixel)) / np.float32(high - low)
    noise = grid.noise * np.float32(_noise_gain(step, nm_per_px) / (high - low))
    contrast = np.clip(band - 2.0 * noise, 0.0, _FULL_CONTRAST) / np.float32(_FULL_CONTRAST)
    textured = _smooth(contrast, _AROUND_NM / pixel) * _FULL_CONTRAST > _TISSUE_CONTRAST

    (dark,) = _percentiles(small[textured] if textured.any() else small, 25.0)
    span = max(white - dark, _LEAST_SPAN * (high - low))
    bar, dirt, saturated = _featureless(small, textured, (dark, span), pixel)
    textured &= ~(bar | dirt | saturated)
    density = _density((small - np.float32(dark)) / np.float32(span), _BLOB_NM / pixel) * textured
    return ScoreMaps(step, density, contrast, textured, bar, saturated, dirt)


def _density(image: Float, sigma: float) -> Float:
    """Returns darkness below 0 times compactness (smaller eigenvalue of the Hessian), where positive."""
    from scipy.ndimage import gaussian_filter

    mean = gaussian_filter(image, sigma, truncate=3.0)
    padded = np.pad(mean, 1, mode="edge")
    rows = padded[2:, 1:-1] - 2.0 * mean + padded[:-2, 1:-1]
    columns = padded[1:-1, 2:] - 2.0 * mean + padded[1:-1, :-2]
    mixed = (padded[2:, 2:] - padded[2:, :-2] - padded[:-2, 2:] + padded[:-2, :-2]) / 4.0
    smaller = (rows + columns) / 2.0 - np.hypot((rows - columns) / 2.0, mixed)
    compact = np.clip(smaller, 0.0, None) * np.float32(sigma**2)
    return np.asarray(compact * np.clip(-mean, 0.0, None), np.float32)


def _featureless(
    small: Float, textured: Mask, scale: tuple[float, float], pixel: float
) -> tuple[Mask, Mask, Mask]:
    """Finds grid bars, dirt and saturated white: black or white with no variation of its own."""
    from scipy.ndimage import binary_dilation, label

    dark, span = scale
    none = np.zeros(small.shape, np.bool_)
    top, zero = float(small.max()), min(0.0, float(small.min()))
    black = small < min(dark + _OPAQUE * span, zero + _BLACK * (top - zero))
    white = small > dark + _WHITE * (top - dark)
    if not black.any() and np.count_nonzero(white) < _LEAST_WHITE:
        return none, none, none
    variation = _variation(small, textured & ~black & ~white)
    known = variation[np.isfinite(variation)]
    usual = _FEATURELESS * _percentiles(known, 50.0)[0] if known.size else 0.0
    saturated = white & (_variation(small, white) <= usual)
    opaque = black & ((_variation(small, black) <= usual) | (small < dark + _OUTLYING * span))
    labels, count = label(opaque)
    if not count:
        return none, none, saturated
    large = np.bincount(labels.reshape(-1))[1:] >= (_BAR_NM / pixel) ** 2
    bar = np.concatenate([[False], large])[labels]
    return bar, binary_dilation(opaque & ~bar, iterations=1) & ~bar, saturated


def _variation(image: Float, mask: Mask) -> Float:
    """Returns the mean absolute difference of neighbours within a mask, over 3 x 3 cells; else infinity."""
    total, pairs = np.zeros(image.shape, np.float32), np.zeros(image.shape, np.float32)
    for first, second in (
        ((slice(None), slice(1, None)), (slice(None), slice(None, -1))),
        ((slice(1, None), slice(None)), (slice(None, -1), slice(None))),
    ):
        both = mask[first] & mask[second]
        total[first] += np.abs(image[first] - image[second]) * both
        pairs[first] += both
    total, pairs = _box_sum(total), _box_sum(pairs)
    mean = np.full(image.shape, np.inf, np.float32)
    np.divide(total, pairs, out=mean, where=mask & (pairs > 0))
    return mean


def _box_sum(values: Float) -> Float:
    """Sums over 3 x 3 cells; beyond the edge there is nothing."""
    padded = np.pad(values, 1)
    rows = padded[:-2] + padded[1:-1] + padded[2:]
    return np.asarray(rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:], np.float32)


def _smooth(image: Float, sigma: float) -> Float:
    """Gaussian of a large width, taken on block means and interpolated, which changes little."""
    from scipy.ndimage import gaussian_filter

    step = max(1, math.floor(sigma / 2.0))
    if step == 1 or min(image.shape) < 4 * step:
        return np.asarray(gaussian_filter(image, sigma, truncate=2.5), np.float32)
    missing = [-edge % step for edge in image.shape]
    padded = np.pad(image, [(0, gap) for gap in missing], mode="edge")
    smooth = gaussian_filter(_block_mean(padded, step), sigma / step, truncate=2.5)
    return _between(_between(smooth, step, image.shape[0]).T, step, image.shape[1]).T


def _between(cells: Float, step: int, length: int) -> Float:
    """Interpolates the rows of block means linearly to ``length`` rows, ``step`` to a block."""
    place = np.clip((np.arange(length, dtype=np.float32) + 0.5) / step - 0.5, 0, len(cells) - 1)
    below = np.minimum(place.astype(np.intp), max(0, len(cells) - 2))
    share = (place - below).astype(np.float32)[:, None]
    above = np.minimum(below + 1, len(cells) - 1)
    return np.asarray(cells[below] * (1 - share) + cells[above] * share, np.float32)


def _percentiles(values: Array, *shares: float) -> list[float]:
    """Percentiles of 20,000 to 40,000 evenly spaced values."""
    flat = values.reshape(-1)
    flat = flat[:: (flat.size // _SAMPLES) | 1]
    return [float(value) for value in np.percentile(flat, shares)]


def _block_mean(image: Array, step: int) -> Float:
    if step == 1:
        return image.astype(np.float32)
    height, width = (edge // step * step for edge in image.shape)
    rows = np.add.reduce(
        image[:height, :width].reshape(height // step, step, width), axis=1, dtype=np.float32
    )
    both = np.add.reduce(rows.reshape(height // step, width // step, step), axis=2, dtype=np.float32)
    return np.asarray(both / np.float32(step * step), np.float32)


def _noise(image: Array, step: int, shape: tuple[int, ...]) -> Float:
    """Standard deviation of white noise around each grid cell, by Immerkær (1996).

    The median over blocks of 64 px takes the place of his mean, against edges.

    Args:
        image: (H, W) image.
        step: Pixels along the edge of a grid cell.
        shape: Cells of the grid.

    Returns:
        (h, w) in grey values of the image; 0 where the image is too small to tell.
    """
    if min(image.shape) < _NOISE_STEP + 2:
        return np.zeros(shape, np.float32)
    working = np.int32 if image.dtype.kind in "iu" and image.dtype.itemsize <= 2 else np.float32
    height, width = ((edge - 2) // _NOISE_STEP * _NOISE_STEP for edge in image.shape)
    laplacian = np.zeros((height // _NOISE_STEP, width // _NOISE_STEP), working)
    for row, column in np.ndindex(3, 3):
        weight = (1, -2, 1)[row] * (1, -2, 1)[column]
        samples = image[row : row + height : _NOISE_STEP, column : column + width : _NOISE_STEP]
        laplacian += weight * samples.astype(working)
    across = max(1, min(_NOISE_BLOCK // _NOISE_STEP, *laplacian.shape))
    rows, columns = (edge // across for edge in laplacian.shape)
    blocks = np.abs(laplacian[: rows * across, : columns * across]).reshape(rows, across, columns, across)
    level = np.median(blocks.transpose(0, 2, 1, 3).reshape(rows, columns, -1), axis=2) / (0.6745 * 6.0)
    cell = step / (_NOISE_STEP * across)
    down, right = (
        np.minimum(((np.arange(edge) + 0.5) * cell).astype(np.intp), limit - 1)
        for edge, limit in zip(shape, level.shape, strict=True)
    )
    return np.asarray(level[down][:, right], np.float32)


@functools.lru_cache(maxsize=64)
def _noise_gain(step: int, nm_per_px: float) -> float:
    """Returns what is left of white noise's standard deviation after block means and the band-pass."""
    from scipy.ndimage import gaussian_filter

    pixel = step * nm_per_px
    reach = math.ceil(3.0 * _COARSE_NM / pixel) + 1
    impulse = np.zeros((2 * reach + 1, 2 * reach + 1), np.float64)
    impulse[reach, reach] = 1.0
    band = gaussian_filter(impulse, _FINE_NM / pixel, truncate=3.0)
    band -= gaussian_filter(impulse, _COARSE_NM / pixel, truncate=3.0)
    return float(np.sqrt(np.square(band).sum())) / step
