"""Summary of the few-shot experiment, with intervals that respect slides.

Crops of a slide resemble each other, and the runs test overlapping sets of slides: neither crops
nor runs are independent. The bootstrap therefore resamples slides and runs at once (the two-way, or
pigeonhole, bootstrap; Owen, Ann Appl Stat 2007): one draw of slides serves all runs, methods and
numbers of shots, each run's metric is computed on its test crops so weighted, and the runs, drawn
with replacement too, are averaged. Slides of one patient are one unit. A run whose test slides lose
a class altogether in a draw is left out of it, since its metric would mean something else.

Where sites are held out in turn, each round of them tests every crop once, by models of the other
sites: the crops of a round are one set, rounds take the place of runs, and slides are resampled within
their sites. The same is told of each site by itself.

With few slides (the interval counts them) such intervals are still somewhat too narrow, and they
speak of other slides like these, not of other laboratories.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from glomflow.config import Evaluation
from glomflow.errors import GlomflowError
from glomflow.evaluation import metrics
from glomflow.evaluation.comparison import adjust, bootstrap_p
from glomflow.evaluation.draws import check_draws, rounds_of
from glomflow.evaluation.few_shot_details import (
    Resamples,
    calibration_rows,
    mean_sd,
    recall_rows,
    scaled,
    weighted_mean,
    with_temperatures,
)
from glomflow.evaluation.few_shot_schemas import (
    CALIBRATION,
    FEW_SHOT_METRICS,
    OPTIONAL,
    PAIRED,
    PER_RUN,
    PROPORTIONS,
    RECALLS,
    SCORES,
    SITE_SCORES,
    SPACE_METRICS,
    TABLES,
)
from glomflow.evaluation.intervals import percentile_interval, resample_weights
from glomflow.evaluation.metrics import Floats, Labels
from glomflow.evaluation.vlm_metrics import briers
from glomflow.tables import read_tables, write_tables


@dataclass(frozen=True)
class FewShotSummary:
    """Metrics of the few-shot experiment.

    Attributes:
        metrics: Mean, SD and interval per method, shots and metric.
        per_run: Metrics of each run.
        comparisons: The first method against each other one, per shots and metric.
        confusion: Confusion matrices in long form.
        sites: The metrics of each held-out site; empty if none was.
        recalls: Recall of each class per method and shots.
        calibration: Reliability of the probabilities per method and shots, bin by bin.
    """

    metrics: pd.DataFrame
    per_run: pd.DataFrame
    comparisons: pd.DataFrame
    confusion: pd.DataFrame
    sites: pd.DataFrame
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
        slides: Independent slides.
        crops: Mean number of crops in a run.
        classes: Classes that the crops show.
    """

    per_run: dict[str, Floats]
    draws: dict[str, Floats]
    slides: int
    crops: float
    classes: int


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
    rows = with_temperatures(_placed(predictions, draws), geometry)
    rounds = np.sort(rows["round"].unique())
    strata = rows.groupby("group")["site"].first().to_numpy()
    rng = np.random.default_rng(seed)
    slides = np.concatenate(list(resample_weights(strata, settings.bootstrap, rng)))
    weights = np.concatenate(list(resample_weights(np.zeros(len(rounds)), settings.bootstrap, rng)))
    drawn, bins = Resamples(slides, weights, settings.confidence), settings.ece_bins
    cells, parts = {}, {}
    recalls: list[dict[str, Any]] = []
    calibration: list[dict[str, Any]] = []
    for method, shots, own in _groups(rows):
        cells[method, shots] = _cell(own, rounds, classes, drawn, bins)
        key = {"method": method, "shots": shots}
        recalls += recall_rows(key, own, classes, drawn)
        calibration += calibration_rows(key, own, classes, drawn, bins)
        for site, part in own.groupby("site"):
            whole = len(part) == len(own)
            found = cells[method, shots] if whole else _cell(part, rounds, classes, drawn, bins)
            parts[method, shots, str(site)] = found
    held_out = {key: cell for key, cell in parts.items() if key[-1]}
    scores = pd.DataFrame(_score_rows(cells, drawn))
    paired = adjust(pd.DataFrame(_paired_rows(cells, settings.confidence)), ["method", "other", "metric"])
    return FewShotSummary(
        metrics=scores[list(SCORES)],
        per_run=pd.DataFrame(_run_rows(parts, rows))[list(PER_RUN)].astype({"site": "str"}),
        comparisons=paired.reindex(columns=list(PAIRED)),
        confusion=pd.DataFrame(_confusion_rows(rows, classes, len(rounds))),
        sites=pd.DataFrame(_score_rows(held_out, drawn), columns=list(SITE_SCORES)),
        recalls=pd.DataFrame(recalls, columns=list(RECALLS)),
        calibration=pd.DataFrame(calibration, columns=list(CALIBRATION)),
    )


