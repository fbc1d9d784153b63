"""An image at the scales that quality is judged at, from as few decodes as possible."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from glomflow.imaging.pixels import Array
from glomflow.imaging.readers import ImageReader
from glomflow.imaging.readers.base import area_average

WHOLE_SAMPLES = 48_000_000
"""Images of at most so many samples are decoded once and kept; of larger ones, parts are read."""
OVERVIEW_PIXELS = 1_500_000
"""Most pixels of the overview of a larger image."""
PATCH = 256
"""Edge of a sampled region, px at the scale asked for."""
PATCHES = 9
"""Most regions that are sampled of an image."""
BOX = 1024
"""Edge of the central box at full resolution, px."""

Plane = npt.NDArray[np.float32]


class Views:
    """The pixels of one image: thumbnail, overview, regions at a scale, central box.

    An image of at most :data:`WHOLE_SAMPLES` samples is decoded once and everything is derived from
    that. Of a larger one the overview is read from the nearest level, the thumbnail is derived from it,
    and at most :data:`PATCHES` regions are decoded at the scale asked for.

    Args:
        reader: The open image; it has to stay open.
    """

    def __init__(self, reader: ImageReader) -> None:
        self.reader = reader
        self._whole: Array | None = None
        self._overview: Array | None = None
        if reader.width * reader.height * len(reader.channels) <= WHOLE_SAMPLES:
            self._whole = reader.pixels()

    def thumbnail(self, longest: int) -> Array:
        """Returns the whole image, its longest edge at most ``longest`` px; it is never enlarged.

        Args:
            longest: Longest edge of the result, px.

        Returns:
            (h, w, C) of the image's own dtype.

        Raises:
            ImageError: ``unreadable``, if the pixels cannot be decoded.
        """
        width, height = self.reader.width, self.reader.height
        shrink = max(1.0, max(width, height) / longest)
        size = max(1, round(width / shrink)), max(1, round(height / shrink))
        overview = self.overview(max(longest, 1))
        return resized(overview, *size)

    def overview(self, at_least: int = 1) -> Array:
        """Returns the whole image; reduced to about :data:`OVERVIEW_PIXELS` if it is a large one.

        Args:
            at_least: Shortest that the longest edge may be, px, where the image has so many.

        Returns:
            (h, w, C) of the image's own dtype.
        """
        if self._whole is not None:
            return self._whole
        if self._overview is None or max(self._overview.shape[:2]) < at_least:
            width, height = self.reader.width, self.reader.height
            longest = max(at_least, math.sqrt(OVERVIEW_PIXELS * max(width, height) / min(width, height)))
            shrink = max(1.0, max(width, height) / longest)
            size = max(1, round(width / shrink)), max(1, round(height / shrink))
            self._overview = self.reader.read_region(0, 0, width, height, *size)
        return self._overview

    def central_box(self) -> Array:
        """Returns the central :data:`BOX` px square at full resolution, (h, w, C)."""
        width, height = min(self.reader.width, BOX), min(self.reader.height, BOX)
        left, top = (self.reader.width - width) // 2, (self.reader.height - height) // 2
        if self._whole is not None:
            return self._whole[top : top + height, left : left + width]
        return self.reader.read_region(left, top, width, height, width, height)

    def at_scale(
        self, shrink: float, interest: npt.NDArray[np.float64], whole_up_to: int = PATCHES * PATCH * PATCH
    ) -> list[Array]:
        """Returns the image at a scale: all of it, or regions of most interest spread over it.

        Args:
            shrink: Full-resolution pixels per pixel of the result, at least 1.
            interest: (h, w) map over the whole image, for example 1 where there is tissue.
            whole_up_to: Most pixels of the result for the whole image to be taken.

        Returns:
            (h, w, C) arrays of the image's own dtype: one, or up to :data:`PATCHES` regions.
        """
        width, height = self.reader.width, self.reader.height
        size = max(1, round(width / shrink)), max(1, round(height / shrink))
        if size[0] * size[1] <= whole_up_to:
            return [self._region(0, 0, width, height, *size)]
        edge = PATCH * shrink
        return [
            self._region(x, y, edge, edge, PATCH, PATCH) for x, y in _places(width, height, edge, interest)
        ]

    def _region(
        self, x: float, y: float, width: float, height: float, out_width: int, out_height: int
    ) -> Array:
        if self._whole is None:
            return self.reader.read_region(x, y, width, height, out_width, out_height)
        left, top, right, bottom = round(x), round(y), round(x + width), round(y + height)
        part = self._whole[top:bottom, left:right]
        return resized(part, min(out_width, part.shape[1]), min(out_height, part.shape[0]))


def _places(
    width: int, height: int, edge: float, interest: npt.NDArray[np.float64]
) -> list[tuple[float, float]]:
    """Returns the corners of the regions: those of most interest, thinned evenly over the image."""
    columns, rows = max(1, int(width // edge)), max(1, int(height // edge))
    margin = (width - columns * edge) / 2, (height - rows * edge) / 2
    total = np.pad(interest.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    across = ((margin[0] + edge * np.arange(columns + 1)) / width * interest.shape[1]).clip(0)
    down = ((margin[1] + edge * np.arange(rows + 1)) / height * interest.shape[0]).clip(0)
    x = np.minimum(across.round().astype(int), interest.shape[1])
    y = np.minimum(down.round().astype(int), interest.shape[0])
    sums = total[np.ix_(y, x)]
    inside = sums[1:, 1:] - sums[1:, :-1] - sums[:-1, 1:] + sums[:-1, :-1]
    filled = np.flatnonzero(inside.reshape(-1) >= 0.5 * inside.max())
    chosen = filled[np.unique(np.linspace(0, len(filled) - 1, PATCHES).round().astype(int))]
    return [
        (margin[0] + float(index % columns) * edge, margin[1] + float(index // columns) * edge)
        for index in chosen
    ]


def resized(picture: Array, width: int, height: int) -> Array:
    """Area-averages a picture (h, w, C) down to a size; its type stays.

    Args:
        picture: (h, w, C).
        width: Width of the result, px, at most that of the picture.
        height: Height of the result, px, likewise.

    Returns:
        (height, width, C) of the same type.
    """
    return area_average(picture, width, height)


def shrunk_plane(plane: npt.NDArray[Any], width: int, height: int) -> Plane:
    """Area-averages one channel (h, w) down to a size, as float32."""
    from PIL import Image

    values = np.ascontiguousarray(plane, dtype=np.float32)
    if values.shape == (height, width):
        return values
    return np.asarray(Image.fromarray(values).resize((width, height), Image.Resampling.BOX))
