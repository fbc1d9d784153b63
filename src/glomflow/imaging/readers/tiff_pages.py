"""Pages of a TIFF, read by region: only the rows, strips or tiles that a box touches."""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from glomflow.imaging.pixels import Array
from glomflow.imaging.readers.base import decoding, unreadable, unsupported

Box = tuple[int, int, int, int]

CACHE_BYTES = 64 * 2**20
"""Decoded strips and tiles that a reader keeps."""
LARGEST_SEGMENT = 2**31
"""Bytes that one strip or tile may decode to."""
_CHANNEL_AXES = "CZIQ"
_JPEG = {6, 7, 34892, 33007}


class Level:
    """One resolution level: for every channel the planes that are projected into it.

    Attributes:
        width: Width, px.
        height: Height, px.
        channels: Per channel the planes; several only for a z-stack of grey images.
    """

    def __init__(self, path: Path, series: Any, colour: bool) -> None:
        """Sorts the pages of a series into channels.

        Args:
            path: The file, for messages.
            series: ``tifffile.TiffPageSeries`` of this level.
            colour: Whether its pages hold red, green and blue; then there is one plane only.

        Raises:
            ImageError: ``unsupported_format``, if its pages are not planes.
        """
        layout = Layout.of(path, series)
        self.width, self.height = layout.width, layout.height
        inner = len(series.keyframe.shape)
        axes, counts = series.axes[:-inner], series.shape[:-inner]
        index = np.arange(math.prod(counts)).reshape(counts)
        for position in reversed(range(len(axes))):
            if axes[position] not in _CHANNEL_AXES or colour:
                index = index.take(0, axis=position)
                axes = axes[:position] + axes[position + 1 :]
        # Pages of a plain stack ('I', 'Q') say nothing of what they are: they are taken as channels.
        stacked = np.moveaxis(index, axes.index("Z"), -1) if "Z" in axes else index[..., None]
        frames = stacked.reshape(-1, stacked.shape[-1])
        self.channels = [[Plane(series, layout, int(frame)) for frame in row] for row in frames]

    def planes(self) -> list[Plane]:
        """Returns all planes of the level."""
        return [plane for channel in self.channels for plane in channel]


@dataclass(frozen=True)
class Layout:
    """How the pages of a level store their samples.

    Attributes:
        height: Rows of a page.
        width: Columns of a page.
        separate: Sample planes that are stored one after the other (planar configuration).
        samples: Samples that are stored together.
        length: Rows of a strip or tile.
        across: Columns of a strip or tile.
        dtype: Type of the samples.
        nbytes: Bytes of a page, decoded.
    """

    height: int
    width: int
    separate: int
    samples: int
    length: int
    across: int
    dtype: np.dtype[Any]
    nbytes: int

    @property
    def grid(self) -> tuple[int, int]:
        """Strips or tiles of a sample plane, down and across."""
        return math.ceil(self.height / self.length), math.ceil(self.width / self.across)

    @classmethod
    def of(cls, path: Path, series: Any) -> Layout:
        """Reads the layout from the tags of a series' first page.

        Raises:
            ImageError: ``unsupported_format``, if its pages are not planes.
        """
        key = series.keyframe
        separate, depth, height, width, samples = (int(size) for size in key.shaped)
        if depth != 1 or series.shape[-len(key.shape) :] != key.shape:
            raise unsupported(path, f"a TIFF whose axes '{series.axes}' are not those of its pages")
        if key.is_tiled:
            length, across = int(key.tilelength), int(key.tilewidth)
        else:
            length, across = min(int(key.rowsperstrip), height), width
        if min(separate, height, width, samples, length, across) < 1:
            raise unreadable(path, "its header says that it has no pixels")
        dtype = np.dtype(key.dtype)
        return cls(height, width, separate, samples, length, across, dtype, int(key.nbytes))


