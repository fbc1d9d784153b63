"""Light micrographs: felt-pen marks and folds, as shares of the image's area."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from glomflow.imaging.pixels import Array

SCALE = 4.0
"""Scale that folds and pen marks are looked for at, µm/px, where the overview is as fine."""
MOST_DENSITY = 2.5
"""Optical densities are cut here: darker is the same dark."""
TISSUE_DENSITY = 0.1

INK_DENSITY = 0.9
"""Least optical density of ink in the channel that it absorbs most."""
INK_CHROMA = 0.5
"""Coloured ink: the least absorbed channel has at most this share of the most absorbed one's density."""
BLACK_DENSITY = 1.2
"""Black ink: least optical density in every channel."""
INK_VARIATION = 0.15
"""Most standard deviation over mean of the optical density within 5 x 5 px of ink."""
INK_AREA = 0.002
"""Least share of the image that a pen mark covers."""
GAMUT_ANGLE = math.radians(9.0)
GAMUT_FAINT = (0.25, 0.75)
GAMUT_SHARE = 0.01
"""A colour is a stain, not ink, if more than this share of the tissue has its hue at a strength that is
between these parts of its own."""

FOLD_WIDTH = 20.0
"""Least width of a fold, µm."""
FOLD_GAP = 32.0
"""Parts of a fold that are no farther from each other than this are one, µm."""
FOLD_LENGTH = 80.0
"""Least length of a fold, µm."""
FOLD_EXCESS = 0.14
"""Least optical density of a fold beyond the tissue's median."""
FOLD_RATIO = 1.5
"""Least optical density of a fold over the tissue's median."""
FOLD_ELONGATION = 2.0
WIDEST_FOLD = 250.0
FOLD_CONTEXT = 300.0
"""Least edge of an image that folds are looked for in, µm: a crop has no other tissue to compare."""
FOLD_SHARE = 0.6
"""Least share of all that is as dense and of such a colour that has to lie in bands."""
FOLD_ANGLE = math.radians(13.0)
"""Most angle between the colour of what a fold adds and neutral grey, or the tissue's own colour."""

Density = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]
_GREY = np.full(3, 1 / math.sqrt(3.0), np.float32)


@lru_cache(maxsize=1)
def density_of_levels() -> Density:
    """Returns the optical density of each 8-bit level, (256,); it must not be written to."""
    levels = np.maximum(np.arange(256), 1) / 255.0
    table = np.minimum(-np.log(levels), MOST_DENSITY).astype(np.float32)
    table.flags.writeable = False
    return table


def density(picture: Array) -> Density:
    """Returns the optical density -ln(I / white), 0 to :data:`MOST_DENSITY`.

    Samples that are exactly 0 in every channel are what a scanner pads a slide with; they count as bare.

    Args:
        picture: (h, w, 3) or (h, w, 1), any type; white is the end of an integer type's range.

    Returns:
        (h, w, 3).
    """
    if picture.dtype == np.uint8:
        found = density_of_levels()[picture]
    else:
        integer = picture.dtype.kind in "ui"
        white = float(np.iinfo(picture.dtype).max) if integer else float(np.nanmax(picture, initial=0.0))
        share = np.nan_to_num(picture.astype(np.float32)) / (white or 1.0)
        found = -np.log(np.clip(share, math.exp(-MOST_DENSITY), 1.0))
    # An `any` over an axis of three is six times slower than the channels one by one.
    bare = picture[:, :, 0] == 0
    for band in range(1, picture.shape[2]):
        bare &= picture[:, :, band] == 0
    found[bare] = 0.0
    return np.broadcast_to(found, (*found.shape[:2], 3)) if found.shape[2] == 1 else found


def pen_marks(od: Density) -> Mask:
    """Returns where a light micrograph is covered by felt-pen ink.

    Ink is dense, either black or absorbing one part of the spectrum and hardly another, even
    within itself, in patches that are not small, and of a hue that the fainter tissue does not have:
    a stain comes in all strengths, ink does not.

    Args:
        od: Optical density (h, w, 3), see :func:`density`.

    Returns:
        (h, w).
    """
    from scipy import ndimage

    red, green, blue = (np.ascontiguousarray(od[:, :, band]) for band in range(3))
    most, least = np.maximum(np.maximum(red, green), blue), np.minimum(np.minimum(red, green), blue)
    dense = (least >= BLACK_DENSITY) | ((most >= INK_DENSITY) & (least <= INK_CHROMA * most))
    if not dense.any():
        return np.zeros(most.shape, dtype=bool)
    mean = (red + green + blue) / 3
    smooth = ndimage.uniform_filter(mean, 5)
    variance = ndimage.uniform_filter(mean * mean, 5) - smooth * smooth
    even = ndimage.binary_opening(dense & (variance <= (INK_VARIATION * smooth) ** 2), np.ones((3, 3)))
    labels, count = ndimage.label(even)
    if not count:
        return np.zeros(most.shape, dtype=bool)
    sizes = np.bincount(labels.reshape(-1))
    around = ndimage.binary_dilation(even, iterations=4)
    tissue = od[(mean > TISSUE_DENSITY) & ~around]
    kept = [
        index
        for index in range(1, count + 1)
        if sizes[index] >= max(20.0, INK_AREA * mean.size) and not _is_stain(od[labels == index], tissue)
    ]
    # The rim of a stroke is as uneven as tissue; it is given back by dilation within what is dense.
    marks: Mask = ndimage.binary_dilation(np.isin(labels, kept), iterations=3) & dense
    return marks


