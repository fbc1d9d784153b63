"""Checks of the files that a sheet names: where they lie, and whether two patients share one."""

from __future__ import annotations

import hashlib
import os
import posixpath
import re
import stat
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import pandas as pd

from glomflow.cohort.bucket import Bucket, BucketFolder, Stamp
from glomflow.cohort.sheet_file import Sheet, first_of
from glomflow.image_parts import image_digest, image_parts, is_image_folder, missing_companion
from glomflow.suggest import nearest_numbered

MAX_SUGGESTIONS = 20
"""Missing files that get a nearest name; listing folders for more would only take time."""

_ABSOLUTE = re.compile(r"^(/|[A-Za-z]:|~)")
_SAMPLE = 1 << 14


class CohortFolder:
    """The cohort folder as the sheets see it.

    Args:
        root: The folder; it may itself be reached through a symbolic link.
    """

    def __init__(self, root: Path) -> None:
        self.root = os.path.realpath(root)
        self._inside: dict[str, bool] = {}
        self._suggestions = 0

    def examine(self, path: str, *, images: bool = False) -> tuple[str, int]:
        """Looks at a file named in a sheet.

        Args:
            path: Path in the cohort folder, normalised.
            images: Whether it names an image, which may be a folder (OME-Zarr, DICOM) or have companions.

        Returns:
            What is wrong and what to do ('' if nothing), and the size in bytes with all parts.
        """
        form = wrong_form(path)
        if form:
            return form, 0
        if not self._is_inside(posixpath.dirname(path)):
            return _leaves("a folder on the way is a symbolic link to outside"), 0
        full = os.path.join(self.root, path)
        try:
            found = os.lstat(full)
            if stat.S_ISLNK(found.st_mode):
                if not self._contains(os.path.realpath(full)):
                    return _leaves("the file is a symbolic link to outside"), 0
                found = os.stat(full)
        except (OSError, ValueError):
            return f"there is no such file in the cohort folder{self._suggest(path)}", 0
        if not images:
            is_folder = stat.S_ISDIR(found.st_mode)
            return ("this is a folder; name the file in it", 0) if is_folder else ("", found.st_size)
        return _examine_image(Path(full), path, found)

    def holds(self, path: str) -> bool:
        """Returns whether a path, followed through links, lies in the cohort folder."""
        return self._contains(os.path.realpath(os.path.join(self.root, path)))

    def digests(self) -> Sequence[Callable[[str], str]]:
        """Returns ways to digest the file at a path, the cheapest first; '' says that it cannot be read."""

        def whole(path: str) -> str:
            return _digest_of(_whole_digest, os.path.join(self.root, path))

        def sampled(path: str) -> str:
            return _digest_of(_sampled_digest, os.path.join(self.root, path))

        return sampled, whole

    def _contains(self, real: str) -> bool:
        return real == self.root or real.startswith(self.root.rstrip(os.sep) + os.sep)

    def _is_inside(self, parent: str) -> bool:
        if parent not in self._inside:
            self._inside[parent] = self._contains(os.path.realpath(os.path.join(self.root, parent)))
        return self._inside[parent]

    def _names(self, parent: str) -> Iterable[str]:
        try:
            return os.listdir(os.path.join(self.root, parent))
        except (OSError, ValueError):
            return ()

    def _suggest(self, path: str) -> str:
        advice = "; put it there or correct the path"
        self._suggestions += 1
        if self._suggestions > MAX_SUGGESTIONS:
            return advice
        parent, name = posixpath.split(path)
        found = nearest_numbered(name, self._names(parent))
        return f"; did you mean '{posixpath.join(parent, found)}'?" if found else advice


class CohortBucket(CohortFolder):
    """The same for a cohort in a bucket, by its listing alone: no file is read.

    Args:
        bucket: The bucket.
    """

    def __init__(self, bucket: Bucket) -> None:
        super().__init__(Path(os.sep))
        self._bucket = bucket

    def examine(self, path: str, *, images: bool = False) -> tuple[str, int]:
        """Looks at an object named in a sheet; see :meth:`CohortFolder.examine`."""
        form = wrong_form(path)
        if form:
            return form, 0
        if not images and path in self._bucket.stamps:
            return "", self._bucket.stamps[path][0]
        parts = self._parts(path)
        if not parts:
            return f"there is no such file in {self._bucket.address}{self._suggest(path)}", 0
        folder = posixpath.splitext(path)[0] + "/"
        if path.lower().endswith(".mrxs") and not any(name.startswith(folder) for name in parts):
            return f"'{folder}', which belongs to this image, is missing; copy it there, too", 0
        return "", sum(size for size, _ in parts.values())

    def digests(self) -> Sequence[Callable[[str], str]]:
        """Returns the ETags of an image as its digest; equal bytes uploaded alike have equal ones."""

        def tags(path: str) -> str:
            return ",".join(sorted(tag for _, tag in self._parts(path).values()))

        return (tags,)

    def _parts(self, path: str) -> dict[str, Stamp]:
        return self._bucket.known_parts(path, sidecars=False)

    def _names(self, parent: str) -> Iterable[str]:
        start = f"{parent}/" if parent else ""
        below = (name.removeprefix(start) for name in self._bucket.stamps if name.startswith(start))
        return {name.split("/", 1)[0] for name in below}


def folder_checks(folder: Path) -> CohortFolder:
    """Returns the checks of a cohort folder, in a bucket or not."""
    return CohortBucket(folder.bucket) if isinstance(folder, BucketFolder) else CohortFolder(folder)


