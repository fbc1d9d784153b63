"""Crop stores: a memory map of 8-bit crops beside the table that describes its rows."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import pandas as pd

from glomflow.errors import GlomflowError
from glomflow.files import atomic_path
from glomflow.tables import CROPS, read_table, write_table

Bytes = npt.NDArray[np.uint8]
PathLike = str | os.PathLike[str]


class CropWriter:
    """Writes crops one by one to an ``.npy`` file whose length is not known beforehand.

    Args:
        handle: The opened file, empty.
        shape: Shape of a crop, (H, W, C).
    """

    def __init__(self, handle: BinaryIO, shape: tuple[int, int, int]) -> None:
        self._handle = handle
        self.shape = shape
        self.count = 0
        self._start = self._header()

    def append(self, crop: Bytes) -> None:
        """Writes a crop.

        Raises:
            ValueError: The crop is not uint8 of the store's shape.
        """
        if crop.dtype != np.uint8 or crop.shape != self.shape:
            raise ValueError(f"crop is {crop.dtype} of shape {crop.shape}, the store's are {self.shape}")
        self._handle.write(np.ascontiguousarray(crop).tobytes())
        self.count += 1

    def finish(self) -> None:
        """Writes the final number of crops into the header."""
        if self._header() != self._start:
            raise RuntimeError("the .npy header changed its length with the number of crops")

    def _header(self) -> int:
        # NumPy pads the header so that the first axis may grow in place.
        self._handle.seek(0)
        np.lib.format.write_array_header_1_0(
            self._handle,
            {"descr": "|u1", "fortran_order": False, "shape": (self.count, *self.shape)},
        )
        return self._handle.tell()


@contextlib.contextmanager
def crop_writer(npy_path: PathLike, shape: tuple[int, int, int]) -> Iterator[CropWriter]:
    """Opens a store's array for writing; it is renamed into place when the block ends well.

    Args:
        npy_path: The ``.npy`` file.
        shape: Shape of a crop, (H, W, C).

    Yields:
        The writer.
    """
    with atomic_path(npy_path) as temporary, temporary.open("wb") as handle:
        writer = CropWriter(handle, shape)
        yield writer
        writer.finish()


def write_store(npy_path: PathLike, parquet_path: PathLike, crops: Bytes, index: pd.DataFrame) -> None:
    """Writes a store, each file atomically.

    Args:
        npy_path: The ``.npy`` file.
        parquet_path: The index.
        crops: (N, H, W, C) uint8.
        index: N rows, as ``CROPS``; its column ``row`` counts from 0.

    Raises:
        GlomflowError: Crops and index do not fit each other.
    """
    if crops.dtype != np.uint8 or crops.ndim != 4:
        raise GlomflowError(
            f"crop store {npy_path}: crops are {crops.dtype} of shape {crops.shape}, not uint8 (N, H, W, C)"
        )
    _check(npy_path, parquet_path, crops.shape[0], index)
    with atomic_path(npy_path) as temporary, temporary.open("wb") as handle:
        np.lib.format.write_array(handle, np.ascontiguousarray(crops), version=(1, 0), allow_pickle=False)
    write_table(parquet_path, index, CROPS)


def read_store(npy_path: PathLike, parquet_path: PathLike) -> tuple[Bytes, pd.DataFrame]:
    """Opens a store.

    Args:
        npy_path: The ``.npy`` file.
        parquet_path: The index.

    Returns:
        The crops as a read-only memory map (N, H, W, C) uint8, and the index.

    Raises:
        GlomflowError: A file cannot be read, or the two do not fit each other.
    """
    crops = _open_array(npy_path)
    index = read_table(parquet_path, CROPS)
    _check(npy_path, parquet_path, crops.shape[0], index)
    return crops, index


def open_array(npy_path: PathLike, what: str) -> npt.NDArray[Any]:
    """Opens an array of the workflow's own as a read-only memory map.

    Args:
        npy_path: The ``.npy`` file.
        what: What it holds, for the message.

    Raises:
        GlomflowError: The file cannot be read.
    """
    try:
        array: npt.NDArray[Any] = np.load(npy_path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise GlomflowError(
            f"{what} {npy_path}: cannot be read ({error}); delete it and run again"
        ) from error
    return array


def write_array(path: PathLike, values: npt.NDArray[Any]) -> None:
    """Writes an array of numbers as ``.npy``, atomically."""
    with atomic_path(path) as temporary, temporary.open("wb") as handle:
        np.save(handle, values, allow_pickle=False)


def new_array(path: PathLike, dtype: npt.DTypeLike, shape: tuple[int, ...]) -> np.memmap[Any, Any]:
    """Makes an ``.npy`` file to write to through memory, and takes its room on the disk beforehand.

    Without, a disk that fills up would kill the process without a word (SIGBUS).

    Args:
        path: The ``.npy`` file.
        dtype: Its type.
        shape: Its shape.

    Raises:
        OSError: There is no room for it.
    """
    array: np.memmap[Any, Any] = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
    with open(path, "r+b") as handle:
        os.posix_fallocate(handle.fileno(), 0, os.path.getsize(path))
    return array


def _open_array(npy_path: PathLike) -> Bytes:
    crops = open_array(npy_path, "crop store")
    if crops.dtype != np.uint8 or crops.ndim != 4:
        raise GlomflowError(
            f"crop store {npy_path}: holds {crops.dtype} of shape {crops.shape}, not uint8 (N, H, W, C); "
            "delete it and run again"
        )
    opened: Bytes = crops
    return opened


def _check(npy_path: PathLike, parquet_path: PathLike, count: int, index: pd.DataFrame) -> None:
    if count != len(index):
        raise GlomflowError(
            f"crop store: {Path(npy_path)} holds {count} crops, but {Path(parquet_path)} {len(index)} rows; "
            "delete both and run again"
        )
    if count and not np.array_equal(index["row"].to_numpy(), np.arange(count)):
        raise GlomflowError(
            f"crop store: the column 'row' of {Path(parquet_path)} does not count from 0 to {count - 1}; "
            "delete it and run again"
        )
