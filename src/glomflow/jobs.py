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


def _tee(read_end: int, log: int, console: int) -> None:
    while chunk := os.read(read_end, 65536):
        os.write(log, chunk)
        os.write(console, chunk)


@contextlib.contextmanager
def job(log: str | os.PathLike[str], threads: int = 1, gpus: int = 0) -> Iterator[None]:
    """Runs a block as a job: its output goes to ``log`` and to the console.

    A :class:`GlomflowError` ends the job with its message alone, any other exception with its
    traceback; the log always gets the traceback. Numerical libraries are held to ``threads``, CUDA to
    as many devices as are asked for, which are this process's own until it ends.

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
    Path(log).parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    saved = os.dup(1), os.dup(2)
    read_end, write_end = os.pipe()
    tee = threading.Thread(target=_tee, args=(read_end, handle, saved[1]), daemon=True)
    tee.start()
    failure: str | None = None
    try:
        os.dup2(write_end, 1)
        os.dup2(write_end, 2)
        try:
            claim_gpus(gpus)
            yield
        except GlomflowError as error:
            failure = f"error: {error}"
            _append(handle, traceback.format_exc())
        except Exception:
            failure = traceback.format_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        if failure is not None:
            os.write(write_end, (failure.rstrip() + "\n").encode())
        os.dup2(saved[0], 1)
        os.dup2(saved[1], 2)
        os.close(write_end)
        tee.join(timeout=5)
        for descriptor in (handle, read_end, *saved):
            os.close(descriptor)
        if visible is None:
            os.environ.pop(VISIBLE, None)
        else:
            os.environ[VISIBLE] = visible
    if failure is not None:
        raise SystemExit(1)


def _append(handle: int, text: str) -> None:
    os.write(handle, text.encode())
