"""Seeds for every random draw, derived from what the draw is for."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator
from typing import Any

import numpy as np

from glomflow.training.allocator import keep_freed_memory


def derive_seed(*parts: object) -> int:
    """Derives a seed from a base seed and the purpose of the draw.

    Args:
        parts: Numbers and words, such as ``(seed, "order", epoch)``; their text is what counts.

    Returns:
        An integer from 0 to 2^63 - 1, the same on every machine.
    """
    digest = hashlib.sha256("\x1f".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def shuffled(count: int, *parts: object) -> np.ndarray:
    """Returns 0 .. count-1 in the order that ``derive_seed(*parts)`` gives."""
    return np.random.default_rng(derive_seed(*parts)).permutation(count)


@contextlib.contextmanager
def seeded_torch(*parts: object) -> Iterator[None]:
    """Runs a block with torch's generators seeded by ``parts``, and restores them afterwards."""
    import torch

    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(derive_seed(*parts))
        yield


@contextlib.contextmanager
def deterministic(threads: int) -> Iterator[None]:
    """Runs a block on so many CPU threads, with deterministic kernels where torch has them.

    Every training and prediction runs in it; from its first use on, the process keeps the memory that it
    frees, see :func:`allocator.keep_freed_memory`.

    Args:
        threads: CPU threads that torch may use.
    """
    import torch

    keep_freed_memory()
    options: Any = torch.utils.deterministic
    before = torch.get_deterministic_debug_mode(), torch.get_num_threads()
    fill = options.fill_uninitialized_memory
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.set_num_threads(threads)
    torch.set_deterministic_debug_mode("warn")  # the same switch, but does not load the compiler (2 s)
    options.fill_uninitialized_memory = False  # a debugging aid that costs a tenth of a training
    try:
        yield
    finally:
        torch.set_deterministic_debug_mode(before[0])
        torch.set_num_threads(before[1])
        options.fill_uninitialized_memory = fill
