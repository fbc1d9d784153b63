"""CVAT for images 1.1: the XML with the shapes of one or several images."""

from __future__ import annotations

import math
from collections.abc import Mapping
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

import numpy as np

from glomflow.imaging.annotations.names import choose_image
from glomflow.imaging.annotations.outline import (
    Outline,
    Points,
    box_polygon,
    ellipse_polygon,
    image_scale,
    no_annotation,
    polygon_from,
    rotated,
    scaled,
    text_or_none,
    unreadable,
)
from glomflow.imaging.annotations.rle import contour_of_runs


def outlines_of(
    content: bytes, where: str, image_size: tuple[int, int], image_name: str | None
) -> list[Outline]:
    """Reads the outlines of one image from CVAT's XML.

    Polygons, ellipses and masks are outlines, boxes boxes; points, polylines and others are ignored.
    The lesion is the attribute ``lesion`` if the shape has one, else its label.

    Args:
        content: The file.
        where: Its name, for messages.
        image_size: Width and height of the image at full resolution, px.
        image_name: Path or name of the image, compared with the names that CVAT keeps.

    Returns:
        The outlines, full-resolution px.

    Raises:
        ImageError: The file is not CVAT's, the image is not in it or has no shape, or a shape is damaged.
    """
    root = _parse(content, where)
    if root.tag != "annotations":
        raise unreadable(
            f"{where} is XML, but its root is '{root.tag}' and not CVAT's 'annotations'; export it as 'CVAT "
            "for images 1.1'"
        )
    if root.find("track") is not None:
        raise unreadable(f"{where} holds the tracks of a video; export it as 'CVAT for images 1.1'")
    images = root.findall("image")
    image = images[choose_image([one.get("name", "") for one in images], image_name, where)]
    named = f"{where}, image '{image.get('name', '')}'"
    outlines = [
        outline
        for number, shape in enumerate(image, 1)
        if (outline := _outline(shape, f"{named}, shape {number}")) is not None
    ]
    if not outlines:
        raise no_annotation(
            f"{named}: it has no polygon, box, ellipse or mask; outline at least one glomerulus"
        )
    if "width" not in image.attrib or "height" not in image.attrib:
        return outlines
    stated = _number(image.attrib, "width", named), _number(image.attrib, "height", named)
    return scaled(outlines, image_scale(stated, image_size, f"{named}: it"))


def _parse(content: bytes, where: str) -> Element:
    """Parses XML that declares no document type, so that no entity can be defined or fetched."""

    def refuse(*_: object) -> None:
        raise unreadable(f"{where} declares a document type (DOCTYPE), which is refused; remove that line")

    builder = TreeBuilder()
    parser = expat.ParserCreate()
    parser.buffer_text = True
    parser.StartDoctypeDeclHandler = refuse
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data
    try:
        parser.Parse(content, True)
        root: Element = builder.close()
    except (expat.ExpatError, ValueError) as error:
        raise unreadable(f"{where} is not XML ({error}); export it again") from error
    return root


def _outline(shape: Element, where: str) -> Outline | None:
    named = [attribute for attribute in shape.findall("attribute") if attribute.get("name") == "lesion"]
    lesion = text_or_none(named[0].text) if named else None
    lesion = lesion or text_or_none(shape.get("label"))
    if shape.tag == "polygon":
        return Outline(polygon_from(_points(shape.get("points", ""), where), where), lesion)
    if shape.tag == "box":
        edges = [_number(shape.attrib, key, where) for key in ("xtl", "ytl", "xbr", "ybr")]
        return Outline(_turned(box_polygon(edges, where), shape, where), lesion, is_box=True)
    if shape.tag == "ellipse":
        values = [_number(shape.attrib, key, where) for key in ("cx", "cy", "rx", "ry")]
        return Outline(_turned(ellipse_polygon(values, where), shape, where), lesion)
    if shape.tag == "mask":
        return Outline(_from_mask(shape, where), lesion)
    return None


def _turned(polygon: Points, shape: Element, where: str) -> Points:
    if "rotation" not in shape.attrib:
        return polygon
    low, high = polygon.min(axis=0), polygon.max(axis=0)
    centre = float(low[0] + high[0]) / 2, float(low[1] + high[1]) / 2
    return rotated(polygon, _number(shape.attrib, "rotation", where), centre)


def _points(text: str, where: str) -> list[list[float]]:
    try:
        return [[float(value) for value in pair.split(",")] for pair in text.split(";") if pair.strip()]
    except ValueError as error:
        raise unreadable(f"{where}: its points are no 'x,y;x,y;...' ({error}); export it again") from error


def _from_mask(shape: Element, where: str) -> Points:
    left, top, width, height = (
        int(_number(shape.attrib, key, where)) for key in ("left", "top", "width", "height")
    )
    try:
        counts = np.array([int(count) for count in shape.get("rle", "").split(",")], dtype=np.int64)
    except (ValueError, OverflowError) as error:
        raise unreadable(f"{where}: its 'rle' is no list of run lengths; export it again") from error
    return contour_of_runs(counts, width, height, where, by_columns=False, left=left, top=top)


def _number(attributes: Mapping[str, str], key: str, where: str) -> float:
    try:
        value = float(attributes[key])
    except (KeyError, ValueError) as error:
        raise unreadable(f"{where}: its attribute '{key}' is no number; export it again") from error
    if not math.isfinite(value):
        raise unreadable(f"{where}: its attribute '{key}' is NaN or infinite; export it again")
    return value
