"""The log of a job, which is also its lock: two jobs that would write the same files never run at once.

A rule's log belongs to its outputs alone. When Snakemake is killed, its jobs go on, and a Snakemake that is
started afterwards submits them again; the second job then waits until the first has ended.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
from pathlib import Path

_HELD = (errno.EAGAIN, errno.EACCES, errno.EWOULDBLOCK)
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)


def open_log(path: str | os.PathLike[str]) -> int:
    """Opens a job's log for it alone, empty but for a line that tells where the job runs.

    Waits as long as another process holds the log. On a file system without locks it says so and goes on.

    Args:
        path: The log; its folder is made.

    Returns:
        The open file; closing it lets the next job in.

    Raises:
        OSError: The file cannot be opened or written.
    """
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    while not _locked(handle, path) or not _is(handle, path):
        os.close(handle)
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    os.ftruncate(handle, 0)
    os.write(handle, f"{_whereabouts()}\n".encode())
    return handle


def _locked(handle: int, path: str | os.PathLike[str]) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except OSError as error:
        if error.errno in _NO_LOCKS:
            print(f"{path}: no locks on this file system ({error}); see that no other run is at work here")
            return True
        if error.errno not in _HELD:
            raise
    holder = os.pread(handle, 200, 0).decode(errors="replace").partition("\n")[0] or "just starting"
    print(f"waiting: another job writes the same files ({holder}; its log is {path}).", flush=True)
    print("It is left over from an earlier run, or of one at work; end it to go on at once.", flush=True)
    fcntl.flock(handle, fcntl.LOCK_EX)
    print(f"the other job has ended: {path} is free", flush=True)
    return True


def _is(handle: int, path: str | os.PathLike[str]) -> bool:
    """Whether an open file still is what the path names."""
    try:
        return os.path.samestat(os.fstat(handle), os.stat(path))
    except FileNotFoundError:
        return False


def _whereabouts() -> str:
    place = f"host {socket.gethostname()}, process {os.getpid()}"
    number = os.environ.get("SLURM_JOB_ID")
    return f"{place}, SLURM job {number}" if number else place
