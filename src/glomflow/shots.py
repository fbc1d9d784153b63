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
