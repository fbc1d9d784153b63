"""What is looked at before any job runs: whether the sheets are there, and a shard's files."""

from __future__ import annotations

import csv
import functools
import hashlib
import io
import json
import os
import posixpath
from collections.abc import Sequence
from pathlib import Path

from glomflow.cohort.bucket import Bucket, bucket_at, is_bucket
from glomflow.cohort.sheets import shard_of
from glomflow.errors import CohortError, Problem
from glomflow.files import sha256_file, sha256_json
from glomflow.image_parts import SIDECAR_SUFFIXES, image_stamp, sidecar_names, sidecars
from glomflow.suggest import did_you_mean

_ABSENT = (-1, -1)


class Fingerprints:
    """Digests of shards' files, each computed once: several rules of a shard hang on the same one.

    What is kept is never newer than what a job reads afterwards, so that a file that changes meanwhile
    reruns its shard the next time.

    Args:
        folder: Cohort folder that the paths in tables are relative to.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self._root = os.fspath(folder)
        self._known: dict[str, tuple[tuple[int, int], str]] = {}
        self._texts: dict[str, frozenset[str]] = {}

    def of(self, images: str | os.PathLike[str]) -> str:
        """Digests size and modification time of every image and annotation of a shard.

        Of an image that is a folder or has companion files, all of them count, and of a micrograph the
        text files beside it.

        Args:
            images: The shard's IMAGES table, or another with its columns ``path`` and ``annotation``; it
                need not exist yet.

        Returns:
            64 hexadecimal digits; ``"pending"`` while the table does not exist; ``"unreadable"`` where it
            is damaged, which the jobs that read it report.
        """
        key, stamp = os.fspath(images), _stamp(Path(images))
        if stamp == _ABSENT:
            return "pending"
        if key not in self._known or self._known[key][0] != stamp:
            self._known[key] = stamp, self._digest(key)
        return self._known[key][1]

    def _digest(self, images: str) -> str:
        import pyarrow.parquet

        try:
            with pyarrow.parquet.ParquetFile(images) as file:
                wanted = {"path", "annotation", "modality"} & set(file.schema_arrow.names)
                table = file.read(sorted(wanted)).to_pydict()
        except (OSError, ValueError):
            return "unreadable"
        names = {posixpath.normpath(name) for key in ("path", "annotation") for name in table[key] if name}
        for path, modality in zip(table["path"], table.get("modality", ()), strict=False):
            if modality == "TEM" and path:
                names.update(self._beside(posixpath.normpath(path)))
        return sha256_json([[name, *image_stamp(os.path.join(self._root, name))] for name in sorted(names)])

    def _beside(self, path: str) -> list[str]:
        folder, image = posixpath.split(path)
        if folder not in self._texts:
            self._texts[folder] = _text_files(os.path.join(self._root, folder))
        texts = self._texts[folder]
        names = sidecar_names(image) if texts else ()
        return [posixpath.join(folder, name) for name in names if name in texts]


def shard_fingerprint(images: str | os.PathLike[str], folder: str | os.PathLike[str]) -> str:
    """Digests a shard's files as they are now, see :meth:`Fingerprints.of`."""
    return Fingerprints(folder).of(images)


def _text_files(folder: str) -> frozenset[str]:
    try:
        with os.scandir(folder) as entries:
            found = [entry.name for entry in entries if entry.name.endswith(SIDECAR_SUFFIXES)]
            return frozenset(name for name in found if os.path.isfile(os.path.join(folder, name)))
    except OSError:
        return frozenset()


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
        return _rows_of(sheet)
    except (OSError, UnicodeDecodeError, csv.Error):
        return []  # the cohort rule says what is wrong with it


def _rows_of(sheet: str | os.PathLike[str]) -> list[dict[str, str]]:
    return [
        {str(name).strip(): value.strip() for name, value in row.items() if isinstance(value, str)}
        for row in csv.DictReader(io.StringIO(Path(sheet).read_bytes().decode("utf-8-sig")))
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
    problems = []
    for name in names:
        if not (root / name).is_file():
            found = sorted(entry.name for entry in root.glob("*.csv"))
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
        sites = {row.get("site", "") for row in _rows_of(sheet)} - {""}
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise CohortError([Problem(sheet.name, None, None, None, f"cannot be read ({error})")]) from error
    if not sites:
        advice = (
            "no patient has a site, so that none can be left out; fill column 'site' in, or choose another "
            "folds.protocol than leave_one_site_out"
        )
        raise CohortError([Problem(sheet.name, None, "site", None, advice)])
    return sorted(sites)


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
        for digest, own in zip(digests, _sheet_digests(Path(path), shards), strict=True):
            digest.update(own)
    return {number: digest.hexdigest() for number, digest in enumerate(digests)}


def _sheet_digests(path: Path, shards: int) -> list[bytes]:
    """Returns the digest of each shard's rows and of the header, reading the sheet once."""
    try:
        reader = csv.reader(io.StringIO(path.read_bytes().decode("utf-8-sig")))
        header = [name.strip() for name in next(reader, [])]
        digests = [hashlib.sha256(json.dumps([path.name, header]).encode()) for _ in range(shards)]
        named = [header.index(name) for name in ("patient", "slide") if name in header]
        places: dict[str, int] = {}
        for row in reader:
            cells = [cell.strip() for cell in row]
            patient = next((cells[place] for place in named if place < len(cells) and cells[place]), "")
            if patient not in places:
                places[patient] = shard_of(patient, shards)
            digests[places[patient]].update(json.dumps(cells).encode())
    except (OSError, UnicodeDecodeError, csv.Error):
        whole = sha256_file(path) if path.is_file() else "absent"
        return [whole.encode()] * shards
    return [digest.digest() for digest in digests]


def _stamp(path: Path) -> tuple[int, int]:
    try:
        status = path.stat()
    except OSError:
        return _ABSENT
    return (status.st_size, status.st_mtime_ns)
