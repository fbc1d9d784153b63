"""Summary of the few-shot experiment, with intervals that respect slides.

Crops of a slide resemble each other, and the runs test overlapping sets of slides: neither crops
nor runs are independent. The bootstrap therefore resamples slides and runs at once (the two-way, or
pigeonhole, bootstrap; Owen, Ann Appl Stat 2007): one draw of slides serves all runs, methods and
numbers of shots, each run's metric is computed on its test crops so weighted, and the runs, drawn
with replacement too, are averaged. Slides of one patient are one unit. A run whose test slides lose
a class altogether in a draw is left out of it, since its metric would mean something else.

With few slides (the interval counts them) such intervals are still somewhat too narrow, and they
speak of other slides like these, not of other laboratories.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from glomflow.config import Evaluation
from glomflow.errors import GlomflowError
from glomflow.evaluation import metrics
from glomflow.evaluation.comparison import adjust, bootstrap_p
from glomflow.evaluation.draws import check_draws
from glomflow.evaluation.few_shot_details import (
    CALIBRATION,
    KEY,
    RECALLS,
    Resamples,
    calibration_rows,
    mean_sd,
    recall_rows,
    scaled,
    weighted_mean,
    with_temperatures,
)
from glomflow.evaluation.intervals import collapsed, percentile_interval, resample_weights, wilson
from glomflow.evaluation.metrics import Floats, Labels
from glomflow.evaluation.vlm_metrics import briers
from glomflow.tables import Column, Schema, read_tables, write_tables

SPACE_METRICS = {"alignment": "own_cosine", "similarity_gap": "cosine_gap", "silhouette": "silhouette"}
"""Metrics of a shared space of images and texts, each the mean of a column of the predictions."""

FEW_SHOT_METRICS = (
    "balanced_accuracy",
    "accuracy",
    "macro_auc",
    "macro_f1",
    "ece",
    "scaled_ece",
    "brier",
    "decision_margin",
    *SPACE_METRICS,
)
"""The metrics reported, the main one first."""

_OPTIONAL = ("scaled_ece", *SPACE_METRICS)
"""What only some methods have: a temperature, or a shared space of images and texts."""

_PROPORTIONS = ("balanced_accuracy", "accuracy", "macro_auc", "macro_f1")
"""Where the bootstrap sees no spread, Wilson's interval takes over."""

_INTERVAL = {
    "lower": Column("float64", "lower end of the interval over slides and runs"),
    "upper": Column("float64", "upper end of the interval over slides and runs"),
}

SCORES: Schema = {
    **KEY,
    "metric": Column("string", "name of the metric"),
    "mean": Column("float64", "mean over runs"),
    "sd": Column("float64", "standard deviation over runs, ddof = 0"),
    **_INTERVAL,
    "interval": Column("string", "'slides' (two-way bootstrap), 'wilson' where it collapsed, 'none'"),
    "runs": Column("int64", "runs"),
    "slides": Column("int64", "independent slides (patients) among the test crops of all runs"),
    "crops": Column("float64", "mean number of test crops in a run"),
}

PER_RUN: Schema = {
    **KEY,
    "run": Column("int64", "run, from 0"),
    "crops": Column("int64", "test crops"),
    "slides": Column("int64", "test slides"),
    **{name: Column("float64", name.replace("_", " ")) for name in FEW_SHOT_METRICS},
}

PAIRED: Schema = {
    "shots": KEY["shots"],
    "method": Column("string", "first method"),
    "other": Column("string", "method that it is compared with"),
    "metric": Column("string", "name of the metric"),
    "difference": Column("float64", "mean over runs of the first method's metric less the other's"),
    "sd": Column("float64", "standard deviation of the difference over runs, ddof = 0"),
    **_INTERVAL,
    "p_value": Column("float64", "two-sided, from the same bootstrap"),
    "p_holm": Column("float64", "p value adjusted for the numbers of shots (Holm)"),
}

CONFUSION: Schema = {
    **KEY,
    "true": Column("string", "true class"),
    "predicted": Column("string", "class of highest probability"),
    "count": Column("float64", "test crops, mean over runs"),
}

