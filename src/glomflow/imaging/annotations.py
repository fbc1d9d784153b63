"""Outlines of glomeruli from GeoJSON, as QuPath exports it, or from label masks."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from glomflow.errors import ImageError

Array = npt.NDArray[Any]
Points = npt.NDArray[np.float64]

GEOJSON_SUFFIXES = (".geojson", ".json")
MASK_SUFFIXES = (".png", ".tif", ".tiff")
SPECK = 0.01
"""Parts of less than this share of the area of the largest are specks of a brush or a threshold."""
NEARLY_WHITE = 240
THRESHOLD = 128


@dataclass(frozen=True, eq=False)
class Outline:
    """The outline of one glomerulus.

    Attributes:
        polygon: (K, 2) x and y, full-resolution px of the image; the last point joins the first.
        lesion: Lesion class, or None.
        name: Name of the object, or None.
    """

    polygon: Points
    lesion: str | None = None
    name: str | None = None

    @property
    def box(self) -> tuple[float, float, float, float]:
        """Left, top, right and bottom edge, px."""
        low, high = self.polygon.min(axis=0), self.polygon.max(axis=0)
        return float(low[0]), float(low[1]), float(high[0]), float(high[1])


def read_outlines(path: Path, *, image_size: tuple[int, int]) -> list[Outline]:
    """Reads the outlines of an image.

    GeoJSON: a FeatureCollection, a list of features or a single Feature, coordinates in px of the
    image at full resolution. Polygons and MultiPolygons are outlines (each polygon of a MultiPolygon
    is one, but for brush specks); holes are ignored, and so are points and lines. The lesion class is
    the property ``lesion``, else the name of QuPath's ``classification``.

    Label masks (PNG or TIFF): 0 is background, every other integer one glomerulus. A mask of one
    value is split into its connected components; so is an 8-bit mask of 0 and 255 with grey edges, as
    resizing makes them, after a threshold at 128. A mask of another size is scaled to the image.

    Args:
        path: The annotation file.
        image_size: Width and height of the image at full resolution, px.

    Returns:
        At least one outline, in the order of the file or of the labels.

    Raises:
        ImageError: ``no_annotation``, if the file is missing or holds no usable outline;
            ``unreadable``, if it is damaged or of an unknown kind. The reason names the file, the
            feature and what to change.
    """
    if not path.is_file():
        raise ImageError(
            "no_annotation",
            f"annotation '{path}' does not exist; correct the column 'annotation' of images.csv",
        )
    suffix = path.suffix.lower()
    if suffix in GEOJSON_SUFFIXES:
        outlines = _read_geojson(path)
    elif suffix in MASK_SUFFIXES:
        outlines = _read_mask(path, image_size)
    else:
        raise ImageError(
            "unreadable",
            f"annotation '{path}' is neither GeoJSON ({', '.join(GEOJSON_SUFFIXES)}) nor a label mask "
            f"({', '.join(MASK_SUFFIXES)}); export it as one of these",
        )
    width, height = image_size
    for number, outline in enumerate(outlines, 1):
        left, top, right, bottom = outline.box
        if right <= 0 or bottom <= 0 or left >= width or top >= height:
            raise ImageError(
                "no_annotation",
                f"annotation '{path}', outline {number}: it lies at x {left:.0f} to {right:.0f}, y {top:.0f} "
                f"to {bottom:.0f}, outside the image of {width} x {height} px; export it in pixels of "
                "the image at full resolution, or remove it",
            )
    return outlines


def verify_annotation(path: Path, image_size: tuple[int, int]) -> None:
    """Checks that an annotation can be used.

    Args:
        path: The annotation file.
        image_size: Width and height of the image at full resolution, px.

    Raises:
        ImageError: As :func:`read_outlines` does.
    """
    read_outlines(path, image_size=image_size)


def _read_geojson(path: Path) -> list[Outline]:
    try:
        document = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise ImageError(
            "unreadable", f"annotation '{path}' is not GeoJSON ({error}); export it again"
        ) from error
    if isinstance(document, dict) and document.get("type") == "FeatureCollection":
        features = document.get("features")
    elif isinstance(document, dict) and document.get("type") == "Feature":
        features = [document]
    else:
        features = document
    if not isinstance(features, list):
        raise ImageError(
            "unreadable",
            f"annotation '{path}' is JSON, but no FeatureCollection, list of features or Feature; "
            "export the annotations as GeoJSON",
        )
    outlines = [
        outline
        for number, feature in enumerate(features, 1)
        for outline in _outlines_of_feature(feature, f"annotation '{path}', feature {number}")
    ]
    if not outlines:
        raise ImageError(
            "no_annotation",
            f"annotation '{path}' holds no Polygon or MultiPolygon among its {len(features)} features; "
            "outline at least one glomerulus",
        )
    return outlines


def _outlines_of_feature(feature: object, where: str) -> Iterator[Outline]:
    if not isinstance(feature, dict) or feature.get("type") != "Feature":
        raise ImageError(
            "unreadable", f"{where}: it is no GeoJSON Feature; export the annotations as GeoJSON"
        )
    geometry = feature.get("geometry")
    if not isinstance(geometry, dict) or geometry.get("type") not in ("Polygon", "MultiPolygon"):
        return
    kind = geometry["type"]
    coordinates = geometry.get("coordinates")
    parts = [coordinates] if kind == "Polygon" else coordinates
    if not isinstance(parts, list) or not parts:
        raise ImageError("no_annotation", f"{where}: the {kind} has no coordinates; draw it again")
    polygons = [_ring(part, where) for part in parts]
    areas = [_area(polygon) for polygon in polygons]
    lesion, name = _names(feature.get("properties"))
    for polygon, area in zip(polygons, areas, strict=True):
        if area >= SPECK * max(areas):
            yield Outline(polygon, lesion, name)


def _ring(part: object, where: str) -> Points:
    """Returns the outer ring of a polygon's coordinates, without the repeated last point."""
    try:
        ring = part[0] if isinstance(part, list) and part else []
        points = np.array([[float(point[0]), float(point[1])] for point in ring])
    except (TypeError, ValueError, IndexError, KeyError) as error:
        raise ImageError(
            "unreadable", f"{where}: a point of the polygon is no pair of numbers; export it again"
        ) from error
    if points.size and not np.isfinite(points).all():
        raise ImageError(
            "unreadable", f"{where}: a coordinate of the polygon is NaN or infinite; draw it again"
        )
    if len(points) > 1 and (points[0] == points[-1]).all():
        points = points[:-1]
    if len(np.unique(points, axis=0)) < 3:
        raise ImageError(
            "no_annotation",
            f"{where}: the polygon has {len(points)} points and needs 3 different ones; draw it again or "
            "remove it",
        )
    if not _area(points) > 0:
        raise ImageError("no_annotation", f"{where}: the polygon has no area; draw it again or remove it")
    return points


