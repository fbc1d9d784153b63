"""What is looked at before any job runs: whether the sheets are there, and a shard's files."""

from __future__ import annotations

import csv
import functools
import hashlib
import io
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from glomflow.cohort.bucket import Bucket, bucket_at, is_bucket
from glomflow.cohort.sheets import shard_of
from glomflow.errors import CohortError, Problem
from glomflow.files import sha256_file, sha256_json
from glomflow.image_parts import image_stamp, sidecars
from glomflow.suggest import did_you_mean


def shard_fingerprint(images: str | os.PathLike[str], folder: str | os.PathLike[str]) -> str:
    """Digests size and modification time of every image and annotation of a shard.

    Of an image that is a folder or has companion files, all of them count, and of a micrograph the text
    files beside it.

    Args:
        images: The shard's IMAGES table, or another with its columns ``path`` and ``annotation``; it need
            not exist yet.
        folder: Cohort folder that the table's paths are relative to.

    Returns:
        64 hexadecimal digits; ``"pending"`` while the table does not exist; ``"unreadable"`` where it
        is damaged, which the jobs that read it report.
    """
    if not os.path.exists(images):
        return "pending"
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.read_table(images)
    except (OSError, ValueError):
        return "unreadable"
    root = Path(folder)
    paths = {root / path for name in ("path", "annotation") for path in table[name].to_pylist() if path}
    if "modality" in table.column_names:
        for row in table.select(["path", "modality"]).to_pylist():
            paths.update(sidecars(root / row["path"]) if row["modality"] == "TEM" and row["path"] else ())
    names = sorted((path.relative_to(root).as_posix(), path) for path in paths)
    return sha256_json([[name, *image_stamp(path)] for name, path in names])


def sheet_fingerprint(
    sheet: str | os.PathLike[str], folder: str | os.PathLike[str], shards: int, shard: int | None = None
) -> str:
    """The same from the sheet itself, where the shards' tables are not at hand.

    Args:
        sheet: The sheet of images or of crops; it need not exist yet.
        folder: Cohort folder, or its address in a bucket, where sizes and ETags count.
        shards: Number of shards.
        shard: The shard; None takes every image.

    Returns:
        64 hexadecimal digits; ``"pending"`` while the sheet does not exist.

    Raises:
        GlomflowError: The bucket cannot be listed.
    """
    path = Path(sheet)
    if not path.is_file():
        return "pending"
    images = _images_by_shard(str(path), *_stamp(path), shards)
    own = images.get(shard, ()) if shard is not None else [row for rows in images.values() for row in rows]
    if is_bucket(folder):
        bucket = bucket_at(str(folder).rstrip("/"))
        return sha256_json(sorted((name, bucket.known_parts(name)) for row in own for name in row if name))
    root = Path(folder)
    names = {root / name for row in own for name in row if name}
    names.update(extra for row in own if row[0] for extra in sidecars(root / row[0]))
    return sha256_json([[name.relative_to(root).as_posix(), *image_stamp(name)] for name in sorted(names)])


@functools.lru_cache(maxsize=2)
def _images_by_shard(
    sheet: str, _size: int, _time: int, shards: int
) -> dict[int, tuple[tuple[str, str], ...]]:
    """Returns path and annotation of every image, by shard."""
    found: dict[int, list[tuple[str, str]]] = {}
    for row in sheet_records(sheet):
        patient = row.get("patient") or row.get("slide", "")
        image = row.get("path") or row.get("image", "")
        images = found.setdefault(shard_of(patient, shards), [])
        images.append((image, row.get("annotation") or row.get("mask", "")))
    return {shard: tuple(images) for shard, images in found.items()}


def sheet_header(sheet: str | os.PathLike[str]) -> list[str]:
    """Returns the column names of a sheet; none where it cannot be read."""
    try:
        with open(sheet, encoding="utf-8-sig", newline="") as handle:
            return [name.strip() for name in next(csv.reader(handle), [])]
    except (OSError, UnicodeDecodeError, csv.Error):
        return []


def sheet_records(sheet: str | os.PathLike[str]) -> list[dict[str, str]]:
    """Returns the rows of a sheet as they are, blanks trimmed; none where it cannot be read."""
    try:
        rows = list(csv.DictReader(io.StringIO(Path(sheet).read_bytes().decode("utf-8-sig"))))
    except (OSError, UnicodeDecodeError, csv.Error):
        return []  # the cohort rule says what is wrong with it
    return [
        {str(name).strip(): value.strip() for name, value in row.items() if isinstance(value, str)}
        for row in rows
    ]


