"""Which reader opens a file: decided by its content, and by its name where content does not tell."""

from __future__ import annotations

import os
from pathlib import Path

from glomflow.errors import ImageError
from glomflow.imaging.readers.base import ImageReader, decoding, unreadable, unsupported

SLIDE_SUFFIXES = frozenset({".svs", ".ndpi", ".scn", ".mrxs", ".bif", ".vms", ".vmu", ".svslide"})
TIFF_SUFFIXES = frozenset({".tif", ".tiff", ".qptiff", ".btf", ".tf2", ".tf8"})
RASTER_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp"})
JPEG2000_SUFFIXES = frozenset({".jp2", ".j2k", ".jpx", ".jpc"})
READABLE = "TIFF, OME-TIFF, QPTIFF, PNG, JPEG, JPEG 2000, SVS, NDPI, SCN, MRXS and BIF can be read"

_TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_RASTER_STARTS = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"BM", b"RIFF")
_JPEG2000_STARTS = (b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51")
_FOREIGN_STARTS = {
    b"ZISRAWFILE": "Zeiss CZI",
    b"\xda\xce\xbe\x0a": "Nikon ND2",
    b"\x89HDF\r\n\x1a\n": "HDF5 (Imaris and others)",
    b"\xd0\xcf\x11\xe0": "an OLE file (Olympus OIB, Zeiss ZVI and others)",
}
_FOREIGN_SUFFIXES = {
    ".czi": "Zeiss CZI",
    ".lif": "Leica LIF",
    ".dm3": "Gatan DM3",
    ".dm4": "Gatan DM4",
    ".mrc": "MRC",
    ".nd2": "Nikon ND2",
    ".oib": "Olympus OIB",
    ".oif": "Olympus OIF",
    ".vsi": "Olympus VSI",
    ".zvi": "Zeiss ZVI",
    ".ims": "Imaris",
    ".emd": "EMD",
    ".dcm": "DICOM",
}


def open_image(path: str | os.PathLike[str]) -> ImageReader:
    """Opens an image of any format that can be read.

    Args:
        path: The file.

    Returns:
        An open reader; use it as a context manager.

    Raises:
        ImageError: ``missing_file``, ``unreadable`` or ``unsupported_format``; the message names the
            file and says what to do.
    """
    path = Path(path)
    if not path.is_file():
        raise ImageError("missing_file", f"{path}: there is no such file; correct the path in images.csv")
    with decoding(path), path.open("rb") as handle:
        start = handle.read(16)
    if not start:
        raise unreadable(path, "it is empty")
    suffix = path.suffix.lower()
    _refuse_foreign(path, start, suffix)
    if suffix in SLIDE_SUFFIXES:
        from glomflow.imaging.readers.wsi import SlideReader

        return SlideReader(path)
    if start.startswith(_TIFF_STARTS):
        return _open_tiff(path)
    if start.startswith(_RASTER_STARTS):
        from glomflow.imaging.readers.raster import RasterReader

        return RasterReader(path)
    if start.startswith(_JPEG2000_STARTS):
        from glomflow.imaging.readers.raster import Jpeg2000Reader

        return Jpeg2000Reader(path)
    if suffix in TIFF_SUFFIXES | RASTER_SUFFIXES | JPEG2000_SUFFIXES:
        raise unreadable(path, f"its content is no image: it starts with {start[:8]!r}")
    raise unsupported(path, f"the format '{suffix or path.name}' is not handled", READABLE)


def _refuse_foreign(path: Path, start: bytes, suffix: str) -> None:
    named = next((name for magic, name in _FOREIGN_STARTS.items() if start.startswith(magic)), None)
    known = start.startswith(_TIFF_STARTS + _RASTER_STARTS + _JPEG2000_STARTS)
    if named is None and not known:
        named = _FOREIGN_SUFFIXES.get(suffix)
    if named is not None:
        raise unsupported(path, f"{named} is not handled", "export the image as OME-TIFF")


def _open_tiff(path: Path) -> ImageReader:
    from glomflow.imaging.readers.tiff import TiffReader

    try:
        return TiffReader(path)
    except ImageError:
        from glomflow.imaging.readers.wsi import SlideReader, is_slide

        if is_slide(path):
            return SlideReader(path)
        raise
