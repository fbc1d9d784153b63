"""Images that are more than one file: folders (OME-Zarr, DICOM) and files with companions (MRXS, VMS).

Only the standard library is needed here, so that the workflow can look at a cohort while it starts.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from glomflow.files import sha256_file

ZARR_METADATA = ("zarr.json", ".zattrs", ".zgroup")
"""A folder that holds one of these is a Zarr group."""
SIDECAR_SUFFIXES = (".txt", ".json", ".xml", ".ini", ".hdr")
_DICOM_AT = 128
_WITH_COMPANIONS = (".mrxs", ".vms", ".vmu")
_NOT_OURS = frozenset({".DS_Store", "Thumbs.db", "desktop.ini"})
"""What file browsers leave behind; looking at a folder must not change its digest."""


def is_zarr(folder: Path) -> bool:
    """Returns whether a folder is a Zarr group."""
    return any((folder / name).is_file() for name in ZARR_METADATA)


def is_dicom(path: Path) -> bool:
    """Returns whether a file is DICOM, by its content."""
    try:
        with path.open("rb") as handle:
            return handle.read(_DICOM_AT + 4)[_DICOM_AT:] == b"DICM"
    except OSError:
        return False


def dicom_files(folder: Path) -> list[Path]:
    """Returns the DICOM files that lie directly in a folder, by name."""
    try:
        return [path for path in sorted(folder.iterdir()) if path.is_file() and is_dicom(path)]
    except OSError:
        return []


def is_image_folder(folder: Path) -> bool:
    """Returns whether a folder is one image: a Zarr group, or one that holds DICOM files."""
    if not folder.is_dir():
        return False
    return is_zarr(folder) or any(path.is_file() and is_dicom(path) for path in folder.iterdir())


def image_exists(path: str | os.PathLike[str]) -> bool:
    """Returns whether there is an image at a path: a file, or a folder that is one image."""
    place = Path(path)
    return place.is_file() or is_image_folder(place)


def missing_companion(path: str | os.PathLike[str]) -> str:
    """Returns the name of what an image needs beside it and lacks, or ''.

    Args:
        path: The image; only a slide in MRXS and VMS has companions.
    """
    place = Path(path)
    if place.suffix.lower() == ".mrxs" and place.is_file() and not place.with_suffix("").is_dir():
        return f"{place.stem}/"
    return next((name for name in named_in_vms(place) if not (place.parent / name).is_file()), "")


def image_parts(path: str | os.PathLike[str]) -> list[Path]:
    """Returns all files that make up an image, the one that its path names first.

    Args:
        path: A file or a folder.

    Returns:
        The file and its companions (the folder of an MRXS, the files that a VMS names), or every file
        below a folder by name; empty if nothing is there. Links to folders are not followed.
    """
    place = Path(path)
    if place.is_dir():
        return sorted(_below(place))
    if not place.is_file():
        return []
    companions: list[Path] = []
    if place.suffix.lower() == ".mrxs":
        companions = sorted(_below(place.with_suffix("")))
    named = [place.parent / name for name in named_in_vms(place)]
    return [place, *companions, *(part for part in named if part.is_file())]


def image_digest(path: str | os.PathLike[str]) -> tuple[str, int]:
    """Digests an image with all of its parts.

    The image's own name does not enter, so that a copy under another name has the same digest.

    Args:
        path: A file or a folder.

    Returns:
        SHA-256 and size in bytes: of a single file those of its bytes; else of the names of the parts
        and their digests, and the sum of their sizes.

    Raises:
        OSError: A part cannot be read, or nothing is there.
    """
    parts = image_parts(path)
    if not parts:
        raise FileNotFoundError(f"{path}: there is no image")
    size = sum(part.stat().st_size for part in parts)
    if len(parts) == 1 and Path(path).is_file():
        return sha256_file(path), size
    digest = hashlib.sha256()
    for name, part in _named(Path(path), parts):
        digest.update(f"{name}\0{sha256_file(part)}\n".encode())
    return digest.hexdigest(), size


def sidecars(path: str | os.PathLike[str]) -> list[Path]:
    """Returns the small text files beside an image that may tell its pixel size.

    Args:
        path: The image.

    Returns:
        Those of ``image.tif.txt``, ``image.txt`` and the same with the other suffixes that exist.
    """
    place = Path(path)
    names = [place.with_name(name) for name in sidecar_names(place.name)]
    return [name for name in names if name.is_file()]


def sidecar_names(image: str) -> list[str]:
    """Returns the names that a text file beside an image may have.

    Args:
        image: Name of the image file, without its folder.
    """
    stem = os.path.splitext(image)[0]
    names = [f"{base}{suffix}" for base in (image, stem) for suffix in SIDECAR_SUFFIXES]
    return [name for name in dict.fromkeys(names) if name != image]


def image_stamp(path: str | os.PathLike[str]) -> tuple[int, int | str]:
    """Returns what shows at a glance that an image changed.

    Args:
        path: A file or a folder.

    Returns:
        Size in bytes and modification time in ns; where there are several parts the sum of their sizes
        and a digest over name, size and time of each. (-1, -1) if nothing is there.
    """
    try:
        found = os.stat(path)
        if stat.S_ISREG(found.st_mode) and not os.fspath(path).lower().endswith(_WITH_COMPANIONS):
            return found.st_size, found.st_mtime_ns
        parts = image_parts(path)
        stamps = [(part, part.stat()) for part in parts]
    except OSError:
        return -1, -1
    if not stamps:
        return -1, -1
    size = sum(status.st_size for _, status in stamps)
    if len(stamps) == 1 and Path(path).is_file():
        return size, stamps[0][1].st_mtime_ns
    digest = hashlib.sha256()
    for (name, _), (_, status) in zip(_named(Path(path), parts), stamps, strict=True):
        digest.update(f"{name}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
    return size, digest.hexdigest()


def _named(path: Path, parts: list[Path]) -> Iterator[tuple[str, Path]]:
    """Yields the parts with names that do not hold the image's own."""
    companions = path.with_suffix("")
    for part in parts:
        if part == path:
            yield "", part
        elif part.is_relative_to(path):
            yield part.relative_to(path).as_posix(), part
        elif part.is_relative_to(companions):
            yield part.relative_to(companions).as_posix(), part
        else:
            yield part.name, part


def _below(folder: Path) -> Iterator[Path]:
    for place, folders, names in os.walk(folder):
        folders.sort()
        yield from (Path(place) / name for name in names if name not in _NOT_OURS)


def named_in_vms(path: Path) -> list[str]:
    """Returns the names of the files beside it that a slide in VMS or VMU is made of; else none."""
    if path.suffix.lower() not in _WITH_COMPANIONS[1:] or not path.is_file():
        return []
    text = path.read_bytes()[:100_000].decode("latin-1")
    values = [line.split("=", 1)[1].strip() for line in text.splitlines() if line.count("=") == 1]
    return sorted({name for name in values if name.lower().endswith((".jpg", ".opt", ".ngr"))})