def _area(polygon: Points) -> float:
    x, y = (polygon - polygon[0]).T
    return 0.5 * abs(float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))))


def _names(properties: object) -> tuple[str | None, str | None]:
    """Returns the lesion and the name that the properties of a feature give."""
    if not isinstance(properties, dict):
        return None, None
    classification = properties.get("classification")
    if isinstance(classification, dict):
        names = classification.get("names")
        classification = classification.get("name") or (
            ": ".join(map(str, names)) if isinstance(names, list) else None
        )
    found = [
        str(value).strip() or None if isinstance(value, str | int) else None
        for value in (properties.get("lesion"), classification, properties.get("name"))
    ]
    return found[0] or found[1], found[2]


def _read_mask(path: Path, image_size: tuple[int, int]) -> list[Outline]:
    from scipy.ndimage import find_objects

    labels, values = _label_image(_decode_mask(path), path)
    height, width = labels.shape
    # Halving rounds a pixel away; more than that is the mask of another image.
    if abs(width * image_size[1] / image_size[0] - height) > 1.5 + 0.01 * height:
        raise ImageError(
            "no_annotation",
            f"annotation '{path}' is {width} x {height} px, another shape than the image of "
            f"{image_size[0]} x {image_size[1]} px; export the mask of this image, whole",
        )
    scale = np.array([image_size[0] / width, image_size[1] / height])
    regions = [(labels[box] == label, box) for label, box in enumerate(find_objects(labels), 1) if box]
    areas = [int(region.sum()) for region, _ in regions]
    return [
        Outline(_contour(region, box) * scale, None, str(values[index]) if values else None)
        for index, (region, box) in enumerate(regions)
        if values or areas[index] >= SPECK * max(areas)
    ]


