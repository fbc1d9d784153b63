"""Electron micrographs as cameras write them: Gatan DM3 and DM4, and MRC."""

from __future__ import annotations

import math
import struct
from pathlib import Path
from typing import Any

import numpy as np

from glomflow.imaging.readers.base import decoding, unreadable, unsupported
from glomflow.imaging.readers.metadata import Size, in_micrometres, plausible
from glomflow.imaging.readers.optional import optional_module
from glomflow.imaging.readers.planes import PlanesReader, map_samples, packed_strides

ONE_FRAME = "export one frame of it, or their sum, as TIFF with its pixel size"

_DM_TYPES = {1: "i2", 2: "f4", 6: "u1", 7: "i4", 9: "i1", 10: "u2", 11: "u4", 12: "f8"}

_MRC_HEADER = 1024
_MRC_TYPES = {0: "i1", 1: "i2", 2: "f4", 6: "u2", 12: "f2"}
_MRC_REFUSED = {3: "complex samples", 4: "complex samples", 16: "colours", 101: "samples of 4 bits"}
_IMOD_STAMP = 1146047817
_ANGSTROM = 1e-4


class GatanReader(PlanesReader):
    """Reads DM3 and DM4 through ncempy: the first picture of the file that is not its thumbnail.

    Stacks and spectra are refused. A calibration in reciprocal lengths (a diffraction pattern) is none.
    """

    def __init__(self, path: Path) -> None:
        """Opens a file.

        Args:
            path: The file.

        Raises:
            ImageError: ``unreadable`` or ``unsupported_format``.
        """
        dm = optional_module(path, "ncempy.io.dm", "Gatan DM3/DM4", "electron")
        with decoding(path), dm.fileDM(str(path), on_memory=False) as file:
            pictures = _dm_pictures(file)
        index = next((i for i, item in enumerate(pictures) if item.is_plane), None)
        if index is None:
            raise _no_plane(path, pictures)
        picture = pictures[index]
        if picture.type not in _DM_TYPES:
            raise unsupported(path, f"DM samples of type {picture.type} (complex, packed or colours)")
        dtype = np.dtype("<" + _DM_TYPES[picture.type])
        shape = (1, 1, picture.size[1], picture.size[0])
        planes = map_samples(path, picture.offset, shape, packed_strides(shape, dtype), dtype)
        super().__init__("dm", path, planes=planes, channels=("gray",), pixel_size=picture.pixel_size)


class _Picture:
    """One data set of a DM file, as its tags describe it."""

    def __init__(self, size: list[int], kind: int, offset: int, scale: list[tuple[float, str]]) -> None:
        self.size, self.type, self.offset = size, kind, offset
        edges = [in_micrometres(value, unit) for value, unit in scale[:2]]
        self.pixel_size: Size | None = plausible(*edges) if len(edges) == 2 else None
        self.frames = math.prod(size[2:])
        self.is_plane = len(size) >= 2 and size[1] > 1 and self.frames == 1


def _dm_pictures(file: Any) -> list[_Picture]:
    """Returns the data sets of a file, without its thumbnail, which comes first if there is one."""
    pictures = []
    start = 0
    for index in range(len(file.dataOffset)):
        count = int(file.dataShape[index])
        size = [int(edge[index]) for edge in (file.xSize, file.ySize, file.zSize, file.zSize2)]
        scale = list(
            zip(file.scale[start : start + count], file.scaleUnit[start : start + count], strict=True)
        )
        start += count
        calibration = [(float(value), str(unit)) for value, unit in scale]
        pictures.append(_Picture(size, int(file.dataType[index]), int(file.dataOffset[index]), calibration))
    return pictures[1:] if file.thumbnail and len(pictures) > 1 else pictures


def _no_plane(path: Path, pictures: list[_Picture]) -> Exception:
    frames = max((picture.frames for picture in pictures), default=0)
    if frames > 1:
        return unsupported(path, f"a stack of {frames} frames is not one image", ONE_FRAME)
    return unsupported(path, "it holds no picture, only spectra or nothing", "export the image as TIFF")


class MrcReader(PlanesReader):
    """Reads MRC (2014 and older); rows are taken as stored. Stacks of several sections are refused.

    A pixel size of exactly 1 Å is what programs write that do not know it, and counts as none.
    """

    def __init__(self, path: Path) -> None:
        """Opens a file.

        Args:
            path: The file.

        Raises:
            ImageError: ``unreadable`` or ``unsupported_format``.
        """
        with decoding(path), path.open("rb") as handle:
            header = handle.read(_MRC_HEADER)
        if len(header) < _MRC_HEADER:
            raise unreadable(path, "truncated: the header of an MRC has 1024 bytes")
        order = _mrc_byteorder(path, header)
        columns, rows, sections, mode = struct.unpack(f"{order}4i", header[:16])
        grid, cell = struct.unpack(f"{order}3i", header[28:40]), struct.unpack(f"{order}3f", header[40:52])
        (extended,) = struct.unpack(f"{order}i", header[92:96])
        if min(columns, rows, sections) < 1:
            raise unreadable(path, "its header says that it has no pixels")
        if sections > 1:
            raise unsupported(path, f"a stack of {sections} frames is not one image", ONE_FRAME)
        dtype = _mrc_type(path, header, order, mode)
        shape = (1, 1, rows, columns)
        offset = _MRC_HEADER + max(extended, 0)
        planes = map_samples(path, offset, shape, packed_strides(shape, dtype), dtype)
        size = _mrc_pixel_size(grid, cell)
        super().__init__("mrc", path, planes=planes, channels=("gray",), pixel_size=size)


def is_mrc(start: bytes) -> bool:
    """Returns whether a file's first 212 bytes are those of an MRC of 2000 or later."""
    return start[208:211] == b"MAP"


def _mrc_byteorder(path: Path, header: bytes) -> str:
    """Returns the byte order in which the header makes sense; the machine stamp is often wrong."""
    for order in "<>":
        mode, axes = (struct.unpack(f"{order}{n}i", header[a:b]) for n, a, b in ((1, 12, 16), (3, 64, 76)))
        if mode[0] in _MRC_TYPES | _MRC_REFUSED and all(0 <= axis <= 3 for axis in axes):
            return order
    raise unreadable(path, "its header is not that of an MRC")


def _mrc_type(path: Path, header: bytes, order: str, mode: int) -> np.dtype[Any]:
    if mode in _MRC_REFUSED:
        raise unsupported(path, f"an MRC of {_MRC_REFUSED[mode]} (mode {mode})", "export it as TIFF")
    stamp, flags = struct.unpack(f"{order}2i", header[152:160])
    if mode == 0 and stamp == _IMOD_STAMP and not flags & 1:
        return np.dtype("u1")
    return np.dtype(order + _MRC_TYPES[mode])


def _mrc_pixel_size(grid: tuple[int, ...], cell: tuple[float, ...]) -> Size | None:
    if grid[0] < 1 or grid[1] < 1:
        return None
    edges = cell[0] / grid[0], cell[1] / grid[1]
    if edges == (1.0, 1.0):
        return None
    return plausible(edges[0] * _ANGSTROM, edges[1] * _ANGSTROM)
