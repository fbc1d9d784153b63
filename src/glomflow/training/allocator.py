"""How the C library keeps memory that has been freed."""

from __future__ import annotations

import ctypes
import functools

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # malloc.h


@functools.cache
def keep_freed_memory() -> bool:
    """Has glibc keep freed memory for the process's next use instead of giving it back to the system.

    By default it maps every block of more than some MiB afresh, so that each step of a training on the CPU
    takes the same pages from the system again, zeroed one page fault at a time. Results do not depend on it.
    It holds for the whole process; the peak of its memory may grow a little by fragmentation.

    Returns:
        Whether the C library is glibc and has taken the settings; elsewhere nothing happens.
    """
    try:
        library = ctypes.CDLL(None)
        library.gnu_get_libc_version  # noqa: B018 (no other C library has it)
    except (AttributeError, OSError, TypeError):  # musl, macOS; Windows takes no None
        return False
    taken = library.mallopt(_M_MMAP_MAX, 0), library.mallopt(_M_TRIM_THRESHOLD, -1)
    return all(taken)
