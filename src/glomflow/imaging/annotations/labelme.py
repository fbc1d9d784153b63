"""labelme JSON: the shapes of one image."""

from __future__ import annotations

import base64
import binascii
import io
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from glomflow.imaging.annotations.outline import (
    Outline,
    Points,
    box_polygon,
    ellipse_polygon,
    image_scale,
    no_annotation,
    polygon_from,
    region_contour,
    scaled,
    stated_px,
    text_or_none,
    unreadable,
)

Entry = Mapping[str, Any]


def is_labelme(document: object) -> bool:
    """Returns whether a parsed JSON document is labelme's."""
    return isinstance(document, dict) and isinstance(document.get("shapes"), list)


def outlines_of(document: Entry, where: str, image_size: tuple[int, int]) -> list[Outline]:
    """Reads the outlines of a parsed labelme document.

    Polygons, circles and masks are outlines, rectangles boxes; points and lines are ignored. The lesion
    is the label.

    Args:
        document: The parsed file.
        where: The file, for messages.
        image_size: Width and height of the image at full resolution, px.

    Returns:
        The outlines, full-resolution px.

    Raises:
        ImageError: A shape is damaged, there is none, or the file is that of an image of another shape.
    """
    outlines = [
        outline
        for number, shape in enumerate(document["shapes"], 1)
        if (outline := _outline(shape, f"{where}, shape {number}")) is not None
    ]
    if not outlines:
        raise no_annotation(
            f"{where} holds no polygon, rectangle, circle or mask among its {len(document['shapes'])} "
            "shapes; outline at least one glomerulus"
        )
    width, height = stated_px(document.get("imageWidth")), stated_px(document.get("imageHeight"))
    if width is None or height is None:
        return outlines
    name = text_or_none(document.get("imagePath")) or "without a name"
    scale = image_scale((width, height), image_size, f"{where}: the annotated image '{name}'")
    return scaled(outlines, scale)


def _outline(shape: object, where: str) -> Outline | None:
    if not isinstance(shape, dict) or not isinstance(shape.get("points"), list):
        raise unreadable(f"{where}: it has no list of points; save it again in labelme")
    lesion = text_or_none(shape.get("label"))
    kind = shape.get("shape_type") or "polygon"
    if kind in ("polygon", "oriented_rectangle"):
        return Outline(polygon_from(shape["points"], where), lesion)
    if kind not in ("rectangle", "circle", "mask"):
        return None
    first, second = _two_points(shape["points"], kind, where)
    if kind == "rectangle":
        low, high = np.minimum(first, second), np.maximum(first, second)
        return Outline(box_polygon((*low.tolist(), *high.tolist()), where), lesion, is_box=True)
    if kind == "circle":
        radius = math.dist(first, second)
        return Outline(ellipse_polygon((*first.tolist(), radius, radius), where), lesion)
    return Outline(_from_mask(shape.get("mask"), first, where), lesion)


def _two_points(points: list[object], kind: str, where: str) -> Points:
    """Returns the two points that give a shape; of a rectangle of four corners, two opposite ones."""
    try:
        array = np.array(points, dtype=np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise unreadable(f"{where}: a point of the {kind} is no pair of numbers; save it again") from error
    if kind == "rectangle" and array.shape == (4, 2):
        array = np.stack([array.min(axis=0), array.max(axis=0)])
    if array.shape != (2, 2):
        raise unreadable(
            f"{where}: a {kind} needs two points and has {len(points)}; draw it again in labelme"
        )
    return array


def _from_mask(text: object, corner: Points, where: str) -> Points:
    from PIL import Image

    try:
        with Image.open(io.BytesIO(base64.b64decode(str(text), validate=True)), formats=["PNG"]) as picture:
            region = np.asarray(picture.convert("L")) > 0
    except (binascii.Error, OSError, SyntaxError, ValueError) as error:
        raise unreadable(
            f"{where}: its mask cannot be decoded ({error}); save it again in labelme"
        ) from error
    if not region.any():
        raise no_annotation(f"{where}: the mask is empty; draw it again or remove it")
    return region_contour(region, float(corner[0]), float(corner[1]))
