"""Areas that polygons share, without rasterising them.

The plane is cut into horizontal slabs at every corner and every crossing of two edges. Within a slab
edges do not cross, so that the lengths inside the polygons change linearly with height and the length
at half height times the slab's height is the area: exact, at any resolution. A polygon's inside is by
the even-odd rule; outlines of one set are joined, not counted twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from glomflow.errors import GlomflowError

Points = NDArray[np.float64]
Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


@dataclass(frozen=True)
class Areas:
    """Areas of two sets of polygons, px².

    Attributes:
        first: Area covered by the first set.
        second: Area covered by the second set.
        both: Area covered by both.
    """

    first: float
    second: float
    both: float

    @property
    def union(self) -> float:
        """Area covered by any of them."""
        return self.first + self.second - self.both


def check_polygon(polygon: Points, name: str) -> Points:
    """Returns a polygon as float64 (K, 2).

    Args:
        polygon: (K, 2) x and y; the last point joins the first.
        name: What it is, for the message.

    Raises:
        GlomflowError: It has fewer than 3 points, another shape, or a missing coordinate.
    """
    points = np.asarray(polygon, dtype=np.float64)
    if points.ndim != 2 or points.shape[1] != 2 or len(points) < 3 or not np.isfinite(points).all():
        raise GlomflowError(
            f"{name}: an outline needs at least 3 points of finite x and y; it has the shape {points.shape}"
        )
    return points


def covered_areas(first: Sequence[Points], second: Sequence[Points]) -> Areas:
    """Returns what two sets of polygons cover, each and together.

    Args:
        first: (K, 2) x and y of each polygon.
        second: The same of the other set.

    Returns:
        The areas, exact up to rounding.
    """
    polygons = [*first, *second]
    if not polygons:
        return Areas(0.0, 0.0, 0.0)
    starts = np.concatenate(polygons)
    origin = starts.mean(axis=0)
    starts = starts - origin
    ends = np.concatenate([np.roll(polygon, -1, axis=0) for polygon in polygons]) - origin
    owner = np.repeat(np.arange(len(polygons)), [len(polygon) for polygon in polygons])
    levels = np.unique(np.concatenate([starts[:, 1], _crossing_heights(starts, ends)]))
    heights, middles = np.diff(levels), (levels[:-1] + levels[1:]) / 2
    slab, x, edge = _crossings(starts, ends, middles)
    return _measure(slab, x, owner[edge], len(first), heights)


def clip(polygon: Points, width: float, height: float) -> Points | None:
    """Cuts a polygon off at the border of an image (Sutherland & Hodgman, CACM 1974).

    Args:
        polygon: (K, 2) x and y, px.
        width: Right edge, px; the left edge is 0.
        height: Bottom edge, px; the top edge is 0.

    Returns:
        (L, 2), or None if nothing lies within. Parts that the border cuts apart stay joined along it.
    """
    low, high = polygon.min(axis=0), polygon.max(axis=0)
    if (low >= 0).all() and high[0] <= width and high[1] <= height:
        return polygon
    for axis, limit, sign in ((0, 0.0, 1.0), (0, width, -1.0), (1, 0.0, 1.0), (1, height, -1.0)):
        depth = sign * (polygon[:, axis] - limit)
        following, depth_after = np.roll(polygon, -1, axis=0), np.roll(depth, -1)
        crossing = (depth >= 0) != (depth_after >= 0)
        share = np.divide(depth, depth - depth_after, out=np.zeros_like(depth), where=crossing)
        cut = polygon + share[:, None] * (following - polygon)
        kept = np.stack([polygon, cut], axis=1)
        polygon = kept[np.stack([depth >= 0, crossing], axis=1)]
        if len(polygon) < 3:
            return None
    return polygon if np.ptp(polygon, axis=0).min() > 0 else None


def boxes(polygons: Sequence[Points]) -> Floats:
    """Returns left, top, right and bottom of polygons, (n, 4)."""
    if not polygons:
        return np.zeros((0, 4))
    return np.array([[*polygon.min(axis=0), *polygon.max(axis=0)] for polygon in polygons])


def touching(first: Floats, second: Floats) -> tuple[Integers, Integers]:
    """Pairs boxes that overlap.

    Args:
        first: (n, 4) left, top, right, bottom.
        second: (m, 4).

    Returns:
        Indexes into the first and the second, in order of the first.
    """
    if not len(first) or not len(second):
        return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
    order = np.argsort(second[:, 0], kind="stable")
    lefts = second[order, 0]
    reach = np.maximum.accumulate(second[order, 2])
    begin = np.searchsorted(reach, first[:, 0], side="right")
    count = np.maximum(np.searchsorted(lefts, first[:, 2], side="left") - begin, 0)
    rows, places = _expand(begin, count)
    columns = order[places]
    one, other = first[rows], second[columns]
    meet = (one[:, 0] < other[:, 2]) & (one[:, 1] < other[:, 3])
    meet &= (other[:, 0] < one[:, 2]) & (other[:, 1] < one[:, 3])
    rows, columns = rows[meet], columns[meet]
    sequence = np.lexsort((columns, rows))
    return rows[sequence], columns[sequence]


@dataclass(frozen=True)
class Overlaps:
    """The overlapping pairs of two sets of polygons.

    Attributes:
        first: Index into the first set.
        second: Index into the second set.
        iou: Area of both over the area of either, above 0 to 1.
    """

    first: Integers
    second: Integers
    iou: Floats


def overlaps(first: Sequence[Points], second: Sequence[Points]) -> Overlaps:
    """Returns the intersection over union of every pair of polygons that overlaps.

    Args:
        first: (K, 2) x and y of each polygon.
        second: The same of the other set.

    Returns:
        The pairs, in order of the first set, then the second.
    """
    rows, columns = touching(boxes(first), boxes(second))
    shares = np.zeros(len(rows))
    for place, (row, column) in enumerate(zip(rows, columns, strict=True)):
        areas = covered_areas([first[row]], [second[column]])
        shares[place] = areas.both / areas.union if areas.union > 0 else 0.0
    kept = shares > 0
    return Overlaps(rows[kept], columns[kept], shares[kept])


def union_areas(first: Sequence[Points], second: Sequence[Points]) -> Areas:
    """Returns what two sets of many polygons cover; polygons far apart are measured apart.

    Args:
        first: (K, 2) x and y of each polygon.
        second: The same of the other set.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    polygons = [*first, *second]
    around = boxes(polygons)
    rows, columns = touching(around, around)
    links = coo_array((np.ones(len(rows)), (rows, columns)), shape=(len(polygons), len(polygons)))
    cluster = connected_components(links, directed=False)[1] if polygons else np.zeros(0, dtype=np.int64)
    members: dict[int, tuple[list[Points], list[Points]]] = {}
    for place, (polygon, own) in enumerate(zip(polygons, cluster.tolist(), strict=True)):
        members.setdefault(own, ([], []))[place >= len(first)].append(polygon)
    parts = [covered_areas(*sides) for sides in members.values()]
    return Areas(
        sum(part.first for part in parts),
        sum(part.second for part in parts),
        sum(part.both for part in parts),
    )


