"""Images whose samples lie uncompressed in a file, seen as planes without being read."""

from __future__ import annotations

import mmap
from pathlib import Path
from typing import Any

import numpy as np

from glomflow.imaging.pixels import RGB, Array
from glomflow.imaging.readers.base import ImageReader, decoding, unreadable
from glomflow.imaging.readers.metadata import Size


def map_samples(
    path: Path, offset: int, shape: tuple[int, ...], strides: tuple[int, ...], dtype: np.dtype[Any]
) -> Array:
    """Returns an array that looks into a file; only what is used of it is read.

    Args:
        path: The file.
        offset: Where its first sample lies, bytes.
        shape: Shape of the array.
        strides: Steps along its axes, bytes, not negative.
        dtype: Type of the samples as stored.

    Raises:
        ImageError: ``unreadable``, if there are no samples or the file ends before them.
    """
    if min(shape) < 1 or offset < 0 or min(strides) < 0:
        raise unreadable(path, "its header says that it has no pixels")
    end = (
        offset + dtype.itemsize + sum((count - 1) * step for count, step in zip(shape, strides, strict=True))
    )
    with decoding(path), path.open("rb") as handle:
        size = handle.seek(0, 2)
        if end > size:
            raise unreadable(path, f"truncated: it should hold {end} bytes and holds {size}")
        mapped = mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ)
    return np.ndarray(shape, dtype, mapped, offset, strides)


def packed_strides(shape: tuple[int, ...], dtype: np.dtype[Any]) -> tuple[int, ...]:
    """Returns the strides of samples that lie one after the other, the last axis fastest."""
    steps = [dtype.itemsize]
    for count in reversed(shape[1:]):
        steps.append(steps[-1] * count)
    return tuple(reversed(steps))


class PlanesReader(ImageReader):
    """Reads planes (channel, stack, y, x) of one resolution; only the rows of a region are touched.

    Of grey images a stack is projected by its maximum, of colour images its first plane is read.
    """

    def __init__(
        self, name: str, path: Path, *, planes: Array, channels: tuple[str, ...], pixel_size: Size | None
    ) -> None:
        """Takes the planes.

        Args:
            name: Name of the reader.
            path: The file.
            planes: (channels, stack, height, width) of integers or floats.
            channels: Channel names.
            pixel_size: Pixel size along x and y, µm, or None.
        """
        super().__init__(
            name,
            path,
            levels=((planes.shape[3], planes.shape[2]),),
            channels=channels,
            dtype=planes.dtype.newbyteorder("="),
            pixel_size=pixel_size,
        )
        self._planes: Array | None = planes[:, :1] if channels == RGB else planes

    def close(self) -> None:
        """Lets go of the file."""
        self._planes = None

    def check(self) -> None:
        """Does nothing: the file was found to hold all samples when it was opened."""

    def _decode(self, level: int, left: int, top: int, right: int, bottom: int) -> Array:
        if self._planes is None:
            raise ValueError(f"{self.path.name}: the image is closed")
        box = self._planes[:, :, top:bottom, left:right]
        projected = box[:, 0].astype(self.dtype)
        for plane in range(1, box.shape[1]):
            projected = np.maximum(projected, box[:, plane])
        return np.ascontiguousarray(np.moveaxis(projected, 0, 2), dtype=self.dtype)
