"""Training one model on one fold."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from safetensors.torch import save_file
from torch import Tensor

import glomflow
from glomflow import config
from glomflow.errors import GlomflowError
from glomflow.files import atomic_path, write_json
from glomflow.models.batch import Pooled, concatenate
from glomflow.models.build import build_net
from glomflow.models.encoders import EncoderBank
from glomflow.models.losses import Criterion
from glomflow.models.outputs import Outputs
from glomflow.models.patient_model import PatientModel
from glomflow.tables import Column, Schema, write_table
from glomflow.training.checkpoints import Checkpoint, Observer, training_digest
from glomflow.training.data import FoldData, Stores, channel_statistics, stain_augmented
from glomflow.training.engine import Progress, Task, chunks, fit
from glomflow.training.features import resolve_device
from glomflow.training.seeds import derive_seed, deterministic, seeded_torch

HISTORY: Schema = {
    "epoch": Column("int64", "epoch, from 1"),
    "learning_rate": Column("float64", "learning rate of the epoch"),
    "train_loss": Column("float64", "mean weighted loss over the epoch's steps, dropout on"),
    "validation_loss": Column("float64", "mean weighted loss of the validation patients after the epoch"),
    "validation_accuracy": Column("float64", "accuracy of the fusion head on the validation patients"),
}

_POOL_AT_ONCE = 32
_POOLED_LIMIT = 2 * 1024**3


def train_fold(
    train_table: pd.DataFrame,
    stores: Stores,
    settings: config.Config,
    model_name: str,
    seed: int,
    out: Path,
    history: Path,
    settings_json: Path,
    checkpoint: Path,
    *,
    device: str = "auto",
    threads: int = 1,
    checkpoint_interval: float = 2.0,
    observer: Observer | None = None,
) -> None:
    """Trains a model on the training patients of a fold and writes its weights.

    Args:
        train_table: TRAINING rows: training and validation patients with their labels.
        stores: Shards per modality.
        settings: The configuration.
        model_name: Key of ``diagnosis.models``.
        seed: Training seed, one of ``diagnosis.training.seeds``.
        out: Weights of the selected epoch, safetensors.
        history: One row per epoch, HISTORY.
        settings_json: What :func:`predict.predict_fold` needs to rebuild the model.
        checkpoint: File for checkpoints; removed at the end.
        device: ``auto``, ``cpu`` or ``cuda``.
        threads: CPU threads.
        checkpoint_interval: Seconds between checkpoints, taken at the ends of epochs.
        observer: Called with the number of epochs done after each epoch.

    Raises:
        GlomflowError: A label is no class, no training patient has any of the model's modalities,
            selection needs validation patients that are not there, or the loss is not finite.
    """
    with deterministic(threads):
        module, task = _prepare(train_table, stores, settings, model_name, seed, resolve_device(device))
        digest = _digest(train_table, stores, settings, model_name, seed)
        saved = Checkpoint(checkpoint, digest, interval=checkpoint_interval)
        progress = fit(task, saved, observer)
    _write(task, progress, settings, seed, module.net.channels, out, history, settings_json)
    saved.remove()


def _prepare(
    table: pd.DataFrame,
    stores: Stores,
    settings: config.Config,
    name: str,
    seed: int,
    device: torch.device,
) -> tuple[PatientModel, Task]:
    """Reads the fold's data and builds the model, standardised on the training patients."""
    model = settings.diagnosis.models[name]
    data = FoldData(stores, model.modalities, table["patient"].tolist(), features=is_frozen(settings, name))
    train, validation = _split(table, data, name)
    channels = {key: bags.shape[-1] for key, bags in data.bags.items()} if is_frozen(settings, name) else None
    with seeded_torch(settings.run.seed, seed, "weights"):
        module = build_model(settings, model, channels=channels, pretrained=True)
    if module.net.standardise:
        module.net.set_standardisation(channel_statistics(data, train.numpy()))
    module.to(device)
    return module, Task(
        name=name,
        module=module,
        source=make_source(module, data, device, settings.diagnosis.training),
        labels=_class_numbers(table, settings.classes_of(model.task)).to(device),
        patients=data.patients,
        train=train,
        validation=validation,
        criterion=Criterion(settings.diagnosis.loss_of(name), module.net.heads, summed=model.parity).to(
            device
        ),
        training=settings.diagnosis.training,
        seed=derive_seed(settings.run.seed, seed),
        device=device,
    )