TABLES: dict[str, Schema] = {
    "metrics": SCORES,
    "per_run": PER_RUN,
    "comparisons": PAIRED,
    "confusion": CONFUSION,
    "recalls": RECALLS,
    "calibration": CALIBRATION,
}
"""The tables by file name; each is written as ``<name>.parquet``."""

FEW_SHOT_FILES = tuple(f"{name}.parquet" for name in TABLES)
"""What :meth:`FewShotSummary.write` writes."""


@dataclass(frozen=True)
class FewShotSummary:
    """Metrics of the few-shot experiment.

    Attributes:
        metrics: Mean, SD and interval per method, shots and metric.
        per_run: Metrics of each run.
        comparisons: The first method against each other one, per shots and metric.
        confusion: Confusion matrices in long form.
        recalls: Recall of each class per method and shots.
        calibration: Reliability of the probabilities per method and shots, bin by bin.
    """

    metrics: pd.DataFrame
    per_run: pd.DataFrame
    comparisons: pd.DataFrame
    confusion: pd.DataFrame
    recalls: pd.DataFrame
    calibration: pd.DataFrame

    def write(self, folder: str | os.PathLike[str]) -> None:
        """Writes the tables as Parquet files."""
        write_tables(folder, {name: getattr(self, name) for name in TABLES}, TABLES)

    @classmethod
    def read(cls, folder: str | os.PathLike[str]) -> FewShotSummary:
        """Reads what :meth:`write` wrote.

        Raises:
            GlomflowError: A file is missing or does not hold what it should.
        """
        return cls(**read_tables(folder, TABLES))


@dataclass(frozen=True)
class _Cell:
    """Predictions of one method and number of shots, with what the bootstrap made of them.

    Attributes:
        per_run: Metric to (runs,).
        draws: Metric to (resamples,), the mean over resampled runs on resampled slides.
    """

    per_run: dict[str, Floats]
    draws: dict[str, Floats]


def few_shot_summary(
    predictions: pd.DataFrame,
    draws: pd.DataFrame,
    settings: Evaluation,
    *,
    seed: int,
    geometry: pd.DataFrame | None = None,
) -> FewShotSummary:
    """Summarises the few-shot experiment.

    Args:
        predictions: FEW_SHOT rows with ``p_<class>`` columns; the classes are those columns.
        draws: The draws that they rest on (``glomflow.evaluation.draws.DRAWS``).
        settings: Resamples and level of the intervals, bins of the calibration error.
        seed: Seed of the resamples.
        geometry: GEOMETRY rows of adapted models, whose temperatures give the scaled calibration error.

    Returns:
        The summary.

    Raises:
        GlomflowError: A test crop is missing, doubled or was trained on, a label is unknown, or a
            probability is unusable; the message names the crop. Or a run is described twice.
    """
    classes = [name.removeprefix("p_") for name in predictions.columns if name.startswith("p_")]
    check_draws(draws)
    _check_predictions(predictions, draws, classes)
    test = draws[draws["split"] == "test"].set_index(["run", "crop"])["group"]
    rows = with_temperatures(predictions.join(test, on=["run", "crop"]), geometry)
    groups, codes = np.unique(rows["group"].to_numpy(), return_inverse=True)
    rows["group"] = codes
    runs = np.sort(rows["run"].unique())
    rng = np.random.default_rng(seed)
    slides = np.concatenate(list(resample_weights(np.zeros(len(groups)), settings.bootstrap, rng)))
    weights = np.concatenate(list(resample_weights(np.zeros(len(runs)), settings.bootstrap, rng)))
    drawn = Resamples(slides, weights, settings.confidence)
    cells, recalls, calibration = {}, [], []
    for method, shots, own in _groups(rows):
        key = {"method": method, "shots": shots}
        cells[method, shots] = _cell(own, runs, classes, drawn, settings.ece_bins)
        recalls += list(recall_rows(key, own, classes, drawn))
        calibration += list(calibration_rows(key, own, classes, drawn, settings.ece_bins))
    scores = pd.DataFrame(_score_rows(cells, rows, len(groups), settings.confidence))
    paired = adjust(pd.DataFrame(_paired_rows(cells, settings.confidence)), ["method", "other", "metric"])
    return FewShotSummary(
        metrics=scores[list(SCORES)],
        per_run=pd.DataFrame(_run_rows(cells, rows, runs))[list(PER_RUN)],
        comparisons=paired.reindex(columns=list(PAIRED)),
        confusion=pd.DataFrame(_confusion_rows(rows, classes, len(runs))),
        recalls=pd.DataFrame(recalls)[list(RECALLS)],
        calibration=pd.DataFrame(calibration)[list(CALIBRATION)],
    )


