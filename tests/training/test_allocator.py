"""Memory that is kept for the next step."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import pytest

from glomflow.training import allocator

PROBE = """
import torch
from glomflow.training.allocator import keep_freed_memory

def left():
    torch.empty(64 << 20, dtype=torch.uint8).fill_(1)
    pages = int(open("/proc/self/statm").read().split()[1])
    return pages * 4096 >> 20

torch.ones(8).sum()
before, given_back = left(), left()
print(keep_freed_memory(), given_back - before, left() - before)
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "gnu_get_libc_version"), reason="glibc's allocator")
def test_freed_memory_is_kept(repo: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROBE],
        check=True,
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(repo / "src"), "OMP_NUM_THREADS": "1"},
    )
    taken, without, kept = done.stdout.split()
    assert taken == "True"
    assert int(without) < 16
    assert int(kept) > 48


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(allocator.ctypes, "CDLL", lambda name: object())
    assert allocator.keep_freed_memory.__wrapped__() is False
