"""Recall of each class and reliability of the probabilities in the few-shot experiment.

Both are computed on the resamples of :mod:`glomflow.evaluation.few_shot_summary`: slides and runs at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from glomflow.errors import GlomflowError
from glomflow.evaluation.intervals import collapsed, percentile_interval, wilson
from glomflow.evaluation.metrics import Floats, Labels, confidence_bins
from glomflow.evaluation.vlm_metrics import scale_temperature

STATED, SCALED = "stated", "scaled"
"""Probabilities as the method states them, and after temperature scaling."""


@dataclass(frozen=True)
class Resamples:
    """What the two-way bootstrap drew.

    Attributes:
        slides: (B, G) how often each group of slides counts.
        runs: (B, R) how often each run counts, or where sites are held out each round of all sites.
        confidence: Two-sided level of the intervals.
    """

    slides: Floats
    runs: Floats
    confidence: float

    def interval(
        self, draws: Floats, value: float, slides: int, *, proportion: bool = True
    ) -> tuple[float, float, str]:
        """Returns the interval of a value, and what it rests on.

        Args:
            draws: (B,) the value in each resample, NaN where it is not defined.
            value: The value.
            slides: Independent slides behind it, the trials of Wilson's interval where draws do not differ.
            proportion: Whether it is a proportion, which Wilson's interval holds for.
        """
        if proportion and collapsed(draws):
            low, high = wilson(value * slides, slides, self.confidence)
            return float(low), float(high), "wilson"
        lower, upper = percentile_interval(draws, self.confidence)
        return lower, upper, "none" if np.isnan(lower) else "slides"


def with_temperatures(rows: pd.DataFrame, geometry: pd.DataFrame | None) -> pd.DataFrame:
    """Adds the column ``temperature``: that of each row's run, NaN where none was fitted.

    Args:
        rows: FEW_SHOT rows.
        geometry: GEOMETRY rows; None without adapted models.

    Raises:
        GlomflowError: A run is described twice.
    """
    if geometry is None or geometry.empty:
        return rows.assign(temperature=np.nan)
    keys = ["method", "shots", "run"]
    doubled = geometry[geometry.duplicated(keys)]
    if len(doubled):
        one = doubled.iloc[0]
        raise GlomflowError(
            f"few-shot: {one['method']}, {one['shots']} shots, run {one['run']} is described twice in the "
            "tables of few_shot/geometry; delete them and run again"
        )
    return rows.join(geometry.set_index(keys)["temperature"], on=keys)


def scaled(probabilities: Floats, temperatures: Floats) -> Floats:
    """Returns softmax(logits / T), (n, K), from the probabilities that softmax(logits) gave.

    Logits are known up to a constant per row, which softmax does not see.

    Args:
        probabilities: (n, K).
        temperatures: (n,) T of each row.
    """
    logits = np.log(np.maximum(probabilities, np.finfo(np.float64).tiny))
    return scale_temperature(logits / temperatures[:, None])


def recall_rows(
    key: dict[str, Any], rows: pd.DataFrame, classes: list[str], drawn: Resamples
) -> Iterator[dict[str, Any]]:
    """Yields RECALLS rows of one method and number of shots.

    A run in which a class has no test crop, or loses all of them in a resample, is left out of the class's
    mean.

    Args:
        key: ``method`` and ``shots``.
        rows: Its FEW_SHOT rows with ``group`` and ``round``, from 0.
        classes: K classes.
        drawn: The resamples, whose runs are the rounds of ``rows`` in ascending order.
    """
    runs = np.sort(rows["round"].unique())
    for name in classes:
        own = rows[rows["label"] == name]
        per_run = np.full(len(runs), np.nan)
        resampled = np.full((len(drawn.slides), len(runs)), np.nan)
        for place, run in enumerate(runs):
            part = own[own["round"] == run]
            if part.empty:
                continue
            hits = (part["predicted"] == name).to_numpy(np.float64)
            counts = drawn.slides[:, part["group"].to_numpy()]
            per_run[place] = hits.mean()
            resampled[:, place] = _shares(counts @ hits, counts.sum(axis=1))
        mean, sd = mean_sd(per_run)
        slides = int(own["group"].nunique())
        draws = weighted_mean(resampled, drawn.runs)
        lower, upper, kind = drawn.interval(draws, mean, slides)
        yield {
            **key,
            "class": name,
            "mean": mean,
            "sd": sd,
            "lower": lower,
            "upper": upper,
            "interval": kind,
            "slides": slides,
            "crops": len(own) / len(runs),
        }


def calibration_rows(
    key: dict[str, Any], rows: pd.DataFrame, classes: list[str], drawn: Resamples, bins: int
) -> Iterator[dict[str, Any]]:
    """Yields CALIBRATION rows of one method and number of shots.

    The crops of all runs are put together; a resample weighs each by its slide and its run. Scaled
    probabilities are there if every run has a temperature.

    Args:
        key: ``method`` and ``shots``.
        rows: Its FEW_SHOT rows with ``p_<class>``, ``group``, ``round`` and ``temperature``.
        classes: K classes.
        drawn: The resamples.
        bins: Equal-width bins over 0 to 1.
    """
    number = {name: place for place, name in enumerate(classes)}
    labels = np.array([number[name] for name in rows["label"]], dtype=np.int64)
    scores = rows[[f"p_{name}" for name in classes]].to_numpy(np.float64)
    kinds = {STATED: scores}
    if rows["temperature"].notna().all():
        kinds[SCALED] = scaled(scores, rows["temperature"].to_numpy(np.float64))
    for kind, probabilities in kinds.items():
        for row in _reliability(labels, probabilities, rows, drawn, bins):
            yield {**key, "probabilities": kind, **row}


def _reliability(
    labels: Labels, probabilities: Floats, rows: pd.DataFrame, drawn: Resamples, bins: int
) -> Iterator[dict[str, Any]]:
    confidence = probabilities.max(axis=1)
    hits = (probabilities.argmax(axis=1) == labels).astype(np.float64)
    places, edges = confidence_bins(confidence, bins), np.linspace(0.0, 1.0, bins + 1)
    groups = rows["group"].to_numpy()
    runs, codes = np.unique(rows["round"].to_numpy(), return_inverse=True)
    for place in range(bins):
        inside = np.flatnonzero(places == place)
        row: dict[str, Any] = {"low": edges[place], "high": edges[place + 1]}
        row |= {"crops": len(inside) / len(runs), "slides": len(np.unique(groups[inside]))}
        row |= dict.fromkeys(("confidence", "accuracy", "lower", "upper"), np.nan) | {"interval": "none"}
        if len(inside):
            right, total = _weighted_hits(hits[inside], groups[inside], codes[inside], drawn)
            value = float(hits[inside].mean())
            lower, upper, kind = drawn.interval(_shares(right, total), value, row["slides"])
            row |= {"confidence": confidence[inside].mean(), "accuracy": value}
            row |= {"lower": lower, "upper": upper, "interval": kind}
        yield row


def _weighted_hits(hits: Floats, groups: Labels, runs: Labels, drawn: Resamples) -> tuple[Floats, Floats]:
    """Returns the weighted number of right crops and of crops in each resample, each (B,)."""
    right, total = np.zeros(len(drawn.slides)), np.zeros(len(drawn.slides))
    for run in np.unique(runs):
        own = runs == run
        counts = drawn.slides[:, groups[own]] * drawn.runs[:, run, None]
        right += counts @ hits[own]
        total += counts.sum(axis=1)
    return right, total


def _shares(part: Floats, whole: Floats) -> Floats:
    result: Floats = np.divide(part, whole, out=np.full(whole.shape, np.nan), where=whole > 0)
    return result


def weighted_mean(values: Floats, weights: Floats) -> Floats:
    """Averages (resamples, runs) over runs by their counts, where the value is defined."""
    used = np.where(np.isnan(values), 0.0, weights)
    return _shares((np.nan_to_num(values) * used).sum(axis=1), used.sum(axis=1))


def mean_sd(values: Floats) -> tuple[float, float]:
    """Returns mean and standard deviation (ddof = 0) of what is defined; NaN if nothing is."""
    defined = values[~np.isnan(values)]
    return (float(defined.mean()), float(defined.std())) if len(defined) else (float("nan"), float("nan"))
