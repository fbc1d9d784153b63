"""Fitting the models of one row of features per patient to a fold."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

import glomflow
from glomflow import config
from glomflow.errors import GlomflowError
from glomflow.files import write_json
from glomflow.models.baselines.tabular import TABULAR_NETS, BoosterNet, LogisticNet, TabularNet
from glomflow.models.batch import Pooled, concatenate
from glomflow.models.losses import Criterion
from glomflow.models.patient_model import PatientModel
from glomflow.models.trained_weights import save_weights
from glomflow.tables import write_table
from glomflow.training.data import FoldData, Stores
from glomflow.training.fit import HISTORY, class_numbers, encoder_settings, split_places
from glomflow.training.seeds import derive_seed, deterministic, shuffled

STRENGTHS = tuple(10.0**power for power in range(-5, 3))
"""Inverse strengths C of the logistic regression's L2 penalty that are tried."""

_INNER_SPLITS = 5
_AT_ONCE = 32
_UNSEEN = -20.0  # logit of a class without training patients, whose other logits are of the order of 1
_ROUNDS = 300
_PATIENCE = 50
_TREES = {
    "objective": "multiclass",
    "learning_rate": 0.05,
    "num_leaves": 7,
    "min_data_in_leaf": 5,
    "feature_fraction": 0.3,
    "lambda_l2": 1.0,
    "max_bin": 63,
    "num_threads": 1,
    "deterministic": True,
    "force_row_wise": True,
    "verbosity": -1,
}


@dataclass(frozen=True)
class Table:
    """The patients of a fold as rows.

    Attributes:
        features: (P, F) float64, NaN where a modality is missing.
        present: (P, M) bool, per modality of the network in its order.
        labels: (P,) int64 class numbers.
        train: (n,) int64 places of the training patients.
        validation: (m,) int64 places of the validation patients; may be empty.
    """

    features: np.ndarray
    present: np.ndarray
    labels: np.ndarray
    train: np.ndarray
    validation: np.ndarray


def train_tabular(
    train_table: pd.DataFrame,
    stores: Stores,
    settings: config.Config,
    model_name: str,
    seed: int,
    out: Path,
    history: Path,
    settings_json: Path,
    *,
    threads: int = 1,
) -> None:
    """Fits a tabular model to the training patients of a fold and writes what `fit.train_fold` writes.

    The history has one row, in which the losses are those of the fitted model.

    Args:
        train_table: TRAINING rows: training and validation patients with their labels.
        stores: Shards per modality, with cached features.
        settings: The configuration.
        model_name: Key of ``diagnosis.models``, of a tabular kind.
        seed: Training seed.
        out: Weights, safetensors.
        history: One row, HISTORY.
        settings_json: What :func:`predict.predict_fold` needs to rebuild the model.
        threads: CPU threads of what comes before the fit; trees are grown on one.

    Raises:
        GlomflowError: A feature is not finite, the training patients are all of one class, or as for
            :func:`fit.train_fold`.
    """
    model = settings.diagnosis.models[model_name]
    with deterministic(threads), torch.no_grad():
        data = FoldData(stores, model.modalities, train_table["patient"].tolist(), features=True)
        train, validation = split_places(train_table, data, model_name)
        labels = class_numbers(train_table, settings.classes_of(model.task))
        channels = {name: bags.shape[-1] for name, bags in data.bags.items()}
        net = TABULAR_NETS[model.kind](model, channels, len(settings.classes_of(model.task)))
        module = PatientModel(net)
        pooled = _pooled(module, data)
        table = Table(
            _finite_table(net, pooled, data),
            torch.stack([pooled.present[name] for name in net.modalities], dim=1).numpy(),
            labels.numpy(),
            train.numpy(),
            validation.numpy(),
        )
        if len(np.unique(table.labels[table.train])) < 2:
            raise GlomflowError(
                f"diagnosis.models.{model_name}: all training patients are of one class; a tabular model "
                "needs two, look at the labels and the folds"
            )
        details = _fit(net, table, settings, model_name, derive_seed(settings.run.seed, seed))
        row = _history_row(net, pooled, labels, (train, validation), settings.diagnosis.loss_of(model_name))
    print(f"{model_name}: {details}, validation loss {row['validation_loss']:.4f}", flush=True)
    write_table(history, pd.DataFrame([row]), HISTORY)
    write_json(
        settings_json,
        {
            "glomflow": glomflow.__version__,
            "model_name": model_name,
            "model": model.model_dump(mode="json"),
            "encoders": encoder_settings(settings, model_name),
            "classes": settings.classes_of(model.task),
            "channels": channels,
            "seed": seed,
            "selected_epoch": 1,
            "epochs": 1,
            "training_patients": len(train),
            "validation_patients": len(validation),
            **details,
        },
    )
    save_weights(out, module.state_dict())


