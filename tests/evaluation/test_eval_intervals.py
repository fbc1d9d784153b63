import time

import numpy as np
import pytest

from glomflow.config import Evaluation
from glomflow.evaluation import intervals

SETTINGS = Evaluation(bootstrap=400)


def _scores(count: int, skill: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 3
    logits = rng.normal(size=(count, 3))
    logits[np.arange(count), labels] += skill
    return labels, (np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True))[None]


def _intervals(labels, scores, settings=SETTINGS, seed=0):
    draws = intervals.bootstrap(labels, {"model": scores}, settings, seed=seed)["model"]
    return intervals.metric_intervals(labels, scores, draws, settings)


@pytest.mark.parametrize(
    ("successes", "total", "expected"),
    [(60, 60, (0.93983, 1.0)), (0, 10, (0.0, 0.27753)), (81, 263, (0.25529, 0.36619))],
)
def test_wilson_against_published_values(successes: int, total: int, expected: tuple[float, float]) -> None:
    lower, upper = intervals.wilson(successes, total)
    assert (float(lower), float(upper)) == pytest.approx(expected, abs=1e-4)


def test_wilson_without_trials_is_undefined() -> None:
    assert np.isnan(intervals.wilson(0, 0)).all()


def test_resamples_keep_the_classes_and_the_seed() -> None:
    strata = np.array([0, 0, 0, 1, 1, 2])
    first, second = (
        np.concatenate(list(intervals.resample_weights(strata, 50, np.random.default_rng(3))))
        for _ in range(2)
    )
    assert first.shape == (50, 6)
    assert np.array_equal(first, second)
    for stratum in range(3):
        assert (first[:, strata == stratum].sum(axis=1) == (strata == stratum).sum()).all()


def test_blocks_add_up(monkeypatch) -> None:
    monkeypatch.setattr(intervals, "_BLOCK_ELEMENTS", 40)
    blocks = list(intervals.resample_weights(np.zeros(4), 25, np.random.default_rng(0)))
    assert [len(block) for block in blocks] == [10, 10, 5]


def test_intervals_hold_the_estimate_and_are_reproducible() -> None:
    labels, scores = _scores(60, 1.0)
    found = _intervals(labels, scores)
    assert found == _intervals(labels, scores)
    assert found != _intervals(labels, scores, seed=1)
    for name, interval in found.items():
        assert 0 <= interval.lower <= interval.value <= interval.upper <= 1, name
        assert interval.upper - interval.lower > 0.02, name
        assert interval.method == ("basic" if name == "ece" else "percentile")


def test_perfect_predictions_do_not_get_an_interval_of_no_width() -> None:
    labels = np.arange(60) % 3
    found = _intervals(labels, np.eye(3)[labels][None])
    assert found["accuracy"] == intervals.Interval(1.0, pytest.approx(0.93983, abs=1e-4), 1.0, "score")
    for name in ("balanced_accuracy", "macro_f1", "macro_auc"):
        assert found[name].value == 1.0
        assert 0.85 < found[name].lower < 0.97, name
        assert found[name].method == "score"
    assert found["ece"].value == pytest.approx(0.0)
    assert found["ece"].upper == pytest.approx(0.06017, abs=1e-4)


def test_a_constant_prediction_gets_score_intervals_around_its_value() -> None:
    labels = np.arange(60) % 3
    scores = np.tile([0.5, 0.3, 0.2], (60, 1))[None]
    for name, interval in _intervals(labels, scores).items():
        assert interval.method == "score", name
        assert interval.lower < interval.value < interval.upper, name


def test_undefined_metric_has_no_interval() -> None:
    found = _intervals(np.zeros(5, dtype=int), np.tile([0.6, 0.4], (5, 1))[None])
    assert found["macro_auc"].method == "none"
    assert np.isnan([found["macro_auc"].value, found["macro_auc"].lower, found["macro_auc"].upper]).all()


def test_replicates_are_averaged_metric_by_metric() -> None:
    labels = np.array([0, 0, 1, 1])
    right, wrong = np.eye(2)[labels], np.eye(2)[1 - labels]
    values = intervals.replicate_mean(labels, np.stack([right, wrong]))
    assert values["accuracy"] == pytest.approx(0.5)
    assert values["macro_auc"] == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("area", "low", "high"), [(0.5, 0.352, 0.648), (0.9, 0.774, 0.957), (1.0, 0.925, 1.0)]
)
def test_auc_interval(area: float, low: float, high: float) -> None:
    lower, upper = intervals.auc_interval(area, 20, 40)
    assert lower == pytest.approx(low, abs=0.001)
    assert upper == pytest.approx(high, abs=0.001)
    assert lower < area <= upper


def test_mean_of_proportions_is_narrower_than_its_parts() -> None:
    lower, upper = intervals.mean_of_proportions(np.full(4, 0.5), np.full(4, 0.3), np.full(4, 0.7))
    assert (lower, upper) == pytest.approx((0.4, 0.6))


def test_wilson_covers_and_the_bootstrap_nearly_does() -> None:
    rng = np.random.default_rng(0)
    hits = rng.binomial(60, 0.9, size=4000)
    lower, upper = intervals.wilson(hits, 60)
    assert 0.93 < ((lower <= 0.9) & (upper >= 0.9)).mean() < 0.98


def test_two_thousand_resamples_of_three_hundred_patients_take_seconds() -> None:
    labels, scores = _scores(300, 1.0)
    start = time.perf_counter()
    intervals.bootstrap(labels, {"model": scores}, Evaluation(bootstrap=2000), seed=0)
    assert time.perf_counter() - start < 5
