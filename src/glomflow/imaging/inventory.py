"""The inventory: what every image file is, and what is wrong with those that cannot be used."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from glomflow.config import Ingest
from glomflow.config_quality import Quality
from glomflow.errors import CohortError, GlomflowError, ImageError, Problem
from glomflow.files import atomic_path
from glomflow.imaging.annotations import verify_annotation
from glomflow.imaging.im import channel_markers
from glomflow.imaging.pixels import as_gray_uint8, as_rgb_uint8
from glomflow.imaging.quality import Finding, Views, is_blank, judge, measure
from glomflow.imaging.readers import ImageReader, open_image
from glomflow.imaging.readers.base import decoding
from glomflow.imaging.readers.parts import image_digest, image_exists
from glomflow.imaging.tem_sidecar import sidecar_pixel_size
from glomflow.tables import INVENTORY

Row = Mapping[Any, Any]

ANISOTROPY = 0.01
"""Pixels whose edges differ by more than this share are not square."""
_NO_IDENTITY = frozenset({"missing_file", "unreadable", "unsupported_format", "blank"})
"""Statuses of files whose being identical says nothing: empty files are all alike."""
_LONGEST_NAME = 200


def ingest_shard(
    images: pd.DataFrame,
    folder: Path,
    settings: Ingest,
    *,
    allow_anisotropic: bool,
    thumbnails: Path,
    shard: int,
    quality: Quality | None = None,
    finder: bool = False,
) -> pd.DataFrame:
    """Opens every image of a shard and writes its thumbnail.

    What is wrong with an image becomes its status and reason; it never raises.

    Args:
        images: Rows of the table IMAGES.
        folder: The cohort folder that paths are relative to.
        settings: Default pixel sizes and the size of thumbnails.
        allow_anisotropic: Whether pixels may be other than square.
        thumbnails: Folder for the shard's thumbnails, two levels below that of the inventory.
        shard: Number of the shard.
        quality: What counts as a poor image; by default, the defaults.
        finder: Whether glomeruli are found in OM fields that have no outlines.

    Returns:
        One INVENTORY row per image, in the order of ``images``.
    """
    thumbnails.mkdir(parents=True, exist_ok=True)
    rows = []
    for image in _records(images):
        row = _empty_row(image, shard)
        try:
            _ingest(row, image, folder, settings, quality or Quality(), allow_anisotropic, thumbnails)
            _check_annotation(image, folder, (row["width"], row["height"]), finder)
            row["status"] = "ok"
        except ImageError as error:
            row.update(status=error.status, reason=error.reason)
        rows.append(row)
    return _inventory(rows)


def _records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Returns the rows of a table, as ``to_dict`` does in several times the time."""
    names = [str(column) for column in frame.columns]
    columns = [frame[column].tolist() for column in frame.columns]
    return [dict(zip(names, values, strict=True)) for values in zip(*columns, strict=True)]


def _inventory(rows: Sequence[Row]) -> pd.DataFrame:
    # By columns of their own type: turning a frame of objects into them takes as long as reading an image.
    columns: dict[str, Any] = {}
    for column, spec in INVENTORY.items():
        values = [row[column] for row in rows]
        columns[column] = pd.array(values, "str") if spec.dtype == "string" else np.array(values, spec.dtype)
    return pd.DataFrame(columns)


def _empty_row(image: Row, shard: int) -> dict[str, Any]:
    blank: dict[str, Any] = {"string": "", "int64": 0, "float64": math.nan}
    row = {column: blank[spec.dtype] for column, spec in INVENTORY.items()}
    same = ("image", "patient", "modality", "path", "slide")
    return row | {column: _text(image, column) for column in same} | {"shard": shard}