def _groups(rows: pd.DataFrame) -> Iterator[tuple[str, int, pd.DataFrame]]:
    for method in rows["method"].unique():
        own = rows[rows["method"] == method]
        for shots in own["shots"].unique():
            yield str(method), int(shots), own[own["shots"] == shots]


def _check_predictions(predictions: pd.DataFrame, draws: pd.DataFrame, classes: list[str]) -> None:
    """Checks that every method and number of shots has each run's test crops exactly once."""
    if predictions.empty:
        raise GlomflowError("few-shot: there is no prediction to summarise")
    unknown = predictions[~predictions["label"].isin(classes)]
    if len(unknown):
        row = unknown.iloc[0]
        raise GlomflowError(
            f"few-shot: crop '{row['crop']}': label {row['label']!r} is not one of {', '.join(classes)}"
        )
    test = draws[draws["split"] == "test"]
    expected = set(zip(test["run"], test["crop"], strict=True))
    for method, shots, own in _groups(predictions):
        found = pd.Series(list(zip(own["run"], own["crop"], strict=True)))
        problems = (
            (found[found.duplicated()].tolist(), "is predicted twice in run"),
            (sorted(set(found) - expected), "is predicted, but is no test crop of the run"),
            (sorted(expected - set(found)), "is a test crop of the run, but is not predicted"),
        )
        for names, what in problems:
            if names:
                run, crop = names[0]
                raise GlomflowError(
                    f"few-shot, {method}, {shots} shots: crop '{crop}' {what} {run} ({len(names)} such); "
                    "run the few-shot job again"
                )


def _cell(rows: pd.DataFrame, runs: Floats, classes: list[str], drawn: Resamples, bins: int) -> _Cell:
    number = {name: place for place, name in enumerate(classes)}
    columns = [f"p_{name}" for name in classes]
    per_run: dict[str, list[float]] = {name: [] for name in FEW_SHOT_METRICS}
    resampled: dict[str, list[Floats]] = {name: [] for name in FEW_SHOT_METRICS}
    for run in runs:
        own = rows[rows["run"] == run]
        labels = np.array([number[name] for name in own["label"]], dtype=np.int64)
        labels, scores = metrics.check_scores(labels, own[columns].to_numpy(), own["crop"].tolist())
        counts = drawn.slides[:, own["group"].to_numpy()]
        per_class = counts @ np.eye(len(classes))[labels]
        present = np.bincount(labels, minlength=len(classes)) > 0
        whole = (per_class[:, present] > 0).all(axis=1)
        usable = np.flatnonzero(whole)
        means = _crop_values(own, labels, scores)
        values = _evaluated(own, labels, scores, None, bins)
        values |= {name: each.mean() for name, each in means.items()}
        resampled_values = _evaluated(own, labels, scores, counts[usable], bins)
        resampled_values |= {
            name: counts[usable] @ each / counts[usable].sum(axis=1) for name, each in means.items()
        }
        for name in FEW_SHOT_METRICS:
            per_run[name].append(float(values[name]))
            column = np.full(len(drawn.slides), np.nan)
            column[usable] = resampled_values[name]
            resampled[name].append(column)
    return _Cell(
        {name: np.array(values) for name, values in per_run.items()},
        {name: weighted_mean(np.stack(values, axis=1), drawn.runs) for name, values in resampled.items()},
    )


