"""What the predictions of a held-out fold rest on: maps, contributions of modalities, deletion curves.

The class that is explained is the one that the model predicts; no test label enters.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from glomflow import config
from glomflow.config_models import TabularKinds
from glomflow.errors import GlomflowError
from glomflow.files import atomic_path
from glomflow.models.base import PatientNet
from glomflow.models.batch import Batch, Instances
from glomflow.models.outputs import Outputs, probabilities
from glomflow.models.patient_model import PatientModel
from glomflow.tables import write_table
from glomflow.tables_explanations import ATTENTION_KIND, CONTRIBUTIONS, CURVES, MAPS
from glomflow.training.attribution import (
    fusion_logits,
    grad_cam,
    integrated_gradients,
    pixel_gradients,
    standardised_maps,
)
from glomflow.training.data import FoldData, Stores
from glomflow.training.deletion import removal_curve, token_order
from glomflow.training.features import resolve_device
from glomflow.training.fit import build_model, is_frozen
from glomflow.training.predict import load_trained
from glomflow.training.seeds import deterministic, seeded_torch, shuffled
from glomflow.training.shapley import Coalition, shapley_values
from glomflow.training.subsets import restricted, subsets

RANDOM_ORDERS = 4
"""Random orders of the tokens that deletion and insertion are compared with, per patient."""

PathLike = str | os.PathLike[str]


@dataclass
class Explained:
    """Explanations of some patients.

    Attributes:
        maps: (h, w) float32 each.
        index: MAPS rows without ``row``, ``height`` and ``width``, one per map.
        contributions: CONTRIBUTIONS rows.
        curves: CURVES rows.
    """

    maps: list[np.ndarray] = field(default_factory=list)
    index: list[dict[str, Any]] = field(default_factory=list)
    contributions: list[dict[str, Any]] = field(default_factory=list)
    curves: list[dict[str, Any]] = field(default_factory=list)

    def write(self, maps: PathLike, index: PathLike, contributions: PathLike, curves: PathLike) -> None:
        """Writes the memory map (M, H, W) float32, where smaller maps are filled up with NaN, and tables."""
        height = max((part.shape[0] for part in self.maps), default=1)
        width = max((part.shape[1] for part in self.maps), default=1)
        stacked = np.full((len(self.maps), height, width), np.nan, np.float32)
        for row, part in enumerate(self.maps):
            stacked[row, : part.shape[0], : part.shape[1]] = part
        with atomic_path(maps) as temporary, temporary.open("wb") as handle:
            np.lib.format.write_array(handle, stacked, allow_pickle=False)
        rows = [
            {"row": row, **entry, "height": part.shape[0], "width": part.shape[1]}
            for row, (entry, part) in enumerate(zip(self.index, self.maps, strict=True))
        ]
        write_table(index, pd.DataFrame(rows, columns=list(MAPS)), MAPS)
        write_table(
            contributions, pd.DataFrame(self.contributions, columns=list(CONTRIBUTIONS)), CONTRIBUTIONS
        )
        write_table(curves, pd.DataFrame(self.curves, columns=list(CURVES)), CURVES)


@dataclass(frozen=True)
class _Subject:
    """One patient as the models see it.

    Attributes:
        key: Patient, model, fold and seed.
        data: The fold's bags.
        place: The patient's place in them.
        instances: The patient's crops or features.
        present: Modalities that the patient has, in the order of the model.
        target: Class that is explained.
    """

    key: dict[str, Any]
    data: FoldData
    place: int
    instances: Instances
    present: tuple[str, ...]
    target: int

    def crops(self, modality: str) -> list[str]:
        """Names of the instances of a modality, in the order of the bag."""
        bags = self.data.bags[modality]
        return [bags.crops[slot] for slot in bags.slots[self.place] if slot >= 0]


def explain_fold(
    patients: Sequence[str],
    train_table: pd.DataFrame,
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
) -> Explained:
    """Explains the predictions of a fold's test patients.

    Patients who lack every modality of the model have nothing to explain and are left out.

    Args:
        patients: Test patients, each once.
        train_table: TRAINING rows of the fold; the classes' shares among its training patients are what
            is known of a patient before any image.
        stores: Shards per modality.
        settings: The configuration that the model was trained with.
        model_name: Key of ``diagnosis.models``, a network.
        fold: Outer fold.
        seed: Training seed.
        weights: Written by :func:`fit.train_fold`.
        settings_json: Written by :func:`fit.train_fold`.
        device: ``auto``, ``cpu`` or ``cuda``.
        threads: CPU threads.

    Returns:
        The explanations.

    Raises:
        GlomflowError: The model is no network, or its weights do not fit the configuration.
    """
    model = settings.diagnosis.models[model_name]
    check_is_network(model_name, model)
    target_device = resolve_device(device)
    explained = Explained()
    with deterministic(threads):
        data = FoldData(stores, model.modalities, patients, features=is_frozen(settings, model_name))
        trained = load_trained(settings, model_name, weights, settings_json).to(target_device).eval()
        modules = [trained, *_fresh_models(trained, settings, model, seed)]
        prior = class_shares(train_table, settings.classes_of(model.task))
        for place, patient in enumerate(data.patients):
            present = tuple(name for name in trained.net.modalities if data.present(name)[place])
            if not present:
                print(f"{patient}: has none of {', '.join(trained.net.modalities)}; nothing to explain")
                continue
            instances = data.instances(np.array([place])).to(target_device)
            key = {"patient": patient, "model": model_name, "fold": fold, "seed": seed}
            _explain(explained, modules, key, data, place, instances, present, settings, prior)
    return explained


def check_is_network(name: str, model: config.Model) -> None:
    """Raises a GlomflowError for a model that is fitted to pooled features and has no maps."""
    if model.kind in TabularKinds:
        raise GlomflowError(
            f"diagnosis.explanations.models: '{name}' is a {model.kind} on pooled features, which have no "
            "place in an image; name a model of another kind"
        )


def class_shares(train_table: pd.DataFrame, classes: Sequence[str]) -> dict[str, float]:
    """Returns each class's share of the training patients of a fold (TRAINING rows)."""
    labels = train_table.loc[train_table["split"] == "train", "label"]
    return {name: float((labels == name).mean()) for name in classes}


