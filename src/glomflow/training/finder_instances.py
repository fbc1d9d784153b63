"""From the finder's maps to single glomeruli with outlines."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from glomflow.config_finder import Finder
from glomflow.imaging.annotations.outline import region_contour
from glomflow.training.finder_types import Bytes, Found, Points

Mask = npt.NDArray[np.bool_]

_DIP = 0.15
"""Two peaks of the distance are two glomeruli if it falls by this much between them."""
_SMOOTH_UM = 12.0
"""SD of the smoothing of the distance map, µm."""
_GIVEN = 0.3
"""Weight of the network's distance beside that within the region: a barely trained one comes in waves."""
_ROUND = 0.93
"""A region that fills this share of its convex hull is one glomerulus; two that touch fill less."""


def instances(maps: Bytes, settings: Finder, step: float, image_size: tuple[int, int]) -> list[Found]:
    """Takes the glomerulus map apart into glomeruli.

    Pixels above the threshold that hang together are one glomerulus, unless their outline has bays and
    the distance from it several peaks; then each pixel goes with the peak that a watershed gives it to.
    That distance is taken within the region, as a share of the largest, and mixed with the network's
    where there is one. Holes are filled.

    Args:
        maps: (C, H, W) uint8, 0 to 255: glomerulus and, if C is 2, distance.
        settings: Thresholds and resolution.
        step: Full-resolution px per pixel of the maps.
        image_size: Width and height of the image at full resolution, px.

    Returns:
        The glomeruli, from top to bottom.
    """
    from scipy.ndimage import binary_fill_holes, find_objects, label

    smallest = math.pi / 4.0 * (settings.min_diameter_um / settings.um_per_px) ** 2
    regions, _ = label(maps[0] >= settings.threshold * 255.0, structure=np.ones((3, 3)), output=np.int32)
    found = []
    for number, box in enumerate(find_objects(regions), 1):
        region = np.asarray(binary_fill_holes(regions[box] == number), dtype=bool)
        if region.sum() < smallest:
            continue
        for mask in _separate(region, maps[(slice(None), *box)], settings.core, settings.um_per_px):
            if mask.sum() >= max(smallest, 1.0):
                corner = (box[1].start, box[0].start)
                found.append(_found(mask, corner, maps, settings, step, image_size))
    return found


def _separate(region: Mask, maps: Bytes, core: float, um_per_px: float) -> Iterator[Mask]:
    """Yields the glomeruli of a connected region."""
    from scipy.ndimage import distance_transform_edt, gaussian_filter, label
    from skimage.measure import regionprops
    from skimage.morphology import h_maxima
    from skimage.segmentation import watershed

    if regionprops(region.astype(np.uint8))[0].solidity >= _ROUND:  # type: ignore[no-untyped-call]
        yield region
        return
    shape = distance_transform_edt(np.pad(region, 1))[1:-1, 1:-1]
    distance, inside = shape / shape.max(), region
    if len(maps) > 1:
        given = gaussian_filter(maps[1].astype(np.float32) / 255.0, _SMOOTH_UM / um_per_px)
        distance = (1.0 - _GIVEN) * distance + _GIVEN * given / max(float(given[region].max()), 1e-6)
        inside = region & (distance >= core)
    # Rounded, because maxima of a height are found by steps of that height.
    levels = np.rint(100.0 * np.where(region, distance, 0.0)).astype(np.int32)
    peaks = h_maxima(levels, round(100.0 * _DIP)).astype(bool)  # type: ignore[no-untyped-call]
    markers, count = label(peaks & inside, structure=np.ones((3, 3)))
    if count < 2:
        yield region
        return
    parts = watershed(-levels, markers, mask=region)  # type: ignore[no-untyped-call]
    for number in range(1, count + 1):
        yield parts == number


def _found(
    mask: Mask,
    corner: tuple[int, int],
    maps: Bytes,
    settings: Finder,
    step: float,
    image_size: tuple[int, int],
) -> Found:
    left, top = corner
    rows, columns = np.nonzero(mask)
    height, width = maps.shape[1:]
    at_border = (
        top + int(rows.min()) == 0
        or left + int(columns.min()) == 0
        or top + int(rows.max()) == height - 1
        or left + int(columns.max()) == width - 1
    )
    polygon = _simplified(region_contour(mask, left, top), settings.simplify_um / settings.um_per_px)
    part: Any = maps[0, top : top + mask.shape[0], left : left + mask.shape[1]]
    return Found(
        polygon=np.clip(polygon * step, 0.0, np.array(image_size, dtype=np.float64)),
        score=float(part[mask].mean()) / 255.0,
        area_um2=float(mask.sum()) * settings.um_per_px**2,
        at_border=at_border,
    )


def _simplified(polygon: Points, tolerance: float) -> Points:
    """Leaves out points of a closed polygon that lie within the tolerance of what remains."""
    from skimage.measure import approximate_polygon

    closed = np.concatenate([polygon, polygon[:1]])
    simple: Points = approximate_polygon(closed, tolerance)  # type: ignore[no-untyped-call]
    return simple[:-1] if len(simple) > 3 else polygon