def is_frozen(settings: config.Config, model_name: str) -> bool:
    """Tells whether a model's encoders are frozen, so that cached features take the place of crops."""
    return settings.is_frozen(settings.diagnosis.models[model_name])


def encoder_settings(settings: config.Config, model_name: str) -> dict[str, Any]:
    """Returns the encoder's section of each modality of a model, as JSON."""
    model = settings.diagnosis.models[model_name]
    return {name: settings.encoder_of(model, name).model_dump(mode="json") for name in model.modalities}


def build_model(
    settings: config.Config, model: config.Model, *, channels: Mapping[str, int] | None, pretrained: bool
) -> PatientModel:
    """Builds a model with fresh heads, and encoders where they are trained.

    Args:
        settings: The configuration.
        model: The model's section.
        channels: C of the cached feature maps, per modality; None where encoders are trained.
        pretrained: Load the encoders' weights; False where trained ones will be loaded over them.

    Returns:
        The model, on the CPU.
    """
    bank = None
    if channels is None:
        encoders = {str(name): settings.encoder_of(model, name) for name in model.modalities}
        if not pretrained:
            encoders = {
                name: encoder.model_copy(update={"weights": "random"}) for name, encoder in encoders.items()
            }
        bank = EncoderBank(encoders, offline=settings.run.offline)
        channels = bank.channels
        model = model.model_copy(update={"standardise": False})
    return PatientModel(build_net(model, channels, len(settings.classes_of(model.task))), bank)


class PooledSource:
    """Patients pooled once: for frozen features, where pooling has nothing to learn.

    Args:
        module: The model.
        data: Bags of features.
        device: Where the pooled maps are kept.
    """

    def __init__(self, module: PatientModel, data: FoldData, device: torch.device) -> None:
        self._net = module.net
        parts: list[Pooled] = []
        with torch.no_grad():
            for places in chunks(torch.arange(len(data.patients)), _POOL_AT_ONCE):
                parts.append(self._net.pool(module.batch(data.instances(places.numpy()).to(device))))
        self._pooled = concatenate(parts)
        self._device = device

    def outputs(self, places: Tensor, draws: torch.Generator | None) -> Outputs:
        """Runs attention and heads on some patients; cached features cannot be changed at random."""
        return self._net.classify(self._pooled.select(places.to(self._device)))


class BagSource:
    """Bags read, and where they are crops encoded, at every step.

    Args:
        module: The model.
        data: Bags of features or crops.
        device: Where the model is.
        training: How crops are changed at random while training.
    """

    def __init__(
        self, module: PatientModel, data: FoldData, device: torch.device, training: config.Training
    ) -> None:
        self._module = module
        self._data = data
        self._device = device
        self._training = training

    def outputs(self, places: Tensor, draws: torch.Generator | None) -> Outputs:
        """Runs the whole model on some patients, crops changed at random if ``draws`` is given."""
        instances = self._data.instances(places.numpy(), pin=self._device.type == "cuda").to(self._device)
        if draws is not None and self._module.bank is not None:
            if self._training.flips:
                instances.rows = {name: random_flips(rows, draws) for name, rows in instances.rows.items()}
            instances = stain_augmented(instances, draws, self._training.stain_augmentation)
        outputs: Outputs = self._module(instances)
        return outputs


def make_source(
    module: PatientModel, data: FoldData, device: torch.device, training: config.Training
) -> PooledSource | BagSource:
    """Pools once where the encoder is frozen and the pooled maps fit 2 GiB, else reads bags."""
    size = sum(4 * len(data.patients) * math.prod(bags.shape) for bags in data.bags.values())
    if module.bank is None and size <= _POOLED_LIMIT:
        return PooledSource(module, data, device)
    return BagSource(module, data, device, training)


