"""The interface of all image readers, and the geometry that they share."""

from __future__ import annotations

import abc
import contextlib
import math
import struct
import sys
import warnings
import zlib
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from glomflow.errors import ImageError
from glomflow.imaging.pixels import RGB, Array

BAND_SAMPLES = 24_000_000
"""Most samples of a level that a reduction holds at once; wider boxes are read in bands of rows."""


class ImageReader(abc.ABC):
    """One opened image, read by region at any resolution.

    Readers decode what a region needs and no more, where the format allows it. They are context
    managers and are not shared between threads.

    Attributes:
        name: Name of the reader, as in :data:`glomflow.imaging.readers.registry.READERS`.
        path: The file or folder.
        levels: Width and height of each resolution level, px, the finest first.
        channels: Channel names; ``('R', 'G', 'B')`` for a colour image.
        dtype: Type of the samples.
        pixel_size: Size of a full-resolution pixel along x and y, µm, by the file's own tags, or None.
        fill: Value of samples beyond the image: white for 8-bit colour, else 0. May be set.

    Raises:
        ImageError: ``unreadable``, if there are no pixels.
    """

    def __init__(
        self,
        name: str,
        path: Path,
        *,
        levels: tuple[tuple[int, int], ...],
        channels: tuple[str, ...],
        dtype: np.dtype[Any],
        pixel_size: tuple[float, float] | None,
    ) -> None:
        if not channels or any(width < 1 or height < 1 for width, height in levels):
            raise unreadable(path, "its header says that it has no pixels")
        self.name = name
        self.path = path
        self.levels = levels
        self.channels = channels
        self.dtype = np.dtype(dtype)
        self.pixel_size = pixel_size
        self.fill: float = 255.0 if channels == RGB and self.dtype == np.uint8 else 0.0

    @property
    def width(self) -> int:
        """Width at full resolution, px."""
        return self.levels[0][0]

    @property
    def height(self) -> int:
        """Height at full resolution, px."""
        return self.levels[0][1]

    @abc.abstractmethod
    def _decode(self, level: int, left: int, top: int, right: int, bottom: int) -> Array:
        """Returns the samples of a box that lies within a level, (bottom - top, right - left, C)."""

    @abc.abstractmethod
    def close(self) -> None:
        """Closes the file."""

    @abc.abstractmethod
    def check(self) -> None:
        """Checks that the file holds all of its pixels, as far as that is cheap.

        What can only be decoded whole is decoded; of strips and tiles, their places in the file are
        compared with its size, which finds truncated files.

        Raises:
            ImageError: ``unreadable``, if the file is damaged.
        """

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def level_scale(self, level: int) -> tuple[float, float]:
        """Returns how many full-resolution pixels a pixel of ``level`` spans along x and y.

        Pyramid writers round the size of a level up or down. Where its size agrees with a whole
        factor, that factor is meant, and taking it keeps the far edge in register.
        """
        width, height = self.levels[level]
        ratios = self.width / width, self.height / height
        factor = round(max(ratios))
        whole = all(
            abs(full - reduced * factor) < factor
            for full, reduced in ((self.width, width), (self.height, height))
        )
        return (float(factor), float(factor)) if whole else ratios

    def level_for(self, downsample: float) -> int:
        """Returns the coarsest level that is at least as fine as ``downsample``."""
        fitting = [
            index for index in range(len(self.levels)) if max(self.level_scale(index)) <= downsample * 1.001
        ]
        return max(fitting, key=lambda index: max(self.level_scale(index)), default=0)

    def read_region(
        self, x: float, y: float, width: float, height: float, out_width: int, out_height: int
    ) -> Array:
        """Reads a box at a chosen resolution.

        The nearest level at least as fine is decoded; it is area-averaged where it shrinks and
        interpolated bilinearly where it grows. What lies beyond the image has the value ``fill``.

        Args:
            x: Left edge of the box, full-resolution px (pixel centres lie at half-integers).
            y: Top edge.
            width: Width of the box, full-resolution px.
            height: Height of the box.
            out_width: Width of the result, px.
            out_height: Height of the result, px.

        Returns:
            (out_height, out_width, C) of the image's own dtype.

        Raises:
            ImageError: ``unreadable``, if the pixels cannot be decoded.
            ValueError: The box or the result has no area.
        """
        if not (width > 0 and height > 0 and out_width > 0 and out_height > 0):
            raise ValueError(f"a region needs an area: {width} x {height} px to {out_width} x {out_height}")
        level = self.level_for(min(width / out_width, height / out_height))
        scale = self.level_scale(level)
        columns = _Axis(
            x / scale[0], width / scale[0], out_width, self.levels[level][0], self.width / scale[0]
        )
        rows = _Axis(
            y / scale[1], height / scale[1], out_height, self.levels[level][1], self.height / scale[1]
        )
        return self._resample(level, columns, rows)

    def thumbnail(self, longest: int) -> Array:
        """Reads the whole image, its longest edge at most ``longest`` px; it is never enlarged.

        Args:
            longest: Longest edge of the result, px.

        Returns:
            (h, w, C) of the image's own dtype.

        Raises:
            ImageError: ``unreadable``, if the pixels cannot be decoded.
        """
        shrink = max(1.0, max(self.width, self.height) / longest)
        size = max(1, round(self.width / shrink)), max(1, round(self.height / shrink))
        return self.read_region(0, 0, self.width, self.height, *size)

    def pixels(self) -> Array:
        """Reads the whole image at full resolution.

        Returns:
            (height, width, C), possibly the reader's own memory: it must not be written to.

        Raises:
            ImageError: ``unreadable``, if the pixels cannot be decoded.
        """
        samples = self._decode(0, 0, 0, self.width, self.height)
        self._check_finite(samples)
        return samples.astype(self.dtype, copy=False)

    def _check_finite(self, samples: Array) -> None:
        if samples.dtype.kind == "f" and not np.isfinite(samples).all():
            raise unsupported(
                self.path,
                "it holds samples that are no finite numbers (NaN or infinite)",
                "replace them and export the image again",
            )

    def _resample(self, level: int, columns: _Axis, rows: _Axis) -> Array:
        result = np.full((rows.count, columns.count, len(self.channels)), self.fill, self.dtype)
        left, right = columns.source(0, columns.count)
        if left >= right:
            return result
        step = max(1, round(BAND_SAMPLES / max(1.0, (right - left) * len(self.channels) * rows.step)))
        for first in range(0, rows.count, step):
            last = min(first + step, rows.count)
            top, bottom = rows.source(first, last)
            if top >= bottom:
                continue
            samples = self._decode(level, left, top, right, bottom)
            self._check_finite(samples)
            if columns.is_copy and rows.is_copy:
                down, across = top - rows.offset, left - columns.offset
                result[down : down + bottom - top, across : across + right - left] = samples
                continue
            shifts = rows.shift(first, last, top, bottom), columns.shift(0, columns.count, left, right)
            if shifts[0] is not None and shifts[1] is not None:
                _shifted(samples, shifts[0], shifts[1], result[first:last])
                continue
            taps = rows.taps(first, last, top, bottom), columns.taps(0, columns.count, left, right)
            _mix(samples, taps[0], taps[1], self.fill, result[first:last])
        return result


