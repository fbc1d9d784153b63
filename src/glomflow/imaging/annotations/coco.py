"""COCO object detection JSON: polygons, run lengths and boxes of several images in one file."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, TypeGuard

import numpy as np

from glomflow.imaging.annotations.names import choose_image
from glomflow.imaging.annotations.outline import (
    MOST_PX,
    Outline,
    Points,
    box_polygon,
    image_scale,
    no_annotation,
    polygon_from,
    scaled,
    stated_px,
    text_or_none,
    unreadable,
    without_specks,
)
from glomflow.imaging.annotations.rle import contour_of_runs, decode_counts

Entry = Mapping[str, Any]


def is_coco(document: object) -> bool:
    """Returns whether a parsed JSON document is COCO's."""
    return isinstance(document, dict) and "images" in document and "annotations" in document


def outlines_of(
    document: Entry, where: str, image_size: tuple[int, int], image_name: str | None
) -> list[Outline]:
    """Reads the outlines of one image from a parsed COCO document.

    An annotation's segmentation is used, polygons or run lengths, or else its ``bbox``. The lesion is
    the name of its category.

    Args:
        document: The parsed file.
        where: The file, for messages.
        image_size: Width and height of the image at full resolution, px.
        image_name: Path or name of the image, compared with ``file_name``.

    Returns:
        The outlines, full-resolution px.

    Raises:
        ImageError: The image is not in the file, has no annotation, or an annotation is damaged.
    """
    images = _entries(document, "images", where)
    chosen = images[choose_image([_file_name(image, where) for image in images], image_name, where)]
    name = _file_name(chosen, where)
    names = {
        str(category.get("id")): text_or_none(category.get("name"))
        for category in _entries(document, "categories", where, needed=False)
    }
    width, height = stated_px(chosen.get("width")), stated_px(chosen.get("height"))
    outlines = [
        outline
        for number, entry in enumerate(_entries(document, "annotations", where), 1)
        if entry.get("image_id") == chosen.get("id")
        for outline in _outlines_of_entry(entry, names, f"{where}, annotation {number}")
    ]
    if not outlines:
        raise no_annotation(f"{where} holds no annotation of '{name}'; outline at least one glomerulus")
    if width is None or height is None:
        return outlines
    return scaled(
        outlines, image_scale((width, height), image_size, f"{where}: the annotated image '{name}'")
    )


def _entries(document: Entry, key: str, where: str, *, needed: bool = True) -> list[Entry]:
    entries = document.get(key, None if needed else [])
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise unreadable(f"{where}: the COCO key '{key}' is no list of objects; export it again")
    return entries


def _file_name(image: Entry, where: str) -> str:
    name = text_or_none(image.get("file_name"))
    if name is None:
        raise unreadable(f"{where}: an entry of 'images' has no 'file_name'; export it again")
    return name


def _outlines_of_entry(entry: Entry, names: Mapping[str, str | None], where: str) -> Iterator[Outline]:
    lesion = names.get(str(entry.get("category_id")))
    segmentation = entry.get("segmentation")
    if isinstance(segmentation, dict):
        yield Outline(_from_runs(segmentation, where), lesion)
    elif isinstance(segmentation, list) and segmentation:
        for polygon in without_specks([_from_flat(part, where) for part in segmentation]):
            yield Outline(polygon, lesion)
    else:
        yield Outline(_from_box(entry.get("bbox"), where), lesion, is_box=True)


def _from_flat(part: object, where: str) -> Points:
    if not isinstance(part, list) or len(part) % 2:
        raise unreadable(f"{where}: a polygon is no list of x and y by turns; export it again")
    return polygon_from(list(zip(part[0::2], part[1::2], strict=True)), where)


def _from_runs(segmentation: Entry, where: str) -> Points:
    size, counts = segmentation.get("size"), segmentation.get("counts")
    if isinstance(counts, str):
        counts = decode_counts(counts, where)
    if not (_integers(size) and len(size) == 2 and _integers(counts)):
        raise unreadable(f"{where}: its segmentation has no 'size' and 'counts' of integers; export it again")
    height, width = size
    try:
        runs = np.array(counts, dtype=np.int64)
    except OverflowError as error:
        raise unreadable(f"{where}: a run length is too large; export it again") from error
    return contour_of_runs(runs, width, height, where, by_columns=True)


def _integers(values: object) -> TypeGuard[list[int]]:
    return isinstance(values, list) and all(type(value) is int for value in values)


def _from_box(box: object, where: str) -> Points:
    numbers = box if isinstance(box, list) else []
    if len(numbers) != 4 or not all(type(one) in (int, float) and abs(one) < math.inf for one in numbers):
        raise unreadable(
            f"{where}: it has neither a segmentation nor a 'bbox' of four numbers; export it again"
        )
    if max(map(abs, numbers)) > MOST_PX:
        raise unreadable(f"{where}: its 'bbox' is beyond any image; export it in pixels of the image")
    x, y, width, height = numbers
    return box_polygon((x, y, x + width, y + height), where)