def _pooled(module: PatientModel, data: FoldData) -> Pooled:
    places = np.arange(len(data.patients))
    parts = [places[start : start + _AT_ONCE] for start in range(0, len(places), _AT_ONCE)]
    return concatenate([module.net.pool(module.batch(data.instances(part))) for part in parts])


def _finite_table(net: TabularNet, pooled: Pooled, data: FoldData) -> np.ndarray:
    for name in net.modalities:
        bad = (~pooled.tokens[name].isfinite()).any(2).any(1).nonzero().flatten().tolist()
        if bad:
            raise GlomflowError(
                f"{name} features of {', '.join(data.patients[place] for place in bad[:5])} hold NaN or "
                "infinity; delete the features and run again, or look at these patients' images"
            )
    return np.asarray(net.table(pooled))


def _fit(
    net: LogisticNet | BoosterNet, table: Table, settings: config.Config, model_name: str, seed: int
) -> dict[str, Any]:
    balanced = settings.diagnosis.loss_of(model_name).class_weights == "balanced"
    if isinstance(net, BoosterNet):
        early = settings.diagnosis.training.selection == "validation_loss"
        return fit_trees(net, table, seed, balanced=balanced, early_stopping=early)
    return fit_logistic(net, table, seed, balanced=balanced)


def fit_logistic(net: LogisticNet, table: Table, seed: int, *, balanced: bool = False) -> dict[str, Any]:
    """Fits a logistic regression to the training patients; C is chosen by cross-validation among them.

    Args:
        net: Gets the scaler and the coefficients.
        table: Validation patients play no part.
        seed: Seed of the inner folds.
        balanced: Classes count inversely to their training patients.

    Returns:
        The chosen C and the number of coefficients.

    Raises:
        GlomflowError: No class has two training patients.
    """
    features, labels = table.features[table.train], table.labels[table.train]
    absent = ~table.present[table.train]
    strength = choose_strength(features, absent, labels, seed, balanced=balanced)
    mean, scale = _scaler(features)
    columns = _columns(features, absent, mean, scale)
    axes = _axes(columns)
    rotated, intercept = _logistic(columns @ axes.T, labels, strength, net.classes, balanced)
    coef = rotated @ axes
    for name, value in (("mean", mean), ("scale", scale), ("coef", coef), ("intercept", intercept)):
        net.get_buffer(name).copy_(torch.from_numpy(value))
    return {"C": strength, "trained_parameters": coef.size + intercept.size}


def choose_strength(
    features: np.ndarray, absent: np.ndarray, labels: np.ndarray, seed: int, *, balanced: bool = False
) -> float:
    """Chooses C by the log loss of patients held out in five folds; the strongest penalty among equals.

    Patients are dealt class by class; the only patient of a class is never held out. The scaler is fitted
    anew to what each fold leaves.

    Args:
        features: (n, F), NaN where a modality is missing; training patients only.
        absent: (n, M) bool, True where a modality is missing.
        labels: (n,) class numbers.
        seed: Seed of the folds.
        balanced: As of :func:`fit_logistic`.

    Raises:
        GlomflowError: No class has two patients.
    """
    folds = _inner_folds(labels, seed)
    losses = np.zeros(len(STRENGTHS))
    classes = int(labels.max()) + 1
    for fold in np.unique(folds[folds >= 0]):
        held, rest = folds == fold, folds != fold
        mean, scale = _scaler(features[rest])
        columns = _columns(features, absent, mean, scale)
        columns = columns @ _axes(columns[rest]).T
        for number, strength in enumerate(STRENGTHS):
            coef, intercept = _logistic(columns[rest], labels[rest], strength, classes, balanced)
            logits = columns[held] @ coef.T + intercept
            logs = torch.log_softmax(torch.from_numpy(logits), dim=1).numpy()
            losses[number] -= logs[np.arange(len(logs)), labels[held]].sum()
    return STRENGTHS[int(losses.round(12).argmin())]


def _inner_folds(labels: np.ndarray, seed: int) -> np.ndarray:
    folds = np.full(len(labels), -1)
    dealt = 0
    for number in np.unique(labels):
        members = np.flatnonzero(labels == number)
        if len(members) > 1:
            order = shuffled(len(members), seed, "inner", number)
            folds[members[order]] = (dealt + np.arange(len(members))) % _INNER_SPLITS
            dealt += len(members)
    if not dealt:
        raise GlomflowError(
            "logistic_regression: no class has two training patients, so that C cannot be chosen among "
            "them; the cohort is too small for it, take the model out"
        )
    return folds


