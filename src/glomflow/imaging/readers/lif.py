"""Leica LIF through readlif."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from glomflow.imaging.pixels import RGB
from glomflow.imaging.readers.base import decoding, unreadable, unsupported
from glomflow.imaging.readers.metadata import Size, in_micrometres, plausible
from glomflow.imaging.readers.optional import optional_module
from glomflow.imaging.readers.planes import PlanesReader, map_samples

X, Y, Z, TIME, MOSAIC = 1, 2, 3, 4, 10
"""Numbers of Leica's dimensions; others are wavelengths, rotations, loops."""
_RGB_TAGS = ["1", "2", "3"]


class LifReader(PlanesReader):
    """Reads the first image of a LIF; readlif finds it, its samples are read where they lie.

    The first two spatial dimensions are the plane (an xz scan is shown as it was scanned), a third one
    is projected by its maximum, of a time series the first time is read.
    """

    def __init__(self, path: Path) -> None:
        """Opens a file.

        Args:
            path: The file.

        Raises:
            ImageError: ``unreadable`` or ``unsupported_format``.
        """
        reader = optional_module(path, "readlif.reader", "Leica LIF", "lif")
        with decoding(path):
            file = reader.LifFile(str(path))
            if not file.num_images:
                raise unreadable(path, "it holds no image")
            offset = int(file.get_image(0).offsets[0])
            layout = _Layout(path, _first_image(path, file.xml_root))
        planes = map_samples(path, offset + layout.start, layout.shape, layout.strides, layout.dtype)
        super().__init__("lif", path, planes=planes, channels=layout.channels, pixel_size=layout.pixel_size)


def _first_image(path: Path, root: Any) -> Any:
    for element in root.iter("Image"):
        if element.find("./ImageDescription/Dimensions/DimensionDescription") is not None:
            return element.find("ImageDescription")
    raise unreadable(path, "it holds no image")


class _Layout:
    """Where the samples of an image lie, by its XML.

    Attributes:
        start: Place of the first sample in the image's block, bytes.
        shape: Channels, stack, rows, columns.
        strides: Steps along them, bytes.
        dtype: Type of the samples.
        channels: Channel names.
        pixel_size: Pixel size along x and y, µm, or None.
    """

    def __init__(self, path: Path, description: Any) -> None:
        dimensions = {
            int(item.get("DimID")): item for item in description.findall("./Dimensions/DimensionDescription")
        }
        channels = description.findall("./Channels/ChannelDescription")
        if MOSAIC in dimensions and _count(dimensions[MOSAIC]) > 1:
            raise unsupported(
                path,
                f"its first image is a mosaic of {_count(dimensions[MOSAIC])} tiles that are not merged",
                "merge it in LAS X, or export it as OME-TIFF",
            )
        spatial = [dimensions[axis] for axis in (X, Y, Z) if axis in dimensions]
        plane = [item for item in spatial if _count(item) > 1][:2]
        if len(plane) < 2 or not channels:
            raise unsupported(path, "its first image is no plane (a line, a point or a spectrum)")
        across, down = plane
        deep = [item for item in spatial if item is not across and item is not down and _count(item) > 1]
        starts = [int(channel.get("BytesInc", "0")) for channel in channels]
        steps = set(np.diff(starts).tolist())
        bits = {int(channel.get("Resolution", "0")) for channel in channels}
        if len(steps) > 1 or min(steps, default=1) < 1 or not 0 < min(bits) <= max(bits) <= 16:
            raise unsupported(path, f"its channels are stored unevenly or have {max(bits)} bits")
        self.dtype = np.dtype("u1" if max(bits) <= 8 else "<u2")
        if len(bits) > 1 and {bit <= 8 for bit in bits} == {True, False}:
            raise unsupported(path, "its channels have samples of several types")
        self.start = starts[0]
        self.shape = (len(channels), _count(deep[0]) if deep else 1, _count(down), _count(across))
        self.strides = (
            steps.pop() if steps else 0,
            _step(deep[0]) if deep else 0,
            _step(down),
            _step(across),
        )
        self.channels = _channel_names(channels)
        self.pixel_size = _pixel_size(across, down)


def _count(dimension: Any) -> int:
    return int(dimension.get("NumberOfElements"))


def _step(dimension: Any) -> int:
    return int(dimension.get("BytesInc"))


def _pixel_size(across: Any, down: Any) -> Size | None:
    """Leica's length runs from the centre of the first pixel to that of the last."""
    edges = []
    for dimension in (across, down):
        length = in_micrometres(dimension.get("Length"), dimension.get("Unit"))
        edges.append(None if length is None else abs(length) / (_count(dimension) - 1))
    return plausible(*edges)


def _channel_names(channels: list[Any]) -> tuple[str, ...]:
    if [channel.get("ChannelTag") for channel in channels] == _RGB_TAGS:
        return RGB
    names = [(channel.get("LUTName") or "").strip() for channel in channels]
    if len(names) == 1:
        return (names[0] or "gray",)
    return tuple(name if name and names.count(name) == 1 else f"C{index}" for index, name in enumerate(names))
