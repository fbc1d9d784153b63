"""Threads over the pixels of one image."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

LEAST_PARTS = 8
"""Parts that a thread must have to itself: waking it costs as much as about two, or more."""


def thread_count(threads: int | None = None) -> int:
    """Returns how many threads to use: ``threads``, or what the process is allowed.

    ``OMP_NUM_THREADS`` counts as the allowance where it is set (workflow engines set it to a job's
    threads), else the processors that the process may run on.

    Args:
        threads: Number of threads, or None for the allowance.
    """
    if threads is not None:
        return max(1, threads)
    stated = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    if stated.isdecimal() and int(stated) > 0:
        return int(stated)
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@lru_cache(maxsize=1)
def _pool(process: int) -> ThreadPoolExecutor:
    # One pool per process: threads do not survive a fork.
    return ThreadPoolExecutor(max_workers=max(1, (os.cpu_count() or 2) - 1), thread_name_prefix="stain")


def in_threads(work: Callable[[int, int, int], object], parts: int, threads: int | None) -> int:
    """Calls ``work(worker, first, last)`` for shares of ``range(parts)``, at once if they are large.

    Args:
        work: Called once per worker; must let go of the interpreter's lock to gain anything.
        parts: Number of parts to share out; of less than 32, one thread does all.
        threads: Greatest number of threads, or None for the process's allowance.

    Returns:
        The number of workers.
    """
    most = parts // LEAST_PARTS
    count = min(thread_count(threads), most) if most > 1 else 1
    if count == 1:
        work(0, 0, parts)
        return 1
    bounds = [parts * worker // count for worker in range(count + 1)]
    waiting = [
        _pool(os.getpid()).submit(work, worker, bounds[worker], bounds[worker + 1])
        for worker in range(1, count)
    ]
    try:
        work(0, bounds[0], bounds[1])
    finally:
        for future in waiting:
            future.result()
    return count
