"""Inputs that several models of a job read: declared once, since Snakemake looks at each declared file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

Files = Mapping[str, str | Sequence[str]]


def without_repeats(files: Files) -> tuple[dict[str, str | Sequence[str]], dict[str, str]]:
    """Takes out inputs that name the same files as an earlier one.

    Args:
        files: A job's inputs by name.

    Returns:
        The inputs to declare; and, for each name that was taken out, the one that stands for it.
    """
    first: dict[tuple[str, ...], str] = {}
    kept: dict[str, str | Sequence[str]] = {}
    repeats: dict[str, str] = {}
    for name, paths in files.items():
        key = (paths,) if isinstance(paths, str) else tuple(paths)
        if key and key in first:
            repeats[name] = first[key]
        else:
            first.setdefault(key, name)
            kept[name] = paths
    return kept, repeats


def with_repeats(files: Files, repeats: Mapping[str, str]) -> dict[str, str | Sequence[str]]:
    """Puts back what :func:`without_repeats` took out.

    Args:
        files: The declared inputs by name.
        repeats: Name taken out to the one that stands for it.
    """
    return {**files, **{name: files[source] for name, source in repeats.items()}}