class _Axis:
    """One axis of a resampling: which samples of a level make up each sample of the result.

    Args:
        start: Left edge of the box, level px.
        extent: Width of the box, level px.
        count: Samples of the result.
        samples: Samples that the level has.
        end: Where the image ends, level px; not always ``samples``, whose last one may be partial.
    """

    def __init__(self, start: float, extent: float, count: int, samples: int, end: float) -> None:
        self.start, self.count, self.samples, self.end = start, count, samples, end
        self.step = extent / count
        self.shrinks = self.step > 1.0
        self.offset = round(start)
        self.is_copy = abs(self.step - 1.0) * count < 1e-3 and abs(start - self.offset) < 1e-3

    def source(self, first: int, last: int) -> tuple[int, int]:
        """Returns the range of level samples that results ``first`` to ``last`` need."""
        if self.is_copy:
            low, high = self.offset + first, self.offset + last
        else:
            reach = 0.0 if self.shrinks else 1.0
            low = math.floor(self.start + first * self.step - reach + 1e-9)
            high = math.ceil(self.start + last * self.step + reach - 1e-9)
        if high <= 0 or low >= max(self.end, self.samples):
            return 0, 0
        return min(max(low, 0), self.samples - 1), max(1, min(high, self.samples))

    def shift(self, first: int, last: int, low: int, high: int) -> tuple[slice, float] | None:
        """Returns how results lie among samples ``low`` to ``high`` of the same spacing.

        Returns:
            The samples before and behind each result, and how far results are from the former, 0 to 1;
            None if the spacing differs or results lie at the image's edge.
        """
        if abs(self.step - 1.0) * self.count >= 1e-3:
            return None
        below = math.floor(self.start)
        begin, end = below + first - low, below + last - low + 1
        if begin < 0 or end > high - low:
            return None
        return slice(begin, end), self.start - below

    def taps(self, first: int, last: int, low: int, high: int) -> tuple[Array, Array]:
        """Returns which of the samples ``low`` to ``high`` make up each result, and how much.

        Returns:
            (last - first, T) places counted from ``low`` and their weights, which sum to the part covered.
        """
        source, weight = self._area(first, last) if self.shrinks else self._linear(first, last)
        return np.clip(source, low, high - 1) - low, weight

    def _area(self, first: int, last: int) -> tuple[Array, Array]:
        edges = np.clip(self.start + np.arange(first, last + 1) * self.step, 0.0, self.end)
        begin, finish = edges[:-1, None], edges[1:, None]
        source = np.floor(begin).astype(np.int64) + np.arange(math.ceil(self.step) + 1)
        overlap = np.minimum(finish, source + 1) - np.maximum(begin, source)
        return np.minimum(source, self.samples - 1), np.maximum(overlap, 0.0) / self.step

    def _linear(self, first: int, last: int) -> tuple[Array, Array]:
        centre = self.start + (np.arange(first, last) + 0.5) * self.step
        inside = (centre >= 0) & (centre <= self.end)
        below = np.floor(centre - 0.5).astype(np.int64)
        share = centre - 0.5 - below
        source = np.clip(np.stack([below, below + 1], axis=1), 0, self.samples - 1)
        return source, np.stack([1.0 - share, share], axis=1) * inside[:, None]


