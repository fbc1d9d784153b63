"""A cheap fingerprint of a shard's files: what Snakemake cannot see in a list of patients."""

from __future__ import annotations

import os
from pathlib import Path

from glomflow.files import sha256_json


def shard_fingerprint(images: str | os.PathLike[str], folder: str | os.PathLike[str]) -> str:
    """Digests size and modification time of every image and annotation of a shard.

    Args:
        images: The shard's IMAGES table; it need not exist yet.
        folder: Cohort folder that the table's paths are relative to.

    Returns:
        64 hexadecimal digits, or ``"pending"`` while the table does not exist.
    """
    if not os.path.exists(images):
        return "pending"
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(images, columns=["path", "annotation"])
    paths = {path for name in ("path", "annotation") for path in table[name].to_pylist() if path}
    return sha256_json([[path, *_stamp(Path(folder) / path)] for path in sorted(paths)])


def _stamp(path: Path) -> tuple[int, int]:
    try:
        status = path.stat()
    except OSError:
        return (-1, -1)
    return (status.st_size, status.st_mtime_ns)
