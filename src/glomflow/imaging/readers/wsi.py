"""Whole-slide images through OpenSlide."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from glomflow.imaging.pixels import RGB, Array
from glomflow.imaging.readers.alpha import over_white
from glomflow.imaging.readers.base import ImageReader, decoding, unreadable
from glomflow.imaging.readers.metadata import in_micrometres, plausible


class SlideReader(ImageReader):
    """Reads SVS, NDPI, SCN, MRXS, BIF and other slide formats through OpenSlide, tile by tile.

    What the scanner left out is white.
    """

    def __init__(self, path: Path) -> None:
        """Opens a slide.

        Args:
            path: The file.

        Raises:
            ImageError: ``unreadable``, if OpenSlide cannot open it.
        """
        import openslide

        with decoding(path):
            try:
                self._slide = openslide.OpenSlide(path)
            except openslide.OpenSlideUnsupportedFormatError as error:
                raise unreadable(path, "not a slide that OpenSlide knows") from error
            properties = self._slide.properties
            edges = [in_micrometres(properties.get(f"openslide.mpp-{axis}"), "um") for axis in "xy"]
            self._downsamples = self._slide.level_downsamples
            levels = tuple((int(width), int(height)) for width, height in self._slide.level_dimensions)
        super().__init__(
            "openslide",
            path,
            levels=levels,
            channels=RGB,
            dtype=np.dtype(np.uint8),
            pixel_size=plausible(*edges),
        )

    def close(self) -> None:
        """Closes the slide."""
        self._slide.close()

    def check(self) -> None:
        """Checks that every tile of a TIFF-based slide lies within the file.

        Raises:
            ImageError: ``unreadable``, if the file is truncated.
        """
        from glomflow.imaging.readers.tiff import check_pages

        check_pages(self.path)

    def _decode(self, level: int, left: int, top: int, right: int, bottom: int) -> Array:
        downsample = self._downsamples[level]
        corner = round(left * downsample), round(top * downsample)
        with decoding(self.path):
            region = np.asarray(self._slide.read_region(corner, level, (right - left, bottom - top)))
        return over_white(region[:, :, :3], region[:, :, 3])


def is_slide(path: Path) -> bool:
    """Returns whether a file is of a scanner's own format, as OpenSlide sees it."""
    import openslide

    with decoding(path):
        return openslide.OpenSlide.detect_format(path) not in (None, "generic-tiff")