def _fresh_models(
    trained: PatientModel, settings: config.Config, model: config.Model, seed: int
) -> list[PatientModel]:
    """Returns models of the same form whose trained weights are drawn afresh."""
    frozen = settings.is_frozen(model)
    device = next(trained.parameters()).device
    fresh = []
    for draw in range(1, settings.diagnosis.explanations.randomised + 1):
        with seeded_torch(settings.run.seed, seed, "randomised", draw):
            channels = trained.net.channels if frozen else None
            module = build_model(settings, model, channels=channels, pretrained=False)
        if module.net.standardise:
            for name in module.net.modalities:
                for part in ("mean", "scale"):
                    module.net.get_buffer(f"{part}_{name}").copy_(trained.net.get_buffer(f"{part}_{name}"))
        fresh.append(module.to(device).eval())
    return fresh


def _explain(
    explained: Explained,
    modules: Sequence[PatientModel],
    key: dict[str, Any],
    data: FoldData,
    place: int,
    instances: Instances,
    present: tuple[str, ...],
    settings: config.Config,
    prior: Mapping[str, float],
) -> None:
    """Adds the explanations of one patient."""
    options = settings.diagnosis.explanations
    with torch.no_grad():
        batch = modules[0].batch(instances)
        chances = probabilities(modules[0].net(batch))[0]
    subject = _Subject(key, data, place, instances, present, int(chances.argmax()))
    trained_maps: dict[str, Tensor] = {}
    for draw, module in enumerate(modules):
        found, weights = _attributed(module, subject, options)
        trained_maps = trained_maps or found
        _add_maps(explained, subject, draw, options.attribution, found, weights)
        _add_attention(explained, subject, draw, module)
    classes = list(prior)
    shared = _contributions(modules[0].net, batch, subject, classes, prior)
    gap = _completeness(modules[0], batch, subject, trained_maps, options)
    explained.contributions += [{**row, "completeness": gap} for row in shared]
    with torch.no_grad():
        explained.curves += _curves(modules[0].net, batch, subject, trained_maps, options.steps)


