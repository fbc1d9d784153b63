"""Confidence intervals: patients are resampled, never images.

The bootstrap is stratified by true class: every resample holds as many patients of each class as
the cohort does, because the class mix of a biopsy cohort is chosen, not measured, and because the
area under the ROC curve then exists in every resample. With several replicates (training seeds, repeats of
the cross-validation) a metric is computed for each and averaged (an ensemble of them would be another, better
model); the same resample of patients serves all replicates.

All metrics but one get percentile intervals. The expected
calibration error is biased upwards, more so in a resample than in the cohort, and its percentile
interval may not even hold its estimate; it gets the basic interval (2 x estimate - percentiles,
cut at 0), which takes the bias off, stretched to the estimate.

A bootstrap cannot see beyond its sample: with every patient classified correctly each resample is
perfect and the interval collapses to [1, 1]. A collapsed interval is replaced by one that does not
rest on resampling (see :func:`score_interval`), and the table says so.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from glomflow.config import Evaluation
from glomflow.evaluation.metrics import Floats, Labels, class_auc, confusion, distances, evaluate

_BLOCK_ELEMENTS = 4_000_000


@dataclass(frozen=True)
class Interval:
    """An estimate with its interval.

    Attributes:
        value: The estimate.
        lower: Lower end.
        upper: Upper end.
        method: ``percentile``, ``basic``, ``score`` (collapsed bootstrap) or ``none`` (undefined).
    """

    value: float
    lower: float
    upper: float
    method: str


def normal_quantile(confidence: float) -> float:
    """Returns the standard normal quantile of a two-sided level, 1.96 for 0.95."""
    from scipy.special import ndtri

    return float(ndtri(0.5 + confidence / 2))


def wilson(successes: ArrayLike, totals: ArrayLike, confidence: float = 0.95) -> tuple[Floats, Floats]:
    """Returns Wilson's score interval of proportions (Wilson, JASA 1927).

    Args:
        successes: Successes; may be fractional (a mean over seeds).
        totals: Trials.
        confidence: Two-sided level.

    Returns:
        Lower and upper ends, of the broadcast shape; NaN where there is no trial.
    """
    hits, trials = np.broadcast_arrays(
        np.asarray(successes, dtype=np.float64), np.asarray(totals, dtype=np.float64)
    )
    some = trials > 0
    count = np.where(some, trials, 1.0)
    share, square = hits / count, normal_quantile(confidence) ** 2
    centre = (share + square / (2 * count)) / (1 + square / count)
    variance = np.maximum(share * (1 - share), 0.0) / count + square / (4 * count**2)
    half = np.sqrt(square * variance) / (1 + square / count)
    lower = np.where(some, np.clip(centre - half, 0.0, share), np.nan)
    upper = np.where(some, np.clip(centre + half, share, 1.0), np.nan)
    return lower, upper


def mean_of_proportions(
    values: Floats, lowers: Floats, uppers: Floats, weights: Floats | None = None
) -> tuple[float, float]:
    """Combines independent estimates' intervals into one of their weighted sum (MOVER).

    Zou & Donner, Stat Med 2008: the distance from the sum to its limit is the root of the summed
    squares of the weighted distances of the parts.

    Args:
        values: (K,) estimates.
        lowers: (K,) lower ends.
        uppers: (K,) upper ends.
        weights: (K,) weights, each 1/K if None.

    Returns:
        Lower and upper end.
    """
    share = np.full(len(values), 1 / len(values)) if weights is None else weights
    total = float((share * values).sum())
    down, up = share * (values - lowers), share * (uppers - values)
    return total - float(np.sqrt((down**2).sum())), total + float(np.sqrt((up**2).sum()))


def auc_interval(
    area: float, positives: float, negatives: float, confidence: float = 0.95
) -> tuple[float, float]:
    """Returns the score-like interval of an area under a ROC curve.

    Newcombe, Stat Med 2006;25:559, method 5: the areas theta whose distance from the estimate is at
    most z times their own standard error. It does not collapse at an area of 1.

    Args:
        area: Estimated area.
        positives: Rows of the class.
        negatives: Other rows.
        confidence: Two-sided level.

    Returns:
        Lower and upper end; NaN if the area is.
    """
    if np.isnan(area):
        return np.nan, np.nan
    z, size = normal_quantile(confidence), (positives + negatives) / 2 - 1

    def inside(theta: float) -> bool:
        spread = 1 + size * ((1 - theta) / (2 - theta) + theta / (1 + theta))
        variance = theta * (1 - theta) * spread / (positives * negatives)
        return abs(area - theta) <= z * float(np.sqrt(max(variance, 0.0)))

    ends = []
    for far in (0.0, 1.0):
        within, without = area, far
        if inside(far):
            within = far
        for _ in range(60):
            middle = (within + without) / 2
            within, without = (middle, without) if inside(middle) else (within, middle)
        ends.append(within)
    return ends[0], ends[1]


def resample_weights(strata: ArrayLike, resamples: int, rng: np.random.Generator) -> Iterator[Floats]:
    """Draws stratified bootstrap resamples as counts, in blocks that bound the memory.

    Args:
        strata: (n,) stratum of each row; each keeps its size in every resample.
        resamples: Number of resamples.
        rng: Source of the draws.

    Yields:
        (r, n) counts; the r of all blocks add up to ``resamples``.
    """
    groups = np.unique(np.asarray(strata), return_inverse=True)[1]
    block = max(1, _BLOCK_ELEMENTS // max(1, len(groups)))
    members = [np.flatnonzero(groups == group) for group in range(groups.max(initial=-1) + 1)]
    for start in range(0, resamples, block):
        weights = np.zeros((min(block, resamples - start), len(groups)))
        for rows in members:
            share = np.full(len(rows), 1 / len(rows))
            weights[:, rows] = rng.multinomial(len(rows), share, size=len(weights))
        yield weights


def percentile_interval(draws: Floats, confidence: float) -> tuple[float, float]:
    """Returns the percentile interval of the draws that are defined; NaN if none is."""
    defined = draws[~np.isnan(draws)]
    if not len(defined):
        return np.nan, np.nan
    tail = (1 - confidence) / 2
    lower, upper = np.quantile(defined, [tail, 1 - tail])
    return float(lower), float(upper)


def collapsed(draws: Floats) -> bool:
    """Tells whether all defined draws are one value, so that their interval says nothing."""
    defined = draws[~np.isnan(draws)]
    return bool(len(defined)) and bool(np.ptp(defined) < 1e-12)


def replicate_mean(
    labels: Labels,
    probabilities: Floats,
    weights: Floats | None = None,
    *,
    bins: int = 15,
    ordered: bool = False,
) -> dict[str, Floats]:
    """Returns each metric averaged over replicates.

    Args:
        labels: (n,) true classes.
        probabilities: (replicates, n, K).
        weights: (n,) or (R, n) counts of the rows; once each if None.
        bins: Bins of the expected calibration error.
        ordered: Whether the classes are ordered.

    Returns:
        Metric name to () or (R,).
    """
    found = [evaluate(labels, own, weights, bins=bins, ordered=ordered) for own in probabilities]
    return {name: np.mean([values[name] for values in found], axis=0) for name in found[0]}


def bootstrap(
    labels: Labels,
    probabilities: dict[str, Floats],
    settings: Evaluation,
    *,
    seed: int,
    ordered: bool = False,
) -> dict[str, dict[str, Floats]]:
    """Resamples patients and evaluates every model on the same resamples.

    Args:
        labels: (n,) true classes.
        probabilities: Model to (replicates, n, K).
        settings: Number of resamples and bins.
        seed: Seed of the resamples.
        ordered: Whether the classes are ordered.

    Returns:
        Model to metric to (resamples,), the metric's mean over replicates.
    """
    rng = np.random.default_rng(seed)
    draws: dict[str, dict[str, list[Floats]]] = {model: {} for model in probabilities}
    for weights in resample_weights(labels, settings.bootstrap, rng):
        for model, scores in probabilities.items():
            values = replicate_mean(labels, scores, weights, bins=settings.ece_bins, ordered=ordered)
            for name, drawn in values.items():
                draws[model].setdefault(name, []).append(drawn)
    return {
        model: {name: np.concatenate(parts) for name, parts in metrics.items()}
        for model, metrics in draws.items()
    }


def score_interval(
    metric: str, value: float, labels: Labels, probabilities: Floats, confidence: float
) -> tuple[float, float]:
    """Returns an interval that does not rest on resampling, for a collapsed bootstrap.

    Accuracy: Wilson. Balanced accuracy: Wilson per class, joined by :func:`mean_of_proportions`.
    Macro AUC: :func:`auc_interval` per class, the ends averaged (as if the classes' errors went
    together, the cautious case). Macro F1 has no such interval; it gets the distances of balanced
    accuracy, which it equals at 1. Expected calibration error likewise gets Wilson's larger
    distance, since it moves by no more than the accuracy does. The distances of quadratic kappa and of the
    absolute error are those of the accuracy times what one error can cost at most.

    Args:
        metric: One of ``METRICS`` or ``ORDERED_METRICS``.
        value: The estimate.
        labels: (n,) true classes.
        probabilities: (replicates, n, K).
        confidence: Two-sided level.

    Returns:
        Lower and upper end, within the metric's range.
    """
    counts = np.mean([confusion(labels, own) for own in probabilities], axis=0)
    support, hits = counts.sum(axis=1), np.diagonal(counts)
    present = support > 0
    if metric == "macro_auc":
        areas = np.mean([class_auc(labels, own) for own in probabilities], axis=0)
        usable = np.flatnonzero(present & ~np.isnan(areas))
        size = support.sum()
        pairs = [
            auc_interval(float(areas[k]), float(support[k]), float(size - support[k]), confidence)
            for k in usable
        ]
        lower, upper = (float(end) for end in np.mean(pairs, axis=0))
    elif metric in {"accuracy", "ece"}:
        share = float(hits.sum() / support.sum())
        ends = wilson(hits.sum(), support.sum(), confidence)
        down, up = share - float(ends[0]), float(ends[1]) - share
        if metric == "ece":
            down = up = max(down, up)
        lower, upper = value - down, value + up
    elif metric in {"quadratic_kappa", "absolute_error"}:
        return _ordered_score(metric, value, counts, confidence)
    else:
        shares = hits[present] / support[present]
        ends = wilson(hits[present], support[present], confidence)
        low, high = mean_of_proportions(shares, *ends)
        lower, upper = value - (float(shares.mean()) - low), value + (high - float(shares.mean()))
    return max(0.0, lower), min(1.0, upper)


def _ordered_score(metric: str, value: float, counts: Floats, confidence: float) -> tuple[float, float]:
    """Returns the ends for a metric of ordered classes, from Wilson's interval of the accuracy."""
    total, costs = counts.sum(), distances(len(counts))
    right = float(np.diagonal(counts).sum())
    ends = wilson(right, total, confidence)
    down, up = right / total - float(ends[0]), float(ends[1]) - right / total
    if metric == "absolute_error":
        worst = float(costs.max())
        return max(0.0, value - worst * up), min(worst, value + worst * down)
    chance = counts.sum(axis=1)[:, None] * counts.sum(axis=0)[None] / total**2
    worst = float(costs.max() ** 2 / (chance * costs**2).sum())
    return max(-1.0, value - worst * down), min(1.0, value + worst * up)


def metric_intervals(
    labels: Labels,
    probabilities: Floats,
    draws: dict[str, Floats],
    settings: Evaluation,
    *,
    ordered: bool = False,
) -> dict[str, Interval]:
    """Returns every metric of one model with its interval.

    Args:
        labels: (n,) true classes.
        probabilities: (replicates, n, K).
        draws: Metric to (resamples,), from :func:`bootstrap`.
        settings: Level and bins.
        ordered: Whether the classes are ordered.

    Returns:
        Metric to its estimate and interval.
    """
    values = replicate_mean(labels, probabilities, bins=settings.ece_bins, ordered=ordered)
    result = {}
    for name in values:
        value = float(values[name])
        lower, upper = percentile_interval(draws[name], settings.confidence)
        method = "percentile"
        if np.isnan(value) or np.isnan(lower):
            lower = upper = np.nan
            method = "none"
        elif collapsed(draws[name]):
            lower, upper = score_interval(name, value, labels, probabilities, settings.confidence)
            method = "score"
        elif name == "ece":
            lower, upper = max(0.0, 2 * value - upper), max(value, 2 * value - lower)
            method = "basic"
        result[name] = Interval(value, lower, upper, method)
    return result
