"""Channels of immunofluorescence images: which marker they show, and how bright."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from glomflow.config import ImCrops
from glomflow.errors import ImageError

Array = npt.NDArray[Any]
Levels = npt.NDArray[np.float32]

COLOUR = ("R", "G", "B")
ONE_HUE = 0.97
"""Share of the signal's energy along one direction of red, green and blue that makes a single hue."""
_PURE = 0.5
"""In the direction of a single fluorophore the second channel has at most this share of the first."""
_SIGNAL = 0.25
_LEAST_SIGNAL = 0.02
_LEAST_PIXELS = 30
_GREY = 4.0 / 255.0


def channel_markers(name: str, channels: Sequence[str], marker: str | None) -> tuple[str, ...]:
    """Says which marker each channel of an IM image shows.

    Args:
        name: The file, for messages.
        channels: Channel names by the file; ``('R', 'G', 'B')`` for a colour image.
        marker: The sheet's marker column, names joined by ';'. It has precedence over the file.

    Returns:
        A name per channel; one name for a colour image of one marker, whose channels are to be
        merged; none for a colour image of unnamed markers.

    Raises:
        ImageError: The sheet names another number of markers than the file has channels.
    """
    given = tuple(part.strip() for part in (marker or "").split(";") if part.strip())
    colour = tuple(channels) == COLOUR
    if not given:
        return () if colour else tuple(channels)
    if len(given) == len(channels) or (colour and len(given) == 1):
        return given
    raise ImageError(
        "unsupported_format",
        f"{name}: the column marker of images.csv names {len(given)} marker{'s'[: len(given) > 1]} "
        f"({', '.join(given)}) but the file has {len(channels)} channel{'s'[: len(channels) > 1]} "
        f"({', '.join(channels)}); name one marker per channel, joined by ';'",
    )


def same_marker(first: str, second: str) -> bool:
    """Tells whether two names mean one marker: case, '-', '_', spaces and 'anti' do not count."""
    return plain(first) == plain(second)


def plain(name: str) -> str:
    """Returns a marker's name without what does not count, see :func:`same_marker`."""
    return "".join(name.lower().replace("anti", "").replace("-", "").replace("_", "").split())


def compose(levels: dict[str, Levels], settings: ImCrops) -> npt.NDArray[np.uint8]:
    """Composes markers into a colour picture.

    Args:
        levels: Brightness by marker name, each (H, W), 0 to 1 of full brightness.
        settings: Which markers make up which colour.

    Returns:
        (H, W, 3) uint8: per colour the mean over those of its markers that are there, 0 if none is.
    """
    planes = []
    shape = next(iter(levels.values())).shape
    for wanted in settings.colours:
        there = [level for name, level in levels.items() if any(same_marker(name, want) for want in wanted)]
        planes.append(np.mean(there, axis=0) if there else np.zeros(shape, np.float32))
    return as_bytes(np.stack(planes, axis=-1))


def as_bytes(levels: Levels) -> npt.NDArray[np.uint8]:
    """Returns brightness from 0 to 1 as 8-bit samples."""
    rounded: npt.NDArray[np.uint8] = np.rint(levels * 255.0).astype(np.uint8)
    return rounded


def brightness(samples: Array, name: str) -> Levels:
    """Scales samples by the range of their type.

    Args:
        samples: Array of any shape; integers, or floats from 0 to 1.
        name: The file, for messages.

    Returns:
        float32 of the same shape, 0 to 1; negative samples become 0.

    Raises:
        ImageError: The samples are floats that are not finite or exceed 1: their range is unknown.
    """
    if np.issubdtype(samples.dtype, np.integer):
        return np.clip(samples.astype(np.float32) / np.iinfo(samples.dtype).max, 0.0, 1.0).astype(np.float32)
    if not np.isfinite(samples).all() or (samples.size and samples.max() > 1.0 + 1e-6):
        raise ImageError(
            "unsupported_format",
            f"{name}: its samples are {samples.dtype} and not all within 0 to 1, so full brightness is "
            "unknown; save it as 8-bit or 16-bit integers",
        )
    return np.clip(samples, 0.0, 1.0).astype(np.float32)


def has_one_hue(picture: Levels) -> bool:
    """Tells whether a colour picture shows one fluorophore only.

    Each channel less its 5th percentile, the pixels of at least a quarter of the brightest signal are
    looked at: they show one fluorophore if nearly all of their energy lies along one direction of
    red, green and blue, and if that direction is a pure colour. Two fluorophores side by side have
    two directions; two that always lie together (a yellow or white composite) have no pure colour. A
    picture that is grey throughout also has one channel only.

    Args:
        picture: (H, W, 3) brightness, 0 to 1; a thumbnail will do.

    Returns:
        Whether it does; False for a picture without signal, of which nothing can be told.
    """
    spread = picture.max(axis=2) - picture.min(axis=2)
    raised = np.clip(picture - np.percentile(picture, 5, axis=(0, 1)), 0.0, None)
    highest = raised.max(axis=2)
    peak = float(np.percentile(highest, 99.9))
    signal = raised[highest >= max(_SIGNAL * peak, _LEAST_SIGNAL)].astype(np.float64)
    if len(signal) < _LEAST_PIXELS:
        return False
    if float(np.percentile(spread, 99)) <= _GREY:
        return True
    energy, directions = np.linalg.eigh(signal.T @ signal)
    second, first = np.sort(np.abs(directions[:, -1]))[1:]
    return bool(energy[-1] >= ONE_HUE * energy.sum() and second <= _PURE * first)
