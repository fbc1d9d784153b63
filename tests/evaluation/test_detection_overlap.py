"""Areas that polygons share: worked by hand, and counted on a fine grid."""

import numpy as np
import pytest

from glomflow.errors import GlomflowError
from glomflow.evaluation.detection_overlap import (
    boxes,
    check_polygon,
    clip,
    covered_areas,
    overlaps,
    touching,
    union_areas,
)


def box(left, top, right, bottom):
    return np.array([[left, top], [right, top], [right, bottom], [left, bottom]], dtype=float)


def star(rng, x, y, points=24, radius=8.0):
    angle = np.linspace(0, 2 * np.pi, points, endpoint=False)
    reach = radius * rng.uniform(0.4, 1.0, points)
    return np.stack([x + reach * np.cos(angle), y + reach * np.sin(angle)], axis=1)


TURNED = np.sqrt(2.0) * np.array([[1, 0], [0, 1], [-1, 0], [0, -1]])
BOW_TIE = np.array([[0, 0], [2, 2], [2, 0], [0, 2]], dtype=float)
RING = np.concatenate([box(0, 0, 4, 4), box(0, 0, 4, 4)[:1], box(1, 1, 3, 3), box(1, 1, 3, 3)[:1]])


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ([box(0, 0, 2, 2)], [box(1, 1, 3, 3)], (4, 4, 1)),
        ([box(0, 0, 2, 2)], [box(0, 0, 2, 2)], (4, 4, 4)),
        ([box(0, 0, 4, 4)], [box(1, 1, 2, 2)], (16, 1, 1)),
        ([box(0, 0, 1, 1)], [box(1, 0, 2, 1)], (1, 1, 0)),
        ([box(0, 0, 2, 2), box(1, 1, 3, 3)], [box(0, 0, 9, 1)], (7, 9, 2)),
        ([box(0, 0, 2, 2)[::-1]], [box(1, 1, 3, 3)], (4, 4, 1)),
        ([box(-1, -1, 1, 1)], [TURNED], (4, 4, 8 * (np.sqrt(2) - 1))),
        ([BOW_TIE], [box(1, 0, 2, 2)], (2, 2, 1)),
        ([RING], [box(0, 0, 2, 2)], (12, 4, 3)),
        ([box(0, 0, 2, 2)], [], (4, 0, 0)),
        ([], [], (0, 0, 0)),
    ],
)
def test_areas_worked_by_hand(first, second, expected):
    areas = covered_areas(first, second)
    assert (areas.first, areas.second, areas.both) == pytest.approx(expected)
    joined = union_areas(first, second)
    assert (joined.first, joined.second, joined.both) == pytest.approx(expected)


def test_areas_do_not_depend_on_where_a_slide_lies():
    far = np.array([1e5, 2e5])
    areas = covered_areas([TURNED + far], [box(-1, -1, 1, 1) + far])
    assert areas.both == pytest.approx(8 * (np.sqrt(2) - 1), rel=1e-9)


def test_areas_of_ragged_outlines_agree_with_a_fine_grid():
    from skimage.measure import points_in_poly

    rng = np.random.default_rng(4)
    edge = (np.arange(200) + 0.5) / 10
    grid = np.stack(np.meshgrid(edge, edge), axis=-1).reshape(-1, 2)
    for _ in range(20):
        first, second = star(rng, 9, 10), star(rng, 12, 11)
        inside = points_in_poly(grid, first), points_in_poly(grid, second)
        areas = covered_areas([first], [second])
        counted = (inside[0].sum(), inside[1].sum(), (inside[0] & inside[1]).sum())
        assert (areas.first, areas.second, areas.both) == pytest.approx(np.array(counted) / 100, abs=0.7)


def test_corners_that_nearly_meet_leave_nothing_out():
    outline = np.array([[0, 0], [4, 0], [4, 1], [4 - 1e-15, 1 + 1e-16], [4, 3], [0, 3]])
    assert covered_areas([outline], [box(0, 0, 4, 3)]).both == pytest.approx(12)


@pytest.mark.parametrize(
    ("polygon", "area"),
    [
        (box(1, 1, 3, 3), 4),
        (box(-1, -1, 1, 1), 1),
        (box(8, 4, 14, 9), 4),
        (box(-5, -5, 20, 20), 60),
        (TURNED, 1),
    ],
)
def test_outlines_are_cut_off_at_the_border(polygon, area):
    assert covered_areas([clip(polygon, 10, 6)], []).first == pytest.approx(area)


@pytest.mark.parametrize("polygon", [box(11, 1, 12, 2), box(-3, 1, -1, 2), box(-2, 1, 0, 2)])
def test_outlines_outside_the_image_are_gone(polygon):
    assert clip(polygon, 10, 6) is None


def test_pairs_of_boxes_are_those_that_overlap():
    rng = np.random.default_rng(1)
    first, second = (
        [box(*p, *(p + rng.uniform(1, 20, 2))) for p in rng.uniform(0, 100, (60, 2))] for _ in "12"
    )
    rows, columns = touching(boxes(first), boxes(second))
    expected = [
        (i, j)
        for i, one in enumerate(boxes(first))
        for j, other in enumerate(boxes(second))
        if (one[:2] < other[2:]).all() and (other[:2] < one[2:]).all()
    ]
    assert list(zip(rows.tolist(), columns.tolist(), strict=True)) == expected
    assert touching(boxes([]), boxes(second))[0].tolist() == []


def test_iou_of_every_overlapping_pair():
    pairs = overlaps(
        [box(0, 0, 2, 2), box(9, 9, 10, 10)], [box(1, 0, 3, 2), box(0, 0, 2, 2), box(2, 0, 4, 2)]
    )
    assert pairs.first.tolist() == [0, 0]
    assert pairs.second.tolist() == [0, 1]
    assert pairs.iou.tolist() == pytest.approx([1 / 3, 1.0])


@pytest.mark.parametrize(
    "polygon", [np.zeros((2, 2)), np.zeros((4, 3)), np.array([[0, 0], [1, np.nan], [1, 1]])]
)
def test_an_unusable_outline_is_named(polygon):
    with pytest.raises(
        GlomflowError, match="image 'a': an outline needs at least 3 points of finite x and y"
    ):
        check_polygon(polygon, "image 'a'")
