"""TIFF in its dialects: plain, tiled, pyramidal, BigTIFF, OME-TIFF, ImageJ, Olympus SIS, QPTIFF."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np

from glomflow.errors import ImageError
from glomflow.imaging.pixels import RGB, Array
from glomflow.imaging.readers.base import ImageReader, decoding, unreadable
from glomflow.imaging.readers.metadata import qptiff_name, read_ome, tiff_pixel_size
from glomflow.imaging.readers.tiff_pages import Level, SegmentCache, end_of
from glomflow.imaging.readers.tiff_samples import SampleRules

# What tifffile logs about damaged files is said again by the error that the reader raises.
logging.getLogger("tifffile").addHandler(logging.NullHandler())


class TiffReader(ImageReader):
    """Reads TIFF through tifffile, decoding only the strips or tiles that a region touches.

    Uncompressed data is read from the file row by row. Of a file with several series the first is
    read, of a time series the first time. The channel axis, or the pages of a plain stack of grey
    images, become channels. A grey z-stack is projected by its maximum (fluorescence), of a colour
    one the first z is read. Palettes are applied, except the display colours of OME-TIFF and
    ImageJ; alpha is laid over white; min-is-white samples are inverted.
    """

    def __init__(self, path: Path) -> None:
        """Opens a TIFF.

        Args:
            path: The file.

        Raises:
            ImageError: ``unreadable`` or ``unsupported_format``.
        """
        import tifffile

        with decoding(path):
            self._file = tifffile.TiffFile(path)
        try:
            with decoding(path):
                series = list(self._file.series)
                if not series:
                    raise unreadable(path, "it holds no image")
                pixel_size = tiff_pixel_size(self._file, self._file.pages.first)
                self._rules = SampleRules.of(path, self._file, series[0])
                self._levels = [
                    Level(path, level, self._rules.colour) for level in _matching_levels(series[0])
                ]
                channels = self._channel_names(series[0])
            super().__init__(
                "tiff",
                path,
                levels=tuple((level.width, level.height) for level in self._levels),
                channels=channels,
                dtype=self._rules.dtype,
                pixel_size=pixel_size,
            )
        except BaseException:
            self._file.close()
            raise
        self._segments = SegmentCache(path)

    def close(self) -> None:
        """Closes the file."""
        self._segments.clear()
        self._file.close()

    def check(self) -> None:
        """Checks that every strip and tile lies within the file.

        Raises:
            ImageError: ``unreadable``, if the file is truncated.
        """
        for level in self._levels:
            for plane in level.planes():
                plane.check(self.path)

    def _decode(self, level: int, left: int, top: int, right: int, bottom: int) -> Array:
        box = left, top, right, bottom
        channels = []
        for planes in self._levels[level].channels:
            projected = self._rules.finish(planes[0].read(box, self._segments))
            for plane in planes[1:]:
                projected = np.maximum(projected, self._rules.finish(plane.read(box, self._segments)))
            channels.append(projected)
        return channels[0] if len(channels) == 1 else np.concatenate(channels, axis=2)

    def _channel_names(self, series: Any) -> tuple[str, ...]:
        count = len(self._levels[0].channels) * self._rules.samples
        if self._rules.colour:
            return RGB
        names: tuple[str, ...] = ()
        if self._file.is_ome:
            names = read_ome(self._file.pages.first.description).channels
        elif self._file.is_qpi:
            names = tuple(qptiff_name(series[index].description) for index in range(count))
        elif self._file.is_imagej:
            names = tuple((self._file.imagej_metadata or {}).get("Labels", ()))
        if len(names) != count:
            names = ("",) * count
        if tuple(name.lower() for name in names) == ("red", "green", "blue"):
            return RGB
        return tuple(name or (f"C{index}" if count > 1 else "gray") for index, name in enumerate(names))


def _matching_levels(series: Any) -> list[Any]:
    """Returns the levels that are the same image as the first, only smaller."""

    def kind(level: Any) -> tuple[Any, ...]:
        outer = tuple(n for n, axis in zip(level.shape, level.axes, strict=True) if axis not in "YX")
        return level.axes, outer, level.dtype, level.keyframe.photometric

    return [level for level in series.levels if kind(level) == kind(series)]


def check_pages(path: Path) -> None:
    """Checks that the strips and tiles of all pages of a TIFF-based slide lie within the file.

    Args:
        path: A slide; nothing is checked if it is no TIFF or of a dialect that tifffile does not know.

    Raises:
        ImageError: ``unreadable``, if the file is truncated.
    """
    import tifffile

    try:
        with decoding(path), tifffile.TiffFile(path) as file:
            if file.is_ndpi:
                return  # offsets beyond 4 GB are a matter of interpretation there
            size = file.filehandle.size
            ends = [end_of(page.aspage()) for page in file.pages]
    except ImageError:
        return
    if max(ends, default=0) > size:
        raise unreadable(path, f"truncated: it should hold {max(ends)} bytes and holds {size}")
