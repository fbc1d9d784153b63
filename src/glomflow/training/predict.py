"""Predicting the held-out patients of a fold. No label enters."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from glomflow import config
from glomflow.errors import GlomflowError
from glomflow.files import read_json
from glomflow.models.outputs import Outputs, modality_names, probabilities
from glomflow.models.patient_model import PatientModel
from glomflow.models.trained_weights import load_weights
from glomflow.tables import INSTANCES, PREDICTIONS, probability_columns
from glomflow.training.data import FoldData, Shelf, Stores, chunks
from glomflow.training.features import resolve_device
from glomflow.training.fit import build_model, encoder_settings, is_frozen
from glomflow.training.seeds import deterministic


def predict_fold(
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
    shelf: Shelf | None = None,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Predicts patients with trained weights.

    A patient who lacks every modality of the model is predicted too, from the heads' biases, and has
    an empty ``modalities``.

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
        shelf: Where what is read is shared with other predictions.

    Returns:
        PREDICTIONS with ``p_<class>`` columns, one row per patient in the given order; and INSTANCES,
        one row per instance of a modality that the model pools.

    Raises:
        GlomflowError: The weights were trained with other settings or cannot be read, or a patient
            is listed twice.
    """
    model = settings.diagnosis.models[model_name]
    classes = settings.classes_of(model.task)
    target = resolve_device(device)
    with deterministic(threads), torch.no_grad():
        frozen = is_frozen(settings, model_name)
        data = FoldData(stores, model.modalities, patients, features=frozen, shelf=shelf)
        module = load_trained(settings, model_name, weights, settings_json).to(target).eval()
        predictions: list[dict[str, Any]] = []
        instances: list[dict[str, Any]] = []
        key = {"model": model_name, "fold": fold, "seed": seed}
        for rows in chunks(torch.arange(len(data.patients)), 2 * settings.diagnosis.training.batch_size):
            places = rows.numpy()
            outputs: Outputs = module(data.instances(places).to(target))
            predictions += _prediction_rows(outputs, data, places, classes, key)
            instances += _instance_rows(outputs, data, places, key)
    columns = [*PREDICTIONS, *probability_columns(classes)]
    return pd.DataFrame(predictions, columns=columns), pd.DataFrame(instances, columns=list(INSTANCES))


def load_trained(
    settings: config.Config, model_name: str, weights: Path, settings_json: Path
) -> PatientModel:
    """Rebuilds a trained model.

    Args:
        settings: The configuration that the model was trained with.
        model_name: Key of ``diagnosis.models``.
        weights: Written by :func:`fit.train_fold`.
        settings_json: Written by :func:`fit.train_fold`.

    Returns:
        The model, on the CPU.

    Raises:
        GlomflowError: The weights were trained with other settings or cannot be read.
    """
    trained = read_json(settings_json)
    model = settings.diagnosis.models[model_name]
    now = {
        "model_name": model_name,
        "model": model.model_dump(mode="json"),
        "encoders": encoder_settings(settings, model_name),
        "classes": settings.classes_of(model.task),
    }
    changed = [key for key, value in now.items() if trained.get(key) != value]
    if changed:
        raise GlomflowError(
            f"{weights}: trained with another {' and '.join(changed)} than the configuration has now; "
            "delete the weights and train again"
        )
    channels = trained["channels"] if is_frozen(settings, model_name) else None
    module = build_model(settings, model, channels=channels, pretrained=False)
    try:
        module.load_state_dict(load_weights(weights), strict=True)
    except RuntimeError as error:
        raise GlomflowError(
            f"{weights}: cannot be loaded ({error}); delete the weights and train again"
        ) from error
    return module


def _prediction_rows(
    outputs: Outputs, data: FoldData, places: np.ndarray, classes: list[str], key: dict[str, Any]
) -> list[dict[str, Any]]:
    chances = probabilities(outputs).cpu().numpy()
    present = {name: outputs.present[name].cpu().numpy() for name in data.bags}
    return [
        {
            "patient": data.patients[place],
            **key,
            "predicted": classes[int(chances[row].argmax())],
            "modalities": modality_names({name: bool(there[row]) for name, there in present.items()}),
            **{f"p_{name}": float(chance) for name, chance in zip(classes, chances[row], strict=True)},
        }
        for row, place in enumerate(places)
    ]


def _instance_rows(
    outputs: Outputs, data: FoldData, places: np.ndarray, key: dict[str, Any]
) -> list[dict[str, Any]]:
    rows = []
    for modality, weights in outputs.weights.items():
        values, kept = weights.cpu().numpy(), outputs.kept[modality].cpu().numpy()
        bags = data.bags[modality]
        rows += [
            {
                "patient": data.patients[place],
                **key,
                "modality": modality,
                "crop": bags.crops[slot],
                "rank": rank,
                "weight": float(values[row, rank]),
                "kept": bool(kept[row, rank]),
            }
            for row, place in enumerate(places)
            for rank, slot in enumerate(bags.slots[place])
            if slot >= 0
        ]
    return rows
