"""What is looked at before any job runs: whether the sheets are there, and a shard's files."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from glomflow.errors import CohortError, Problem
from glomflow.files import sha256_json
from glomflow.suggest import did_you_mean


def shard_fingerprint(images: str | os.PathLike[str], folder: str | os.PathLike[str]) -> str:
    """Digests size and modification time of every image and annotation of a shard.

    Args:
        images: The shard's IMAGES table; it need not exist yet.
        folder: Cohort folder that the table's paths are relative to.

    Returns:
        64 hexadecimal digits; ``"pending"`` while the table does not exist; ``"unreadable"`` where it
        is damaged, which the jobs that read it report.
    """
    if not os.path.exists(images):
        return "pending"
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.read_table(images, columns=["path", "annotation"])
    except (OSError, ValueError):
        return "unreadable"
    paths = {path for name in ("path", "annotation") for path in table[name].to_pylist() if path}
    return sha256_json([[path, *_stamp(Path(folder) / path)] for path in sorted(paths)])


def require_sheets(folder: str | os.PathLike[str], names: Sequence[str]) -> None:
    """Checks that the cohort folder and its sheets are there.

    Args:
        folder: The cohort folder.
        names: File names of the sheets in it.

    Raises:
        CohortError: The folder or sheets are missing.
    """
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


def _stamp(path: Path) -> tuple[int, int]:
    try:
        status = path.stat()
    except OSError:
        return (-1, -1)
    return (status.st_size, status.st_mtime_ns)