def require_sheets(folder: str | os.PathLike[str], names: Sequence[str]) -> None:
    """Checks that the cohort folder and its sheets are there.

    Args:
        folder: The cohort folder, or its address in a bucket.
        names: File names of the sheets in it.

    Raises:
        CohortError: The folder or sheets are missing.
        GlomflowError: The bucket cannot be listed.
    """
    if is_bucket(folder):
        return _require_sheets_in(bucket_at(str(folder).rstrip("/")), names)
    root = Path(folder)
    if not root.is_dir():
        advice = f"there is no folder {root.absolute()}; correct the path or create the folder"
        raise CohortError([Problem("cohort.folder", None, None, str(folder), advice)])
    found = sorted(entry.name for entry in root.glob("*.csv"))
    problems = []
    for name in names:
        if not (root / name).is_file():
            hint = did_you_mean(name, found) or "; put it there (docs/cohort.md describes it)"
            problems.append(Problem(name, None, None, None, f"the sheet is not in {root.absolute()}{hint}"))
    if problems:
        raise CohortError(problems)


def _require_sheets_in(bucket: Bucket, names: Sequence[str]) -> None:
    problems = [
        Problem(
            name, None, None, None, f"the sheet is not in {bucket.address}; upload it or correct the name"
        )
        for name in names
        if name not in bucket.listing(name)
    ]
    if problems:
        raise CohortError(problems)


def sheet_sites(path: str | os.PathLike[str]) -> list[str]:
    """Returns the sites that the patients' sheet names, in alphabetical order.

    Args:
        path: The sheet of patients.

    Raises:
        CohortError: The sheet cannot be read, or names no site.
    """
    sheet = Path(path)
    try:
        rows = list(csv.DictReader(io.StringIO(sheet.read_bytes().decode("utf-8-sig"))))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise CohortError([Problem(sheet.name, None, None, None, f"cannot be read ({error})")]) from error
    sites = {
        (value or "").strip()
        for row in rows
        for name, value in row.items()
        if isinstance(name, str) and name.strip() == "site"
    }
    if not sites - {""}:
        advice = (
            "no patient has a site, so that none can be left out; fill column 'site' in, or choose another "
            "folds.protocol than leave_one_site_out"
        )
        raise CohortError([Problem(sheet.name, None, "site", None, advice)])
    return sorted(sites - {""})


def shard_rows(sheets: Sequence[str | os.PathLike[str]], shard: int, shards: int) -> str:
    """Digests the rows of the sheets that belong to a shard, so that an edit redoes that shard alone.

    Args:
        sheets: The cohort's sheets.
        shard: The shard.
        shards: Number of shards.

    Returns:
        64 hexadecimal digits; of a sheet that cannot be split into rows, the whole content counts.
    """
    stamps = tuple((str(path), *_stamp(Path(path))) for path in sheets)
    return _rows_by_shard(stamps, shards).get(shard, "no rows")


@functools.lru_cache(maxsize=4)
def _rows_by_shard(stamps: tuple[tuple[str, int, int], ...], shards: int) -> dict[int, str]:
    digests = [hashlib.sha256() for _ in range(shards)]
    for path, *_ in stamps:
        for shard, text in _sheet_rows(Path(path), shards):
            for digest in digests if shard is None else (digests[shard],):
                digest.update(text.encode())
    return {number: digest.hexdigest() for number, digest in enumerate(digests)}


def _sheet_rows(path: Path, shards: int) -> Iterator[tuple[int | None, str]]:
    """Yields rows as text with their shard; None is text that concerns every shard."""
    try:
        rows = list(csv.reader(io.StringIO(path.read_bytes().decode("utf-8-sig"))))
    except (OSError, UnicodeDecodeError, csv.Error):
        yield None, sha256_file(path) if path.is_file() else "absent"
        return
    header = [name.strip() for name in rows[0]] if rows else []
    yield None, json.dumps([path.name, header])
    named = [header.index(name) for name in ("patient", "slide") if name in header]
    for row in rows[1:]:
        cells = [row[place].strip() for place in named if place < len(row)]
        patient = next((cell for cell in cells if cell), "")
        yield shard_of(patient, shards), json.dumps([cell.strip() for cell in row])


def _stamp(path: Path) -> tuple[int, int]:
    try:
        status = path.stat()
    except OSError:
        return (-1, -1)
    return (status.st_size, status.st_mtime_ns)
