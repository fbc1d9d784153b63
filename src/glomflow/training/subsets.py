"""Predicting held-out patients from fewer modalities than they have. No label enters."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from glomflow import config
from glomflow.models.batch import Batch
from glomflow.models.outputs import probabilities
from glomflow.tables import MODALITIES, SUBSETS, probability_columns
from glomflow.training.data import FoldData, Stores
from glomflow.training.engine import chunks
from glomflow.training.features import resolve_device
from glomflow.training.fit import is_frozen
from glomflow.training.predict import load_trained
from glomflow.training.seeds import deterministic


def predict_subsets(
    patients: Sequence[str],
    stores: Stores,
    settings: config.Config,
    model_name: str,
    fold: int,
    seed: int,
    weights: Path,
    settings_json: Path,
    *,
    device: str = "auto",
    threads: int = 1,
) -> pd.DataFrame:
    """Predicts patients from every non-empty subset of the modalities that they have.

    Every crop is encoded once, whatever the number of subsets.

    Args:
        patients: Patients, each once.
        stores: Shards per modality.
        settings: The configuration that the model was trained with.
        model_name: Key of ``diagnosis.models``.
        fold: Outer fold.
        seed: Training seed.
        weights: Written by :func:`fit.train_fold`.
        settings_json: Written by :func:`fit.train_fold`.
        device: ``auto``, ``cpu`` or ``cuda``.
        threads: CPU threads.

    Returns:
        SUBSETS with ``p_<class>`` columns.

    Raises:
        GlomflowError: The weights were trained with other settings or cannot be read, or a patient
            is listed twice.
    """
    model = settings.diagnosis.models[model_name]
    classes = settings.classes_of(model.task)
    names = [f"p_{name}" for name in classes]
    target = resolve_device(device)
    rows: list[dict[str, Any]] = []
    with deterministic(threads), torch.no_grad():
        data = FoldData(stores, model.modalities, patients, features=is_frozen(settings))
        module = load_trained(settings, model_name, weights, settings_json).to(target).eval()
        for part in chunks(torch.arange(len(data.patients)), 2 * settings.diagnosis.training.batch_size):
            places = part.numpy()
            batch = module.batch(data.instances(places).to(target))
            for subset in subsets(model.modalities):
                has = np.all([data.present(name)[places] for name in subset], axis=0)
                chances = probabilities(module.net(restricted(batch, subset))).cpu().numpy()
                key = {"model": model_name, "fold": fold, "seed": seed, "subset": "+".join(subset)}
                rows += [
                    {"patient": data.patients[place], **key, **dict(zip(names, row.tolist(), strict=True))}
                    for place, row in zip(places[has], chances[has], strict=True)
                ]
    return pd.DataFrame(rows, columns=[*SUBSETS, *probability_columns(classes)])


def subsets(modalities: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """Yields the non-empty subsets of some modalities, each in the order OM, IM, TEM, smaller ones first."""
    ordered = [name for name in MODALITIES if name in modalities]
    for size in range(1, len(ordered) + 1):
        yield from combinations(ordered, size)


def restricted(batch: Batch, subset: Sequence[str]) -> Batch:
    """Returns a batch in which the modalities outside a subset are missing."""
    hidden = [name for name in batch.maps if name not in subset]
    return Batch(
        {**batch.maps, **{name: torch.zeros_like(batch.maps[name]) for name in hidden}},
        {**batch.masks, **{name: torch.zeros_like(batch.masks[name]) for name in hidden}},
    )