class Plane:
    """One plane (Y, X, samples) of a series: a page, or a part of a contiguous stack."""

    def __init__(self, series: Any, layout: Layout, frame: int) -> None:
        """Finds where a plane is stored.

        Args:
            series: ``tifffile.TiffPageSeries``.
            layout: That of its pages.
            frame: Number of the plane in the series.
        """
        self._layout = layout
        self._page: Any = None
        self._offset: int | None = None
        if series.dataoffset is not None:
            self._page = series.keyframe
            self._offset = int(series.dataoffset) + frame * layout.nbytes
        else:
            self._page = series[frame]
            if self._page is not None and self._page.is_final:
                self._offset = int(self._page.dataoffsets[0])

    def read(self, box: Box, cache: SegmentCache) -> Array:
        """Reads the samples of a box (left, top, right, bottom) as stored, (h, w, samples).

        Raises:
            ImageError: ``unreadable`` or ``unsupported_format``.
        """
        if self._page is None:
            left, top, right, bottom = box
            count = self._layout.separate * self._layout.samples
            return np.zeros((bottom - top, right - left, count), self._layout.dtype)
        if self._offset is not None:
            return self._read_rows(box, self._offset, cache.path)
        return self._read_segments(box, cache)

    def check(self, path: Path) -> None:
        """Checks that the plane lies within its file.

        Raises:
            ImageError: ``unreadable``, if it does not.
        """
        if self._page is None:
            return
        with decoding(path):
            size = int(self._page.parent.filehandle.size)
            end = end_of(self._page) if self._offset is None else self._offset + self._layout.nbytes
            listed = len(self._page.dataoffsets)
        if self._offset is None and listed < self._layout.separate * math.prod(self._layout.grid):
            raise unreadable(path, f"its header lists {listed} strips or tiles, too few for its size")
        if end > size:
            raise unreadable(path, f"truncated: it should hold {end} bytes and holds {size}")

    def _read_rows(self, box: Box, offset: int, path: Path) -> Array:
        left, top, right, bottom = box
        layout = self._layout
        stored = layout.dtype.newbyteorder(self._page.parent.byteorder)
        row = layout.width * layout.samples * stored.itemsize
        planes = []
        for sample in range(layout.separate):
            start = offset + (sample * layout.height + top) * row
            data = _read_bytes(path, self._page, start, (bottom - top) * row)
            rows = np.frombuffer(data, stored).reshape(bottom - top, layout.width, layout.samples)
            planes.append(rows[:, left:right])
        return np.concatenate(planes, axis=2).astype(layout.dtype)

    def _read_segments(self, box: Box, cache: SegmentCache) -> Array:
        left, top, right, bottom = box
        layout = self._layout
        length, across, samples = layout.length, layout.across, layout.samples
        down, over = layout.grid
        result = np.empty((bottom - top, right - left, layout.separate * samples), layout.dtype)
        for sample in range(layout.separate):
            target = result[:, :, sample * samples : (sample + 1) * samples]
            for row in range(top // length, (bottom - 1) // length + 1):
                for column in range(left // across, (right - 1) // across + 1):
                    index = (sample * down + row) * over + column
                    segment = cache.get(self._page, index, layout)
                    y, x = row * length, column * across
                    first, last = max(top, y), min(bottom, y + length)
                    begin, end = max(left, x), min(right, x + across)
                    target[first - top : last - top, begin - left : end - left] = segment[
                        first - y : last - y, begin - x : end - x
                    ]
        return result


def end_of(page: Any) -> int:
    """Returns where the last strip or tile of a page ends, bytes."""
    ends = (int(a) + int(b) for a, b in zip(page.dataoffsets, page.databytecounts, strict=False))
    return max(ends, default=0)


def _read_bytes(path: Path, page: Any, offset: int, count: int) -> bytes:
    with decoding(path):
        handle = page.parent.filehandle
        if offset + count > handle.size:
            raise unreadable(path, "truncated: the pixels end before the image does")
        handle.seek(offset)
        data: bytes = handle.read(count)
    if len(data) != count:
        raise unreadable(path, "truncated: the pixels end before the image does")
    return data


class SegmentCache:
    """Decodes strips and tiles, and keeps those used last.

    Attributes:
        path: The file, for messages.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._kept: OrderedDict[tuple[int, int], Array] = OrderedDict()
        self._bytes = 0

    def clear(self) -> None:
        """Forgets all segments."""
        self._kept.clear()
        self._bytes = 0

    def get(self, page: Any, index: int, layout: Layout) -> Array:
        """Returns a decoded strip or tile, (rows, columns, samples).

        Raises:
            ImageError: ``unreadable`` or ``unsupported_format``.
        """
        key = id(page), index
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        segment = self._decode(page, index, layout)
        if segment.ndim != 3 or segment.shape[2] != layout.samples:
            raise unreadable(self.path, f"tile {index} has another shape than its header says")
        self._kept[key] = segment
        self._bytes += segment.nbytes
        while self._bytes > CACHE_BYTES and len(self._kept) > 1:
            self._bytes -= self._kept.popitem(last=False)[1].nbytes
        return segment

    def _decode(self, page: Any, index: int, layout: Layout) -> Array:
        if layout.length * layout.across * layout.samples * layout.dtype.itemsize > LARGEST_SEGMENT:
            raise unsupported(
                self.path,
                f"compressed in one piece of {layout.across} x {layout.length} px, which is too large "
                "to decode",
                "export it as tiled TIFF",
            )
        with decoding(self.path):
            keyframe = page.keyframe
            count = int(page.databytecounts[index])
            data = _read_bytes(self.path, page, int(page.dataoffsets[index]), count) if count else None
            tables: dict[str, Any] = {}
            if keyframe.compression in _JPEG:
                tables = {"jpegtables": page.jpegtables, "jpegheader": keyframe.jpegheader}
            segment, _, stored = keyframe.decode(data, index, **tables)
            if segment is None:  # a tile that the writer left out, as scanners do with empty glass
                white = keyframe.photometric.name in {"RGB", "YCBCR"} and keyframe.dtype == np.uint8
                return np.full(stored[1:], 255 if white else keyframe.nodata, keyframe.dtype)
        decoded: Array = segment[0]
        return decoded