def random_flips(images: Tensor, generator: torch.Generator) -> Tensor:
    """Flips each image left to right and top to bottom, each with probability one half.

    Args:
        images: (N, H, W, C) on any device.
        generator: CPU generator.

    Returns:
        (N, H, W, C).
    """
    choices = torch.rand(2, images.shape[0], generator=generator) < 0.5
    rows, columns = choices[:, :, None, None, None].to(images.device)
    images = torch.where(rows, images.flip(1), images)
    return torch.where(columns, images.flip(2), images)


def _split(table: pd.DataFrame, data: FoldData, name: str) -> tuple[Tensor, Tensor]:
    """Returns the places of the training and the validation patients who have any modality."""
    strange = table[~table["split"].isin(["train", "validation"])]
    if len(strange):
        row = strange.iloc[0]
        raise GlomflowError(
            f"patient {row['patient']}: split '{row['split']}'; a training table holds train and "
            "validation patients only, leave the others out"
        )
    usable = np.any([data.present(modality) for modality in data.bags], axis=0)
    left_out = [patient for patient, ok in zip(data.patients, usable, strict=True) if not ok]
    if left_out:
        print(f"{name}: left out for want of {' and '.join(data.bags)}: {', '.join(left_out)}")
    train = np.flatnonzero((table["split"] == "train").to_numpy() & usable)
    if not len(train):
        raise GlomflowError(
            f"diagnosis.models.{name}: no training patient has {' or '.join(data.bags)}; "
            "change the model's modalities or look at the exclusions in the inventory"
        )
    for modality in data.bags:
        if not data.present(modality)[train].any():
            raise GlomflowError(
                f"diagnosis.models.{name}: no training patient has {modality}; "
                f"take {modality} out of its modalities or look at the exclusions in the inventory"
            )
    validation = np.flatnonzero((table["split"] == "validation").to_numpy() & usable)
    return torch.from_numpy(train), torch.from_numpy(validation)


def _class_numbers(table: pd.DataFrame, classes: Sequence[str]) -> Tensor:
    unknown = table[~table["label"].isin(list(classes))]
    if len(unknown):
        row = unknown.iloc[0]
        raise GlomflowError(
            f"patient {row['patient']}: label '{row['label']}' is none of cohort.classes "
            f"({', '.join(classes)}); correct the sheet or the classes"
        )
    numbers = {name: number for number, name in enumerate(classes)}
    return torch.tensor([numbers[label] for label in table["label"]], dtype=torch.int64)


def _digest(table: pd.DataFrame, stores: Stores, settings: config.Config, model_name: str, seed: int) -> str:
    model = settings.diagnosis.models[model_name]
    files = []
    for modality in sorted(model.modalities):
        for store in stores[modality]:
            cached = store.features if is_frozen(settings, model_name) else None
            files += [store.index, cached or store.npy]
    parts: dict[str, Any] = {
        "table": table[["patient", "split", "label"]].to_numpy().tolist(),
        "classes": settings.classes_of(model.task),
        "encoders": {m: settings.encoder_of(model, m).model_dump() for m in model.modalities},
        "model": model.model_dump(),
        "loss": settings.diagnosis.loss_of(model_name).model_dump(),
        "training": settings.diagnosis.training.model_dump(),
        "seeds": [settings.run.seed, seed],
    }
    return training_digest(parts, files)


def _write(
    task: Task,
    progress: Progress,
    settings: config.Config,
    seed: int,
    channels: Mapping[str, int],
    out: Path,
    history: Path,
    settings_json: Path,
) -> None:
    weights = {name: value.contiguous().cpu() for name, value in progress.best_state.items()}
    write_table(history, pd.DataFrame(progress.history), HISTORY)
    write_json(
        settings_json,
        {
            "glomflow": glomflow.__version__,
            "model_name": task.name,
            "model": settings.diagnosis.models[task.name].model_dump(mode="json"),
            "encoders": encoder_settings(settings, task.name),
            "classes": settings.classes_of(settings.diagnosis.models[task.name].task),
            "channels": dict(channels),
            "seed": seed,
            "selected_epoch": progress.best_epoch,
            "epochs": progress.epoch,
            "training_patients": len(task.train),
            "validation_patients": len(task.validation),
            "trained_parameters": sum(p.numel() for p in task.module.parameters() if p.requires_grad),
        },
    )
    with atomic_path(out) as temporary:
        save_file(weights, temporary)
