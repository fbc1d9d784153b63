"""GeoJSON as QuPath writes and reads it."""

from __future__ import annotations

import hashlib
import json
import math
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from glomflow.errors import GlomflowError
from glomflow.files import atomic_path
from glomflow.imaging.annotations.outline import (
    Outline,
    no_annotation,
    polygon_from,
    text_or_none,
    unreadable,
    without_specks,
)

_IDENTIFIERS = uuid.UUID("6f1e2b1c-6c38-5d0f-9a53-0f6b1c1f3a77")
"""Namespace of the identifiers of written objects."""
_NO_CLASS_COLOUR = (255, 0, 0)
_PALETTE = (
    (31, 119, 180),
    (255, 127, 14),
    (44, 160, 44),
    (148, 103, 189),
    (140, 86, 75),
    (227, 119, 194),
    (188, 189, 34),
    (23, 190, 207),
)


def outlines_of(document: object, where: str) -> list[Outline]:
    """Reads the outlines of a parsed GeoJSON document.

    Args:
        document: A FeatureCollection, a list of features or a single Feature.
        where: The file, for messages.

    Returns:
        An outline per Polygon, and per part of a MultiPolygon but for specks.

    Raises:
        ImageError: A feature is damaged, or there is no outline.
    """
    if isinstance(document, dict) and document.get("type") == "Feature":
        features: object = [document]
    else:
        features = document.get("features") if isinstance(document, dict) else document
    if not isinstance(features, list):
        raise unreadable(f"{where} is a FeatureCollection without a list of features; export it again")
    outlines = [
        outline
        for number, feature in enumerate(features, 1)
        for outline in _outlines_of_feature(feature, f"{where}, feature {number}")
    ]
    if not outlines:
        raise no_annotation(
            f"{where} holds no Polygon or MultiPolygon among its {len(features)} features; outline at least "
            "one glomerulus"
        )
    return outlines


def _outlines_of_feature(feature: object, where: str) -> Iterator[Outline]:
    if not isinstance(feature, dict) or feature.get("type") != "Feature":
        raise unreadable(f"{where}: it is no GeoJSON Feature; export the annotations as GeoJSON")
    geometry = feature.get("geometry")
    if not isinstance(geometry, dict) or geometry.get("type") not in ("Polygon", "MultiPolygon"):
        return
    kind = geometry["type"]
    coordinates = geometry.get("coordinates")
    parts = [coordinates] if kind == "Polygon" else coordinates
    if not isinstance(parts, list) or not parts:
        raise no_annotation(f"{where}: the {kind} has no coordinates; draw it again")
    polygons = [polygon_from(part[0] if isinstance(part, list) and part else [], where) for part in parts]
    lesion, name, is_box = _properties(feature.get("properties"))
    for polygon in polygons if len(polygons) == 1 else without_specks(polygons):
        yield Outline(polygon, lesion, name, is_box)


def _properties(properties: object) -> tuple[str | None, str | None, bool]:
    """Returns the lesion, the name and whether the feature is a box."""
    if not isinstance(properties, dict):
        return None, None, False
    classification = properties.get("classification")
    if isinstance(classification, dict):
        names = classification.get("names")
        classification = classification.get("name") or (
            ": ".join(map(str, names)) if isinstance(names, list) else None
        )
    metadata = properties.get("metadata")
    is_box = isinstance(metadata, dict) and metadata.get("shape") == "box"
    lesion = text_or_none(properties.get("lesion")) or text_or_none(classification)
    return lesion, text_or_none(properties.get("name")), is_box


def write_geojson(
    path: Path, outlines: Sequence[Outline], *, measurements: Sequence[Mapping[str, float]] | None = None
) -> None:
    """Writes outlines as GeoJSON that QuPath opens by drag and drop.

    Each becomes an annotation object: a Polygon with a closed ring, its lesion as classification, its
    name, and an identifier that is the same whenever the same outlines are written. A box is marked by
    the metadata ``shape: box``, which QuPath keeps. :func:`read_outlines` returns exactly what was
    written, coordinate for coordinate.

    Args:
        path: Target file; written atomically.
        outlines: The outlines, full-resolution px; there may be none.
        measurements: Named numbers per outline, shown in QuPath's measurement table.

    Raises:
        GlomflowError: A coordinate or a measurement is not finite, which JSON cannot hold.
    """
    listed: Sequence[Mapping[str, float]] = [{}] * len(outlines) if measurements is None else measurements
    if len(listed) != len(outlines):
        raise ValueError(f"{len(listed)} sets of measurements for {len(outlines)} outlines")
    features = [
        _feature(outline, number, values, f"{path}, outline {number}")
        for number, (outline, values) in enumerate(zip(outlines, listed, strict=True), 1)
    ]
    document = {"type": "FeatureCollection", "features": features}
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(document, ensure_ascii=False, allow_nan=False), encoding="utf-8")


def _feature(outline: Outline, number: int, values: Mapping[str, float], where: str) -> dict[str, Any]:
    ring = outline.polygon.tolist()
    if not np.isfinite(outline.polygon).all():
        raise GlomflowError(f"{where}: a coordinate is not finite, so that it cannot be written")
    wrong = [name for name, value in values.items() if not math.isfinite(value)]
    if wrong:
        raise GlomflowError(f"{where}: the measurement '{wrong[0]}' is not finite; leave it out")
    properties: dict[str, Any] = {"objectType": "annotation"}
    if outline.name is not None:
        properties["name"] = outline.name
    if outline.lesion is not None:
        properties["classification"] = {"name": outline.lesion, "color": list(_colour(outline.lesion))}
    else:
        properties["color"] = list(_NO_CLASS_COLOUR)
    if outline.is_box:
        properties["metadata"] = {"shape": "box"}
    if values:
        properties["measurements"] = {name: float(value) for name, value in values.items()}
    identity = f"{number} {outline.polygon.tobytes().hex()} {outline.lesion!r} {outline.name!r}"
    return {
        "type": "Feature",
        "id": str(uuid.uuid5(_IDENTIFIERS, identity)),
        "geometry": {"type": "Polygon", "coordinates": [[*ring, ring[0]]]},
        "properties": properties,
    }


def _colour(lesion: str) -> tuple[int, int, int]:
    return _PALETTE[hashlib.sha256(lesion.encode()).digest()[0] % len(_PALETTE)]
