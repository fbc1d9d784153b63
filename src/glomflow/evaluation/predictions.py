"""Predictions as arrays, after checking that every patient was predicted once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from glomflow.errors import GlomflowError
from glomflow.evaluation.metrics import Floats, Labels, check_scores

_SHOWN = 5


@dataclass(frozen=True)
class Scores:
    """Held-out predictions of all models, patients in one order.

    Attributes:
        patients: n patient identifiers.
        labels: (n,) true classes, numbers into ``classes``.
        folds: (n,) outer fold that each patient was tested in.
        classes: K class names.
        seeds: Training seeds.
        probabilities: Model to (seeds, n, K).
        modalities: Model to n strings, the modalities that the patient had, joined by '+'.
    """

    patients: list[str]
    labels: Labels
    folds: NDArray[np.int64]
    classes: list[str]
    seeds: list[int]
    probabilities: dict[str, Floats]
    modalities: dict[str, list[str]]


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:_SHOWN])
    return shown + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")


def check_complete(predictions: pd.DataFrame, patients: Sequence[str]) -> None:
    """Checks that every patient has one prediction per model and seed, in one and the same fold.

    Args:
        predictions: PREDICTIONS of all models.
        patients: The eligible patients.

    Raises:
        GlomflowError: A patient is missing, predicted twice, not eligible, or tested in different
            folds by different models; all such patients are named.
    """
    eligible = set(patients)
    problems = [] if len(predictions) else ["there is no prediction at all"]
    for (model, seed), rows in predictions.groupby(["model", "seed"], sort=False):
        counts = rows["patient"].value_counts(sort=False)
        found = {
            "no prediction for patient": sorted(eligible - set(counts.index)),
            "more than one prediction for patient": sorted(counts.index[counts > 1]),
            "a prediction for a patient who is not eligible:": sorted(set(counts.index) - eligible),
        }
        problems += [
            f"model '{model}', seed {seed}: {what} {_listed(names)}" for what, names in found.items() if names
        ]
    folds = predictions.groupby("patient")["fold"].nunique()
    moved = sorted(folds.index[folds > 1])
    if moved:
        problems.append(f"tested in different folds by different models or seeds: {_listed(moved)}")
    if problems:
        raise GlomflowError(
            "predictions are not one per patient, model and seed:\n  "
            + "\n  ".join(problems)
            + "\ndelete the predictions of the models named and run again"
        )


def _labels(patients: pd.DataFrame, classes: list[str]) -> Labels:
    number = {name: index for index, name in enumerate(classes)}
    unknown = patients[~patients["label"].isin(classes)]
    if len(unknown):
        row = unknown.iloc[0]
        raise GlomflowError(
            f"patient {row['patient']}: label {row['label']!r} is not in cohort.classes "
            f"({', '.join(classes)}); correct the patients sheet or the configuration"
        )
    numbers: Labels = np.array([number[name] for name in patients["label"]], dtype=np.int64)
    return numbers


def _check_predicted(rows: pd.DataFrame, scores: Floats, classes: list[str], model: str) -> None:
    """Checks that ``predicted`` is a class of highest probability."""
    chosen = np.array([classes.index(name) if name in classes else -1 for name in rows["predicted"]])
    best = scores.max(axis=1)
    wrong = np.flatnonzero((chosen < 0) | (scores[np.arange(len(scores)), chosen] < best - 1e-6))
    if len(wrong):
        row = rows.iloc[wrong[0]]
        raise GlomflowError(
            f"model '{model}', patient {row['patient']}: column 'predicted' says {row['predicted']!r}, but "
            f"the highest probability is that of {classes[int(scores[wrong[0]].argmax())]!r}"
        )


def collect(
    predictions: pd.DataFrame, patients: pd.DataFrame, classes: list[str], models: Sequence[str]
) -> Scores:
    """Turns checked predictions into arrays.

    Args:
        predictions: PREDICTIONS of all models, with a ``p_<class>`` column per class.
        patients: PATIENTS, the eligible ones.
        classes: Class names in the order of the model's outputs.
        models: Models wanted, in order.

    Returns:
        The arrays, patients in the order of ``patients``.

    Raises:
        GlomflowError: A model, column, seed or patient is missing, or a value is unusable.
    """
    names = [f"p_{name}" for name in classes]
    absent = [name for name in names if name not in predictions.columns]
    if absent:
        raise GlomflowError(
            f"predictions: missing column {', '.join(absent)}; they were made for other cohort.classes, "
            "delete them and run again"
        )
    ids = patients["patient"].tolist()
    check_complete(predictions, ids)
    seeds = sorted(int(seed) for seed in predictions["seed"].unique())
    probabilities, modalities = {}, {}
    for model in models:
        rows = predictions[predictions["model"] == model]
        lacking = sorted(set(seeds) - set(rows["seed"]))
        if lacking:
            raise GlomflowError(
                f"model '{model}': no predictions of seed {_listed([str(seed) for seed in lacking])}; "
                "run its predictions again"
            )
        stacked = []
        for seed in seeds:
            own = rows[rows["seed"] == seed].set_index("patient", drop=False).loc[ids]
            named = [f"model '{model}', seed {seed}, patient {name}" for name in ids]
            _, scores = check_scores(np.zeros(len(ids), dtype=np.int64), own[names].to_numpy(), named)
            _check_predicted(own, scores, classes, model)
            stacked.append(scores)
        probabilities[model] = np.stack(stacked)
        modalities[model] = own["modalities"].fillna("").tolist()
    folds = predictions.drop_duplicates("patient").set_index("patient")["fold"].loc[ids]
    return Scores(
        patients=ids,
        labels=_labels(patients, classes),
        folds=folds.to_numpy(dtype=np.int64),
        classes=list(classes),
        seeds=seeds,
        probabilities=probabilities,
        modalities=modalities,
    )
