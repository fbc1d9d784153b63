"""ImageJ's regions of interest: single ``.roi`` files and the zips of the ROI manager."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from typing import Any

import numpy as np

from glomflow.imaging.annotations.outline import (
    Outline,
    Points,
    box_polygon,
    ellipse_polygon,
    no_annotation,
    polygon_area,
    polygon_from,
    rotated,
    text_or_none,
    unreadable,
    without_specks,
)

MAGIC = b"Iout"
AREAS = ("RECT", "OVAL", "POLYGON", "FREEHAND", "TRACED")


def outlines_of(members: list[tuple[str, bytes]], where: str) -> list[Outline]:
    """Reads the outlines of ImageJ regions.

    All area selections are outlines: polygon, freehand, traced, rectangle (a box), oval, ellipse,
    rotated rectangle and composite selections, with sub-pixel coordinates where they are stored; a
    composite's parts are outlines each, but for holes and specks. Points, lines and text are ignored.
    A region's property ``lesion`` is its lesion class.

    Args:
        members: File names and contents of the ``.roi`` files.
        where: The annotation file, for messages.

    Returns:
        The outlines, px of the image.

    Raises:
        ImageError: A region is damaged, or none is an area.
    """
    outlines = [outline for name, content in members for outline in _outlines_of_region(name, content, where)]
    if not outlines:
        raise no_annotation(
            f"{where} holds no area selection among its {len(members)} regions; outline at least one "
            "glomerulus"
        )
    return outlines


def _outlines_of_region(name: str, content: bytes, where: str) -> Iterator[Outline]:
    region = _decode(content, f"{where}, region '{name}'")
    title = text_or_none(region.name) or text_or_none(name.rsplit("/", 1)[-1].removesuffix(".roi"))
    lesion = text_or_none(region.properties.get("lesion"))
    polygons, is_box = _polygons(region, content, f"{where}, region '{title}'")
    for polygon in polygons:
        yield Outline(polygon, lesion, title, is_box)


def _decode(content: bytes, where: str) -> Any:
    import roifile

    try:
        return roifile.ImagejRoi.frombytes(content)
    except (ValueError, TypeError, IndexError, struct.error, UnicodeDecodeError) as error:
        raise unreadable(f"{where}: it is no ImageJ region ({error}); save it again in ImageJ") from error


def _polygons(region: Any, content: bytes, where: str) -> tuple[list[Points], bool]:
    """Returns the polygons of a region, none if it is no area, and whether they are boxes."""
    kind, subtype = region.roitype.name, region.subtype.name
    if subtype in ("TEXT", "IMAGE") or kind not in AREAS:
        return [], False
    if kind == "RECT" and region.composite:
        return _parts(region, where), False
    if kind == "RECT":
        return [box_polygon(_edges(region), where)], True
    if kind == "OVAL":
        left, top, right, bottom = _edges(region)
        radii = (right - left) / 2.0, (bottom - top) / 2.0
        return [ellipse_polygon((left + radii[0], top + radii[1], *radii), where)], False
    if not region.n_coordinates and subtype in ("ELLIPSE", "ROTATED_RECT"):
        return [_along_an_axis(region, content, subtype, where)], False
    return [polygon_from(np.asarray(region.coordinates(), dtype=np.float64), where)], False


def _edges(region: Any) -> tuple[float, float, float, float]:
    if region.subpixelrect:
        return region.xd, region.yd, region.xd + region.widthd, region.yd + region.heightd
    return tuple(float(edge) for edge in (region.left, region.top, region.right, region.bottom))  # type: ignore[return-value]


def _along_an_axis(region: Any, content: bytes, subtype: str, where: str) -> Points:
    """Returns an ellipse or a rotated rectangle that is stored as its axis and its width only."""
    # A float at byte 52: the ellipse's aspect ratio, or the rectangle's width.
    across = struct.unpack(">f", content[52:56])[0]
    x, y = (region.x1 + region.x2) / 2.0, (region.y1 + region.y2) / 2.0
    along = math.hypot(region.x2 - region.x1, region.y2 - region.y1)
    if subtype == "ELLIPSE":
        shape = ellipse_polygon((x, y, along / 2.0, along * across / 2.0), where)
    else:
        shape = box_polygon((x - along / 2.0, y - across / 2.0, x + along / 2.0, y + across / 2.0), where)
    angle = math.degrees(math.atan2(region.y2 - region.y1, region.x2 - region.x1))
    return rotated(shape, angle, (x, y))


def _parts(region: Any, where: str) -> list[Points]:
    """Returns the parts of a composite selection less its holes and specks."""
    try:
        rings = region.coordinates(multi=True)
    except (NotImplementedError, RuntimeError, IndexError) as error:
        raise unreadable(
            f"{where}: its composite shape cannot be read ({error}); save it as a polygon"
        ) from error
    rings = [np.asarray(ring, dtype=np.float64) for ring in rings]
    polygons = [polygon_from(ring, where) for ring in rings if len(ring) > 2 and polygon_area(ring) > 0]
    if not polygons:
        raise no_annotation(f"{where}: its composite shape has no area; draw it again or remove it")
    return without_specks(
        [
            polygon
            for polygon in polygons
            if sum(_holds(other, polygon) for other in polygons if other is not polygon) % 2 == 0
        ]
    )


def _holds(outer: Points, inner: Points) -> bool:
    """Returns whether a ring holds another, told by the ray test for most of its points."""
    if polygon_area(outer) <= polygon_area(inner):
        return False
    x, y = inner[:, :1], inner[:, 1:]
    start, end = outer, np.roll(outer, -1, axis=0)
    crosses = (start[:, 1] > y) != (end[:, 1] > y)
    with np.errstate(divide="ignore", invalid="ignore"):
        at = start[:, 0] + (y - start[:, 1]) * (end[:, 0] - start[:, 0]) / (end[:, 1] - start[:, 1])
    return bool(((crosses & (x < at)).sum(axis=1) % 2).mean() > 0.5)