def _evaluated(
    rows: pd.DataFrame, labels: Labels, scores: Floats, weights: Floats | None, bins: int
) -> dict[str, Floats]:
    """Returns the metrics of one run, each () or (R,); the scaled calibration error is NaN if it has none."""
    found = metrics.evaluate(labels, scores, weights, bins=bins)
    temperatures = rows["temperature"].to_numpy(np.float64)
    if np.isnan(temperatures).any():
        return found | {"scaled_ece": np.full_like(found["ece"], np.nan)}
    return found | {"scaled_ece": metrics.ece(labels, scaled(scores, temperatures), weights, bins=bins)}


def _crop_values(rows: pd.DataFrame, labels: Labels, scores: Floats) -> dict[str, Floats]:
    """Returns the metrics that are means over crops, each (n,)."""
    return {
        "brier": briers(labels, scores),
        "decision_margin": metrics.decision_margin(scores),
        **{name: rows[column].to_numpy(np.float64) for name, column in SPACE_METRICS.items()},
    }


def _score_rows(
    cells: dict[tuple[str, int], _Cell], rows: pd.DataFrame, slides: int, confidence: float
) -> Iterator[dict[str, Any]]:
    sizes = rows.groupby(["method", "shots"]).size()
    for (method, shots), cell in cells.items():
        for metric in FEW_SHOT_METRICS:
            mean, sd = mean_sd(cell.per_run[metric])
            if np.isnan(mean) and metric in _OPTIONAL:
                continue
            lower, upper = percentile_interval(cell.draws[metric], confidence)
            kind = "none" if np.isnan(lower) else "slides"
            if collapsed(cell.draws[metric]) and metric in _PROPORTIONS:
                low, high = wilson(mean * slides, slides, confidence)
                lower, upper, kind = float(low), float(high), "wilson"
            yield {
                "method": method,
                "shots": shots,
                "metric": metric,
                "mean": mean,
                "sd": sd,
                "lower": lower,
                "upper": upper,
                "interval": kind,
                "runs": len(cell.per_run[metric]),
                "slides": slides,
                "crops": sizes[(method, shots)] / len(cell.per_run[metric]),
            }


def _run_rows(
    cells: dict[tuple[str, int], _Cell], rows: pd.DataFrame, runs: Floats
) -> Iterator[dict[str, Any]]:
    grouped = rows.groupby(["method", "shots", "run"])
    sizes, slides = grouped.size(), grouped["slide"].nunique()
    for (method, shots), cell in cells.items():
        for place, run in enumerate(runs):
            key = (method, shots, run)
            values = {name: cell.per_run[name][place] for name in FEW_SHOT_METRICS}
            yield {
                "method": method,
                "shots": shots,
                "run": run,
                "crops": sizes[key],
                "slides": slides[key],
                **values,
            }


def _paired_rows(cells: dict[tuple[str, int], _Cell], confidence: float) -> Iterator[dict[str, Any]]:
    methods = list(dict.fromkeys(method for method, _ in cells))
    own = {shots for method, shots in cells if method == methods[0]}
    for other in methods[1:]:
        for shots in sorted(own & {shots for method, shots in cells if method == other}):
            pair = cells[(methods[0], shots)], cells[(other, shots)]
            for metric in FEW_SHOT_METRICS:
                mean, sd = mean_sd(pair[0].per_run[metric] - pair[1].per_run[metric])
                if np.isnan(mean) and metric in _OPTIONAL:
                    continue
                difference = pair[0].draws[metric] - pair[1].draws[metric]
                lower, upper = percentile_interval(difference, confidence)
                yield {
                    "shots": shots,
                    "method": methods[0],
                    "other": other,
                    "metric": metric,
                    "difference": mean,
                    "sd": sd,
                    "lower": lower,
                    "upper": upper,
                    "p_value": bootstrap_p(difference),
                }


def _confusion_rows(rows: pd.DataFrame, classes: list[str], runs: int) -> Iterator[dict[str, Any]]:
    for method, shots, own in _groups(rows):
        counts = own.groupby(["label", "predicted"]).size().to_dict()
        for true in classes:
            for predicted in classes:
                count = counts.get((true, predicted), 0) / runs
                yield {
                    "method": method,
                    "shots": shots,
                    "true": true,
                    "predicted": predicted,
                    "count": count,
                }
