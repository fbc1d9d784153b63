"""The nearest right name, for messages about wrong ones."""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Iterable


def _key(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold().replace("-", "_").replace(" ", "_")


def nearest(word: str, names: Iterable[str], cutoff: float = 0.6) -> str | None:
    """Returns the name that ``word`` most likely stands for.

    Names that differ only in letter case, Unicode form, hyphens, blanks or leading zeros (which
    spreadsheets drop) come first, then the most similar spelling.

    Args:
        word: The wrong name.
        names: The right names.
        cutoff: Least similarity, 0 to 1 (Ratcliff and Obershelp's ratio).

    Returns:
        One of ``names``, or None if nothing is near.
    """
    keys: dict[str, str] = {}
    for name in names:
        keys.setdefault(_key(name), name)
    wanted = _key(word)
    if wanted in keys:
        return keys[wanted]
    bare = wanted.lstrip("0")
    for key, name in keys.items():
        if bare and key.lstrip("0") == bare:
            return name
    found = difflib.get_close_matches(wanted, keys, n=1, cutoff=cutoff)
    return keys[found[0]] if found else None


def nearest_numbered(word: str, names: Iterable[str], cutoff: float = 0.8) -> str | None:
    """As :func:`nearest`, but never takes one number for another, as in 'image_3' and 'image_4'."""
    numbers = _numbers(word)
    return nearest(word, [name for name in names if _numbers(name) == numbers], cutoff)


def _numbers(name: str) -> list[str]:
    return [digits.lstrip("0") for digits in re.findall(r"[0-9]+", name)]


def did_you_mean(word: str, names: Iterable[str], cutoff: float = 0.6) -> str:
    """Returns ``"; did you mean 'name'?"`` for the nearest name, or an empty string."""
    name = nearest(word, names, cutoff)
    return f"; did you mean '{name}'?" if name is not None else ""
