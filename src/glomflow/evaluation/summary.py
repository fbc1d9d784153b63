"""The summary of a cross-validated diagnosis run: everything that the report draws."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd

from glomflow.config import Config
from glomflow.errors import GlomflowError
from glomflow.evaluation import metrics
from glomflow.evaluation.comparison import compare_models
from glomflow.evaluation.intervals import Interval, bootstrap, metric_intervals, replicate_mean, wilson
from glomflow.evaluation.metrics import METRICS, ORDERED_METRICS, Floats
from glomflow.evaluation.predictions import Scores, collect
from glomflow.evaluation.summary_schemas import TABLES
from glomflow.files import read_json, write_json
from glomflow.tables import MODALITIES, read_tables, write_tables

SUMMARY_FILES = (*(f"{name}.parquet" for name in TABLES), "summary.json")
"""What :meth:`Summary.write` writes."""


@dataclass(frozen=True)
class Summary:
    """Metrics of all models; the tables are declared in ``summary_schemas``.

    Attributes:
        models: One row per model: modalities, patients, seeds, repeats, ceilings.
        per_fold: Metrics per model, fold and seed.
        mean_sd: Mean and standard deviation (ddof = 0) over folds.
        pooled: Metrics over all patients with intervals.
        per_class: Sensitivity, specificity and more, with Wilson's intervals.
        confusion: Confusion matrices in long form.
        comparisons: The first model against each other one.
        strata: Metrics per site, with and without all of the model's modalities, and without each.
        calibration: Reliability bins.
        roc: One-vs-rest ROC curves.
        settings: Classes, seeds and the settings of the intervals.
    """

    models: pd.DataFrame
    per_fold: pd.DataFrame
    mean_sd: pd.DataFrame
    pooled: pd.DataFrame
    per_class: pd.DataFrame
    confusion: pd.DataFrame
    comparisons: pd.DataFrame
    strata: pd.DataFrame
    calibration: pd.DataFrame
    roc: pd.DataFrame
    settings: dict[str, Any]

    def write(self, folder: str | os.PathLike[str]) -> None:
        """Writes the tables as Parquet files and the settings as ``summary.json``."""
        write_tables(folder, {name: getattr(self, name) for name in TABLES}, TABLES)
        write_json(Path(folder) / "summary.json", self.settings)

    @classmethod
    def read(cls, folder: str | os.PathLike[str]) -> Self:
        """Reads what :meth:`write` wrote.

        Raises:
            GlomflowError: A file is missing or does not hold what it should.
        """
        tables = read_tables(folder, TABLES)
        return cls(**tables, settings=read_json(Path(folder) / "summary.json"))


def summarise(
    predictions: pd.DataFrame,
    patients: pd.DataFrame,
    config: Config,
    phantom: dict[str, Any] | None,
    task: str = "disease",
) -> Summary:
    """Evaluates the held-out predictions of all models of a task.

    Metrics are averaged over training seeds and repeats, probabilities are not. ``pooled`` joins the test
    folds of a cross-validation, in which every patient occurs once; its intervals are patient-level (see
    :mod:`glomflow.evaluation.intervals`). Its AUC ranks probabilities that different folds' models
    gave, so that folds of unlike calibration lower it. ``per_fold`` and ``mean_sd`` are the published
    form.

    Args:
        predictions: PREDICTIONS of the task's models with ``p_<class>`` columns.
        patients: The task's eligible patients, see :func:`glomflow.cohort.folds.task_patients`.
        config: The configuration; its models are expected, in its order.
        phantom: Contents of ``phantom.json``, or None for a real cohort; its ceilings are those of the
            disease.
        task: ``disease`` or ``stage``, whose classes are ordered.

    Returns:
        The summary.

    Raises:
        GlomflowError: A patient, model or seed is missing or doubled, or a value is unusable.
    """
    names, ordered = list(config.diagnosis.models_of(task)), task == "stage"
    scores = collect(predictions, patients, config.classes_of(task), names, config.folds)
    settings = config.evaluation
    draws = bootstrap(scores.labels, scores.probabilities, settings, seed=config.run.seed, ordered=ordered)
    intervals = {
        model: metric_intervals(scores.labels, own, draws[model], settings, ordered=ordered)
        for model, own in scores.probabilities.items()
    }
    models = pd.DataFrame(_model_rows(scores, config, None if ordered else phantom))
    columns = list(TABLES["per_fold"])
    per_fold = pd.DataFrame(_fold_rows(scores, settings.ece_bins, ordered)).reindex(columns=columns)
    compared = compare_models(scores.labels, scores.probabilities, draws, intervals, settings)
    return Summary(
        models=models,
        per_fold=per_fold,
        mean_sd=pd.DataFrame(_mean_sd_rows(per_fold)),
        pooled=pd.DataFrame(_pooled_rows(scores, intervals, models, config)),
        per_class=pd.DataFrame(_class_rows(scores, settings.confidence)),
        confusion=pd.DataFrame(_confusion_rows(scores)),
        comparisons=compared.reindex(columns=list(TABLES["comparisons"])),
        strata=pd.DataFrame(_strata_rows(scores, patients, config, ordered)).reindex(
            columns=list(TABLES["strata"])
        ),
        calibration=pd.DataFrame(_calibration_rows(scores, settings.ece_bins)),
        roc=pd.concat(_roc_frames(scores), ignore_index=True),
        settings={
            "task": task,
            "classes": scores.classes,
            "models": list(scores.probabilities),
            "patients": len(scores.patients),
            "training_seeds": scores.seeds,
            "repeats": len(scores.repeats),
            "bootstrap": settings.bootstrap,
            "confidence": settings.confidence,
            "ece_bins": settings.ece_bins,
            "seed": config.run.seed,
            "resampling": "patients, stratified by class",
            "seeds_and_repeats_are": "averaged metric by metric",
            "sd_ddof": 0,
        },
    )


def ceilings(modalities: Collection[str], phantom: dict[str, Any] | None) -> tuple[float, float]:
    """Returns the ceiling and realised ceiling of a set of modalities; NaN for a real cohort.

    Args:
        modalities: Modalities in any order.
        phantom: Contents of ``phantom.json``, or None.

    Raises:
        GlomflowError: ``phantom.json`` has no ceiling of that set.
    """
    if phantom is None:
        return float("nan"), float("nan")
    key = "+".join(name for name in MODALITIES if name in modalities)
    try:
        return float(phantom["ceilings"][key]), float(phantom["realised_ceilings"][key])
    except KeyError as error:
        raise GlomflowError(
            f"phantom.json: no ceiling of {key!r} (missing {error}); draw the phantom again"
        ) from error


def _model_rows(scores: Scores, config: Config, phantom: dict[str, Any] | None) -> Iterator[dict[str, Any]]:
    for model in scores.probabilities:
        modalities = list(config.diagnosis.models[model].modalities)
        designed, realised = ceilings(modalities, phantom)
        yield {
            "model": model,
            "modalities": "+".join(name for name in MODALITIES if name in modalities),
            "patients": len(scores.patients),
            "seeds": len(scores.seeds),
            "repeats": len(scores.repeats),
            "ceiling": designed,
            "realised_ceiling": realised,
        }


def _fold_rows(scores: Scores, bins: int, ordered: bool) -> Iterator[dict[str, Any]]:
    for model, probabilities in scores.probabilities.items():
        for fold in np.unique(scores.folds):
            for (repeat, seed), folds, own in zip(
                scores.replicates, scores.folds, probabilities, strict=True
            ):
                rows = folds == fold
                if not rows.any():
                    continue
                values = metrics.evaluate(scores.labels[rows], own[rows], bins=bins, ordered=ordered)
                yield {
                    "model": model,
                    "repeat": repeat,
                    "fold": int(fold),
                    "seed": seed,
                    "patients": int(rows.sum()),
                    **{name: float(value) for name, value in values.items()},
                }


def _mean_sd_rows(per_fold: pd.DataFrame) -> Iterator[dict[str, Any]]:
    for model, rows in per_fold.groupby("model", sort=False):
        by_fold = rows.groupby("fold")[[*METRICS, *ORDERED_METRICS]].mean()
        for metric in by_fold:
            values = by_fold[metric].dropna()
            if values.empty and metric in ORDERED_METRICS:
                continue
            yield {
                "model": model,
                "metric": metric,
                "mean": values.mean(),
                "sd": values.std(ddof=0),
                "folds": len(values),
                "seeds": rows["seed"].nunique(),
            }


def _pooled_rows(
    scores: Scores, intervals: dict[str, dict[str, Interval]], models: pd.DataFrame, config: Config
) -> Iterator[dict[str, Any]]:
    nan = float("nan")
    for model, probabilities in scores.probabilities.items():
        own = models.set_index("model").loc[model]
        each = [
            metrics.evaluate(
                scores.labels,
                one,
                bins=config.evaluation.ece_bins,
                ordered="quadratic_kappa" in intervals[model],
            )
            for one in probabilities
        ]
        for metric, found in intervals[model].items():
            count = len(scores.patients)
            low, high = wilson(found.value * count, count, config.evaluation.confidence)
            proportion = metric == "accuracy"
            yield {
                "model": model,
                "metric": metric,
                "value": found.value,
                "lower": found.lower,
                "upper": found.upper,
                "interval": found.method,
                "wilson_lower": float(low) if proportion else nan,
                "wilson_upper": float(high) if proportion else nan,
                "sd_replicates": float(np.std([values[metric] for values in each])),
                "ceiling": own["ceiling"] if proportion else nan,
                "realised_ceiling": own["realised_ceiling"] if proportion else nan,
            }


def _mean_confusion(scores: Scores, model: str) -> Floats:
    counts: Floats = np.mean(
        [metrics.confusion(scores.labels, own) for own in scores.probabilities[model]], axis=0
    )
    return counts


def _class_rows(scores: Scores, confidence: float) -> Iterator[dict[str, Any]]:
    for model, probabilities in scores.probabilities.items():
        counts = _mean_confusion(scores, model)
        support, total = counts.sum(axis=1), counts.sum()
        sensitivity, specificity = metrics.sensitivity(counts), metrics.specificity(counts)
        found = wilson(np.diagonal(counts), support, confidence)
        spared = wilson(np.nan_to_num(specificity) * (total - support), total - support, confidence)
        precision, f1 = metrics.precision(counts), metrics.class_f1(counts)
        areas = np.mean([metrics.class_auc(scores.labels, own) for own in probabilities], axis=0)
        for k, name in enumerate(scores.classes):
            yield {
                "model": model,
                "class": name,
                "support": round(support[k]),
                "predicted": counts[:, k].sum(),
                "sensitivity": sensitivity[k],
                "sensitivity_lower": found[0][k],
                "sensitivity_upper": found[1][k],
                "specificity": specificity[k],
                "specificity_lower": spared[0][k],
                "specificity_upper": spared[1][k],
                "precision": precision[k],
                "f1": f1[k],
                "auc": areas[k],
            }


def _confusion_rows(scores: Scores) -> Iterator[dict[str, Any]]:
    for model in scores.probabilities:
        counts = _mean_confusion(scores, model)
        for i, true in enumerate(scores.classes):
            for j, predicted in enumerate(scores.classes):
                yield {"model": model, "true": true, "predicted": predicted, "count": counts[i, j]}


def _strata_rows(
    scores: Scores, patients: pd.DataFrame, config: Config, ordered: bool
) -> Iterator[dict[str, Any]]:
    sites = patients["site"].fillna("unknown").to_numpy()
    for model, probabilities in scores.probabilities.items():
        had = [set(names.split("+")) for names in scores.modalities[model]]
        needed = config.diagnosis.models[model].modalities
        without = {
            name: np.array([name not in names for names in had]) for name in MODALITIES if name in needed
        }
        complete = ~np.any(list(without.values()), axis=0)
        parts = [("site", site, sites == site) for site in sorted(set(sites))]
        parts += [("modalities", "complete", complete), ("modalities", "incomplete", ~complete)]
        parts += [("missing", name, rows) for name, rows in without.items()]
        for stratum, value, rows in parts:
            if not rows.any():
                continue
            size = int(rows.sum())
            values = replicate_mean(
                scores.labels[rows],
                probabilities[:, rows],
                bins=config.evaluation.ece_bins,
                ordered=ordered,
            )
            low, high = wilson(values["accuracy"] * size, size, config.evaluation.confidence)
            yield {
                "model": model,
                "stratum": stratum,
                "value": value,
                "patients": size,
                **{name: float(number) for name, number in values.items()},
                "accuracy_lower": float(low),
                "accuracy_upper": float(high),
            }


def _calibration_rows(scores: Scores, bins: int) -> Iterator[dict[str, Any]]:
    edges = np.linspace(0.0, 1.0, bins + 1)
    for model, probabilities in scores.probabilities.items():
        confidence = probabilities.max(axis=2).ravel()
        right = (probabilities.argmax(axis=2) == scores.labels).ravel()
        place = metrics.confidence_bins(confidence, bins)
        for number in range(bins):
            rows = place == number
            yield {
                "model": model,
                "bin": number,
                "low": edges[number],
                "high": edges[number + 1],
                "patients": rows.sum() / len(scores.replicates),
                "confidence": confidence[rows].mean() if rows.any() else float("nan"),
                "accuracy": right[rows].mean() if rows.any() else float("nan"),
            }


def roc_curve(inside: np.ndarray[Any, np.dtype[np.bool_]], scores: Floats) -> tuple[Floats, Floats, Floats]:
    """Returns the corners of a ROC curve.

    Args:
        inside: (n,) whether each row is of the class.
        scores: (n,) probability of the class.

    Returns:
        False positive rates, true positive rates and thresholds, from (0, 0) to (1, 1); one point per
        distinct score. All NaN rates where there is no row inside, or none outside.
    """
    order = np.argsort(-scores, kind="stable")
    ordered, hits = scores[order], inside[order]
    ends = np.flatnonzero(np.r_[ordered[1:] != ordered[:-1], True])
    true = np.r_[0, np.cumsum(hits)[ends]].astype(np.float64)
    false = np.r_[0, np.cumsum(~hits)[ends]].astype(np.float64)
    thresholds = np.r_[np.inf, ordered[ends]]
    if not true[-1] or not false[-1]:
        return np.full(len(true), np.nan), np.full(len(true), np.nan), thresholds
    return false / false[-1], true / true[-1], thresholds


def _roc_frames(scores: Scores) -> list[pd.DataFrame]:
    frames = []
    for model, probabilities in scores.probabilities.items():
        for k, name in enumerate(scores.classes):
            for (repeat, seed), own in zip(scores.replicates, probabilities, strict=True):
                fpr, tpr, threshold = roc_curve(scores.labels == k, own[:, k])
                curve = {"fpr": fpr, "tpr": tpr, "threshold": threshold}
                key = {"model": model, "class": name, "repeat": repeat, "seed": seed}
                frames.append(pd.DataFrame({**key, **curve}))
    return frames