def _ingest(
    row: dict[str, Any],
    image: Row,
    folder: Path,
    settings: Ingest,
    quality: Quality,
    allow_anisotropic: bool,
    thumbnails: Path,
) -> None:
    """Fills ``row`` as far as it gets before an :class:`ImageError`."""
    path = folder / _text(image, "path")
    modality = _text(image, "modality")
    if image_exists(path):
        with decoding(path):
            row["sha256"], row["bytes"] = image_digest(path)
    with open_image(path) as reader:
        row.update(_header(reader))
        reader.check()
        views = Views(reader)
        picture = views.thumbnail(settings.thumbnail_px)
        # A marker without any signal is a finding, if a negative one.
        if is_blank(picture) and not (modality == "IM" and not picture.any()):
            raise ImageError(
                "blank",
                f"{path.name}: every pixel has the same value; export the image again or remove its row",
            )
        file = thumbnails / f"{_file_name(_text(image, 'image'))}.jpg"
        _write_thumbnail(file, picture, reader.channels, modality)
        row["thumbnail"] = file.relative_to(thumbnails.parent.parent).as_posix()
        row["um_per_px"], row["pixel_size_from"] = pixel_size_of(
            reader,
            image,
            um_per_px_default=settings.um_per_px,
            nm_per_px_default=settings.nm_per_px,
            allow_anisotropic=allow_anisotropic,
        )
        row.update(vars(measure(views, picture, modality, row["um_per_px"], quality)))
        if modality == "IM":
            channel_markers(_text(image, "path"), reader.channels, _text(image, "marker") or None)
    findings = judge(row, modality, quality)
    row["quality"] = ";".join(finding.flag for finding in findings)
    _check_quality(_text(image, "path"), findings, quality)


def _header(reader: ImageReader) -> dict[str, Any]:
    return {
        "reader": reader.name,
        "width": reader.width,
        "height": reader.height,
        "levels": len(reader.levels),
        "channels": ";".join(reader.channels),
        "dtype": str(reader.dtype),
    }


def _check_quality(path: str, findings: Sequence[Finding], settings: Quality) -> None:
    unwanted = [finding for finding in findings if finding.flag in settings.exclude]
    if unwanted:
        named = ", ".join(f"'{finding.flag}'" for finding in unwanted)
        raise ImageError(
            "poor_quality",
            f"{path}: {' and '.join(map(str, unwanted))}, and imaging.quality.exclude names {named}; "
            "take a better image, change the threshold, or take the flag off that list",
        )


def _check_annotation(image: Row, folder: Path, size: tuple[int, int], finder: bool) -> None:
    if _text(image, "kind") == "crop":
        return
    annotation = _text(image, "annotation")
    if annotation and (folder / annotation).is_file():
        verify_annotation(folder / annotation, size, image_name=_text(image, "path"))
        return
    if not annotation and (finder or _text(image, "modality") != "OM"):
        return
    what = f"there is no file {annotation}" if annotation else "no glomerulus outlines are given"
    raise ImageError(
        "no_annotation",
        f"{_text(image, 'path')}: {what}; name the file of its outlines in column 'annotation' of "
        "images.csv, write 'crop' in column 'kind' if the image is one glomerulus, or let the finder "
        "outline images that have no annotation (imaging.finder.enabled: true)",
    )


def pixel_size_of(
    reader: ImageReader,
    row: Row,
    *,
    um_per_px_default: float | None,
    nm_per_px_default: float | None,
    allow_anisotropic: bool,
) -> tuple[float, str]:
    """Returns the pixel size of an image: the sheet's, else the file's own, else the configured one.

    A micrograph that does not tell its own may have a text file beside it that does; it comes before
    the configured one.

    Args:
        reader: The open image.
        row: Its row of the table IMAGES.
        um_per_px_default: Configured pixel size of OM and IM images, µm/px.
        nm_per_px_default: Configured pixel size of TEM images, nm/px.
        allow_anisotropic: Whether pixels may be other than square; then the geometric mean is used.

    Returns:
        Pixel size in µm/px (for TEM too), and where it is from: ``sheet``, ``tags``, ``sidecar``,
        ``config``, or ``none`` with NaN for a ready-made crop of unknown size.

    Raises:
        ImageError: ``no_pixel_size`` or ``anisotropic``.
    """
    electron = _text(row, "modality") == "TEM"
    columns = {"um_per_px": 1.0, "nm_per_px": 1e-3}
    for column in sorted(columns, reverse=not electron):
        value = row.get(column)
        if value is not None and not math.isnan(value):
            return float(value) * columns[column], "sheet"
    if reader.pixel_size is not None:
        return _square(reader.pixel_size, _text(row, "path"), electron, allow_anisotropic), "tags"
    if electron and (nm := sidecar_pixel_size(reader.path)) is not None:
        return nm * 1e-3, "sidecar"
    default = nm_per_px_default if electron else um_per_px_default
    if default is not None:
        return default * (1e-3 if electron else 1.0), "config"
    if _text(row, "kind") == "crop":
        return math.nan, "none"
    column = "nm_per_px" if electron else "um_per_px"
    raise ImageError(
        "no_pixel_size",
        f"{_text(row, 'path')}: neither the file nor images.csv tells the pixel size; fill column "
        f"'{column}' of its row in images.csv, or set imaging.ingest.{column} for all such images",
    )


