"""Zeiss CZI through pylibCZIrw."""

from __future__ import annotations

import contextlib
import math
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np

from glomflow.imaging.pixels import RGB, Array
from glomflow.imaging.readers.base import ImageReader, decoding, unreadable, unsupported
from glomflow.imaging.readers.metadata import Size, in_micrometres, plausible
from glomflow.imaging.readers.optional import optional_module

CACHE_BYTES = 64 * 2**20
"""Decoded tiles that the library keeps."""
_GRAY = {"Gray8": np.uint8, "Gray16": np.uint16, "Gray32Float": np.float32}
_COLOUR = {"Bgr24": np.uint8, "Bgr48": np.uint16, "Bgr96Float": np.float32}
_FIRST_OF = "THRIVB"


class CziReader(ImageReader):
    """Reads CZI by region: the mosaic of all tiles, and of all scenes where they lie on the slide.

    A grey z-stack is projected by its maximum, of a colour one the first z is read, of a time series
    the first time, likewise of rotations, views, phases and illuminations. The levels are halvings down
    to the coarsest that the file's own pyramid holds.
    """

    def __init__(self, path: Path) -> None:
        """Opens a file.

        Args:
            path: The file.

        Raises:
            ImageError: ``unreadable`` or ``unsupported_format``.
        """
        czi = optional_module(path, "pylibCZIrw.czi", "Zeiss CZI", "czi")
        self._stack = contextlib.ExitStack()
        try:
            with decoding(path):
                cache = czi.CacheOptions(type=czi.CacheType.Standard, max_memory_usage=CACHE_BYTES)
                self._file = self._stack.enter_context(czi.open_czi(str(path), cache_options=cache))
                ranges = self._file.total_bounding_box_no_pyramid
                place = self._file.total_bounding_rectangle_no_pyramid
                kinds = {int(key): str(kind) for key, kind in self._file.pixel_types.items()}
                metadata = _parse(self._file.raw_metadata)
                halvings = _halvings(self._file, (place.w, place.h))
            if place.w < 1 or place.h < 1 or not kinds:
                raise unreadable(path, "its header says that it has no pixels")
            self._corner = place.x, place.y
            self._first = {axis: ranges[axis][0] for axis in _FIRST_OF if axis in ranges}
            self._z = range(*ranges["Z"]) if "Z" in ranges else None
            self._colour, dtype = _sample_type(path, kinds)
            self._c: list[int | None] = list(range(*ranges["C"])) if "C" in ranges else [None]
            super().__init__(
                "czi",
                path,
                levels=tuple((place.w >> step, place.h >> step) for step in range(halvings + 1)),
                channels=RGB if self._colour else _channel_names(metadata, len(self._c)),
                dtype=dtype,
                pixel_size=_pixel_size(metadata),
            )
        except BaseException:
            self._stack.close()
            raise

    def close(self) -> None:
        """Closes the file."""
        self._stack.close()

    def check(self) -> None:
        """Does nothing: the directory of a CZI's tiles lies behind them, and opening has read it."""

    def _decode(self, level: int, left: int, top: int, right: int, bottom: int) -> Array:
        size = right - left, bottom - top
        factor = 2**level
        box = (
            self._corner[0] + left * factor,
            self._corner[1] + top * factor,
            size[0] * factor,
            size[1] * factor,
        )
        if self._colour:
            first = None if self._z is None else self._z[0]
            return np.ascontiguousarray(self._plane(box, size, level, self._c[0], first)[:, :, ::-1])
        result = np.empty((size[1], size[0], len(self._c)), self.dtype)
        for index, channel in enumerate(self._c):
            depths: list[int | None] = [None] if self._z is None else list(self._z)
            projected = self._plane(box, size, level, channel, depths[0])
            for depth in depths[1:]:
                projected = np.maximum(projected, self._plane(box, size, level, channel, depth))
            result[:, :, index] = projected[:, :, 0]
        return result

    def _plane(
        self,
        box: tuple[int, int, int, int],
        size: tuple[int, int],
        level: int,
        channel: int | None,
        depth: int | None,
    ) -> Array:
        plane = dict(self._first)
        if channel is not None:
            plane["C"] = channel
        if depth is not None:
            plane["Z"] = depth
        beyond = (1.0, 1.0, 1.0) if self.fill else (0.0, 0.0, 0.0)
        with decoding(self.path):
            samples: Array = self._file.read(
                roi=box, plane=plane, zoom=1.0 / 2**level, background_pixel=beyond
            )
        if samples.shape[:2] != size[::-1]:
            raise unreadable(self.path, f"a region has {samples.shape[:2]} samples instead of {size[::-1]}")
        return samples


def _sample_type(path: Path, kinds: dict[int, str]) -> tuple[bool, np.dtype[Any]]:
    """Returns whether the image is in colour, and the type of its samples."""
    named = sorted(set(kinds.values()))
    if len(kinds) == 1 and named[0] in _COLOUR:
        return True, np.dtype(_COLOUR[named[0]])
    if all(kind in _GRAY for kind in named):
        return False, np.result_type(*(_GRAY[kind] for kind in named))
    raise unsupported(path, f"channels of the types {', '.join(named)} are not handled together")


def _halvings(file: Any, size: tuple[int, int]) -> int:
    """Returns how often the image may be halved before the file's pyramid ends."""
    coarsest = 1.0

    def look(_: int, block: Any) -> bool:
        nonlocal coarsest
        if block.physicalSize.w:
            coarsest = max(coarsest, block.logicalRect.w / block.physicalSize.w)
        return True

    file.enumerate_subblocks(look)
    return max(0, min(int(math.log2(coarsest) + 1e-6), int(math.log2(min(size)))))


def _parse(xml: str) -> ElementTree.Element:
    try:
        return ElementTree.fromstring(xml)
    except ElementTree.ParseError:
        return ElementTree.Element("ImageDocument")  # broken metadata is as good as none


def _pixel_size(metadata: ElementTree.Element) -> Size | None:
    edges = [
        in_micrometres(metadata.findtext(f"./Metadata/Scaling/Items/Distance[@Id='{axis}']/Value"), "m")
        for axis in "XY"
    ]
    return plausible(*edges)


def _channel_names(metadata: ElementTree.Element, count: int) -> tuple[str, ...]:
    found = metadata.findall("./Metadata/Information/Image/Dimensions/Channels/Channel")
    names = [(channel.get("Name") or "").strip() for channel in found]
    if len(names) != count:
        names = [""] * count
    return tuple(name or (f"C{index}" if count > 1 else "gray") for index, name in enumerate(names))
