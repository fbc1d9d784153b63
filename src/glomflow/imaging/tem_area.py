"""The part of a micrograph that tiles are cut from: decoded once, resampled once."""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
import numpy.typing as npt

from glomflow.imaging.pixels import as_gray
from glomflow.imaging.readers import ImageReader
from glomflow.imaging.tem_score import Grid, ScoreMaps, grid_step, maps_of, reduce_image

Array = npt.NDArray[Any]

HELD_PX = 64_000_000
"""Images of at most this many pixels are decoded once and held; larger ones are read in parts."""
_LARGE = 1e30
_BAND_CELLS = 64
"""Rows of grid cells at which bands of a large area end; blocks of noise do not cross them."""


class _Gray(ImageReader):
    """An image of one grey channel over another reader, decoded once if it is small enough."""

    def __init__(self, reader: ImageReader) -> None:
        self._reader = reader
        self._samples: Array | None = None
        small = reader.width * reader.height <= HELD_PX
        if small:
            samples = as_gray(reader._decode(0, 0, 0, reader.width, reader.height))
            self._samples = _bounded(samples)[:, :, None]
        dtype = reader.dtype if len(reader.channels) == 1 else np.dtype(np.float32)
        super().__init__(
            reader.name,
            reader.path,
            levels=reader.levels[:1] if small else reader.levels,
            channels=("gray",),
            dtype=dtype,
            pixel_size=reader.pixel_size,
        )

    def _decode(self, level: int, left: int, top: int, right: int, bottom: int) -> Array:
        if self._samples is not None:
            return self._samples[top:bottom, left:right]
        return as_gray(self._reader._decode(level, left, top, right, bottom))[:, :, None]

    def thumbnail(self, longest: int) -> Array:
        """Reads the whole image; held samples that are small enough are returned as they are.

        Args:
            longest: Longest edge of the result, px.

        Returns:
            (h, w, 1); not to be written to.
        """
        if self._samples is not None and max(self.width, self.height) <= longest:
            return self._samples
        return super().thumbnail(longest)

    def close(self) -> None:
        """Closes the file."""
        self._reader.close()

    def check(self) -> None:
        """Checks the file."""
        self._reader.check()


def _bounded(samples: Array) -> Array:
    """Scales samples that single precision could not hold; tiles are stretched to their range anyway."""
    if samples.dtype != np.float64:
        return samples
    peak = max(float(samples.max()), -float(samples.min()))
    return samples / peak if math.isfinite(peak) and peak > _LARGE else samples


def held(reader: ImageReader) -> ImageReader:
    """Returns a reader of the same image in one grey channel, held in memory up to ``HELD_PX``.

    Args:
        reader: The open image; closing it is left to the caller.

    Raises:
        ImageError: ``unreadable``, if the pixels cannot be decoded.
    """
    return _Gray(reader)


class Area:
    """A rectangle of an image at the resolution of tiles.

    Attributes:
        reader: The image, of one channel.
        left: Left edge, full-resolution px.
        top: Top edge.
        width: Width.
        height: Height.
        pixel: Pixel of the tiles, full-resolution px; NaN if the image's pixel size is not known.
        columns: Width in pixels of the tiles; 0 if ``pixel`` is NaN.
        rows: Height in pixels of the tiles.
    """

    def __init__(
        self, reader: ImageReader, left: float, top: float, width: float, height: float, pixel: float
    ) -> None:
        self.reader = reader
        self.left, self.top, self.width, self.height = left, top, width, height
        self.pixel = pixel
        known = math.isfinite(pixel)
        self.columns = math.floor(width / pixel + 1e-6) if known else 0
        self.rows = math.floor(height / pixel + 1e-6) if known else 0

    @functools.cached_property
    def _whole(self) -> Array | None:
        if self.columns * self.rows > HELD_PX:
            return None
        return self._read(0, 0, self.columns, self.rows)

    def pixels(self, x: int, y: int, width: int, height: int) -> Array:
        """Returns a part of the area, (height, width), in the image's own dtype.

        Args:
            x: Left edge within the area, px of the tiles.
            y: Top edge.
            width: Width.
            height: Height.
        """
        if self._whole is None:
            return self._read(x, y, width, height)
        return self._whole[y : y + height, x : x + width]

    def measure(self, nm_per_px: float) -> ScoreMaps:
        """Measures the area; a large one is read in bands of rows.

        Args:
            nm_per_px: Pixel of the tiles, nm.
        """
        step = grid_step(nm_per_px)
        unit = step * _BAND_CELLS
        band = max(unit, HELD_PX // max(1, self.columns) // unit * unit)
        if self._whole is not None:
            grid = reduce_image(self._whole, step)
        else:
            parts = [
                reduce_image(self._read(0, y, self.columns, min(band, self.rows - y)), step)
                for y in range(0, self.rows - step + 1, band)
            ]
            grid = Grid(
                np.concatenate([part.mean for part in parts]), np.concatenate([part.noise for part in parts])
            )
        return maps_of(grid, nm_per_px, step)

    def _read(self, x: int, y: int, width: int, height: int) -> Array:
        region = self.reader.read_region(
            self.left + x * self.pixel,
            self.top + y * self.pixel,
            width * self.pixel,
            height * self.pixel,
            width,
            height,
        )
        return region[:, :, 0]
