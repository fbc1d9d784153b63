"""Exact Shapley values of a small game."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations

Coalition = frozenset[str]


def coalitions(players: Sequence[str]) -> Iterator[Coalition]:
    """Yields all subsets of some players, the empty one first and smaller ones before larger ones."""
    for size in range(len(players) + 1):
        yield from (frozenset(chosen) for chosen in combinations(players, size))


def shapley_values(players: Sequence[str], worth: Mapping[Coalition, float]) -> dict[str, float]:
    """Shares the worth of all players out among them (Shapley 1953).

    A player gets what it adds to a coalition, averaged over all orders in which the players may come in.
    The shares sum to ``worth[all] - worth[none]``.

    Args:
        players: Names, each once.
        worth: Worth of every subset of the players.

    Returns:
        Share of each player.

    Raises:
        KeyError: The worth of a subset is missing.
    """
    count = len(players)
    shares = {}
    for player in players:
        others = [name for name in players if name != player]
        shares[player] = sum(
            (worth[before | {player}] - worth[before]) / (count * math.comb(count - 1, len(before)))
            for before in coalitions(others)
        )
    return shares