def _attributed(
    module: PatientModel, subject: _Subject, options: config.Explanations
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Returns the maps (1, n, h, w) of the modalities present and the weights (1, n) of instances."""
    net = module.net
    with torch.no_grad():
        batch = module.batch(subject.instances)
        maps = standardised_maps(net, batch)
        outputs: Outputs = net(batch)
    if options.attribution == "grad_cam":
        target = torch.tensor([subject.target], device=maps[subject.present[0]].device)
        found = grad_cam(net, maps, batch.masks, target)
    elif module.bank is None:
        found = integrated_gradients(net, maps, batch.masks, subject.target, options.steps)
    else:
        grids = {name: (values.shape[2], values.shape[3]) for name, values in maps.items()}
        found = pixel_gradients(module, subject.instances, grids, subject.target, options.steps)
    return {name: found[name] for name in subject.present}, outputs.weights


def _add_maps(
    explained: Explained,
    subject: _Subject,
    draw: int,
    kind: str,
    maps: Mapping[str, Tensor],
    weights: Mapping[str, Tensor],
) -> None:
    for modality, found in maps.items():
        values = found[0].float().cpu().numpy()
        for rank, crop in enumerate(subject.crops(modality)):
            weight = float(weights[modality][0, rank]) if modality in weights else math.nan
            _add(explained, subject, draw, modality, crop, kind, weight, values[rank])


def _add(
    explained: Explained,
    subject: _Subject,
    draw: int,
    modality: str,
    crop: str | None,
    kind: str,
    weight: float,
    values: np.ndarray,
) -> None:
    if not np.isfinite(values).all():
        raise GlomflowError(
            f"{subject.key['model']}, patient {subject.key['patient']}: the {kind} map of {crop or modality} "
            "is not finite; look at the patient's features, or train the model again"
        )
    explained.maps.append(values.astype(np.float32))
    explained.index.append(
        {
            **subject.key,
            "draw": draw,
            "modality": modality,
            "crop": crop,
            "kind": kind,
            "weight": weight,
            "value": float(np.maximum(values, 0.0).mean()),
        }
    )


def _add_attention(explained: Explained, subject: _Subject, draw: int, module: PatientModel) -> None:
    """Adds how much the other maps look at each token of a modality: the mean over queries and heads."""
    with torch.no_grad():
        batch = module.batch(subject.instances)
        looked_at = module.net.attention_maps(module.net.pool(batch))
    for modality in (name for name in subject.present if name in looked_at):
        shares = looked_at[modality][0].mean((0, 1))
        if not bool(shares.any()):
            continue
        crops = subject.crops(modality)
        crop = crops[0] if len(crops) == 1 else None
        values = shares.reshape(batch.maps[modality].shape[2:4]).float().cpu().numpy()
        _add(explained, subject, draw, modality, crop, ATTENTION_KIND, math.nan, values)


def subset_probabilities(net: PatientNet, batch: Batch, present: Sequence[str]) -> dict[Coalition, Tensor]:
    """Predicts one patient from every non-empty subset of the modalities that it has.

    Args:
        net: The network, in evaluation mode.
        batch: One patient.
        present: Modalities that the patient has.

    Returns:
        (K,) float64 per subset; modalities outside it are missing.
    """
    with torch.no_grad():
        return {
            frozenset(subset): probabilities(net(restricted(batch, subset)))[0] for subset in subsets(present)
        }


def _contributions(
    net: PatientNet, batch: Batch, subject: _Subject, classes: Sequence[str], prior: Mapping[str, float]
) -> list[dict[str, Any]]:
    predicted = classes[subject.target]
    worth = {
        subset: float(chances[subject.target])
        for subset, chances in subset_probabilities(net, batch, subject.present).items()
    }
    worth[frozenset()] = prior[predicted]
    shares = shapley_values(subject.present, worth)
    return [
        {
            **subject.key,
            "predicted": predicted,
            "modality": modality,
            "contribution": share,
            "alone": worth[frozenset({modality})],
            "p_all": worth[frozenset(subject.present)],
            "p_empty": worth[frozenset()],
        }
        for modality, share in shares.items()
    ]


def _completeness(
    module: PatientModel,
    batch: Batch,
    subject: _Subject,
    maps: Mapping[str, Tensor],
    options: config.Explanations,
) -> float:
    """Returns by how much integrated gradients miss the difference that they should sum to."""
    if options.attribution != "integrated_gradients" or module.bank is not None:
        return math.nan
    with torch.no_grad():
        seen = standardised_maps(module.net, batch)
        empty = {name: torch.zeros_like(values) for name, values in seen.items()}
        ends = [
            float(fusion_logits(module.net, values, batch.masks)[0, subject.target])
            for values in (empty, seen)
        ]
    total = sum(float(values.double().sum()) for values in maps.values())
    difference = ends[1] - ends[0]
    return (total - difference) / difference if difference else math.nan


def _curves(
    net: PatientNet, batch: Batch, subject: _Subject, maps: Mapping[str, Tensor], steps: int
) -> list[dict[str, Any]]:
    """Returns deletion and insertion by the map, and the mean of random orders."""
    seen = standardised_maps(net, batch)
    count = sum(values.numel() for values in maps.values())
    base = (subject.key["patient"], subject.key["seed"], "deletion")
    draws = [shuffled(count, *base, number) for number in range(RANDOM_ORDERS + 1)]

    def removed(order: np.ndarray) -> np.ndarray:
        return removal_curve(net, seen, batch.masks, order, subject.target, steps)

    order = token_order(maps, draws[0])
    chance = np.mean([removed(draw) for draw in draws[1:]], axis=0)
    found = {
        ("map", "deletion"): removed(order),
        ("map", "insertion"): removed(order[::-1].copy())[::-1],
        ("random", "deletion"): chance,
        ("random", "insertion"): chance[::-1],
    }
    return [
        {
            **subject.key,
            "order": kind,
            "direction": direction,
            "share": step / steps,
            "probability": float(probability),
        }
        for (kind, direction), curve in found.items()
        for step, probability in enumerate(curve)
    ]
