"""Paired comparisons: two models judged on the same patients."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from glomflow.config import Evaluation
from glomflow.errors import GlomflowError
from glomflow.evaluation.intervals import Interval, collapsed, percentile_interval
from glomflow.evaluation.metrics import ORDERED_METRICS, Floats, Labels

COMPARED = ("accuracy", "macro_auc", "macro_f1")
"""The metrics whose differences are reported; those of ordered classes besides, where there are any."""


def exact_paired_test(first: ArrayLike, second: ArrayLike) -> float:
    """Tests whether two models are right equally often on the same patients.

    The exact sign-flip test of the per-patient difference in correct answers: under the null
    hypothesis a patient's difference is as likely positive as negative. With one replicate this is McNemar's
    exact test (a binomial test on the discordant patients); with several (training seeds, repeats of the
    cross-validation), a patient's difference counts in how many each model is right, so that replicates are
    not taken for patients.

    Args:
        first: (n,) or (replicates, n) whether the first model is right.
        second: The same of the second model.

    Returns:
        Two-sided p value; 1 if the models never differ.

    Raises:
        GlomflowError: The shapes differ.
    """
    from scipy.stats import binom

    right = [np.atleast_2d(np.asarray(answers, dtype=np.int64)) for answers in (first, second)]
    if right[0].shape != right[1].shape:
        raise GlomflowError(
            f"comparison: answers of shapes {right[0].shape} and {right[1].shape}; both models need "
            "predictions of the same patients with the same number of seeds and repeats"
        )
    difference = right[0].sum(axis=0) - right[1].sum(axis=0)
    total = int(np.abs(difference).sum())
    if not total:
        return 1.0
    chance: NDArray[np.float64] = np.ones(1)
    for step in range(1, int(np.abs(difference).max()) + 1):
        patients = int((np.abs(difference) == step).sum())
        spaced = np.zeros(2 * step * patients + 1)
        spaced[:: 2 * step] = binom.pmf(np.arange(patients + 1), patients, 0.5)
        chance = np.convolve(chance, spaced)
    sums = np.arange(-total, total + 1)
    return float(min(1.0, chance[np.abs(sums) >= abs(int(difference.sum()))].sum()))


def bootstrap_p(differences: Floats) -> float:
    """Returns the two-sided bootstrap p value of a difference: twice the smaller share beyond 0.

    Args:
        differences: (resamples,) resampled differences; NaN are left out.

    Returns:
        (1 + 2 x count) / (1 + resamples), at most 1; NaN if no resample is defined. It cannot fall
        below 1 / (1 + resamples).
    """
    defined = differences[~np.isnan(differences)]
    if not len(defined):
        return float("nan")
    beyond = min(int((defined <= 0).sum()), int((defined >= 0).sum()))
    return min(1.0, (1 + 2 * beyond) / (1 + len(defined)))


def holm(p_values: ArrayLike) -> Floats:
    """Adjusts p values for their number (Holm, Scand J Stat 1979); NaN stay out of the count."""
    given = np.asarray(p_values, dtype=np.float64)
    adjusted = np.full(given.shape, np.nan)
    tested = np.flatnonzero(~np.isnan(given))
    order = tested[np.argsort(given[tested], kind="stable")]
    steps = given[order] * np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return adjusted


def _difference_row(
    metric: str, draws: tuple[Floats, Floats], intervals: tuple[Interval, Interval], confidence: float
) -> dict[str, object]:
    difference = draws[0] - draws[1]
    value = intervals[0].value - intervals[1].value
    lower, upper = percentile_interval(difference, confidence)
    method = "none" if np.isnan(lower) else "percentile"
    if collapsed(difference):
        first, second = intervals
        lower = value - float(np.hypot(first.value - first.lower, second.upper - second.value))
        upper = value + float(np.hypot(first.upper - first.value, second.value - second.lower))
        method = "score"
    return {
        "metric": metric,
        "difference": value,
        "lower": lower,
        "upper": upper,
        "interval": method,
        "p_value": bootstrap_p(difference),
        "test": "bootstrap",
    }


def compare_models(
    labels: Labels,
    probabilities: dict[str, Floats],
    draws: dict[str, dict[str, Floats]],
    intervals: dict[str, dict[str, Interval]],
    settings: Evaluation,
) -> pd.DataFrame:
    """Compares the first model with each of the others, patient by patient.

    Differences are the first model's metric less the other's, with the paired bootstrap interval
    (both models on the same resamples). The p value is exact for accuracy
    (:func:`exact_paired_test`) and the bootstrap's for the other metrics; Holm's adjustment runs over
    the other models, metric by metric. Where all resamples agree (two models without an error, say)
    the interval is the unpaired one of the two models' own intervals (Newcombe's hybrid), which is
    wider.

    Args:
        labels: (n,) true classes.
        probabilities: Model to (replicates, n, K), rows in one order; the first key is compared.
        draws: From :func:`glomflow.evaluation.intervals.bootstrap`.
        intervals: Model to metric to its own interval.
        settings: Level of the intervals.

    Returns:
        One row per other model and metric: model, other, metric, difference, lower, upper, interval,
        p_value, p_holm, test, only_model and only_other (patients, as a mean over replicates, that one
        of the two gets right alone).
    """
    names = list(probabilities)
    right = {name: scores.argmax(axis=2) == labels for name, scores in probabilities.items()}
    rows = []
    for other in names[1:]:
        for metric in [*COMPARED, *(name for name in ORDERED_METRICS if name in draws[other])]:
            pair = (draws[names[0]][metric], draws[other][metric])
            own = (intervals[names[0]][metric], intervals[other][metric])
            row: dict[str, object] = {"model": names[0], "other": other}
            row |= _difference_row(metric, pair, own, settings.confidence)
            row["only_model"], row["only_other"] = _alone(right[names[0]], right[other])
            if metric == "accuracy":
                row["p_value"], row["test"] = exact_paired_test(right[names[0]], right[other]), "exact"
            rows.append(row)
    return adjust(pd.DataFrame(rows), ["metric"])


def _alone(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> tuple[float, float]:
    share = first.mean(axis=0), second.mean(axis=0)
    return (
        float(np.maximum(share[0] - share[1], 0).sum()),
        float(np.maximum(share[1] - share[0], 0).sum()),
    )


def adjust(comparisons: pd.DataFrame, families: Sequence[str]) -> pd.DataFrame:
    """Adds ``p_holm``, Holm's adjustment of ``p_value`` within rows that agree in ``families``."""
    result = comparisons.copy()
    if result.empty:
        return result
    result["p_holm"] = np.nan
    for _, rows in result.groupby(list(families), sort=False):
        result.loc[rows.index, "p_holm"] = holm(rows["p_value"].to_numpy())
    return result
