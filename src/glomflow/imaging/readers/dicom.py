"""Whole slides in DICOM through wsidicom."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from glomflow.image_parts import dicom_files
from glomflow.imaging.pixels import RGB, Array
from glomflow.imaging.readers.base import ImageReader, decoding, unreadable, unsupported
from glomflow.imaging.readers.metadata import plausible
from glomflow.imaging.readers.optional import optional_module

MICROSCOPY = "1.2.840.10008.5.1.4.1.1.77.1.6"
"""UID of the storage class 'VL Whole Slide Microscopy Image'."""


class DicomReader(ImageReader):
    """Reads whole slides in DICOM, tile by tile: a folder of one slide's files, or one file alone.

    The first focal plane and optical path are read.
    """

    def __init__(self, path: Path) -> None:
        """Opens a slide.

        Args:
            path: A folder, whose files are the levels of one slide, or one file, read as one level.

        Raises:
            ImageError: ``unreadable`` or ``unsupported_format``.
        """
        wsidicom = optional_module(path, "wsidicom", "DICOM", "dicom")
        files = dicom_files(path) if path.is_dir() else [path]
        _require_one_slide(path, files)
        with decoding(path):
            self._slide = wsidicom.WsiDicom.open(files)
        try:
            with decoding(path):
                found = sorted(self._slide.levels, key=lambda level: -int(level.size.width))
                self._numbers = [int(level.level) for level in found]
                levels = tuple((int(level.size.width), int(level.size.height)) for level in found)
                spacing = found[0].pixel_spacing
                edges = (float(spacing.width) * 1000, float(spacing.height) * 1000)
                samples = {int(level.default_instance.image_data.samples_per_pixel) for level in found}
                bits = {int(level.default_instance.image_data.bits) for level in found}
            if samples != {3} or bits != {8}:
                raise unsupported(path, "DICOM other than 8-bit colour is not handled")
            super().__init__(
                "dicom",
                path,
                levels=levels,
                channels=RGB,
                dtype=np.dtype(np.uint8),
                pixel_size=plausible(*edges),
            )
        except BaseException:
            self._slide.close()
            raise

    def close(self) -> None:
        """Closes the slide."""
        self._slide.close()

    def check(self) -> None:
        """Decodes the last pixels of every level, which a truncated file lacks.

        Raises:
            ImageError: ``unreadable``, if they cannot be decoded.
        """
        for level, (width, height) in enumerate(self.levels):
            self._decode(level, width - 1, height - 1, width, height)

    def _decode(self, level: int, left: int, top: int, right: int, bottom: int) -> Array:
        size = right - left, bottom - top
        with decoding(self.path):
            region = self._slide.read_region((left, top), self._numbers[level], size)
            samples = np.asarray(region.convert("RGB"))
        if samples.shape != (size[1], size[0], 3):
            raise unreadable(self.path, f"a region has {samples.shape} samples instead of {size[::-1]}")
        return samples


def _require_one_slide(path: Path, files: list[Path]) -> None:
    """Refuses DICOM that is no slide, and folders that hold several, before anything is merged."""
    import pydicom

    kinds, slides = set(), set()
    for file in files:
        with decoding(path):
            header = pydicom.dcmread(
                file, stop_before_pixels=True, specific_tags=["SOPClassUID", "SeriesInstanceUID"]
            )
            kinds.add(str(header.get("SOPClassUID", "")))
            slides.add(str(header.get("SeriesInstanceUID", "")))
    if kinds != {MICROSCOPY}:
        raise unsupported(path, "DICOM that is no whole-slide image is not handled", "export it as TIFF")
    if len(slides) > 1:
        raise unsupported(
            path, f"the folder holds {len(slides)} DICOM series", "put each slide into a folder of its own"
        )