def _placed(predictions: pd.DataFrame, draws: pd.DataFrame) -> pd.DataFrame:
    """Adds each crop's group, numbered through, and its run's site ('' if none is held out) and round."""
    test = draws[draws["split"] == "test"].set_index(["run", "crop"])["group"]
    rows = predictions.join(test, on=["run", "crop"]).join(rounds_of(draws), on="run")
    rows["group"] = np.unique(rows["group"].to_numpy(), return_inverse=True)[1]
    return rows


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


def _cell(rows: pd.DataFrame, rounds: Floats, classes: list[str], drawn: Resamples, bins: int) -> _Cell:
    number = {name: place for place, name in enumerate(classes)}
    columns = [f"p_{name}" for name in classes]
    per_run: dict[str, list[float]] = {name: [] for name in FEW_SHOT_METRICS}
    resampled: dict[str, list[Floats]] = {name: [] for name in FEW_SHOT_METRICS}
    for turn in rounds:
        own = rows[rows["round"] == turn]
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
        weighted = _evaluated(own, labels, scores, counts[usable], bins) | {
            name: counts[usable] @ each / counts[usable].sum(axis=1) for name, each in means.items()
        }
        for name in FEW_SHOT_METRICS:
            per_run[name].append(float(values[name]))
            column = np.full(len(drawn.slides), np.nan)
            column[usable] = weighted[name]
            resampled[name].append(column)
    return _Cell(
        {name: np.array(values) for name, values in per_run.items()},
        {name: weighted_mean(np.stack(values, axis=1), drawn.runs) for name, values in resampled.items()},
        slides=int(rows["group"].nunique()),
        crops=len(rows) / len(rounds),
        classes=int(rows["label"].nunique()),
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


def _score_rows(cells: Mapping[tuple[Any, ...], _Cell], drawn: Resamples) -> Iterator[dict[str, Any]]:
    for key, cell in cells.items():
        for metric in FEW_SHOT_METRICS:
            mean, sd = mean_sd(cell.per_run[metric])
            if np.isnan(mean) and metric in OPTIONAL:
                continue
            lower, upper, kind = drawn.interval(
                cell.draws[metric], mean, cell.slides, proportion=metric in PROPORTIONS
            )
            yield {
                **dict(zip(("method", "shots", "site"), key, strict=False)),
                "metric": metric,
                "mean": mean,
                "sd": sd,
                "lower": lower,
                "upper": upper,
                "interval": kind,
                "runs": len(cell.per_run[metric]),
                "slides": cell.slides,
                "classes": cell.classes,
                "crops": cell.crops,
            }


def _run_rows(parts: Mapping[tuple[str, int, str], _Cell], rows: pd.DataFrame) -> Iterator[dict[str, Any]]:
    grouped = rows.groupby(["method", "shots", "run"])
    sizes, slides = grouped.size(), grouped["slide"].nunique()
    runs = rows[["run", "site", "round"]].drop_duplicates().sort_values("run")
    pairs = dict.fromkeys((method, shots) for method, shots, _ in parts)
    for method, shots in pairs:
        for run, site, turn in runs.itertuples(index=False):
            per_run = parts[method, shots, site].per_run
            yield {
                "method": method,
                "shots": shots,
                "run": run,
                "site": site or None,
                "crops": sizes[method, shots, run],
                "slides": slides[method, shots, run],
                **{name: per_run[name][turn] for name in FEW_SHOT_METRICS},
            }


def _paired_rows(cells: dict[tuple[str, int], _Cell], confidence: float) -> Iterator[dict[str, Any]]:
    methods = list(dict.fromkeys(method for method, _ in cells))
    own = {shots for method, shots in cells if method == methods[0]}
    for other in methods[1:]:
        for shots in sorted(own & {shots for method, shots in cells if method == other}):
            pair = cells[(methods[0], shots)], cells[(other, shots)]
            for metric in FEW_SHOT_METRICS:
                mean, sd = mean_sd(pair[0].per_run[metric] - pair[1].per_run[metric])
                if np.isnan(mean) and metric in OPTIONAL:
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
