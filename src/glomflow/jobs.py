"""What every job does around its work: a log that holds everything, threads, and clear failures."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import traceback
from collections.abc import Iterator
from pathlib import Path

from glomflow.errors import GlomflowError
from glomflow.gpus import VISIBLE, claim_gpus
from glomflow.job_lock import lock_outputs, unlock_outputs, whereabouts
from glomflow.resource_failures import explain_failure
from glomflow.usage import usage_line


def _tee(read_end: int, log: int, console: int) -> None:
    while chunk := os.read(read_end, 65536):
        _write(log, chunk)
        _write(console, chunk)


def _write(handle: int, text: bytes) -> None:
    # A full disk ends the log, not the job.
    with contextlib.suppress(OSError):
        while text:
            text = text[os.write(handle, text) :]


@contextlib.contextmanager
def job(log: str | os.PathLike[str], threads: int = 1, gpus: int = 0) -> Iterator[None]:
    """Runs a block as a job: its output goes to ``log`` and to the console.

    A :class:`GlomflowError`, a full disk and the like end the job with a message alone, any other exception
    with its traceback; the log always gets the traceback, and of a job that ends well what it used.
    Numerical libraries are held to ``threads``, CUDA to as many devices as are asked for, which are this
    process's own until it ends. A job that would write the same files as one that still runs waits for it,
    see :mod:`glomflow.job_lock`.

    Args:
        log: File that receives standard output and standard error, also those of C libraries.
        threads: Threads that the job may use.
        gpus: GPUs that it computes on; without any it sees none.

    Raises:
        SystemExit: The block raised an exception.
    """
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[variable] = str(threads)
    visible = os.environ.get(VISIBLE)
    lock, handle = _opened(log)
    saved = os.dup(1), os.dup(2)
    read_end, write_end = os.pipe()
    tee = threading.Thread(target=_tee, args=(read_end, handle, saved[1]), daemon=True)
    tee.start()
    failure: str | None = None
    ended = False
    try:
        os.dup2(write_end, 1)
        os.dup2(write_end, 2)
        try:
            claim_gpus(gpus)
            yield
            ended = True
        except Exception as error:
            failure = _failure(error, log, handle)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        if failure is not None:
            _write(write_end, (failure.rstrip() + "\n").encode())
        os.dup2(saved[0], 1)
        os.dup2(saved[1], 2)
        os.close(write_end)
        tee.join(timeout=5)
        if ended:
            _append(handle, usage_line())
        for descriptor in (handle, read_end, *saved):
            os.close(descriptor)
        if visible is None:
            os.environ.pop(VISIBLE, None)
        else:
            os.environ[VISIBLE] = visible
        unlock_outputs(lock, log)
    if failure is not None:
        raise SystemExit(1)


def _failure(error: Exception, log: str | os.PathLike[str], handle: int) -> str:
    """Returns what the console shows of the exception being handled; its traceback goes to the log."""
    told = f"error: {error}" if isinstance(error, GlomflowError) else _told(error, log)
    if told is None:
        return traceback.format_exc()
    _append(handle, traceback.format_exc())
    return told


def _append(handle: int, text: str) -> None:
    _write(handle, text.encode())


def _opened(log: str | os.PathLike[str]) -> tuple[int, int]:
    try:
        lock = lock_outputs(log)
        handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        os.write(handle, f"{whereabouts()}\n".encode())
    except OSError as error:
        message = _told(error, log)
        if message is None:
            raise
        print(message, file=sys.stderr)
        raise SystemExit(1) from None
    return lock, handle


def _told(error: Exception, log: str | os.PathLike[str]) -> str | None:
    reason = explain_failure(error, Path(log).parent)
    return None if reason is None else f"error: {reason}"