def _expand(begin: Integers, count: Integers) -> tuple[Integers, Integers]:
    """Lists ``begin[i] ... begin[i] + count[i] - 1`` for every i: the i, and the numbers."""
    rows = np.repeat(np.arange(len(begin)), count)
    offset = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
    return rows, begin[rows] + offset


def _crossing_heights(starts: Points, ends: Points) -> Floats:
    """Returns the heights at which edges cross each other."""
    low, high = np.minimum(starts, ends), np.maximum(starts, ends)
    rows, columns = touching(np.concatenate([low, high], axis=1), np.concatenate([low, high], axis=1))
    rows, columns = rows[rows < columns], columns[rows < columns]
    one, other = (ends - starts)[rows], (ends - starts)[columns]
    gap = starts[columns] - starts[rows]
    turn = one[:, 0] * other[:, 1] - one[:, 1] * other[:, 0]
    some = turn != 0
    along = np.divide(
        gap[:, 0] * other[:, 1] - gap[:, 1] * other[:, 0], turn, where=some, out=np.zeros_like(turn)
    )
    across = np.divide(
        gap[:, 0] * one[:, 1] - gap[:, 1] * one[:, 0], turn, where=some, out=np.zeros_like(turn)
    )
    meet = some & (along >= 0) & (along <= 1) & (across >= 0) & (across <= 1)
    found: Floats = starts[rows[meet], 1] + along[meet] * one[meet, 1]
    return found


def _crossings(starts: Points, ends: Points, middles: Floats) -> tuple[Integers, Floats, Integers]:
    """Returns slab, x and edge wherever an edge passes the middle of a slab."""
    low, high = np.minimum(starts[:, 1], ends[:, 1]), np.maximum(starts[:, 1], ends[:, 1])
    # Half-open, so that two edges that meet at a middle (slabs of no height) count once.
    begin = np.searchsorted(middles, low, side="left")
    edge, slab = _expand(begin, np.searchsorted(middles, high, side="left") - begin)
    direction = ends[edge] - starts[edge]
    share = (middles[slab] - starts[edge, 1]) / direction[:, 1]
    return slab, starts[edge, 0] + share * direction[:, 0], edge


def _measure(slab: Integers, x: Floats, owner: Integers, firsts: int, heights: Floats) -> Areas:
    order = np.lexsort((x, slab, owner))
    slab, x, owner = slab[order], x[order], owner[order]
    # Sorted so, an edge enters its polygon and the next one leaves it: even-odd.
    step = np.where(np.arange(len(x)) % 2 == 0, 1, -1)
    order = np.lexsort((x, slab))
    slab, x, owner, step = slab[order], x[order], owner[order], step[order]
    first = np.cumsum(np.where(owner < firsts, step, 0)) > 0
    second = np.cumsum(np.where(owner < firsts, 0, step)) > 0
    area = np.diff(x, append=x[-1:]) * heights[slab]
    return Areas(float(area[first].sum()), float(area[second].sum()), float(area[first & second].sum()))