def _is_stain(ink: Density, tissue: Density) -> bool:
    colour = ink.mean(axis=0)
    strength = float(np.linalg.norm(colour))
    share = np.linalg.norm(tissue, axis=1) / strength
    fainter = tissue[(share > GAMUT_FAINT[0]) & (share < GAMUT_FAINT[1])]
    close = _cosine(fainter, colour / strength) > math.cos(GAMUT_ANGLE)
    return bool(close.sum() > GAMUT_SHARE * len(tissue))


def _cosine(colours: npt.NDArray[Any], direction: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    norms = np.maximum(np.linalg.norm(colours, axis=-1), 1e-6)
    found: npt.NDArray[np.float32] = (colours @ direction) / norms
    return found


def fold_fraction(od: Density, um_per_px: float, marks: Mask | None = None) -> float:
    """Returns the share of a light micrograph that is covered by folds and their shadows.

    What is narrower than :data:`FOLD_WIDTH` (nuclei, membranes, walls) is removed by a grey opening.
    A fold is then a band, clearly denser than the median of the tissue, that adds to it either the
    tissue's own colour (the section lies double) or grey (it is out of focus). If as much that is
    equally dense and coloured lies about in other shapes, it is a stain that is there in plenty
    (silver, DAB), and nothing is reported.

    Args:
        od: Optical density (h, w, 3), see :func:`density`.
        um_per_px: Pixel size.
        marks: Felt-pen marks (h, w), which are no folds.

    Returns:
        The share, 0 to 1; NaN for an image whose shorter edge is below :data:`FOLD_CONTEXT`.
    """
    from scipy import ndimage

    if min(od.shape[:2]) * um_per_px < FOLD_CONTEXT:
        return math.nan
    window = max(3, round(FOLD_WIDTH / um_per_px))
    tissue = od[:, :, 0] + od[:, :, 1] + od[:, :, 2] > 3 * TISSUE_DENSITY
    if not tissue.any():
        return 0.0
    bands = [ndimage.grey_opening(np.ascontiguousarray(od[:, :, band]), window) for band in range(3)]
    opened = np.stack(bands, axis=2)
    levels = opened[tissue]
    median = np.median(levels[:: (len(levels) // 20_000) | 1], axis=0)
    excess = opened - median
    mean = excess.mean(axis=2)
    dense = (mean >= FOLD_EXCESS) & (mean >= (FOLD_RATIO - 1.0) * float(median.mean()))
    if marks is not None:
        dense &= ~ndimage.binary_dilation(marks, iterations=3)
    if not dense.any():
        return 0.0
    own = median / max(float(np.linalg.norm(median)), 1e-6)
    limit = math.cos(FOLD_ANGLE)
    folds = np.zeros(dense.shape, dtype=bool)
    for direction in (_GREY, own):
        folds |= _bands(dense & (_cosine(excess, direction) > limit), dense, um_per_px)
    return float(folds.mean())


def _bands(coloured: Mask, dense: Mask, um_per_px: float) -> Mask:
    """Returns the parts of a mask that are long and narrow, if they are most of what is dense."""
    from scipy import ndimage

    # Lumens within a fold cut it; what lies a few tens of µm apart belongs together.
    reach = max(3, round(FOLD_GAP / um_per_px))
    joined = ndimage.binary_closing(coloured, np.ones((reach, reach))) | coloured
    labels, _ = ndimage.label(joined, np.ones((3, 3)))
    kept = []
    for index, where in enumerate(ndimage.find_objects(labels), 1):
        rows, columns = np.nonzero(labels[where] == index)
        if len(rows) < 8:
            continue
        spread = np.sqrt(12.0 * np.maximum(np.linalg.eigvalsh(np.cov(rows, columns)), 1 / 12))
        long = spread[1] * um_per_px >= FOLD_LENGTH and spread[1] >= FOLD_ELONGATION * spread[0]
        if long and spread[0] * um_per_px <= WIDEST_FOLD:
            kept.append(index)
    bands = np.isin(labels, kept) if kept else np.zeros(coloured.shape, dtype=bool)
    enough = bands.sum() >= FOLD_SHARE * dense.sum()
    return bands if enough else np.zeros(coloured.shape, dtype=bool)