def _examine_image(full: Path, path: str, found: os.stat_result) -> tuple[str, int]:
    companion = missing_companion(full)
    if companion:
        beside = posixpath.join(posixpath.dirname(path), companion)
        return f"'{beside}', which belongs to this image, is missing; copy it there, too", 0
    if not stat.S_ISDIR(found.st_mode):
        parts = image_parts(full)
        return "", found.st_size if len(parts) < 2 else _size_of(parts)
    try:
        is_image = is_image_folder(full)
    except OSError as error:
        return f"the folder cannot be read ({error.strerror})", 0
    if not is_image:
        return "this is a folder without an OME-Zarr or DICOM slide in it; name the image file in it", 0
    return "", _size_of(image_parts(full))


def _size_of(parts: list[Path]) -> int:
    return sum(part.stat().st_size for part in parts)


def wrong_form(path: str) -> str:
    """Returns what is wrong with a path as it is written, '' if nothing."""
    if "\\" in path:
        return "write the path with '/' instead of '\\'"
    if _ABSOLUTE.match(path):
        return _leaves("it does not start there")
    if ".." in path.split("/"):
        return _leaves("it holds '..'")
    return ""


def _leaves(how: str) -> str:
    return (
        f"the path leaves the cohort folder ({how}); move or copy the file into the cohort folder and "
        "write its path from there"
    )


def check_paths(sheet: Sheet, column: str, folder: CohortFolder, *, images: bool = False) -> pd.Series[int]:
    """Checks the files that a column names; empty cells are passed over.

    The column is normalised in place ('./a//b.png' becomes 'a/b.png').

    Args:
        sheet: The sheet.
        column: Column of paths.
        folder: The cohort folder.
        images: Whether the column names images, which may be folders.

    Returns:
        Size of each row's file in bytes; -1 where there is none.
    """
    frame = sheet.frame
    sizes = pd.Series(-1, index=frame.index, dtype="int64")
    given = frame[column] != ""
    seen: dict[str, tuple[str, int]] = {}
    found: list[int] = []
    paths: list[str] = []
    for row, path in zip(frame.loc[given, "row"], frame.loc[given, column], strict=True):
        clean = path if "\\" in path or ".." in path else posixpath.normpath(path)
        if clean not in seen:
            seen[clean] = folder.examine(clean, images=images)
        advice, size = seen[clean]
        if advice:
            sheet.add(int(row), column, path, advice)
        found.append(-1 if advice else size)
        paths.append(clean)
    sizes.loc[given] = pd.Series(found, index=sizes.index[given], dtype="int64")
    frame.loc[given, column] = paths
    return sizes


def check_listed_once(sheet: Sheet, column: str) -> pd.Series[bool]:
    """Adds a problem for every path listed a second time.

    Returns:
        The rows that list a path for the first time.
    """
    frame = sheet.frame
    again = frame.duplicated(column) & (frame[column] != "")
    first = first_of(frame[frame[column].isin(frame.loc[again, column])], column, "row")
    for row, path in zip(frame.loc[again, "row"], frame.loc[again, column], strict=True):
        sheet.add(int(row), column, path, f"row {first[path]} lists this file already; delete one of them")
    return ~again


def check_not_shared(
    sheet: Sheet, column: str, sizes: pd.Series[int], candidates: pd.Series[bool], folder: CohortFolder
) -> None:
    """Adds a problem for every file whose bytes are those of another patient's file.

    Only files that agree in size, and then in samples of their bytes, are read in full, each once.
    Empty files are passed over: they become images with a status.

    Args:
        sheet: The sheet, with a column ``patient``.
        column: Column of paths.
        sizes: Sizes from :func:`check_paths`.
        candidates: Rows to look at.
        folder: The cohort folder.
    """
    frame = sheet.frame[["row", "patient", column]].assign(key=sizes.astype("str"))
    frame = frame[candidates & (sizes > 0) & (frame["patient"] != "")]
    for digest in folder.digests():
        frame = _several_patients(frame)
        if frame.empty:
            return
        frame = frame.assign(key=[digest(path) for path in frame[column]])
        frame = frame[frame["key"] != ""]
    frame = _several_patients(frame)
    for _, group in frame.groupby("key", sort=False):
        first = group.iloc[0]
        for _, other in group[group["patient"] != first["patient"]].iterrows():
            sheet.add(
                int(other["row"]),
                column,
                str(other[column]),
                f"patients '{first['patient']}' and '{other['patient']}' share one file: its bytes are "
                f"those of '{first[column]}' in row {first['row']}; put each patient's own file there, "
                "or give both rows to one patient",
            )


def _several_patients(frame: pd.DataFrame) -> pd.DataFrame:
    pairs = frame[["key", "patient"]].drop_duplicates()
    keys = pairs.loc[pairs["key"].duplicated(), "key"].unique()
    return frame[frame["key"].isin(keys)]


def _digest_of(digest: Callable[[str], str], path: str) -> str:
    try:
        return digest(path)
    except OSError:
        # Ingestion turns a file that cannot be read into a status; it is no problem of the sheet.
        return ""


def _whole_digest(path: str) -> str:
    return image_digest(path)[0]


def _sampled_digest(path: str) -> str:
    if os.path.isdir(path):
        return _whole_digest(path)  # many small files: no part of one says more than its size did
    size = os.path.getsize(path)
    digest = hashlib.sha256(str(size).encode())
    with open(path, "rb") as handle:
        for offset in (0, max(0, size // 2 - _SAMPLE // 2), max(0, size - _SAMPLE)):
            handle.seek(offset)
            digest.update(handle.read(_SAMPLE))
    return digest.hexdigest()