def area_average(picture: Array, width: int, height: int) -> Array:
    """Averages a picture over the boxes of a coarser grid.

    A pixel counts wholly for the box that its centre lies in. Neighbours of the result then have no pixel
    in common, and white noise stays white, which measures of focus and noise rest on.

    Args:
        picture: (h, w, C), any type.
        width: Width of the result, px, at most that of the picture.
        height: Height of the result, px, likewise.

    Returns:
        (height, width, C) of the same type, rounded if that holds whole numbers.
    """
    if picture.shape[:2] == (height, width):
        return picture
    result = np.empty((height, width, picture.shape[2]), picture.dtype)
    _mix(picture, _boxes(picture.shape[0], height), _boxes(picture.shape[1], width), 0.0, result)
    return result


@lru_cache(maxsize=32)
def _boxes(samples: int, count: int) -> tuple[Array, Array]:
    """Returns the samples of each of ``count`` boxes along an axis, and their weights, both (count, T).

    Images of a cohort mostly have a few sizes. The arrays must not be written to.
    """
    edges = (np.arange(count + 1) * (samples / count) + 0.5).astype(np.int64)
    lengths = np.diff(edges)[:, None]
    place = np.arange(int(lengths.max()))
    source = np.minimum(edges[:-1, None] + place, samples - 1)
    return source, (place < lengths) / lengths


_COMPILED_TYPES = frozenset(map(np.dtype, (np.uint8, np.uint16, np.float32)))
"""Sample types that loops are compiled for; others are worked on as float64."""


