"""Matching, average precision, Dice and counts, worked by hand."""

import numpy as np
import pytest

from glomflow.errors import GlomflowError
from glomflow.evaluation.detection import (
    FieldDetections,
    average_precision,
    count_agreement,
    is_cut,
    match_field,
    pooled_metrics,
    precision_recall,
)


def box(left, top, right, bottom):
    return np.array([[left, top], [right, top], [right, bottom], [left, bottom]], dtype=float)


A, B, C = box(10, 10, 20, 20), box(40, 40, 50, 50), box(70, 70, 80, 80)
NOWHERE = box(10, 60, 20, 70)


def field(annotated, found, image="a", um_per_px=1.0):
    """A field of 100 x 100 px; ``found`` are pairs of outline and score."""
    return FieldDetections(
        image, "p", "s", "0", 100, 100, um_per_px, annotated, [p for p, _ in found], [s for _, s in found]
    )


def ap50(annotated, found):
    return float(average_precision([match_field(field(annotated, found))]))


@pytest.mark.parametrize(
    ("annotated", "found", "expected"),
    [
        ([A, B], [(A, 0.9), (B, 0.8)], 1.0),
        ([A, B], [(A, 0.9), (NOWHERE, 0.8), (B, 0.7)], (51 + 50 * 2 / 3) / 101),
        ([A, B], [(A, 0.9), (A, 0.8), (B, 0.7)], (51 + 50 * 2 / 3) / 101),
        ([A, B], [(NOWHERE, 0.9), (A, 0.8), (B, 0.7)], 2 / 3),
        ([A, B], [(A, 0.9), (B, 0.8), (NOWHERE, 0.7)], 1.0),
        ([A, B], [(A, 0.9)], 51 / 101),
        ([A, B, C], [(NOWHERE, 0.9), (A, 0.8), (C, 0.7)], 67 * (2 / 3) / 101),
        ([A], [], 0.0),
        ([A], [(NOWHERE, 0.9)], 0.0),
        ([], [(NOWHERE, 0.9)], float("nan")),
        ([], [], float("nan")),
    ],
)
def test_average_precision_worked_by_hand(annotated, found, expected):
    assert ap50(annotated, found) == pytest.approx(expected, nan_ok=True)


def test_finds_in_a_field_without_glomeruli_lower_the_precision():
    matches = [match_field(field([A], [(A, 0.7)])), match_field(field([], [(NOWHERE, 0.9)]))]
    assert float(average_precision(matches)) == pytest.approx(0.5)


def test_an_overlap_of_exactly_the_level_is_a_hit():
    half = field([A], [(box(10, 10, 20, 15), 0.9)])
    assert match_field(half).hit[:, 0].tolist() == [True] + [False] * 9


def test_average_precision_over_overlaps_from_half_to_95_percent():
    values = pooled_metrics([match_field(field([A], [(box(10, 10, 20, 17), 0.9)]))])
    assert values["ap50"] == 1.0
    assert values["ap"] == pytest.approx(0.5)


def test_a_find_claims_the_annotated_one_that_it_overlaps_most():
    left, right = box(10, 10, 20, 20), box(12, 10, 22, 20)
    matches = match_field(field([left, right], [(right, 0.9), (left, 0.8)]))
    assert matches.hit[9].tolist() == [True, True]


def test_a_find_takes_the_next_best_where_the_best_is_taken():
    left, right = box(10, 10, 20, 20), box(12, 10, 22, 20)
    matches = match_field(field([left, right], [(left, 0.9), (left, 0.8)]))
    assert matches.hit[0].tolist() == [True, True]
    assert matches.hit[9].tolist() == [True, False]
    assert matches.iou == pytest.approx(1 + 8 / 12)


def test_a_find_can_be_right_once_only():
    wide = box(10, 10, 20, 20)
    matches = match_field(field([wide, wide], [(wide, 0.9)]))
    assert (matches.hits, matches.annotated) == (1, 2)


def test_dice_is_of_joined_areas():
    twice = match_field(field([A], [(box(10, 10, 20, 15), 0.9), (box(10, 12, 20, 15), 0.8)]))
    assert twice.dice == pytest.approx(2 * 50 / 150)
    assert twice.areas == pytest.approx((100, 50, 50))


def test_dice_of_all_fields_weighs_them_by_area_in_micrometres():
    small = match_field(field([A], [(A, 0.9)], um_per_px=1.0))
    large = match_field(field([A], [(box(10, 10, 20, 15), 0.9)], um_per_px=2.0))
    values = pooled_metrics([small, large])
    assert values["dice"] == pytest.approx(2 * (100 + 200) / (100 + 100 + 400 + 200))
    assert values["field_dice"] == pytest.approx((1 + 2 / 3) / 2)


def test_dice_is_undefined_where_nothing_was_annotated_or_found():
    empty, missed, wrong = (match_field(field(*case)) for case in (([], []), ([A], []), ([], [(A, 0.9)])))
    assert np.isnan(empty.dice)
    assert (missed.dice, wrong.dice) == (0.0, 0.0)
    assert pooled_metrics([empty, match_field(field([A], [(A, 1.0)]))])["field_dice"] == 1.0


def test_precision_recall_f1_and_panoptic_quality():
    matches = [
        match_field(field([A, B, C], [(A, 0.9), (box(40, 40, 50, 48), 0.8)])),
        match_field(field([], [(NOWHERE, 0.6), (A, 0.5)])),
    ]
    values = {name: float(value) for name, value in pooled_metrics(matches).items()}
    assert values["precision"] == pytest.approx(2 / 4)
    assert values["recall"] == pytest.approx(2 / 3)
    assert values["f1"] == pytest.approx(4 / 7)
    assert values["mean_iou"] == pytest.approx(0.9)
    assert values["panoptic_quality"] == pytest.approx(4 / 7 * 0.9)


