"""OME-Zarr, versions 0.4 and 0.5, through zarr."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from glomflow.imaging.pixels import RGB, Array
from glomflow.imaging.readers.base import ImageReader, decoding, unreadable, unsupported
from glomflow.imaging.readers.metadata import Size, in_micrometres, plausible

LARGEST_CHUNK = 2**31
"""Bytes that one chunk may decode to."""
_AXES = "tczyx"
_GENERIC_NAME = re.compile(r"(channel|c|ch)?[ _:#]*\d*", re.IGNORECASE)
_RED_GREEN_BLUE = ["FF0000", "00FF00", "0000FF"]


class OmeZarrReader(ImageReader):
    """Reads OME-Zarr by region, chunk by chunk.

    Of a time series the first time is read, a grey z-stack is projected by its maximum, of a colour one
    the first z is read. Of a converted file with several images (the layout of bioformats2raw) the
    first is read; plates are refused.
    """

    def __init__(self, path: Path) -> None:
        """Opens an image.

        Args:
            path: Its folder.

        Raises:
            ImageError: ``unreadable`` or ``unsupported_format``.
        """
        import zarr

        with decoding(path):
            group = zarr.open_group(str(path), mode="r")
            group, attributes = _image_of(path, group)
            image = attributes["multiscales"][0]
            self._axes = _axes(path, image)
            sets = image["datasets"]
            self._arrays = [group[str(item["path"])] for item in sets]
            if not self._arrays:
                raise unreadable(path, "it holds no image")
            _require_arrays(path, self._arrays, len(self._axes))
            names, colour = _channels(attributes, self._arrays[0], self._axes)
            pixel_size = _pixel_size(image, sets[0], self._axes)
        shapes = [self._shape(array) for array in self._arrays]
        self._arrays = [
            array for array, shape in zip(self._arrays, shapes, strict=True) if shape["c"] == shapes[0]["c"]
        ]
        self._depth = 1 if colour else shapes[0]["z"]
        super().__init__(
            "ome_zarr",
            path,
            levels=tuple((shape["x"], shape["y"]) for shape in map(self._shape, self._arrays)),
            channels=names,
            dtype=np.dtype(self._arrays[0].dtype).newbyteorder("="),
            pixel_size=pixel_size,
        )

    def close(self) -> None:
        """Does nothing: no file is kept open."""

    def check(self) -> None:
        """Checks that no chunk is an empty file.

        Raises:
            ImageError: ``unreadable``, if one is. Chunks that were left out are no error in Zarr.
        """
        with decoding(self.path):
            empty = next(
                (file for file in self.path.rglob("*") if file.is_file() and not file.stat().st_size), None
            )
        if empty is not None:
            raise unreadable(self.path, f"the file {empty.relative_to(self.path)} in it is empty")

    def _shape(self, array: Any) -> dict[str, int]:
        return dict.fromkeys(_AXES, 1) | dict(zip(self._axes, map(int, array.shape), strict=True))

    def _decode(self, level: int, left: int, top: int, right: int, bottom: int) -> Array:
        array = self._arrays[level]
        depth = min(self._depth, self._shape(array)["z"])
        projected = self._planes(array, 0, left, top, right, bottom)
        for z in range(1, depth):
            projected = np.maximum(projected, self._planes(array, z, left, top, right, bottom))
        return np.ascontiguousarray(projected, dtype=self.dtype)

    def _planes(self, array: Any, z: int, left: int, top: int, right: int, bottom: int) -> Array:
        wanted = {"t": 0, "c": slice(None), "z": z, "y": slice(top, bottom), "x": slice(left, right)}
        with decoding(self.path):
            samples = np.asarray(array[tuple(wanted[axis] for axis in self._axes)])
        if "c" not in self._axes:
            samples = samples[None]
        if samples.shape != (len(self.channels), bottom - top, right - left):
            raise unreadable(self.path, f"a region has samples of the shape {samples.shape}")
        return np.moveaxis(samples, 0, 2)


def _image_of(path: Path, group: Any) -> tuple[Any, Mapping[str, Any]]:
    """Returns the group that holds the first image, and its OME attributes."""
    attributes = _ome(group)
    if "plate" in attributes or "well" in attributes:
        raise unsupported(path, "a plate of wells is not one image", "name one field of it in images.csv")
    if "multiscales" not in attributes and "0" in group:
        group = group["0"]  # bioformats2raw numbers the images of a file
        attributes = _ome(group)
    if not attributes.get("multiscales"):
        raise unsupported(path, "the Zarr group holds no OME image ('multiscales')", "export it as OME-Zarr")
    return group, attributes


def _ome(group: Any) -> Mapping[str, Any]:
    attributes: Mapping[str, Any] = group.attrs.asdict()
    inner = attributes.get("ome")
    return inner if isinstance(inner, Mapping) else attributes


def _axes(path: Path, image: Mapping[str, Any]) -> str:
    """Returns the axes as letters; versions before 0.4 name none and always have five."""
    listed = image.get("axes")
    names = [str(axis["name"] if isinstance(axis, Mapping) else axis).lower() for axis in listed or _AXES]
    axes = "".join(names)
    if len(axes) != len(names) or [a for a in _AXES if a in axes] != list(axes) or axes[-2:] != "yx":
        raise unsupported(
            path, f"the axes {', '.join(names)} are not handled", "export it with axes t, c, z, y, x"
        )
    return axes


def _require_arrays(path: Path, arrays: list[Any], axes: int) -> None:
    for array in arrays:
        shape, dtype = getattr(array, "shape", None), getattr(array, "dtype", None)
        if shape is None or len(shape) != axes or min(shape) < 1:
            raise unreadable(path, f"a level of it is no array of {axes} axes with pixels")
        if dtype is None or np.dtype(dtype).kind not in "uif":
            raise unsupported(path, f"samples of type {dtype} are not handled")
        chunk = math.prod(int(edge) for edge in getattr(array, "shards", None) or array.chunks)
        if chunk * np.dtype(dtype).itemsize > LARGEST_CHUNK:
            raise unsupported(path, f"its chunks of {array.chunks} samples are too large to decode")


def _channels(attributes: Mapping[str, Any], array: Any, axes: str) -> tuple[tuple[str, ...], bool]:
    """Returns the channels' names, and whether they are red, green and blue."""
    count = int(array.shape[axes.index("c")]) if "c" in axes else 1
    listed = (attributes.get("omero") or {}).get("channels") or []
    names = [str(channel.get("label") or "").strip() for channel in listed]
    colours = [str(channel.get("color") or "").lstrip("#").upper() for channel in listed]
    if len(names) != count:
        names, colours = [""] * count, []
    unnamed = all(_GENERIC_NAME.fullmatch(name) for name in names)
    if count == 3 and (
        [name.lower() for name in names] in (["red", "green", "blue"], ["r", "g", "b"])
        or (unnamed and colours == _RED_GREEN_BLUE and np.dtype(array.dtype) == np.uint8)
    ):
        return RGB, True
    return tuple(name or (f"C{i}" if count > 1 else "gray") for i, name in enumerate(names)), False


def _pixel_size(image: Mapping[str, Any], dataset: Mapping[str, Any], axes: str) -> Size | None:
    """Returns the size of a pixel of the first level; units are needed, a bare number is no length."""
    scale = np.ones(len(axes))
    given = False
    for transformation in [
        *(dataset.get("coordinateTransformations") or []),
        *(image.get("coordinateTransformations") or []),
    ]:
        factors = transformation.get("scale")
        if transformation.get("type") == "scale" and isinstance(factors, list) and len(factors) == len(axes):
            scale *= np.array(factors, float)
            given = True
    listed = image.get("axes")
    if not given or not listed or not all(isinstance(axis, Mapping) for axis in listed):
        return None
    units = {axis["name"].lower(): axis.get("unit") for axis in listed}
    return plausible(*(in_micrometres(scale[axes.index(axis)], units[axis]) for axis in "xy"))