def _mix(
    samples: Array, rows: tuple[Array, Array], columns: tuple[Array, Array], fill: float, result: Array
) -> None:
    """Fills ``result`` (H, W, C) with weighted means of samples (h, w, C); see :meth:`_Axis.taps`."""
    from glomflow.imaging.pixel_kernels import mix, read_only

    height, width, channels = samples.shape
    plain = result.dtype in _COMPILED_TYPES and samples.dtype == result.dtype
    working: Any = np.float32 if result.dtype.itemsize <= 2 or result.dtype == np.float16 else np.float64
    source = (columns[0].T[:, :, None] * channels + np.arange(channels)).reshape(columns[0].shape[1], -1)
    weight = np.repeat(columns[1].T.astype(working), channels, axis=1)
    mixed = result if plain else np.empty(result.shape, working)
    mix(
        read_only(samples if plain else samples.astype(working)).reshape(height, width * channels),
        rows[0],
        rows[1].astype(working),
        source.astype(np.uint32),
        weight,
        float(fill),
        plain and result.dtype.kind == "u",
        mixed.reshape(result.shape[0], -1),
    )
    if not plain:
        result[:] = _rounded(mixed, result.dtype)


def _shifted(samples: Array, down: tuple[slice, float], across: tuple[slice, float], result: Array) -> None:
    """Interpolates between neighbours where the spacing stays; as :func:`_mix`, but faster."""
    from glomflow.imaging.pixel_kernels import read_only, shift

    used = samples[down[0], across[0]]
    plain = result.dtype in _COMPILED_TYPES and samples.dtype == result.dtype
    working: Any = np.float32 if result.dtype.itemsize <= 2 else np.float64
    weights = np.array([1.0 - down[1], down[1], 1.0 - across[1], across[1]], working)
    mixed = result if plain else np.empty(result.shape, working)
    used = read_only(used if plain else used.astype(working))
    shift(used, weights, plain and result.dtype.kind == "u", mixed)
    if not plain:
        result[:] = _rounded(mixed, result.dtype)


def _rounded(mixed: Array, dtype: np.dtype[Any]) -> Array:
    if np.issubdtype(dtype, np.integer):
        limits = np.iinfo(dtype)
        # The highest numbers of 64 bits lie between two floats; the upper one would overflow.
        top = np.nextafter(float(limits.max), 0.0) if dtype.itemsize == 8 else limits.max
        np.clip(np.rint(mixed, out=mixed), limits.min, top, out=mixed)
    return mixed.astype(dtype)


_ERROR_MODULES = ("tifffile", "openslide", "wsidicom.errors", "pydicom.errors")
"""Modules with errors of their own that derive from ``Exception`` alone."""


@contextlib.contextmanager
def decoding(path: Path) -> Iterator[None]:
    """Turns what the decoding libraries raise in the block into :class:`ImageError`.

    The block should hold calls of those libraries and nothing else. This is the one place that says
    which exceptions they raise on damaged files; imagecodecs derives its own from ``RuntimeError``.

    Args:
        path: The file that is read.

    Raises:
        ImageError: ``unreadable``, or ``unsupported_format`` for a codec that is not there.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except ImageError:
        raise
    except (ImportError, NotImplementedError) as error:
        raise unsupported(path, f"stored in a way that cannot be decoded ({_one_line(error)})") from error
    except MemoryError as error:
        raise unsupported(path, "too large to be decoded in memory") from error
    except _decoding_errors() as error:
        raise unreadable(path, error) from error


def _decoding_errors() -> tuple[type[Exception], ...]:
    general = (OSError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError)
    further = (AssertionError, EOFError, RuntimeError, SyntaxError, struct.error, zlib.error)
    # A library that is not loaded cannot have raised anything.
    modules = [sys.modules[name] for name in _ERROR_MODULES if name in sys.modules]
    special = tuple(
        item
        for module in modules
        for name, item in vars(module).items()
        if name.endswith("Error") and isinstance(item, type) and issubclass(item, Exception)
    )
    return general + further + special


def _one_line(why: object) -> str:
    return " ".join(str(why).split()) or type(why).__name__


def unreadable(path: Path, why: object) -> ImageError:
    """Returns the error for a file that is damaged or not an image."""
    return ImageError(
        "unreadable",
        f"{path.name}: cannot be read ({_one_line(why)}); the file is damaged or not an image: "
        "export it again",
    )


def unsupported(path: Path, what: str, instead: str = "export it as OME-TIFF") -> ImageError:
    """Returns the error for a file that is whole but of a kind that no reader handles."""
    return ImageError("unsupported_format", f"{path.name}: {what}; {instead}")
