"""The outline of a glomerulus: what every annotation format is read into."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from glomflow.errors import ImageError

Array = npt.NDArray[Any]
Points = npt.NDArray[np.float64]

SPECK = 0.01
"""Parts of less than this share of the area of the largest are specks of a brush or a threshold."""
BORDER_PX = 1.0
"""An outline this near to the edge of the image touches it."""
MOST_PX = 1e8
"""No image is wider or higher than this."""
ELLIPSE_POINTS = 72
"""Corners of the polygon that stands for an ellipse: at most 0.1 % of its radius away from it."""


@dataclass(frozen=True, eq=False)
class Outline:
    """The outline of one glomerulus.

    Attributes:
        polygon: (K, 2) x and y, full-resolution px of the image; the last point joins the first.
        lesion: Lesion class, or None.
        name: Name of the object, or None.
        is_box: Whether the polygon is only a box around the glomerulus: what lies within it is not
            all glomerulus.
    """

    polygon: Points
    lesion: str | None = None
    name: str | None = None
    is_box: bool = False

    @property
    def box(self) -> tuple[float, float, float, float]:
        """Left, top, right and bottom edge, px."""
        low, high = self.polygon.min(axis=0), self.polygon.max(axis=0)
        return float(low[0]), float(low[1]), float(high[0]), float(high[1])


def unreadable(message: str) -> ImageError:
    """Returns the error for an annotation that is damaged or of an unknown kind."""
    return ImageError("unreadable", message)


def no_annotation(message: str) -> ImageError:
    """Returns the error for an annotation that is missing or shows no glomerulus of the image."""
    return ImageError("no_annotation", message)


def polygon_area(polygon: Points) -> float:
    """Returns the area of a polygon, px²; (K, 2) x and y, the last point joins the first."""
    # With the first point as origin, the edge that closes the polygon adds nothing.
    x, y = (polygon - polygon[0]).T
    return 0.5 * abs(float(np.dot(x[:-1], y[1:]) - np.dot(y[:-1], x[1:])))


def polygon_from(points: object, where: str) -> Points:
    """Checks the points of a polygon.

    Args:
        points: A sequence of pairs of numbers (further numbers of a point are ignored), closed or not.
        where: What they belong to, for messages.

    Returns:
        (K, 2) x and y, without a repeated last point.

    Raises:
        ImageError: The points are no finite numbers, are fewer than three, or enclose no area.
    """
    polygon = _numbers(points, where)
    _check_reach(polygon, "a coordinate of the polygon", where)
    if len(polygon) > 1 and (polygon[0] == polygon[-1]).all():
        polygon = polygon[:-1]
    if len(polygon) < 3 or not polygon_area(polygon) > 0:
        if len(np.unique(polygon, axis=0)) < 3:
            raise no_annotation(
                f"{where}: the polygon has {len(polygon)} points and needs 3 different ones; draw it again "
                "or remove it"
            )
        raise no_annotation(f"{where}: the polygon has no area; draw it again or remove it")
    return polygon


def _numbers(points: object, where: str) -> Points:
    try:
        array = np.array(points)
        if array.dtype.kind in "iuf" and array.ndim == 2 and array.shape[1] >= 2:
            return array[:, :2].astype(np.float64)
    except (ValueError, OverflowError):
        # Points of unequal length: the slow way below says whether that matters.
        pass
    try:
        pairs = [[_number(point[0]), _number(point[1])] for point in points]  # type: ignore[attr-defined]
    except (TypeError, ValueError, IndexError, KeyError, OverflowError) as error:
        raise unreadable(f"{where}: a point of the polygon is no pair of numbers; export it again") from error
    return np.array(pairs, dtype=np.float64).reshape(-1, 2)


def _check_reach(values: Array, what: str, where: str) -> None:
    if not np.isfinite(values).all():
        raise unreadable(f"{where}: {what} is NaN or infinite; draw it again")
    if values.size and np.abs(values).max() > MOST_PX:
        raise unreadable(f"{where}: {what} is beyond any image; export it in pixels of the image")


def stated_px(value: object) -> float | None:
    """Returns a width or height that a file states, px; None if it states none that can be."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= MOST_PX:
        return None
    return float(value)


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | np.number):
        raise TypeError(f"{value!r} is no number")
    return float(value)


def box_polygon(edges: Sequence[float], where: str) -> Points:
    """Returns the four corners of a box given by its left, top, right and bottom edge, px.

    Raises:
        ImageError: An edge is not finite, or the box has no area.
    """
    left, top, right, bottom = edges
    _check_reach(np.array(edges, dtype=np.float64), "an edge of the box", where)
    if not (right > left and bottom > top):
        raise no_annotation(
            f"{where}: the box is {right - left:g} x {bottom - top:g} px and has no area; draw it again or "
            "remove it"
        )
    return np.array([[left, top], [right, top], [right, bottom], [left, bottom]], dtype=np.float64)


