"""Finds what a microscope burns into its micrographs: scale bars, text and info strips.

Burnt-in graphics differ from tissue in three ways that hold for every vendor: they lie near the
border, they have the lightest or the darkest value of the image, and their edges are straight and
one or two pixels wide. Four searches rest on that:

1. *strips*: from each side of the image, rows that mostly have one value and end abruptly;
2. *boxes*: scale bars and label boxes, rectangles of an extreme value with four straight edges;
3. *ruled lines*: bars of one thickness over a whole length, also where parts of them lie on tissue
   that is as white (or as black) as they are;
4. *lines of text*: four or more sharp-edged shapes of an extreme value, of one height, in a row.

What these miss: graphics more than a quarter of the height away from the top and bottom edge, and
white graphics on tissue that is itself saturated white (or black on black), which hardly show.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Mask = npt.NDArray[np.bool_]

BAND = 0.25
"""Share of the height, from the top and from the bottom, that graphics are looked for in."""
LABEL_REACH = 0.05
"""How far above and below a scale bar its label is taken to reach, as a share of the shorter edge."""
_STRIP_ROW = 0.7
_STRIP_SHARE = 0.45
_STRIP_SAMPLES = 800
_BOX_EXTREME = (0.85, 0.97)
_GLYPH_EXTREME = (0.7, 0.9, 0.97)
_LEAST_GLYPHS = 4
_RULED_SHARE = 0.6
_INTERIOR_SAMPLES = 60_000


class Box(NamedTuple):
    """A rectangle of pixels: columns ``left`` to ``right - 1``, rows ``top`` to ``bottom - 1``."""

    left: int
    top: int
    right: int
    bottom: int

    @property
    def width(self) -> int:
        """Columns."""
        return self.right - self.left

    @property
    def height(self) -> int:
        """Rows."""
        return self.bottom - self.top

    def grown(self, columns: int, rows: int, shape: tuple[int, ...]) -> Box:
        """Returns the box with a margin on every side, cut to an image of ``shape`` (H, W)."""
        return Box(
            max(0, self.left - columns),
            max(0, self.top - rows),
            min(shape[1], self.right + columns),
            min(shape[0], self.bottom + rows),
        )


@dataclass(frozen=True)
class _Tone:
    """White or black of an image: 1 at the extreme value, 0 at the median of the interior."""

    extreme: float
    median: float

    def of(self, values: Array) -> npt.NDArray[np.float32]:
        span = self.extreme - self.median
        return ((values.astype(np.float32) - np.float32(self.median)) / np.float32(span)).astype(np.float32)

    def reaches(self, values: Array, level: float) -> Mask:
        """Returns where :meth:`of` is at least ``level``."""
        limit = self.median + level * (self.extreme - self.median)
        if np.issubdtype(values.dtype, np.integer):
            limit = math.ceil(limit) if self.extreme > self.median else math.floor(limit)
        reached: Mask = values >= limit if self.extreme > self.median else values <= limit
        return reached


def find_overlay(gray: Array) -> Mask:
    """Finds burnt-in scale bars, text and info strips.

    Args:
        gray: (H, W) micrograph of any numeric type, at full resolution or near it: strokes of text
            must be at least a pixel wide.

    Returns:
        (H, W), True on rectangles that cover the graphics with a small margin.
    """
    return covered(overlay_boxes(gray), gray.shape)


def covered(boxes: list[Box], shape: tuple[int, ...]) -> Mask:
    """Returns a mask of ``shape`` (H, W), True inside any of the boxes."""
    mask = np.zeros(shape, np.bool_)
    for box in boxes:
        mask[box.top : box.bottom, box.left : box.right] = True
    return mask


def overlay_boxes(gray: Array) -> list[Box]:
    """Finds burnt-in graphics as rectangles; :func:`find_overlay` gives them as a mask.

    Args:
        gray: (H, W) micrograph of any numeric type.

    Returns:
        Rectangles, which may overlap but not contain each other.
    """
    if min(gray.shape) < 32:
        return []
    if not np.issubdtype(gray.dtype, np.integer):
        gray = np.nan_to_num(gray, nan=0.0, posinf=0.0, neginf=0.0)
    low, median, high = _interior_levels(gray)
    strips = _strips(gray, 0.03 * (high - low))
    top = max((box.bottom for box in strips if box.top == 0 and box.width == gray.shape[1]), default=0)
    bottom = min(
        (box.top for box in strips if box.bottom == gray.shape[0] and box.width == gray.shape[1]),
        default=gray.shape[0],
    )
    reach = round(BAND * gray.shape[0])
    bands = [(top, min(bottom, reach)), (max(top, gray.shape[0] - reach), bottom)]
    found = list(strips)
    for tone in (_Tone(float(gray.max()), median), _Tone(float(gray.min()), median)):
        if abs(tone.extreme - median) < 0.1 * (high - low) or tone.extreme == median:
            continue
        for first, last in bands:
            if last - first >= 8:
                found += [
                    Box(box.left, box.top + first, box.right, box.bottom + first)
                    for box in _graphics(gray[first:last], tone, gray.shape)
                ]
    return _outermost(found)


def free_box(blocks: list[Box], shape: tuple[int, ...], least: tuple[float, float] = (0.0, 0.0)) -> Box:
    """Finds the largest rectangle that no overlay touches.

    Args:
        blocks: Rectangles of overlay.
        shape: Height and width of the image.
        least: Width and height that the rectangle should have if any free one does; only if none
            does is the largest taken regardless.

    Returns:
        The rectangle; of no area if the overlay covers everything.
    """
    height, width = shape
    best, best_key = Box(0, 0, 0, 0), (False, 0)
    for top in sorted({0, *(block.bottom for block in blocks)}):
        for bottom in sorted({height, *(block.top for block in blocks)}):
            if bottom <= top:
                continue
            inside = sorted(block for block in blocks if block.top < bottom and block.bottom > top)
            left = 0
            for block in [*inside, Box(width, 0, width, height)]:
                box = Box(left, top, block.left, bottom)
                key = (box.width >= least[0] and box.height >= least[1], box.width * box.height)
                if box.width > 0 and key > best_key:
                    best, best_key = box, key
                left = max(left, block.right)
    return best


def _interior_levels(gray: Array) -> tuple[float, float, float]:
    """Returns the 1st, 50th and 99th percentile of the middle of the image, where no graphics are."""
    height, width = gray.shape
    middle = gray[height // 4 : height - height // 4, width // 4 : width - width // 4]
    step = max(1, math.isqrt(middle.size // _INTERIOR_SAMPLES))
    low, median, high = np.percentile(middle[::step, ::step], (1, 50, 99))
    return float(low), float(median), float(high)


def _strips(gray: Array, tolerance: float) -> list[Box]:
    height, width = gray.shape
    margin = max(2, round(0.003 * height))
    top, bottom = (_strip_depth(view, tolerance) for view in (gray, gray[::-1]))
    left, right = (_strip_depth(view, tolerance) for view in (gray.T, gray.T[::-1]))
    boxes = []
    if top:
        boxes.append(Box(0, 0, width, min(height, top + margin)))
    if bottom:
        boxes.append(Box(0, max(0, height - bottom - margin), width, height))
    if left:
        boxes.append(Box(0, 0, min(width, left + margin), height))
    if right:
        boxes.append(Box(max(0, width - right - margin), 0, width, height))
    return boxes


def _strip_depth(view: Array, tolerance: float) -> int:
    """Returns how many of the first rows of ``view`` are a strip of one background value."""
    depth = round(BAND * view.shape[0])
    view = view[:, :: max(1, view.shape[1] // _STRIP_SAMPLES)]
    for start in (0, max(3, round(0.01 * view.shape[0]))):
        background = float(np.median(view[start : start + 2]))
        if np.mean(np.abs(view[start].astype(np.float32) - background) <= tolerance) < _STRIP_SHARE:
            continue
        share = np.mean(np.abs(view[: depth + 4].astype(np.float32) - background) <= tolerance, axis=1)
        running = np.cumsum(share) / np.arange(1, len(share) + 1)
        whole = np.flatnonzero((share >= _STRIP_ROW) & (running >= _STRIP_SHARE))
        if not len(whole) or not 2 <= whole[-1] < depth:
            continue
        last = int(whole[-1])
        if share[last + 2 : last + 5].mean() <= share[last] - 0.35:
            return last + 1
    return 0


def _graphics(gray: Array, tone: _Tone, image: tuple[int, ...]) -> list[Box]:
    """Finds bars, label boxes and text of one tone in a band (rows of an image of shape ``image``)."""
    shape = gray.shape
    if not tone.reaches(gray, min(*_BOX_EXTREME, *_GLYPH_EXTREME)).any():
        return []
    boxes = [box for level in _BOX_EXTREME for box in _boxes(gray, tone, image, level)]
    glyphs = [_glyphs(gray, tone, image, level) for level in _GLYPH_EXTREME]
    reach = round(LABEL_REACH * min(image))
    found = [box.grown(3, 3, shape) for box in boxes]
    for box in boxes:
        if box.height > 0.025 * min(image) or box.width < 6 * box.height:
            continue
        found.append(box.grown(3, reach, shape))
        beside = box.grown(2 * reach, reach, shape)
        found += [_with_margin(glyph, shape) for some in glyphs for glyph in some if _overlap(glyph, beside)]
    for some in glyphs:
        found += [_with_margin(_union(line), shape) for line in _lines(some)]
    return found


def _boxes(gray: Array, tone: _Tone, image: tuple[int, ...], level: float) -> list[Box]:
    """Finds rectangles of an extreme value with straight, sharp edges, at least 4 % of the width long."""
    extreme = tone.reaches(gray, level)
    least = max(16, round(0.04 * image[1]))
    full = np.flatnonzero(np.count_nonzero(extreme, axis=1) >= least)
    if not len(full):
        return []
    padded = np.zeros((len(full), gray.shape[1] + 2), np.int8)
    padded[:, 1:-1] = extreme[full]
    step = np.diff(padded, axis=1)
    lines, starts = np.nonzero(step == 1)
    rows = full[lines]
    ends = np.nonzero(step == -1)[1]
    long = np.flatnonzero(ends - starts >= least)
    found: list[Box] = []
    seen = np.zeros(gray.shape, np.bool_)
    for index in long:
        row, start, end = int(rows[index]), int(starts[index]), int(ends[index])
        if seen[row, (start + end) // 2]:
            continue
        box = _grow_run(extreme, row, start, end)
        seen[box.top : box.bottom, box.left : box.right] = True
        if _is_graphic(gray, tone, extreme, box, image):
            found.append(box)
    return found + _ruled(extreme, least, max(3, round(0.02 * image[0])))


def _ruled(extreme: Mask, least: int, thickest: int) -> list[Box]:
    """Finds bars by their thickness: columns side by side whose extreme pixels span the same rows.

    Tissue may hide a part of the bar, where it is as extreme itself; 60 % must show.
    """
    step = np.diff(extreme.astype(np.int8), axis=0, prepend=0, append=0).T
    columns, tops = np.nonzero(step == 1)
    bottoms = np.nonzero(step == -1)[1]
    thin = np.flatnonzero((bottoms - tops >= 2) & (bottoms - tops <= thickest))
    keys = tops[thin] * (thickest + 1) + bottoms[thin] - tops[thin]
    order = np.argsort(keys, kind="stable")
    found = []
    starts = np.flatnonzero(np.diff(keys[order], prepend=-1))
    sizes = np.diff(starts, append=len(order))
    many = np.flatnonzero(sizes >= _RULED_SHARE * least)
    for start, size in zip(starts[many], sizes[many], strict=True):
        group = thin[order[start : start + size]]
        across = columns[group]
        for part in np.split(across, np.flatnonzero(np.diff(across) > least) + 1):
            length = int(part[-1] - part[0]) + 1
            if length >= least and len(part) >= _RULED_SHARE * length:
                top, bottom = int(tops[group[0]]), int(bottoms[group[0]])
                if length >= 6 * (bottom - top):
                    found.append(Box(int(part[0]), top, int(part[-1]) + 1, bottom))
    return found


def _grow_run(extreme: Mask, row: int, start: int, end: int) -> Box:
    """Extends a run up and down while both of its ends stay extreme and text leaves some ground."""
    goes_on = (
        extreme[:, start : start + 4].any(axis=1)
        & extreme[:, end - 4 : end].any(axis=1)
        & (extreme[:, start:end].mean(axis=1) >= 0.3)
    )
    stops = np.flatnonzero(~goes_on)
    above, below = stops[stops < row], stops[stops > row]
    top = int(above[-1]) + 1 if len(above) else 0
    bottom = int(below[0]) if len(below) else extreme.shape[0]
    return Box(start, min(top, row), end, max(bottom, row + 1))


def _is_graphic(gray: Array, tone: _Tone, extreme: Mask, box: Box, image: tuple[int, ...]) -> bool:
    if not 2 <= box.height <= 0.12 * image[0] or box.width < 1.2 * box.height:
        return False
    rows, columns = slice(box.top, box.bottom), slice(box.left, box.right)
    edges = (
        (slice(box.top - 3, box.top - 1), columns, box.top < 3),
        (slice(box.bottom + 1, box.bottom + 3), columns, box.bottom > gray.shape[0] - 3),
        (rows, slice(box.left - 3, box.left - 1), box.left < 3),
        (rows, slice(box.right + 1, box.right + 3), box.right > gray.shape[1] - 3),
    )
    return all(
        at_border or (extreme[down, across].mean() < 0.35 and tone.of(gray[down, across]).mean() < 0.85)
        for down, across, at_border in edges
    )


def _glyphs(gray: Array, tone: _Tone, image: tuple[int, ...], level: float) -> list[Box]:
    """Finds shapes of the size of letters whose every edge is sharp."""
    from scipy import ndimage

    edge = min(image)
    lowest, highest = max(5.0, 0.006 * edge), max(12.0, 0.06 * edge)
    extreme = tone.reaches(gray, level)
    used = np.flatnonzero(extreme.any(axis=1))
    if not len(used):
        return []
    above = int(used[0])
    labels, _ = ndimage.label(extreme[above : used[-1] + 1], structure=np.ones((3, 3)))
    found = []
    for number, (rows, columns) in enumerate(ndimage.find_objects(labels), 1):
        height, width = rows.stop - rows.start, columns.stop - columns.start
        if not lowest <= height <= highest or width > 3 * height:
            continue
        box = Box(columns.start, above + rows.start, columns.stop, above + rows.stop)
        around = box.grown(3, 3, gray.shape)
        window = (slice(around.top, around.bottom), slice(around.left, around.right))
        shape = np.zeros((around.height, around.width), np.bool_)
        inside = (
            slice(box.top - around.top, box.bottom - around.top),
            slice(box.left - around.left, box.right - around.left),
        )
        shape[inside] = labels[rows, columns] == number
        if np.count_nonzero(shape) < 0.12 * height * width:
            continue
        inner = _dilated(shape)
        ring = _dilated(inner) & ~inner
        if tone.of(gray[window][ring]).mean() < level - 0.3:
            found.append(box)
    return found


def _dilated(shape: Mask) -> Mask:
    """Adds the four neighbours of each pixel; on small masks much faster than scipy does it."""
    grown = shape.copy()
    grown[1:] |= shape[:-1]
    grown[:-1] |= shape[1:]
    grown[:, 1:] |= shape[:, :-1]
    grown[:, :-1] |= shape[:, 1:]
    return grown


def _lines(glyphs: list[Box]) -> list[list[Box]]:
    """Groups letters into lines of text: like heights, a common base, gaps under 2.5 heights."""
    lines: list[list[Box]] = []
    for glyph in sorted(glyphs):
        for line in lines:
            last = line[-1]
            tall = max(glyph.height, last.height)
            if (
                glyph.left - last.right <= 2.5 * tall
                and abs(glyph.bottom - last.bottom) <= 0.3 * tall
                and min(glyph.height, last.height) >= 0.5 * tall
            ):
                line.append(glyph)
                break
        else:
            lines.append([glyph])
    return [line for line in lines if len(line) >= _LEAST_GLYPHS]


def _overlap(first: Box, second: Box) -> bool:
    return (
        first.left < second.right
        and second.left < first.right
        and first.top < second.bottom
        and second.top < first.bottom
    )


def _outermost(boxes: list[Box]) -> list[Box]:
    """Returns the boxes that no other contains, in their order."""
    kept: list[Box] = []
    for box in sorted(set(boxes), key=lambda one: (-one.width * one.height, one)):
        if not any(
            other.left <= box.left
            and other.top <= box.top
            and other.right >= box.right
            and other.bottom >= box.bottom
            for other in kept
        ):
            kept.append(box)
    return sorted(kept)


def _union(boxes: list[Box]) -> Box:
    return Box(
        min(box.left for box in boxes),
        min(box.top for box in boxes),
        max(box.right for box in boxes),
        max(box.bottom for box in boxes),
    )


def _with_margin(box: Box, shape: tuple[int, ...]) -> Box:
    margin = max(3, box.height // 3)
    return box.grown(2 * margin, margin, shape)
