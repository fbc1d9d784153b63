"""The lock of a job: two jobs that would write the same files never run at once.

A rule's log belongs to its outputs alone, so that a lock beside the log stands for them. (Not the log itself:
Snakemake deletes it before a job.) When Snakemake is killed, its jobs go on, and a Snakemake that is started
afterwards submits them again; the second job then waits until the first has ended.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
from pathlib import Path

_HELD = (errno.EAGAIN, errno.EACCES)
_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)


def lock_outputs(log: str | os.PathLike[str]) -> int:
    """Takes the lock of the job that writes a log; waits as long as another process has it.

    On a file system without locks it says so and goes on. The lock is gone when the process is.

    Args:
        log: The job's log; its folder is made.

    Returns:
        The open lock, for :func:`unlock_outputs`.

    Raises:
        OSError: The file cannot be opened or written.
    """
    path = _beside(log)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = _open(path)
    _take(handle, log)
    while not _is(handle, path):  # the one before has removed it
        os.close(handle)
        handle = _open(path)
        _take(handle, log)
    os.ftruncate(handle, 0)
    os.write(handle, whereabouts().encode())
    return handle


def unlock_outputs(handle: int, log: str | os.PathLike[str]) -> None:
    """Gives a lock back and removes its file.

    Args:
        handle: What :func:`lock_outputs` returned.
        log: The job's log.
    """
    if _is(handle, _beside(log)):
        with contextlib.suppress(OSError):
            _beside(log).unlink()
    os.close(handle)


def whereabouts() -> str:
    """Returns where this process runs: host, number and, if any, SLURM job."""
    place = f"host {socket.gethostname()}, process {os.getpid()}"
    number = os.environ.get("SLURM_JOB_ID")
    return f"{place}, SLURM job {number}" if number else place


def _beside(log: str | os.PathLike[str]) -> Path:
    return Path(f"{os.fspath(log)}.lock")


def _open(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT, 0o644)


def _take(handle: int, log: str | os.PathLike[str]) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return
    except OSError as error:
        if error.errno in _NO_LOCKS:
            print(f"{log}: no locks on this file system ({error}); see that no other run is at work here")
            return
        if error.errno not in _HELD:
            raise
    holder = os.pread(handle, 200, 0).decode(errors="replace") or "just starting"
    print(f"waiting: another job writes the same files ({holder}; its log is {log}).", flush=True)
    print("It is left over from an earlier run, or of one at work; end it to go on at once.", flush=True)
    fcntl.flock(handle, fcntl.LOCK_EX)
    print(f"the other job has ended; {log} is written anew", flush=True)


def _is(handle: int, path: Path) -> bool:
    """Whether an open file still is what the path names."""
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False
