"""Run lengths of masks, as COCO and CVAT write them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from glomflow.imaging.annotations.outline import Points, no_annotation, region_contour, unreadable

Runs = npt.NDArray[np.int64]

_MOST_PIXELS = 2**31


def decode_counts(text: str, where: str) -> list[int]:
    """Decodes COCO's compressed run lengths.

    Each number is written in base 32, least digit first, one character per digit from '0' (48) on; 32
    marks that more digits follow. From the fourth number on it is the difference to the number two
    places before (the string format of the COCO API, Lin et al. 2014).

    Args:
        text: The characters.
        where: What they belong to, for messages.

    Returns:
        The run lengths, background first.

    Raises:
        ImageError: The text ends within a number or holds other characters.
    """
    counts: list[int] = []
    value = shift = 0
    for character in text:
        digit = ord(character) - 48
        if not 0 <= digit < 64:
            raise unreadable(f"{where}: its run lengths hold the character {character!r}; export it again")
        value |= (digit & 31) << shift
        shift += 5
        if digit & 32:
            continue
        if digit & 16:
            value -= 1 << shift
        counts.append(value + (counts[-2] if len(counts) > 2 else 0))
        value = shift = 0
    if shift:
        raise unreadable(f"{where}: its run lengths end within a number; export it again")
    return counts


def contour_of_runs(
    counts: Runs,
    width: int,
    height: int,
    where: str,
    *,
    by_columns: bool,
    left: float = 0.0,
    top: float = 0.0,
) -> Points:
    """Returns the outer contour of the largest part of a run-length coded mask.

    Only the lines that the mask covers are decoded, so that a small mask of a large image is cheap.

    Args:
        counts: Run lengths, background and mask by turns, background first.
        width: Width of the mask, px.
        height: Height of the mask, px.
        where: What the mask belongs to, for messages.
        by_columns: Whether the runs go down the columns (COCO) or along the rows (CVAT).
        left: Where the mask begins in the image, px.
        top: Where the mask begins in the image, px.

    Returns:
        (K, 2) x and y, px of the image.

    Raises:
        ImageError: The runs do not fill the mask, or no pixel is set.
    """
    if not (width > 0 and height > 0) or (counts < 0).any() or int(counts.sum()) != width * height:
        raise unreadable(
            f"{where}: its run lengths cover {int(counts.sum())} px, but the mask is {width} x {height} px; "
            "export it again"
        )
    ends = np.cumsum(counts)
    set_runs = counts[1::2] > 0
    starts, ends = ends[0::2][: len(set_runs)][set_runs], ends[1::2][set_runs]
    if not starts.size:
        raise no_annotation(f"{where}: the mask is empty; draw it again or remove it")
    line = height if by_columns else width
    first, last = int(starts[0] // line), int((ends[-1] - 1) // line)
    pixels = (last - first + 1) * line
    if pixels > _MOST_PIXELS:
        raise unreadable(
            f"{where}: the mask covers {pixels} px, too many for one glomerulus; export it again"
        )
    edges = np.zeros(pixels + 1, np.int8)
    edges[starts - first * line] += 1
    edges[ends - first * line] -= 1
    region = np.cumsum(edges[:-1], dtype=np.int8).reshape(-1, line).astype(bool)
    if by_columns:
        return region_contour(region.T, left + first, top)
    return region_contour(region, left, top + first)
