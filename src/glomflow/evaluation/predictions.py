"""Predictions as arrays, after checking that every patient was predicted once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from glomflow.config import Folds
from glomflow.errors import GlomflowError
from glomflow.evaluation.metrics import Floats, Labels, check_scores

_SHOWN = 5


@dataclass(frozen=True)
class Scores:
    """Held-out predictions of all models, patients in one order.

    Attributes:
        patients: n patient identifiers.
        labels: (n,) true classes, numbers into ``classes``.
        replicates: Repeat of the cross-validation and training seed of each replicate.
        folds: (replicates, n) outer fold that each patient was tested in.
        classes: K class names.
        probabilities: Model to (replicates, n, K).
        modalities: Model to n strings, the modalities that the patient had, joined by '+'.
    """

    patients: list[str]
    labels: Labels
    replicates: list[tuple[int, int]]
    folds: NDArray[np.int64]
    classes: list[str]
    probabilities: dict[str, Floats]
    modalities: dict[str, list[str]]

    @property
    def seeds(self) -> list[int]:
        """The training seeds."""
        return sorted({seed for _, seed in self.replicates})

    @property
    def repeats(self) -> list[int]:
        """The repeats of the cross-validation."""
        return sorted({repeat for repeat, _ in self.replicates})


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:_SHOWN])
    return shown + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")


def check_complete(predictions: pd.DataFrame, patients: Sequence[str]) -> None:
    """Checks that every patient has one prediction per model, repeat and seed, in one and the same fold.

    Args:
        predictions: PREDICTIONS of all models, with the column ``repeat``.
        patients: The eligible patients.

    Raises:
        GlomflowError: A patient is missing, predicted twice, not eligible, or tested in different
            folds of a repeat by different models; all such patients are named.
    """
    eligible = set(patients)
    problems = [] if len(predictions) else ["there is no prediction at all"]
    several = predictions["repeat"].nunique() > 1
    for (model, repeat, seed), rows in predictions.groupby(["model", "repeat", "seed"], sort=False):
        counts = rows["patient"].value_counts(sort=False)
        found = {
            "no prediction for patient": sorted(eligible - set(counts.index)),
            "more than one prediction for patient": sorted(counts.index[counts > 1]),
            "a prediction for a patient who is not eligible:": sorted(set(counts.index) - eligible),
        }
        problems += [
            f"{_replicate(model, repeat, seed, several)}: {what} {_listed(names)}"
            for what, names in found.items()
            if names
        ]
    folds = predictions.groupby(["patient", "repeat"])["fold"].nunique()
    moved = sorted({patient for patient, _ in folds.index[folds > 1]})
    if moved:
        problems.append(f"tested in different folds by different models or seeds: {_listed(moved)}")
    if problems:
        raise GlomflowError(
            "predictions are not one per patient, model, repeat and seed:\n  "
            + "\n  ".join(problems)
            + "\ndelete the predictions of the models named and run again"
        )


def _replicate(model: object, repeat: object, seed: object, several: bool) -> str:
    return f"model '{model}'" + (f", repeat {repeat}" if several else "") + f", seed {seed}"


def _labels(patients: pd.DataFrame, classes: list[str]) -> Labels:
    number = {name: index for index, name in enumerate(classes)}
    unknown = patients[~patients["label"].isin(classes)]
    if len(unknown):
        row = unknown.iloc[0]
        raise GlomflowError(
            f"patient {row['patient']}: label {row['label']!r} is not among the classes "
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
    predictions: pd.DataFrame,
    patients: pd.DataFrame,
    classes: list[str],
    models: Sequence[str],
    folds: Folds,
) -> Scores:
    """Turns checked predictions into arrays.

    Args:
        predictions: PREDICTIONS of all models, with a ``p_<class>`` column per class.
        patients: PATIENTS, the eligible ones.
        classes: Class names in the order of the model's outputs.
        models: Models wanted, in order.
        folds: How patients were split.

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
    predictions = predictions.assign(repeat=predictions["fold"].map(folds.repeat_of))
    check_complete(predictions, ids)
    keys = predictions[["repeat", "seed"]].drop_duplicates().sort_values(["repeat", "seed"])
    folds_of = _folds_of(predictions, ids)
    replicates = [(int(repeat), int(seed)) for repeat, seed in keys.itertuples(index=False)]
    probabilities, modalities = {}, {}
    for model in models:
        rows = predictions[predictions["model"] == model]
        stacked = []
        for repeat, seed in replicates:
            own = rows[(rows["repeat"] == repeat) & (rows["seed"] == seed)]
            what = _replicate(model, repeat, seed, len(folds_of) > 1)
            if own.empty:
                raise GlomflowError(f"{what}: no predictions; run them again")
            own = own.set_index("patient", drop=False).loc[ids]
            named = [f"{what}, patient {name}" for name in ids]
            _, scores = check_scores(np.zeros(len(ids), dtype=np.int64), own[names].to_numpy(), named)
            _check_predicted(own, scores, classes, model)
            stacked.append(scores)
        probabilities[model] = np.stack(stacked)
        modalities[model] = own["modalities"].fillna("").tolist()
    return Scores(
        patients=ids,
        labels=_labels(patients, classes),
        replicates=replicates,
        folds=np.stack([folds_of[repeat] for repeat, _ in replicates]),
        classes=list(classes),
        probabilities=probabilities,
        modalities=modalities,
    )


def _folds_of(predictions: pd.DataFrame, ids: list[str]) -> dict[int, NDArray[np.int64]]:
    """Returns the fold of every patient, by repeat."""
    once = predictions.drop_duplicates(["repeat", "patient"])
    return {
        int(repeat): rows.set_index("patient")["fold"].loc[ids].to_numpy(dtype=np.int64)
        for repeat, rows in once.groupby("repeat")
    }