def test_nothing_found_anywhere():
    values = pooled_metrics([match_field(field([A], []))])
    assert [float(values[name]) for name in ("ap50", "ap", "dice", "recall", "f1")] == [0.0] * 5
    assert np.isnan(values["precision"])
    assert np.isnan(values["mean_iou"])


def test_weights_are_repetitions():
    rng = np.random.default_rng(2)
    fields = []
    for number in range(6):
        truth = [A, B, C][: rng.integers(0, 4)]
        found = [(p + rng.uniform(-3, 3), rng.random()) for p in (A, B, C, NOWHERE)[: rng.integers(0, 5)]]
        fields.append(match_field(field(truth, found, image=f"i{number}")))
    weights = rng.multinomial(6, np.full(6, 1 / 6), 8).astype(float)
    resampled = pooled_metrics(fields, weights)
    for row, counts in enumerate(weights):
        drawn = [match for match, count in zip(fields, counts, strict=True) for _ in range(int(count))]
        for name, value in pooled_metrics(drawn).items():
            assert resampled[name][row] == pytest.approx(float(value), nan_ok=True), name


CUT = box(0, 30, 6, 40)
CUT_AT_CORNER = box(94, 94, 104, 104)


@pytest.mark.parametrize(
    ("outline", "cut"),
    [
        (CUT, True),
        (CUT_AT_CORNER, True),
        (A, False),
        (box(0.9, 10, 5, 15), True),
        (box(1.1, 10, 5, 15), False),
    ],
)
def test_what_the_border_cuts(outline, cut):
    assert is_cut(outline, 100, 100) is cut


def test_cut_glomeruli_count_unless_they_are_left_out():
    cut = field([A, CUT, CUT_AT_CORNER], [(A, 0.9), (CUT, 0.8), (box(50, 0, 60, 5), 0.7), (NOWHERE, 0.6)])
    counted, ignored = match_field(cut, "count"), match_field(cut, "ignore")
    assert (counted.annotated, counted.found, counted.hits, counted.left_out) == (3, 4, 2, 0)
    assert (ignored.annotated, ignored.found, ignored.hits, ignored.left_out) == (1, 2, 1, 2)
    assert ignored.ignored[0].tolist() == [False, True, True, False]
    assert ignored.areas == pytest.approx((100, 200, 100))


def test_outlines_are_cut_off_at_the_border_before_they_are_matched():
    matches = match_field(field([box(-10, 30, 10, 40)], [(box(0, 30, 10, 40), 0.9)]))
    assert matches.hit.all()
    assert match_field(field([box(-10, 30, -1, 40)], [])).annotated == 0


def test_scores_stay_with_their_outlines():
    outside = box(200, 200, 210, 210)
    matches = match_field(field([A], [(outside, 0.99), (NOWHERE, 0.2), (A, 0.7)]))
    assert matches.scores.tolist() == [0.7, 0.2]
    assert matches.hit[0].tolist() == [True, False]


def test_the_curve_has_a_point_per_score():
    matches = [match_field(field([A, B], [(A, 0.9), (NOWHERE, 0.7), (B, 0.7), (C, 0.1)]))]
    score, precision, recall = precision_recall(matches)
    assert score.tolist() == [0.9, 0.7, 0.1]
    assert precision.tolist() == pytest.approx([1, 2 / 3, 1 / 2])
    assert recall.tolist() == pytest.approx([0.5, 1, 1])
    assert [len(part) for part in precision_recall([match_field(field([], [(A, 1)]))])] == [0, 0, 0]


def test_agreement_of_counts_worked_by_hand():
    values = count_agreement(np.array([2.0, 4, 6]), np.array([3.0, 4, 8]))
    expected = {"count_bias": 1, "count_lower": -0.96, "count_upper": 2.96, "count_concordance": 0.8}
    assert {name: float(value) for name, value in values.items()} == pytest.approx(expected)


def test_agreement_of_counts_with_weights_and_of_one_slide():
    doubled = count_agreement(np.array([2.0, 4]), np.array([3.0, 8]), np.array([[2.0, 1.0], [0.0, 3.0]]))
    plain = count_agreement(np.array([2.0, 2, 4]), np.array([3.0, 3, 8]))
    for name, value in plain.items():
        assert doubled[name][0] == pytest.approx(float(value))
    assert doubled["count_bias"][1] == 4
    single = count_agreement(np.array([5.0]), np.array([7.0]))
    assert single["count_bias"] == 2
    assert np.isnan(single["count_lower"])


@pytest.mark.parametrize(
    ("found", "scores", "message"),
    [
        ([A, B], [0.9], "image 'a': 2 found outlines, but 1 scores; each needs one"),
        ([A, B], [0.9, np.nan], "image 'a', found outline 2: its score is nan"),
        ([A, A[:2]], [0.9, 0.8], "image 'a', found outline 2: an outline needs at least 3 points"),
    ],
)
def test_unusable_finds_are_named(found, scores, message):
    with pytest.raises(GlomflowError, match=message):
        match_field(FieldDetections("a", "p", "s", "0", 100, 100, 1.0, [A], found, scores))


def test_no_field_is_refused():
    with pytest.raises(GlomflowError, match="there is no field to evaluate"):
        pooled_metrics([])
