"""Images of a public cohort: the sheet names their addresses and digests, they are fetched once.

The files come to their places in the cohort folder, so that whatever reads a cohort reads them.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from glomflow.cohort.addresses import COLUMNS, wrong_address
from glomflow.cohort.bucket import is_bucket
from glomflow.cohort.disk import CohortFolder, wrong_form
from glomflow.cohort.fingerprint import sheet_header, sheet_records
from glomflow.cohort.sheets import shard_of
from glomflow.errors import CohortError, GlomflowError, Problem
from glomflow.files import atomic_path, read_json, sha256_file, write_json


@dataclass(frozen=True)
class Download:
    """A file to fetch.

    Attributes:
        row: Row of the sheet (the header is row 1).
        path: Where it belongs, relative to the cohort folder.
        url: Its address.
        sha256: Its digest, 64 hexadecimal digits in lower case.
    """

    row: int
    path: str
    url: str
    sha256: str

    @property
    def place(self) -> str:
        """Host and path of the address, which is what Snakemake names the retrieved file after."""
        parts = urlsplit(self.url)
        return f"{parts.netloc}{parts.path}"


def downloads_by_shard(sheet: str | os.PathLike[str], folder: str, shards: int) -> dict[int, list[Download]]:
    """Reads which files of a sheet have to come from an address.

    Args:
        sheet: The sheet of images or of crops.
        folder: The cohort folder.
        shards: Number of shards.

    Returns:
        The files by shard; shards without any are left out.

    Raises:
        CohortError: An address or a digest cannot be used, or the cohort lies in a bucket.
    """
    name, problems = Path(sheet).name, []
    if not set(COLUMNS) & set(sheet_header(sheet)):
        return {}
    found: dict[int, list[Download]] = {}
    places: dict[str, Download] = {}
    for number, row in enumerate(sheet_records(sheet), 2):
        url, sha256 = row.get("url", ""), row.get("sha256", "")
        wrong = wrong_address(url, sha256)
        if url and is_bucket(folder):
            wrong = "url", "the cohort lies in a bucket; copy the file there and empty this cell"
        if wrong:
            problems.append(Problem(name, number, wrong[0], row.get(wrong[0]) or None, wrong[1]))
            continue
        if not url:
            continue
        one = Download(number, row.get("path") or row.get("image", ""), url, sha256.lower())
        first = places.setdefault(one.place, one)
        if first is not one:
            advice = f"row {first.row} fetches from the same host and path; each file needs its own"
            problems.append(Problem(name, number, "url", url, advice))
        found.setdefault(shard_of(row.get("patient") or row.get("slide", ""), shards), []).append(one)
    if problems:
        raise CohortError(problems)
    return found


def is_fetched(
    downloads: Sequence[Download], folder: str | os.PathLike[str], manifest: str | os.PathLike[str]
) -> bool:
    """Returns whether files are in place, unchanged since their digests were checked.

    Args:
        downloads: The files.
        folder: The cohort folder.
        manifest: What :func:`put_in_place` wrote.
    """
    if not os.path.exists(manifest):
        return False
    in_place = {one.path: _entry(one, Path(folder) / one.path) for one in downloads}
    return bool(read_json(manifest) == in_place)


def missing(downloads: Sequence[Download], folder: str | os.PathLike[str]) -> list[Download]:
    """Returns the files that are not in the cohort folder."""
    return [one for one in downloads if not (Path(folder) / one.path).is_file()]


def put_in_place(
    downloads: Sequence[Mapping[str, Any]],
    retrieved: Sequence[str],
    folder: Path,
    manifest: str | os.PathLike[str],
    sheet: str,
) -> int:
    """Checks the digests of retrieved files and puts them into the cohort folder.

    A file that lies there already is checked and left alone. Files with the right digest are put in
    place even if others are refused, so that the next run fetches the others only.

    Args:
        downloads: Fields of every :class:`Download` of a shard.
        retrieved: Local copies, whose paths end with host and path of their addresses.
        folder: The cohort folder.
        manifest: JSON file to write: path to digest, size and modification time.
        sheet: Name of the sheet, for messages.

    Returns:
        Number of files that were put in place.

    Raises:
        CohortError: Digests differ from the sheet's, or a path leaves the cohort folder.
        GlomflowError: A file cannot be written.
    """
    files = [Download(**one) for one in downloads]
    problems, fresh = [], 0
    for one in files:
        target = folder / one.path
        copies = [path for path in retrieved if path.endswith(f"/{one.place}")]
        advice = _leaves(folder, one.path)
        if not advice and target.is_file():
            advice = _differs(one, target, "delete the file to fetch it again, or correct the digest")
        elif not advice:
            source = Path(copies[0]) if copies else None
            advice = _copied(one, source, target)
            fresh += not advice
        if advice:
            problems.append(Problem(sheet, one.row, "sha256", one.sha256, advice))
    if problems:
        raise CohortError(problems)
    write_json(manifest, {one.path: _entry(one, folder / one.path) for one in files})
    return fresh


def as_params(downloads: Sequence[Download]) -> list[dict[str, Any]]:
    """Returns downloads as plain values."""
    return [asdict(one) for one in downloads]


def _leaves(folder: Path, path: str) -> str:
    form = wrong_form(path) if path else "the cell 'path' is empty; fill it in"
    if form:
        return form
    root = CohortFolder(folder)
    return "" if root.holds(path) else "the path leaves the cohort folder by a symbolic link; correct it"


def _copied(one: Download, source: Path | None, target: Path) -> str:
    """Puts a retrieved file in place; returns what is wrong with it, '' if nothing."""
    if source is None:
        return f"{one.url} was not retrieved; run again"
    advice = _differs(one, source, "another file, or an incomplete one; correct the address or the digest")
    if advice:
        return advice
    try:
        with atomic_path(target) as temporary:
            shutil.copyfile(source, temporary)
    except OSError as error:
        raise GlomflowError(f"{target}: cannot be written ({error.strerror}); make it writable") from error
    return ""


def _differs(one: Download, path: Path, what_to_do: str) -> str:
    digest = sha256_file(path)
    if digest == one.sha256:
        return ""
    return f"'{one.path}' from {one.url} has the SHA-256 {digest}; {what_to_do}"


def _entry(one: Download, path: Path) -> dict[str, Any] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return {"sha256": one.sha256, "bytes": status.st_size, "mtime_ns": status.st_mtime_ns, "url": one.url}
