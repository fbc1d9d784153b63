"""Measures a burnt-in scale bar and compares it with an image's pixel size; it never changes it.

No text is read. Microscopes draw bars of round lengths (1, 2, 2.5, 3 or 5 times a power of ten), so
that the length of the bar in pixels times the pixel size should be one of those, within 2 %. A wrong
pixel size is round by chance in about 9 % of cases, and one that is wrong by a factor of ten always is;
where the length that is written at the bars is given (``imaging.tem.scale_bar_nm``), the pixel size
that it implies is compared instead, which misses neither.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from glomflow.imaging.tem_overlay import Box

Array = npt.NDArray[Any]
Mask = npt.NDArray[np.bool_]

ROUND = (1.0, 2.0, 2.5, 3.0, 5.0)
"""Leading digits of the lengths that scale bars have."""
TOLERANCE = 0.02
"""Largest relative difference that passes; for bars under 75 px, that of 1.5 px."""
_TOLERANCE_PX = 1.5
_LEAST_PX, _LEAST_SHARE, _MOST_SHARE = 16, 0.025, 0.9
_THICKEST = 0.02
_LEVELS = (0.6, 0.9)
_ASPECT = 5.0


class ScaleBar(NamedTuple):
    """A bar in px of the image that it was measured in; its ends are between pixels.

    Attributes:
        left: Left end.
        right: Right end.
        top: First row.
        bottom: Row after the last.
    """

    left: float
    right: float
    top: int
    bottom: int

    @property
    def length(self) -> float:
        """Length, px."""
        return self.right - self.left


class _Run(NamedTuple):
    left: int
    right: int
    top: int
    bottom: int


def find_scale_bar(gray: Array, overlay: Sequence[Box]) -> ScaleBar | None:
    """Finds the horizontal scale bar among burnt-in graphics and measures it.

    Bars may be white or black, outlined, chequered, with ticks at their ends, in a strip or on tissue.
    The length is that of the filled part, end ticks included; of an outline without filling, its own.

    Args:
        gray: (H, W) micrograph of any numeric type.
        overlay: Its graphics, as of :func:`glomflow.imaging.tem_overlay.overlay_boxes`.

    Returns:
        The longest bar, or None if there is none or tissue of its tone hides an end or edge.
    """
    least = max(_LEAST_PX, round(_LEAST_SHARE * gray.shape[1]))
    runs = {run for box in overlay for run in _runs_in(gray, box.grown(6, 6, gray.shape), least)}
    bars = _without_frames(sorted(runs), gray.shape)
    if not bars:
        return None
    longest = max(bars, key=lambda run: run.right - run.left)
    reach = longest.bottom - longest.top
    filled = [
        run
        for run in bars
        if run.right - run.left >= 0.95 * (longest.right - longest.left)
        and run.top <= longest.bottom + reach
        and run.bottom >= longest.top - reach
    ]
    best = max(filled, key=lambda run: (run.bottom - run.top, run.right - run.left, run))
    left, right = _ends(gray, best)
    return ScaleBar(left, right, best.top, best.bottom)


def implied_length(nm: float, bar_px: float) -> tuple[float, bool]:
    """Compares a bar's length with the nearest round one.

    Args:
        nm: Length of the bar by the pixel size, nm.
        bar_px: Length of the bar, px.

    Returns:
        The nearest round length, nm, and whether ``nm`` agrees with it.
    """
    power = math.floor(math.log10(nm))
    candidates = [digit * 10.0**exponent for exponent in (power, power + 1) for digit in ROUND]
    nearest = min(candidates, key=lambda length: abs(math.log(nm / length)))
    return nearest, _agree(nm, nearest, bar_px)


def check_scale_bar(
    bar_px: float, nm_per_px: float, stated_nm: float | None, name: str, source: str
) -> str | None:
    """Checks a pixel size against a scale bar.

    Args:
        bar_px: Length of the bar, px of the full-resolution image.
        nm_per_px: Pixel size in use, nm.
        stated_nm: Length that is written at the bar, nm, if known.
        name: The image, for the message.
        source: Where the pixel size is from, for the message.

    Returns:
        A warning, or None if the two agree.
    """
    implied = bar_px * nm_per_px
    begin = (
        f"TEM image {name}: its scale bar is {bar_px:.1f} px long, {implied:.4g} nm at {nm_per_px:.4g} nm/px"
    )
    if stated_nm is not None:
        if _agree(implied, stated_nm, bar_px):
            return None
        return (
            f"{begin} ({source}), but imaging.tem.scale_bar_nm states {stated_nm:g} nm, which means "
            f"{stated_nm / bar_px:.4g} nm/px; find out which is right"
        )
    nearest, agrees = implied_length(implied, bar_px)
    if agrees:
        return None
    return (
        f"{begin} ({source}), which is no round length; {nearest:g} nm would mean {nearest / bar_px:.4g} "
        "nm/px: check the pixel size"
    )


def _agree(nm: float, expected: float, bar_px: float) -> bool:
    return abs(nm - expected) <= max(TOLERANCE, _TOLERANCE_PX / bar_px) * expected


def _runs_in(gray: Array, box: Box, least: int) -> list[_Run]:
    """Finds bars of either tone in a part of an image; at the higher level also next to bright tissue."""
    crop = gray[box.top : box.bottom, box.left : box.right].astype(np.float32)
    low, middle, high = float(crop.min()), float(np.median(crop)), float(crop.max())
    if not (math.isfinite(high - low) and high > low):
        return []
    found = []
    for extreme in {low, high} - {middle}:
        for level in _LEVELS:
            limit = middle + level * (extreme - middle)
            mask = crop >= limit if extreme > middle else crop <= limit
            found += [
                _Run(run.left + box.left, run.right + box.left, run.top + box.top, run.bottom + box.top)
                for run in _runs(mask, least, gray.shape)
            ]
    return found


def _runs(mask: Mask, least: int, image: tuple[int, ...]) -> list[_Run]:
    """Finds thin rectangles: rows whose longest runs begin and end alike, bounded on all sides."""
    padded = np.zeros((mask.shape[0], mask.shape[1] + 2), np.int8)
    padded[:, 1:-1] = mask
    step = np.diff(padded, axis=1)
    rows, starts = np.nonzero(step == 1)
    ends = np.nonzero(step == -1)[1]
    long = np.flatnonzero(ends - starts >= least)
    found: list[_Run] = []
    for row, start, end in zip(rows[long].tolist(), starts[long].tolist(), ends[long].tolist(), strict=True):
        for number, run in enumerate(found):
            if run.bottom == row and abs(run.left - start) <= 2 and abs(run.right - end) <= 2:
                found[number] = _Run(min(run.left, start), max(run.right, end), run.top, row + 1)
                break
        else:
            found.append(_Run(start, end, row, row + 1))
    return [run for run in found if _is_bar(mask, run, image)]


def _is_bar(mask: Mask, run: _Run, image: tuple[int, ...]) -> bool:
    thick, length = run.bottom - run.top, run.right - run.left
    if thick > max(3, _THICKEST * image[0]) or length < _ASPECT * thick or length > _MOST_SHARE * image[1]:
        return False
    rows, columns = slice(run.top, run.bottom), slice(run.left, run.right)
    beyond = (
        mask[max(0, run.top - 1) : run.top, columns],
        mask[run.bottom : run.bottom + 1, columns],
        mask[rows, max(0, run.left - 3) : max(0, run.left - 1)],
        mask[rows, run.right + 1 : run.right + 3],
    )
    return all(side.size and side.mean() < 0.35 for side in beyond)


def _without_frames(runs: list[_Run], image: tuple[int, ...]) -> list[_Run]:
    """Leaves out the upper and lower edge of frames: like lines, far above each other."""
    far = max(12.0, 1.5 * _THICKEST * image[0])
    return [
        run
        for run in runs
        if not any(
            abs(run.left - other.left) <= 3
            and abs(run.right - other.right) <= 3
            and abs(run.top - other.top) > far
            for other in runs
        )
    ]


def _ends(gray: Array, run: _Run) -> tuple[float, float]:
    """Returns the ends of a bar to a part of a pixel: where its profile is half way to the ground."""
    inner = 1 if run.bottom - run.top > 2 else 0
    rows = gray[run.top + inner : run.bottom - inner].astype(np.float64)
    profile = rows.mean(axis=0)
    left = _crossing(profile, run.left)
    right = len(profile) - _crossing(profile[::-1], len(profile) - run.right)
    return left, right


def _crossing(profile: Array, start: int) -> float:
    if start < 3:
        return float(start)
    bar = float(np.median(profile[start + 2 : start + 8]))
    ground = float(profile[start - 3 : start - 1].mean())
    if bar == ground:
        return float(start)
    part = (profile[start - 2 : start + 3] - ground) / (bar - ground)
    for index in range(4):
        if part[index] < 0.5 <= part[index + 1]:
            return float(start - 2 + index + (0.5 - part[index]) / (part[index + 1] - part[index]) + 0.5)
    return float(start)
