"""An image at the finder's resolution, read piece by piece."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from glomflow.errors import GlomflowError
from glomflow.imaging.pixels import RGB, Array, as_gray, as_rgb_uint8, robust_limits, stretch
from glomflow.imaging.readers.base import ImageReader
from glomflow.training.finder_types import Bytes

_LIMITS_PX = 1024
_WHITE_PERCENTILE = 99.0
GLASS = 0.06
"""Mean optical density, relative to the image's own white, below which a pixel shows glass."""


class ArrayReader(ImageReader):
    """Pixels in memory, with the interface of a file.

    Args:
        pixels: (H, W, 3) uint8.

    Raises:
        GlomflowError: The array is of another kind.
    """

    def __init__(self, pixels: Array) -> None:
        if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8:
            raise GlomflowError(
                f"finder: an image in memory must be (H, W, 3) uint8, not {pixels.dtype} of shape "
                f"{pixels.shape}; convert it first"
            )
        super().__init__(
            "array",
            Path("array"),
            levels=((pixels.shape[1], pixels.shape[0]),),
            channels=RGB,
            dtype=pixels.dtype,
            pixel_size=None,
        )
        self._pixels = pixels

    def _decode(self, level: int, left: int, top: int, right: int, bottom: int) -> Array:
        return self._pixels[top:bottom, left:right]

    def close(self) -> None:
        """Does nothing."""

    def check(self) -> None:
        """Does nothing: the pixels are there."""


class ScaledImage:
    """An image seen at one resolution.

    Args:
        image: An open reader, or (H, W, 3) uint8 pixels.
        um_per_px: Pixel size of the image at full resolution, µm/px.
        target: Pixel size to see it at, µm/px.

    Attributes:
        reader: The reader.
        step: Full-resolution px per pixel.
        width: Width, px.
        height: Height, px.

    Raises:
        GlomflowError: The pixel size is no positive number, or the array is no 8-bit RGB image.
    """

    def __init__(self, image: ImageReader | Bytes, um_per_px: float, target: float) -> None:
        if not (np.isfinite(um_per_px) and um_per_px > 0):
            raise GlomflowError(
                f"finder: the pixel size of the image is {um_per_px} µm/px; give a positive number, as "
                "column 'um_per_px' of images.csv does"
            )
        self.reader = image if isinstance(image, ImageReader) else ArrayReader(image)
        if np.issubdtype(self.reader.dtype, np.integer):
            self.reader.fill = float(np.iinfo(self.reader.dtype).max)
        self.step = target / um_per_px
        self.width = max(1, round(self.reader.width / self.step))
        self.height = max(1, round(self.reader.height / self.step))
        self._limits: tuple[float, float] | None = None

    def read(self, left: int, top: int, width: int, height: int) -> Bytes:
        """Reads a box, beyond the image mirrored at its edges.

        Args:
            left: Left edge, px at the resolution of this view; may be negative.
            top: Top edge.
            width: Width, px.
            height: Height, px.

        Returns:
            (height, width, 3) uint8.

        Raises:
            ImageError: ``unreadable``, if the pixels cannot be decoded.
        """
        columns, rows = mirrored(left, width, self.width), mirrored(top, height, self.height)
        x, y = int(columns.min()), int(rows.min())
        inner_width, inner_height = int(columns.max()) + 1 - x, int(rows.max()) + 1 - y
        step = self.step
        samples = self.reader.read_region(
            x * step, y * step, inner_width * step, inner_height * step, inner_width, inner_height
        )
        pixels = self._as_rgb(samples)
        if (inner_height, inner_width) == (height, width):
            return pixels
        return np.ascontiguousarray(pixels[(rows - y)[:, None], (columns - x)[None, :]])

    def tissue(self, longest: int) -> npt.NDArray[np.bool_]:
        """Returns which pixels of a thumbnail show tissue, (h, w) bool.

        Args:
            longest: Longest edge of the thumbnail, px.

        Raises:
            ImageError: ``unreadable``, if the pixels cannot be decoded.
        """
        picture = self._as_rgb(self.reader.thumbnail(longest)).astype(np.float32)
        white = np.percentile(picture.reshape(-1, 3), _WHITE_PERCENTILE, axis=0)
        # A field that tissue fills has no glass to take the white from.
        white = np.maximum(white, 200.0)
        density: npt.NDArray[Any] = -np.log((picture + 1.0) / (white + 1.0)).mean(axis=2)
        return density > GLASS

    def _as_rgb(self, samples: Array) -> Bytes:
        if samples.shape[2] == 3 and samples.dtype in (np.uint8, np.uint16):
            return as_rgb_uint8(samples)
        if self._limits is None:  # one range for the whole image, or tiles would not fit each other
            self._limits = robust_limits(as_gray(self.reader.thumbnail(_LIMITS_PX)))
        return np.repeat(stretch(as_gray(samples), *self._limits)[:, :, None], 3, axis=2)


def mirrored(start: int, count: int, length: int) -> npt.NDArray[np.int64]:
    """Returns the places ``start`` to ``start + count`` of an axis that is mirrored at both ends.

    Args:
        start: First place; may be negative.
        count: Places.
        length: Length of the axis.

    Returns:
        (count,) places from 0 to ``length - 1``.
    """
    places = np.arange(start, start + count) % (2 * length)
    return np.where(places >= length, 2 * length - 1 - places, places)
