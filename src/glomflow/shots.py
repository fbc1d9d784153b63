"""Which labelled crops each number of shots takes: a column that says it crop by crop."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

_SEPARATOR = ";"


def written_shots(pool: int, shots: Sequence[int], *, nested: bool) -> list[str]:
    """Says of each place of a shuffled class which numbers of shots take it.

    Args:
        pool: Crops of the class, in shuffled order.
        shots: Numbers of shots; 0 takes none.
        nested: k shots take the first k places. Otherwise each number of shots takes the places after those
            of the next smaller one, from the first again after the last.

    Returns:
        ``pool`` texts, the numbers joined by ``;``.
    """
    taken: list[list[str]] = [[] for _ in range(pool)]
    start = 0
    for count in sorted(set(shots)):
        for place in range(start, start + min(count, pool)):
            taken[place % pool].append(str(count))
        start += 0 if nested else count
    return [_SEPARATOR.join(numbers) for numbers in taken]


def shown_at(shots: pd.Series[str], count: int) -> NDArray[np.bool_]:
    """Tells which crops ``count`` shots take, from a column of :func:`written_shots`."""
    framed = _SEPARATOR + shots.fillna("").astype("str") + _SEPARATOR
    found: NDArray[np.bool_] = framed.str.contains(f"{_SEPARATOR}{count}{_SEPARATOR}", regex=False).to_numpy(
        bool
    )
    return found


def fewest_shots(shots: pd.Series[str]) -> int:
    """Returns the smallest number of shots that a column of :func:`written_shots` knows."""
    return min(int(text) for own in shots.dropna().unique() if own for text in own.split(_SEPARATOR))


def shots_of(method: str, shots: Sequence[int]) -> list[int]:
    """Returns the numbers of shots that a method runs with: 0 for what learns from none."""
    return [0] if method == "zero_shot" else sorted({number for number in shots if number > 0})


def left_out_shots(method: str, shots: Sequence[int]) -> list[str]:
    """Says which numbers of shots a method leaves out: 0, if it learns.

    Args:
        method: The method.
        shots: Numbers of shots asked for.

    Returns:
        A sentence for the log, or nothing.
    """
    if 0 not in shots or method == "zero_shot":
        return []
    return [f"{method} learns from labelled crops, so 0 shots are left out; zero_shot runs there"]