def _square(size: tuple[float, float], path: str, electron: bool, allowed: bool) -> float:
    x, y = size
    if abs(x - y) > ANISOTROPY * min(x, y) and not allowed:
        factor, unit, column = (1e3, "nm", "nm_per_px") if electron else (1.0, "µm", "um_per_px")
        raise ImageError(
            "anisotropic",
            f"{path}: its pixels are {x * factor:g} x {y * factor:g} {unit}, not square; export it with "
            f"square pixels, or fill column '{column}' in images.csv if the file's tags are wrong, or "
            "set cohort.allow_anisotropic: true",
        )
    return x if x == y else math.sqrt(x * y)


def _write_thumbnail(path: Path, picture: npt.NDArray[Any], channels: tuple[str, ...], modality: str) -> None:
    from PIL import Image

    shown = as_gray_uint8(picture) if modality == "TEM" else as_rgb_uint8(picture, channels)
    with atomic_path(path) as temporary:
        Image.fromarray(shown).save(temporary, format="JPEG", quality=88)


def _file_name(image: str) -> str:
    if len(image.encode()) <= _LONGEST_NAME:
        return image
    return hashlib.sha256(image.encode()).hexdigest()


def _text(row: Row, column: str) -> str:
    value = row.get(column)
    return value if isinstance(value, str) else ""


def gather_inventory(frames: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Joins the shards' inventories and looks for files that stand twice.

    A file that stands twice for one patient is kept once: the later row gets ``duplicate_file``.

    Args:
        frames: INVENTORY frames.

    Returns:
        All rows, by patient; a patient's rows keep their order.

    Raises:
        CohortError: Two patients share a file, byte for byte.
    """
    rows = [row for frame in frames for row in _records(frame)]
    rows.sort(key=lambda row: str(row["patient"]))
    problems: list[Problem] = []
    by_digest: dict[str, list[dict[Any, Any]]] = {}
    for row in rows:
        if row["status"] not in _NO_IDENTITY and _text(row, "sha256"):
            by_digest.setdefault(row["sha256"], []).append(row)
    for same in by_digest.values():
        first = same[0]
        problems += [_shared(first, other) for other in same[1:] if other["patient"] != first["patient"]]
        usable = [row for row in same if row["status"] == "ok"]
        for later in usable[1:]:
            later.update(
                status="duplicate_file",
                reason=f"{later['path']}: the same file, byte for byte, as {usable[0]['path']} of the same "
                "patient; remove one of the two rows from images.csv",
            )
    if problems:
        raise CohortError(problems)
    return _inventory(rows)


def _shared(first: Row, other: Row) -> Problem:
    return Problem(
        source="images.csv",
        row=None,
        column="path",
        value=str(other["path"]),
        advice=f"this image of patient '{other['patient']}' is the same file, byte for byte, as "
        f"'{first['path']}' of patient '{first['patient']}'; find out whose it is and remove the other row",
    )


def report_problems(inventory: pd.DataFrame, *, strict: bool) -> None:
    """Prints every image that cannot be used, and why.

    Args:
        inventory: INVENTORY rows.
        strict: Whether to stop at such an image.

    Raises:
        GlomflowError: ``strict`` is set and an image cannot be used.
    """
    bad = inventory[inventory["status"] != "ok"]
    lines = [f"  {row.patient}, {row.path}, {row.status}: {row.reason}" for row in bad.itertuples()]
    if not lines:
        return
    listing = "\n".join([f"{len(bad)} of {len(inventory)} images cannot be used:", *lines])
    if strict:
        raise GlomflowError(f"{listing}\nMend them, or set run.strict: false to go on without them.")
    print(listing)