def _scaler(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns each column's mean and inverse SD over the patients who have it; 0 and 1 where none has."""
    known = np.isfinite(features)
    count = np.maximum(known.sum(0), 1)
    mean = np.where(known, features, 0.0).sum(0) / count
    deviation = np.sqrt((np.where(known, features - mean, 0.0) ** 2).sum(0) / count)
    return mean, np.where(deviation < 1e-6, 1.0, 1.0 / np.maximum(deviation, 1e-6))


def _columns(features: np.ndarray, absent: np.ndarray, mean: np.ndarray, scale: np.ndarray) -> np.ndarray:
    return np.hstack([np.nan_to_num((features - mean) * scale, nan=0.0), absent.astype(np.float64)])


def _axes(columns: np.ndarray) -> np.ndarray:
    """Returns orthonormal axes (r, F) of the space that the patients' (n, F) columns span.

    The optimum of a logistic regression with an L2 penalty lies in there, so that the fit can be done on
    r coordinates instead of F columns: this changes nothing but the time it takes.
    """
    _, sizes, axes = np.linalg.svd(columns, full_matrices=False)
    return np.asarray(axes[sizes > 1e-10 * sizes.max(initial=0.0)])


def _logistic(
    columns: np.ndarray, labels: np.ndarray, strength: float, classes: int, balanced: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Returns coefficients (K, F) and intercepts (K,) of a logistic regression with an L2 penalty."""
    from sklearn.linear_model import LogisticRegression

    weights = "balanced" if balanced else None
    model = LogisticRegression(C=strength, class_weight=weights, max_iter=5000, tol=1e-6)
    model.fit(columns, labels)
    found, offsets = model.coef_, model.intercept_
    if len(model.classes_) == 2:
        found, offsets = np.vstack([-found, found]) / 2, np.concatenate([-offsets, offsets]) / 2
    coef = np.zeros((classes, columns.shape[1]))
    intercept = np.full(classes, _UNSEEN)
    coef[model.classes_], intercept[model.classes_] = found, offsets
    return coef, intercept


def fit_trees(
    net: BoosterNet, table: Table, seed: int, *, balanced: bool = False, early_stopping: bool = True
) -> dict[str, Any]:
    """Grows trees on the training patients until the validation patients' log loss stops falling.

    Args:
        net: Gets the trees.
        table: Validation patients decide on the number of rounds and on nothing else.
        seed: Seed of the draw of columns.
        balanced: Classes count inversely to their training patients.
        early_stopping: Keep the best of up to 300 rounds by validation loss; otherwise all of them.

    Returns:
        The number of rounds and of leaves.

    Raises:
        GlomflowError: There are no validation patients to stop by.
    """
    import lightgbm

    if early_stopping and not len(table.validation):
        raise GlomflowError(
            "diagnosis.training.selection: validation_loss needs validation patients and this fold has "
            "none; set diagnosis.training.selection: last"
        )
    labels = table.labels[table.train]
    weights = None
    if balanced:
        counts = np.bincount(labels)
        weights = len(labels) / (np.count_nonzero(counts) * counts[labels])
    data = lightgbm.Dataset(table.features[table.train], labels, weight=weights)
    valid: list[Any] = []
    callbacks: list[Any] = []
    if early_stopping:
        rows = table.validation
        valid.append(lightgbm.Dataset(table.features[rows], table.labels[rows], reference=data))
        callbacks.append(lightgbm.early_stopping(_PATIENCE, verbose=False))
    parameters = {**_TREES, "num_class": net.classes, "seed": seed % 2**31}
    booster = lightgbm.train(parameters, data, _ROUNDS, valid_sets=valid, callbacks=callbacks)
    rounds = booster.best_iteration if early_stopping else _ROUNDS
    net.set_trees(booster.model_to_string(num_iteration=rounds))
    trees = booster.dump_model(num_iteration=rounds)["tree_info"]
    return {"rounds": rounds, "trained_parameters": sum(tree["num_leaves"] for tree in trees)}


def _history_row(
    net: TabularNet, pooled: Pooled, labels: Tensor, splits: tuple[Tensor, Tensor], loss: config.Loss
) -> dict[str, float]:
    criterion = Criterion(loss, net.heads).eval()
    outputs = [net.classify(pooled.select(places)) if len(places) else None for places in splits]
    losses = [
        float(criterion(output, labels[places])) if output else float("nan")
        for output, places in zip(outputs, splits, strict=True)
    ]
    right = [
        output.logits["fusion"].argmax(1) == labels[places]
        for output, places in zip(outputs, splits, strict=True)
        if output
    ]
    return {
        "epoch": 1,
        "learning_rate": float("nan"),
        "train_loss": losses[0],
        "validation_loss": losses[1],
        "validation_accuracy": float(right[1].double().mean()) if len(right) > 1 else float("nan"),
    }
