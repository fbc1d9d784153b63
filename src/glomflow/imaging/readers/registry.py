"""Which reader opens an image: decided by its content, and by its name where content does not tell."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from glomflow.errors import ImageError
from glomflow.image_parts import is_image_folder, is_zarr, missing_companion
from glomflow.imaging.readers.base import ImageReader, decoding, unreadable, unsupported
from glomflow.imaging.readers.formats import READABLE, READERS, ReaderInfo, reader_info

__all__ = ["READABLE", "READERS", "ReaderInfo", "open_image", "reader_info"]

_START = 512
_FOREIGN_STARTS = {
    b"\xda\xce\xbe\x0a": "Nikon ND2",
    b"\x89HDF\r\n\x1a\n": "HDF5 (Imaris and others)",
    b"\xd0\xcf\x11\xe0": "an OLE file (Olympus OIB, Zeiss ZVI and others)",
}
_FOREIGN_SUFFIXES = {
    ".nd2": "Nikon ND2",
    ".oib": "Olympus OIB",
    ".oif": "Olympus OIF",
    ".vsi": "Olympus VSI",
    ".zvi": "Zeiss ZVI",
    ".ims": "Imaris",
    ".emd": "EMD",
}
_ONLY_PREVIEW = frozenset({".vsi"})
"""Such a file is a TIFF by its content, which is not the slide but a preview."""


def open_image(path: str | os.PathLike[str]) -> ImageReader:
    """Opens an image of any format that can be read.

    Args:
        path: A file, or the folder of an OME-Zarr or of a slide in DICOM.

    Returns:
        An open reader; use it as a context manager.

    Raises:
        ImageError: ``missing_file``, ``unreadable`` or ``unsupported_format``; the message names the
            file and says what to do.
    """
    path = Path(path)
    if path.is_dir():
        return _open_folder(path)
    if not path.is_file():
        raise ImageError("missing_file", f"{path}: there is no such file; correct the path in images.csv")
    with decoding(path), path.open("rb") as handle:
        start = handle.read(_START)
    if not start:
        raise unreadable(path, "it is empty")
    return _OPENERS[_reader_of(path, start).name](path)


def _open_folder(path: Path) -> ImageReader:
    with decoding(path):
        is_image = is_image_folder(path)
    if not is_image:
        raise unsupported(
            path,
            "this is a folder without an OME-Zarr or DICOM slide in it",
            "name the image file in it in images.csv",
        )
    return _OPENERS["ome_zarr" if is_zarr(path) else "dicom"](path)


def _reader_of(path: Path, start: bytes) -> ReaderInfo:
    """Returns the reader of a file.

    Raises:
        ImageError: ``unreadable`` or ``unsupported_format``, if there is none.
    """
    suffix = path.suffix.lower()
    by_name = next((info for info in READERS if suffix in info.suffixes), None)
    by_content = next((info for info in READERS if info.matches(start)), None)
    foreign = next((name for magic, name in _FOREIGN_STARTS.items() if start.startswith(magic)), None)
    if suffix in _ONLY_PREVIEW or (foreign is None and by_content is None):
        foreign = _FOREIGN_SUFFIXES.get(suffix)
    if foreign is not None:
        raise unsupported(path, f"{foreign} is not handled", "export the image as OME-TIFF")
    if by_name is not None and by_name.name == "openslide":
        if by_content is None or by_content.name == "tiff":
            return by_name
        return by_content
    if by_content is not None:
        return by_content
    if by_name is None:
        raise unsupported(path, f"the format '{suffix or path.name}' is not handled", READABLE)
    if by_name.name == "mrc":
        return by_name  # older files do not name themselves
    raise unreadable(path, f"its content is no image: it starts with {start[:8]!r}")


def _open_tiff(path: Path) -> ImageReader:
    from glomflow.imaging.readers.tiff import TiffReader

    try:
        return TiffReader(path)
    except ImageError:
        from glomflow.imaging.readers.wsi import SlideReader, is_slide

        if is_slide(path):
            return SlideReader(path)
        raise


def _open_slide(path: Path) -> ImageReader:
    from glomflow.imaging.readers.wsi import SlideReader

    companion = missing_companion(path)
    if companion:
        raise unreadable(path, f"'{companion}', which belongs to it, is not beside it")
    return SlideReader(path)


def _open_raster(path: Path) -> ImageReader:
    from glomflow.imaging.readers.raster import RasterReader

    return RasterReader(path)


def _open_jpeg2000(path: Path) -> ImageReader:
    from glomflow.imaging.readers.raster import Jpeg2000Reader

    return Jpeg2000Reader(path)


def _open_ome_zarr(path: Path) -> ImageReader:
    from glomflow.imaging.readers.ome_zarr import OmeZarrReader

    return OmeZarrReader(path)


def _open_czi(path: Path) -> ImageReader:
    from glomflow.imaging.readers.czi import CziReader

    return CziReader(path)


def _open_lif(path: Path) -> ImageReader:
    from glomflow.imaging.readers.lif import LifReader

    return LifReader(path)


def _open_dm(path: Path) -> ImageReader:
    from glomflow.imaging.readers.electron import GatanReader

    return GatanReader(path)


def _open_mrc(path: Path) -> ImageReader:
    from glomflow.imaging.readers.electron import MrcReader

    return MrcReader(path)


def _open_dicom(path: Path) -> ImageReader:
    from glomflow.imaging.readers.dicom import DicomReader

    return DicomReader(path)


_OPENERS: dict[str, Callable[[Path], ImageReader]] = {
    "openslide": _open_slide,
    "tiff": _open_tiff,
    "raster": _open_raster,
    "jpeg2000": _open_jpeg2000,
    "ome_zarr": _open_ome_zarr,
    "czi": _open_czi,
    "lif": _open_lif,
    "dm": _open_dm,
    "mrc": _open_mrc,
    "dicom": _open_dicom,
}
