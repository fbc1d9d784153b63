"""What a job took, as the job itself says at the end of its log.

Snakemake looks at a job's processes from time to time, in the end every 30 s, so that a short job has no
processor time in its record and a long one too little. The kernel knows all of it.
"""

from __future__ import annotations

import os
import re
import resource
import sys
from pathlib import Path

_TOLD = re.compile(rb"used ([0-9.]+) s of processor time, ([0-9.]+) MB at most\n$")
_LONGEST = 200


def usage_line() -> str:
    """Says what this process and the children that it waited for took since they began.

    The memory is this process's own.
    """
    parts = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    seconds = sum(part.ru_utime + part.ru_stime for part in parts)
    return f"used {seconds:.2f} s of processor time, {_peak():.0f} MB at most\n"


def _peak() -> float:
    """Returns the most memory that this process has held, MB."""
    try:
        told = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="utf-8"))
    except OSError:
        told = None
    if told is not None:
        return int(told[1]) / 1e3
    # On Linux this would begin with what the process that started this one held.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1e6 if sys.platform == "darwin" else 1e3)


def read_usage(log: str | os.PathLike[str]) -> tuple[float, float] | None:
    """Reads processor time, s, and memory, MB, off the end of a job's log.

    Returns:
        None where there is no log or the job did not come to its end.
    """
    try:
        with Path(log).open("rb") as handle:
            handle.seek(0, os.SEEK_END)
            handle.seek(max(0, handle.tell() - _LONGEST))
            told = _TOLD.search(handle.read())
    except OSError:
        return None
    return None if told is None else (float(told[1]), float(told[2]))