def ellipse_polygon(ellipse: Sequence[float], where: str) -> Points:
    """Returns a polygon that stands for an ellipse, (72, 2), px.

    Args:
        ellipse: x and y of the centre, the radius along x and that along y.
        where: What the ellipse belongs to, for messages.

    Raises:
        ImageError: A number is not finite, or the ellipse has no area.
    """
    x, y, radius_x, radius_y = ellipse
    _check_reach(np.array(ellipse, dtype=np.float64), "a number of the ellipse", where)
    if not (radius_x > 0 and radius_y > 0):
        raise no_annotation(f"{where}: the ellipse has no area; draw it again or remove it")
    angle = np.arange(ELLIPSE_POINTS) * (2.0 * math.pi / ELLIPSE_POINTS)
    return np.stack([x + radius_x * np.cos(angle), y + radius_y * np.sin(angle)], axis=1)


def rotated(polygon: Points, degrees: float, centre: tuple[float, float]) -> Points:
    """Turns a polygon clockwise (as seen, y pointing down) about a point."""
    turn = math.radians(degrees)
    matrix = np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
    turned: Points = (polygon - centre) @ matrix.T + centre
    return turned


def without_specks(polygons: Sequence[Points]) -> list[Points]:
    """Returns the parts of one object less those that are specks, see :data:`SPECK`."""
    areas = [polygon_area(polygon) for polygon in polygons]
    return [polygon for polygon, area in zip(polygons, areas, strict=True) if area >= SPECK * max(areas)]


def region_contour(region: Array, left: float, top: float) -> Points:
    """Returns the outer contour of the largest part of a region.

    Args:
        region: (H, W) bool, at least one pixel set.
        left: Where the region's first column begins, px.
        top: Where its first row begins.

    Returns:
        (K, 2) x and y, px.
    """
    from skimage.measure import find_contours

    contours: list[Points] = find_contours(np.pad(region, 1).astype(np.float32), 0.5)  # type: ignore[no-untyped-call]
    points = max((contour[:-1] for contour in contours), key=polygon_area)
    # Padding moved the region by 1, and pixel centres lie at half-integers.
    placed: Points = points[:, ::-1] - 0.5 + np.array([left, top], dtype=float)
    return placed


def image_scale(stated: tuple[float, float], image_size: tuple[int, int], where: str) -> Points:
    """Returns the factors that carry an annotation over to the image at full resolution.

    Args:
        stated: Width and height of the image that was annotated, px.
        image_size: Width and height of the image at full resolution, px.
        where: The annotation, for messages.

    Returns:
        (2,) factors for x and y.

    Raises:
        ImageError: ``no_annotation``, if the two have another shape.
    """
    width, height = stated
    # Halving rounds a pixel away; more than that is the annotation of another image.
    fits = width > 0 and height > 0
    if not fits or abs(width * image_size[1] / image_size[0] - height) > 1.5 + 0.01 * height:
        raise no_annotation(
            f"{where} is {width:g} x {height:g} px, another shape than the image of "
            f"{image_size[0]} x {image_size[1]} px; export the annotation of this image, whole"
        )
    return np.array([image_size[0] / width, image_size[1] / height])


def scaled(outlines: Iterable[Outline], scale: Points) -> list[Outline]:
    """Returns outlines with their coordinates multiplied by (2,) factors for x and y."""
    if (scale == 1.0).all():
        return list(outlines)
    return [
        Outline(outline.polygon * scale, outline.lesion, outline.name, outline.is_box) for outline in outlines
    ]


def text_or_none(value: object) -> str | None:
    """Returns a string without spaces around it; None for an empty one and for what is no text."""
    if isinstance(value, bool) or not isinstance(value, str | int):
        return None
    return str(value).strip() or None


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


def touches_border(outline: Outline, image_size: tuple[int, int]) -> bool:
    """Returns whether an outline touches the edge of the image or reaches beyond it.

    Such a glomerulus is cut: how much of it is missing cannot be known.
    """
    left, top, right, bottom = outline.box
    width, height = image_size
    return left < BORDER_PX or top < BORDER_PX or right > width - BORDER_PX or bottom > height - BORDER_PX


def share_inside(outline: Outline, image_size: tuple[int, int]) -> float:
    """Returns the share of an outline's box that lies within the image, 0 to 1."""
    left, top, right, bottom = outline.box
    width, height = image_size
    inside = (min(right, width) - max(left, 0.0)) * (min(bottom, height) - max(top, 0.0))
    return max(0.0, inside) / max((right - left) * (bottom - top), math.ulp(1.0))
