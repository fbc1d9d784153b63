"""What a job says when the machine fails it, not the data: a full or read-only disk, too little memory."""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

_AGAIN = "then run the same command again: finished files are kept, trainings go on from their checkpoint"
_DISK = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the quota of the disk is used up",
    errno.EROFS: "the file system is read-only",
}
# Libraries in C++ and Rust report the same as text.
_TEXTS = {
    errno.ENOSPC: re.compile(r"No space left on device|os error 28\b|\d+ requested and \d+ written"),
    errno.EDQUOT: re.compile(r"Disk quota exceeded|os error 122\b"),
    errno.EROFS: re.compile(r"Read-only file system|os error 30\b"),
}
_MEMORY = re.compile(r"can't allocate memory|CUDA out of memory|std::bad_alloc|malloc of size \d+ failed")


def explain_failure(error: BaseException, folder: str | os.PathLike[str]) -> str | None:
    """Returns what happened and what to do, if the machine let a job down.

    Args:
        error: What the job raised; its causes are looked at too.
        folder: A folder of the results.

    Returns:
        A sentence, or None for any other error.
    """
    for one in _chain(error):
        number = _disk_error(one)
        if number is not None:
            name = getattr(one, "filename", None) or folder
            return f"{name}: {_DISK[number]}{_room(folder)}; mend that, {_AGAIN}"
        if isinstance(one, PermissionError):
            return f"{one.filename or folder}: no permission; change its owner or its mode, {_AGAIN}"
        if isinstance(one, MemoryError) or _MEMORY.search(str(one)):
            return (
                f"out of memory ({one or type(one).__name__}); give the job more (mem_mb of its rule in the "
                f"profile, or a smaller batch_size), {_AGAIN}"
            )
    return None


def _chain(error: BaseException) -> Iterator[BaseException]:
    one: BaseException | None = error
    while one is not None:
        yield one
        one = one.__cause__ or one.__context__


def _disk_error(error: BaseException) -> int | None:
    if isinstance(error, OSError) and error.errno in _DISK:
        return error.errno
    return next((number for number, text in _TEXTS.items() if text.search(str(error))), None)


def _room(folder: str | os.PathLike[str]) -> str:
    place = Path(folder)
    while not place.exists() and place != place.parent:
        place = place.parent
    free = shutil.disk_usage(place).free / 1e6
    return f" ({free:.0f} MB free at {place})"
