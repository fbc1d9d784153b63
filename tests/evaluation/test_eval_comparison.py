import itertools

import numpy as np
import pandas as pd
import pytest

from glomflow.config import Evaluation
from glomflow.errors import GlomflowError
from glomflow.evaluation import comparison, intervals


@pytest.mark.parametrize(("only_first", "only_second"), [(0, 0), (5, 0), (9, 2), (3, 7), (40, 18)])
def test_one_seed_is_mcnemars_exact_test(only_first: int, only_second: int) -> None:
    from scipy.stats import binomtest

    first = np.r_[np.ones(only_first), np.zeros(only_second), np.ones(20)]
    second = np.r_[np.zeros(only_first), np.ones(only_second), np.ones(20)]
    size = only_first + only_second
    expected = binomtest(only_first, size).pvalue if size else 1.0
    assert comparison.exact_paired_test(first, second) == pytest.approx(expected)


def test_several_seeds_are_the_sign_flips_of_patients() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.integers(0, 2, (3, 8)), rng.integers(0, 2, (3, 8))
    difference = first.sum(axis=0) - second.sum(axis=0)
    flips = [abs((difference * signs).sum()) for signs in itertools.product([-1, 1], repeat=8)]
    expected = np.mean(np.array(flips) >= abs(difference.sum()))
    assert comparison.exact_paired_test(first, second) == pytest.approx(expected)


def test_other_seed_counts_are_an_error() -> None:
    with pytest.raises(GlomflowError, match="same patients with the same number of seeds"):
        comparison.exact_paired_test(np.ones((2, 5)), np.ones((1, 5)))


@pytest.mark.parametrize(
    ("given", "adjusted"),
    [
        ([0.01, 0.04, 0.03], [0.03, 0.06, 0.06]),
        ([0.5, np.nan, 0.4], [0.8, np.nan, 0.8]),
        ([0.9, 0.8], [1.0, 1.0]),
        ([], []),
    ],
)
def test_holm(given: list[float], adjusted: list[float]) -> None:
    assert comparison.holm(given) == pytest.approx(adjusted, nan_ok=True)


def test_bootstrap_p_has_a_floor_and_a_ceiling() -> None:
    assert comparison.bootstrap_p(np.full(99, 0.1)) == pytest.approx(0.01)
    assert comparison.bootstrap_p(np.zeros(99)) == 1.0
    assert np.isnan(comparison.bootstrap_p(np.array([np.nan])))


def _compare(scores: dict[str, np.ndarray], labels: np.ndarray) -> pd.DataFrame:
    settings = Evaluation(bootstrap=500)
    draws = intervals.bootstrap(labels, scores, settings, seed=0)
    own = {
        name: intervals.metric_intervals(labels, values, draws[name], settings)
        for name, values in scores.items()
    }
    return comparison.compare_models(labels, scores, draws, own, settings)


def _scores(labels: np.ndarray, skill: float, seed: int) -> np.ndarray:
    logits = np.random.default_rng(seed).normal(size=(len(labels), 3))
    logits[np.arange(len(labels)), labels] += skill
    return (np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True))[None]


def test_a_better_model_is_found_better_and_an_equal_one_is_not() -> None:
    labels = np.arange(150) % 3
    scores = {
        name: _scores(labels, skill, seed) for seed, (name, skill) in enumerate([("a", 2.5), ("b", 0.5)])
    }
    scores["c"] = _scores(labels, 2.5, 7)
    rows = _compare(scores, labels).set_index(["other", "metric"])
    assert (rows.loc["b", "lower"] > 0).all()
    assert (rows.loc["b", "p_holm"] < 0.05).all()
    assert (rows.loc["c", "p_holm"] > 0.05).all()
    assert rows.loc[("b", "accuracy"), "test"] == "exact"
    alone = rows.loc[("b", "accuracy")]
    assert alone["only_model"] - alone["only_other"] == pytest.approx(150 * alone["difference"])


def test_two_perfect_models_still_get_an_interval() -> None:
    labels = np.arange(30) % 3
    perfect = np.eye(3)[labels][None]
    rows = _compare({"a": perfect, "b": perfect.copy()}, labels)
    assert (rows["interval"] == "score").all()
    assert (rows["difference"] == 0).all()
    assert (rows["lower"] < -0.05).all()
    assert (rows["upper"] > 0.05).all()
    assert (rows["p_value"] == 1).all()


def test_one_model_has_nothing_to_be_compared_with() -> None:
    labels = np.arange(9) % 3
    assert _compare({"a": _scores(labels, 1, 0)}, labels).empty
