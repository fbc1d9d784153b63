"""Training one model on one fold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

import glomflow
from glomflow import config
from glomflow.config_models import TabularKinds
from glomflow.errors import GlomflowError
from glomflow.files import write_json
from glomflow.models.build import build_net
from glomflow.models.encoders import EncoderBank
from glomflow.models.losses import Criterion, balanced_weights
from glomflow.models.patient_model import PatientModel
from glomflow.models.trained_weights import save_weights
from glomflow.tables import Column, Schema, write_table
from glomflow.training.checkpoints import Checkpoint, Observer, training_digest
from glomflow.training.data import FoldData, Shelf, Stores, channel_statistics
from glomflow.training.distributed import World
from glomflow.training.engine import Progress, fit
from glomflow.training.features import resolve_device
from glomflow.training.memory import bag_sizes, statement
from glomflow.training.seeds import derive_seed, deterministic, seeded_torch
from glomflow.training.sources import make_source
from glomflow.training.step import Task

HISTORY: Schema = {
    "epoch": Column("int64", "epoch, from 1"),
    "learning_rate": Column("float64", "learning rate of the epoch"),
    "train_loss": Column("float64", "mean weighted loss over the epoch's steps, dropout on"),
    "validation_loss": Column("float64", "mean weighted loss of the validation patients after the epoch"),
    "validation_accuracy": Column("float64", "accuracy of the fusion head on the validation patients"),
}

_NO_MATTER = {"workers", "tensorboard", "devices"}
"""Keys of the training's section that its result does not depend on, or not beyond rounding."""


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
    device: str | torch.device = "auto",
    threads: int = 1,
    checkpoint_interval: float = 2.0,
    keep_checkpoint: bool = False,
    world: World | None = None,
    shelf: Shelf | None = None,
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
        device: ``auto``, ``cpu`` or ``cuda``, or a device of this process.
        threads: CPU threads.
        checkpoint_interval: Seconds between checkpoints at least.
        keep_checkpoint: Leave the checkpoint, so that the same call only writes the files again.
        world: The processes that share the training; None for this one alone.
        shelf: Where what is read is shared with other trainings.
        observer: Called with the number of steps done after each step.

    Raises:
        GlomflowError: A label is no class, no training patient has any of the model's modalities,
            selection needs validation patients that are not there, the loss is not finite, or memory
            does not suffice.
    """
    if settings.diagnosis.models[model_name].kind in TabularKinds:
        from glomflow.training.tabular import train_tabular

        train_tabular(train_table, stores, settings, model_name, seed, out, history, settings_json)
        return
    world = world or World()
    target = device if isinstance(device, torch.device) else resolve_device(device)
    with deterministic(threads):
        module, task = prepare(
            train_table, stores, settings, model_name, seed, target, world=world, shelf=shelf
        )
        digest = _digest(train_table, stores, settings, model_name, seed)
        saved = Checkpoint(checkpoint, digest, interval=checkpoint_interval)
        scalars = checkpoint.with_suffix(".tensorboard") if task.training.tensorboard else None
        progress = fit(task, saved, observer, scalars=scalars, keep=keep_checkpoint)
    if world.rank == 0:
        _write(task, progress, settings, seed, module.net.channels, out, history, settings_json)
        if not keep_checkpoint:
            saved.remove()
    world.wait()


def prepare(
    table: pd.DataFrame,
    stores: Stores,
    settings: config.Config,
    name: str,
    seed: int,
    device: torch.device,
    *,
    world: World,
    shelf: Shelf | None = None,
) -> tuple[PatientModel, Task]:
    """Reads the fold's data and builds the model, standardised on the training patients.

    Args:
        table: TRAINING rows.
        stores: Shards per modality.
        settings: The configuration.
        name: Key of ``diagnosis.models``.
        seed: Training seed.
        device: Where to train.
        world: The processes that share the training.
        shelf: Where what is read is shared with other trainings.

    Returns:
        The model and what :func:`engine.fit` needs.
    """
    model, training = settings.diagnosis.models[name], settings.diagnosis.training
    frozen = is_frozen(settings, name)
    data = FoldData(stores, model.modalities, table["patient"].tolist(), features=frozen, shelf=shelf)
    train, validation = split_places(table, data, name)
    channels = {key: bags.shape[-1] for key, bags in data.bags.items()} if frozen else None
    with seeded_torch(settings.run.seed, seed, "weights"):
        module = build_model(settings, model, channels=channels, pretrained=True)
    if module.net.standardise:
        module.net.set_standardisation(channel_statistics(data, train.numpy()))
    if module.bank is not None and training.gradient_checkpointing:
        module.bank.set_gradient_checkpointing(True)
    classes = settings.classes_of(model.task)
    labels = class_numbers(table, classes)
    loss = settings.diagnosis.loss_of(name)
    weights = balanced_weights(labels[train], len(classes)) if loss.class_weights == "balanced" else None
    criterion = Criterion(loss, module.net.heads, weights, summed=model.parity)
    module.to(device)
    task = Task(
        name=name,
        module=module,
        source=make_source(module, data, device, training),
        labels=labels.to(device),
        patients=data.patients,
        train=train,
        validation=validation,
        criterion=criterion.to(device),
        training=training,
        seed=derive_seed(settings.run.seed, seed),
        device=device,
        world=world,
    )
    if world.rank == 0:
        print(statement(task, bag_sizes(data, train.numpy())), flush=True)
    return module, task


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


def split_places(table: pd.DataFrame, data: FoldData, name: str) -> tuple[Tensor, Tensor]:
    """Returns the places of the training and the validation patients who have any modality.

    Args:
        table: TRAINING rows.
        data: The same patients.
        name: Name of the model, for messages.

    Raises:
        GlomflowError: A patient is of another split, or no training patient has a modality.
    """
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


def class_numbers(table: pd.DataFrame, classes: Sequence[str]) -> Tensor:
    """Returns the (P,) int64 class number of every patient.

    Args:
        table: TRAINING rows.
        classes: Names of the classes, in the order of their numbers.

    Raises:
        GlomflowError: A label is no class.
    """
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
    frozen = is_frozen(settings, model_name)
    files = []
    for modality in sorted(model.modalities):
        for store in stores[modality]:
            files += [store.index, store.features if frozen and store.features else store.npy]
    parts: dict[str, Any] = {
        "table": table[["patient", "split", "label"]].to_numpy().tolist(),
        "classes": settings.classes_of(model.task),
        "encoders": {m: settings.encoder_of(model, m).model_dump() for m in model.modalities},
        "model": model.model_dump(),
        "loss": settings.diagnosis.loss_of(model_name).model_dump(),
        "training": settings.diagnosis.training.model_dump(exclude=_NO_MATTER),
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
    save_weights(out, progress.best_state)
