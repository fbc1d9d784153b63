"""Accuracy over the rate at which modalities are missing, from predictions of every subset of them.

Nothing is drawn: given a rate r at which each of a patient's modalities is missing, independently and on
condition that at least one is left, the probability of being left with a subset T of the k modalities that
the patient has is (1 - r)^|T| r^(k - |T|) / (1 - r^k). The accuracy at r is the mean over patients of the
probability of being left with a subset from which the patient is classified correctly.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from glomflow.config import Config, Evaluation
from glomflow.errors import GlomflowError
from glomflow.evaluation.intervals import collapsed, percentile_interval, resample_weights, wilson
from glomflow.evaluation.metrics import Floats, Labels, check_scores
from glomflow.tables import Column, Schema

RATES = tuple(step / 10 for step in range(10))
"""Rates of missing modalities, 0 to 0.9."""

MISSING: Schema = {
    "model": Column("string", "name of the model in the configuration"),
    "rate": Column("float64", "probability that each modality is missing, at least one being left"),
    "metric": Column("string", "accuracy or balanced_accuracy"),
    "value": Column("float64", "expected metric, mean over repeats and seeds"),
    "lower": Column("float64", "lower end of the interval"),
    "upper": Column("float64", "upper end of the interval"),
    "patients": Column("int64", "patients who have at least one of the model's modalities"),
}
"""One row per model, rate and metric."""


def subset_chances(sizes: ArrayLike, had: ArrayLike, rates: Sequence[float]) -> Floats:
    """Returns how likely patients are left with a subset of their modalities.

    Args:
        sizes: (n,) modalities in the subset, at least 1.
        had: (n,) modalities that the patient has.
        rates: Probabilities that a modality is missing, 0 to below 1.

    Returns:
        (n, rates) probabilities, given that at least one modality is left.
    """
    left = np.asarray(sizes, dtype=np.float64)[:, None]
    all_of = np.asarray(had, dtype=np.float64)[:, None]
    rate = np.asarray(rates, dtype=np.float64)[None]
    chances: Floats = (1 - rate) ** left * rate ** (all_of - left) / (1 - rate**all_of)
    return chances


def missing_curve(subsets: pd.DataFrame, patients: pd.DataFrame, config: Config, task: str) -> pd.DataFrame:
    """Computes accuracy and balanced accuracy over the rate of missing modalities.

    Args:
        subsets: SUBSETS of the task's models with ``p_<class>`` columns.
        patients: The task's eligible patients, see :func:`glomflow.cohort.folds.task_patients`.
        config: The configuration.
        task: Name of the task.

    Returns:
        MISSING, models in the order of the configuration.

    Raises:
        GlomflowError: A subset of a patient is missing or doubled, or a probability is unusable.
    """
    classes = config.classes_of(task)
    rows: list[dict[str, Any]] = []
    for model in config.diagnosis.partial_of(task):
        own = subsets[subsets["model"] == model]
        if own.empty:
            raise GlomflowError(f"model '{model}': no predictions from subsets; run predict_subsets again")
        chance, labels = _chance_of_success(own, patients, config, classes)
        rows += [{"model": model, **row} for row in _rows(chance, labels, config.evaluation, config.run.seed)]
    return pd.DataFrame(rows, columns=list(MISSING))


def _chance_of_success(
    rows: pd.DataFrame, patients: pd.DataFrame, config: Config, classes: list[str]
) -> tuple[Floats, Labels]:
    """Returns (n, rates) probabilities of a right answer, mean over replicates, and (n,) labels."""
    labels = patients.set_index("patient")["label"].map({name: k for k, name in enumerate(classes)})
    rows = rows.assign(
        repeat=rows["fold"].map(config.folds.repeat_of), size=rows["subset"].str.count(r"\+") + 1
    )
    replicate = rows.groupby(["patient", "repeat", "seed"])
    had = replicate["size"].transform("max")
    _check_subsets(rows, had, replicate["subset"].transform("size"), replicate["subset"].transform("nunique"))
    truth = rows["patient"].map(labels)
    strangers = rows.loc[truth.isna(), "patient"]
    if len(strangers):
        raise GlomflowError(f"subsets: patient {strangers.iloc[0]} is not an eligible patient; predict again")
    names = (rows["model"] + ", patient " + rows["patient"] + ", " + rows["subset"]).tolist()
    columns = rows[[f"p_{name}" for name in classes]].to_numpy()
    numbers, scores = check_scores(truth.to_numpy(dtype=np.int64), columns, names)
    right = scores.argmax(axis=1) == numbers
    chances = subset_chances(rows["size"], had, RATES) * right[:, None]
    keyed = pd.DataFrame(chances, index=pd.MultiIndex.from_frame(rows[["patient", "repeat", "seed"]]))
    per_patient = keyed.groupby(level=[0, 1, 2]).sum().groupby(level=0).mean()
    found: Labels = labels.loc[per_patient.index].to_numpy(dtype=np.int64)
    return per_patient.to_numpy(), found


def _check_subsets(rows: pd.DataFrame, had: Any, count: Any, distinct: Any) -> None:
    wrong = rows[(count != 2**had - 1) | (distinct != count)]
    if len(wrong):
        row = wrong.iloc[0]
        raise GlomflowError(
            f"subsets: model '{row['model']}', seed {row['seed']}, patient {row['patient']}: not one "
            "prediction per subset of modalities; delete the table and predict again"
        )


def _rows(chance: Floats, labels: Labels, settings: Evaluation, seed: int) -> Iterator[dict[str, Any]]:
    count, classes = len(labels), np.unique(labels)
    share = np.eye(int(labels.max()) + 1)[labels][:, classes]
    values = {"accuracy": chance.mean(axis=0), "balanced_accuracy": (share / share.sum(axis=0)).T @ chance}
    values["balanced_accuracy"] = values["balanced_accuracy"].mean(axis=0)
    draws: dict[str, list[Floats]] = {name: [] for name in values}
    for weights in resample_weights(labels, settings.bootstrap, np.random.default_rng(seed)):
        draws["accuracy"].append(weights @ chance / count)
        # Resamples keep the size of every class.
        balance = (share / share.sum(axis=0)).mean(axis=1)
        draws["balanced_accuracy"].append((weights * balance) @ chance)
    for name, parts in draws.items():
        resampled = np.concatenate(parts)
        for place, rate in enumerate(RATES):
            value = float(values[name][place])
            lower, upper = percentile_interval(resampled[:, place], settings.confidence)
            if collapsed(resampled[:, place]):
                low, high = wilson(value * count, count, settings.confidence)
                lower, upper = float(low), float(high)
            yield {
                "rate": rate,
                "metric": name,
                "value": value,
                "lower": lower,
                "upper": upper,
                "patients": count,
            }