def _decode_mask(path: Path) -> Array:
    """Returns the samples of a mask, (H, W) of integers."""
    try:
        if path.suffix.lower() == ".png":
            from PIL import Image

            with Image.open(path) as picture:
                mask = np.asarray(picture)
        else:
            import tifffile

            mask = tifffile.imread(path, key=0)
    except Exception as error:
        # Decoders raise whatever the damage leads them to.
        raise ImageError(
            "unreadable", f"annotation '{path}' cannot be decoded ({error}); save the mask again"
        ) from error
    if mask.ndim == 3 and mask.shape[2] in (2, 4):
        mask = mask[:, :, :-1]
    if mask.ndim == 3 and mask.shape[2] in (1, 3) and (mask == mask[:, :, :1]).all():
        mask = mask[:, :, 0]
    if mask.ndim != 2 or mask.dtype.kind not in "bui":
        raise ImageError(
            "unreadable",
            f"annotation '{path}' is no label mask: {mask.dtype} samples of shape {mask.shape}; save it as "
            "one channel of integers, 0 for background",
        )
    if mask.dtype.kind == "i" and mask.size and mask.min() < 0:
        raise ImageError("unreadable", f"annotation '{path}' holds negative labels; save them as 1, 2, 3 ...")
    return mask


def _label_image(mask: Array, path: Path) -> tuple[npt.NDArray[np.int32], list[int]]:
    """Returns labels from 1 without gaps and their values in the mask (none for a binary mask)."""
    if mask.dtype == np.uint8 and _has_grey_edges(mask):
        mask = mask >= THRESHOLD
    values = np.unique(mask)
    values = values[values > 0]
    if not values.size:
        raise ImageError(
            "no_annotation",
            f"annotation '{path}' is empty: every pixel is 0; outline at least one glomerulus",
        )
    if values.size > 1:
        known = np.concatenate([np.zeros(1, values.dtype), values])
        return np.searchsorted(known, mask).astype(np.int32), [int(value) for value in values]
    from scipy.ndimage import label

    return label(mask > 0, structure=np.ones((3, 3)), output=np.int32)[0], []


def _has_grey_edges(mask: Array) -> bool:
    """Returns whether an 8-bit mask is white on black with grey edges only.

    A label fills an area, a grey edge never does: among the values that fill some 3 x 3 pixels, only
    black and nearly white ones are found.
    """
    from scipy.ndimage import maximum_filter, minimum_filter

    if not ((mask > 0) & (mask < NEARLY_WHITE)).any() or mask.max() < NEARLY_WHITE:
        return False
    flat = minimum_filter(mask, 3) == maximum_filter(mask, 3)
    filling = mask[flat & (mask > 0)]
    return bool(filling.size) and bool((filling >= NEARLY_WHITE).all())


def _contour(region: Array, box: tuple[slice, slice]) -> Points:
    """Returns the outer contour of the largest part of a region, (K, 2) x and y in px of the mask."""
    from skimage.measure import find_contours

    contours: list[Points] = find_contours(np.pad(region, 1).astype(np.float32), 0.5)  # type: ignore[no-untyped-call]
    points = max((contour[:-1] for contour in contours), key=_area)
    # Padding moved the region by 1, and pixel centres lie at half-integers.
    placed: Points = points[:, ::-1] - 0.5 + np.array([box[1].start, box[0].start], dtype=float)
    return placed


def polygon_mask(polygons: list[Points], size: int) -> npt.NDArray[np.bool_]:
    """Returns which pixels of a square picture lie within any of some polygons.

    Args:
        polygons: (K, 2) x and y, px of the picture, pixel centres at half-integers.
        size: Edge of the picture, px.

    Returns:
        (size, size) bool.
    """
    from PIL import Image, ImageDraw

    picture = Image.new("1", (size, size))
    draw = ImageDraw.Draw(picture)
    for polygon in polygons:
        draw.polygon([(float(x) - 0.5, float(y) - 0.5) for x, y in polygon], fill=1, outline=1)
    return np.asarray(picture, dtype=bool)


def share_inside(outline: Outline, image_size: tuple[int, int]) -> float:
    """Returns the share of an outline's box that lies within the image, 0 to 1."""
    left, top, right, bottom = outline.box
    width, height = image_size
    inside = (min(right, width) - max(left, 0.0)) * (min(bottom, height) - max(top, 0.0))
    return max(0.0, inside) / max((right - left) * (bottom - top), math.ulp(1.0))
