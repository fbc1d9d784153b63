"""One training loop for every model of the diagnosis track.

An epoch's draws (order, dropout, flips) depend on the seed and the epoch alone, so that a training
resumed from a checkpoint ends with the same bits as one that was never stopped.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from glomflow import config
from glomflow.errors import DivergedError, GlomflowError
from glomflow.models.losses import Criterion
from glomflow.models.outputs import Outputs
from glomflow.training.checkpoints import Checkpoint, Observer
from glomflow.training.seeds import derive_seed, seeded_torch, shuffled


class Source(Protocol):
    """Where a model's inputs come from; patients are numbered from 0."""

    def outputs(self, places: Tensor, draws: torch.Generator | None) -> Outputs:
        """Runs the model on some patients.

        Args:
            places: (B,) int64 on the CPU.
            draws: Generator of the random changes of training images, or None for none.
        """


@dataclass(frozen=True)
class Task:
    """What is trained, on whom and how.

    Attributes:
        name: Name of the model, for messages.
        module: Holds the parameters.
        source: Runs the module on patients.
        labels: (P,) int64 class of every patient, on the module's device.
        patients: Names.
        train: (n,) int64 places of the training patients, on the CPU.
        validation: (m,) int64 places of the validation patients, on the CPU; may be empty.
        criterion: The loss.
        training: Optimisation.
        seed: Base seed.
        device: Where the module is.
    """

    name: str
    module: nn.Module
    source: Source
    labels: Tensor
    patients: Sequence[str]
    train: Tensor
    validation: Tensor
    criterion: Criterion
    training: config.Training
    seed: int
    device: torch.device


@dataclass
class Progress:
    """Where a training stands after an epoch.

    Attributes:
        epoch: Epochs done.
        best_epoch: Number, from 1, of the epoch whose weights are kept; 0 before the first.
        best_loss: Its validation loss (infinite if there is none).
        best_state: Its weights.
        history: One row per epoch.
    """

    epoch: int = 0
    best_epoch: int = 0
    best_loss: float = math.inf
    best_state: dict[str, Tensor] = field(default_factory=dict)
    history: list[dict[str, float]] = field(default_factory=list)


def chunks(places: Tensor, size: int) -> list[Tensor]:
    """Cuts (n,) places into pieces of ``size``, the last one as long as what is left."""
    return [places[start : start + size] for start in range(0, len(places), size)]


def cosine_rate(epoch: int, training: config.Training) -> float:
    """Returns the learning rate of an epoch (from 0): a cosine from the first to the last epoch."""
    share = epoch / max(training.epochs - 1, 1)
    low, high = training.final_learning_rate, training.learning_rate
    return low + 0.5 * (high - low) * (1.0 + math.cos(math.pi * share))


def fit(task: Task, checkpoint: Checkpoint, observer: Observer | None = None) -> Progress:
    """Trains a model, or goes on where a checkpoint of the same training left off.

    Args:
        task: What to train.
        checkpoint: Saved after epochs, when due; not removed here.
        observer: Called after each epoch and its checkpoint.

    Returns:
        The weights of the selected epoch and the history.

    Raises:
        GlomflowError: Selection by validation loss without validation patients, or a loss that is
            not finite; the message names the patients.
    """
    by_validation = task.training.selection == "validation_loss"
    if by_validation and not len(task.validation):
        raise GlomflowError(
            "diagnosis.training.selection: validation_loss needs validation patients and this fold has "
            "none; set diagnosis.training.selection: last"
        )
    optimiser = _optimiser(task)
    scaler = torch.amp.GradScaler(task.device.type, enabled=_amp_type(task) == torch.float16)
    progress = _resume(task, checkpoint, optimiser, scaler)
    patience = task.training.patience if by_validation else None
    while progress.epoch < task.training.epochs:
        if patience is not None and progress.epoch - progress.best_epoch >= patience:
            print(f"{task.name}: no better epoch since epoch {progress.best_epoch}; stopping")
            break
        row = _epoch(task, optimiser, scaler, progress.epoch)
        progress.history.append(row)
        progress.epoch += 1
        if not by_validation or row["validation_loss"] < progress.best_loss:
            progress.best_epoch = progress.epoch
            progress.best_loss = row["validation_loss"]
            if by_validation or progress.epoch == task.training.epochs:
                progress.best_state = _snapshot(task.module)
        _report(task, row, progress)
        if checkpoint.due():
            checkpoint.save(_state(task, progress, optimiser, scaler))
        if observer is not None:
            observer(progress.epoch)
    return progress


@torch.no_grad()
def evaluate(task: Task, places: Tensor) -> tuple[float, float]:
    """Computes the mean weighted loss and the accuracy of the fusion head.

    Args:
        task: The model and its patients.
        places: (n,) int64 patients to evaluate; may be empty.

    Returns:
        Loss and accuracy; NaN for no patients.
    """
    if not len(places):
        return math.nan, math.nan
    task.module.eval()
    parts = []
    steps = chunks(places, 2 * task.training.batch_size)
    for rows in steps:
        with _autocast(task):
            outputs = task.source.outputs(rows, None)
        labels = task.labels[rows.to(task.device)]
        right = (outputs.logits["fusion"].argmax(1) == labels).double()
        parts.append((task.criterion.per_patient(outputs, labels), task.criterion.counts(outputs), right))
    _check_finite(task, [part[0] for part in parts], steps, "of validation")
    loss = _mean_loss(task, [part[:2] for part in parts])
    return float(loss), float(torch.cat([part[2] for part in parts]).mean())


def _epoch(task: Task, optimiser: torch.optim.Optimizer, scaler: Any, epoch: int) -> dict[str, float]:
    """Trains one epoch and returns its row of the history."""
    rate = cosine_rate(epoch, task.training)
    for group in optimiser.param_groups:
        group["lr"] = rate
    order = task.train[torch.from_numpy(shuffled(len(task.train), task.seed, "order", epoch))]
    steps = chunks(order, task.training.batch_size)
    draws = torch.Generator().manual_seed(derive_seed(task.seed, "flips", epoch))
    task.module.train()
    with seeded_torch(task.seed, "dropout", epoch):
        seen = [_step(task, optimiser, scaler, rows, draws) for rows in steps]
    _check_finite(task, [losses for losses, _ in seen], steps, f"of epoch {epoch + 1}")
    loss = _mean_loss(task, seen)
    validation_loss, accuracy = evaluate(task, task.validation)
    return {
        "epoch": epoch + 1,
        "learning_rate": rate,
        "train_loss": float(loss),
        "validation_loss": validation_loss,
        "validation_accuracy": accuracy,
    }


def _step(
    task: Task, optimiser: torch.optim.Optimizer, scaler: Any, rows: Tensor, draws: torch.Generator
) -> tuple[Tensor, Tensor]:
    with _autocast(task):
        outputs = task.source.outputs(rows, draws)
    losses = task.criterion.per_patient(outputs, task.labels[rows.to(task.device)])
    counts = task.criterion.counts(outputs)
    loss = task.criterion.combine(losses, counts)
    optimiser.zero_grad(set_to_none=True)
    scaler.scale(loss).backward()
    scaler.step(optimiser)
    scaler.update()
    return losses.detach(), counts


def _mean_loss(task: Task, parts: list[tuple[Tensor, Tensor]]) -> Tensor:
    """Returns the loss over the patients of several steps, as if they were one."""
    losses = torch.cat([losses for losses, _ in parts], dim=1)
    return task.criterion.combine(losses, torch.stack([counts for _, counts in parts]).sum(0))


def _check_finite(task: Task, losses: list[Tensor], steps: Sequence[Tensor], what: str) -> None:
    """Looks once per epoch, not once per step, so that a GPU need not wait."""
    finite = torch.cat([step.isfinite().all(0) for step in losses]).cpu()
    if bool(finite.all()):
        return
    start = 0
    for rows in steps:
        bad = rows[~finite[start : start + len(rows)]]
        if len(bad):
            names = sorted(task.patients[place] for place in bad.tolist())
            raise DivergedError(
                f"{task.name}: the loss {what} is not finite, first for {', '.join(names[:5])}; look at "
                "these patients' images and features, or lower diagnosis.training.learning_rate"
            )
        start += len(rows)


def _optimiser(task: Task) -> torch.optim.Optimizer:
    trained = [parameter for parameter in task.module.parameters() if parameter.requires_grad]
    return torch.optim.Adam(
        trained,
        lr=task.training.learning_rate,
        weight_decay=task.training.weight_decay,
        amsgrad=task.training.amsgrad,
        fused=True,
    )


def _amp_type(task: Task) -> torch.dtype | None:
    if task.device.type != "cuda" or task.training.precision == "float32":
        return None
    return torch.bfloat16 if task.training.precision == "bfloat16" else torch.float16


def _autocast(task: Task) -> Any:
    dtype = _amp_type(task)
    return nullcontext() if dtype is None else torch.autocast(task.device.type, dtype=dtype)


def _snapshot(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in module.state_dict().items()}


def _state(task: Task, progress: Progress, optimiser: torch.optim.Optimizer, scaler: Any) -> dict[str, Any]:
    return {
        "progress": dict(vars(progress)),
        "module": task.module.state_dict(),
        "optimiser": optimiser.state_dict(),
        "scaler": scaler.state_dict(),
    }


def _resume(task: Task, checkpoint: Checkpoint, optimiser: torch.optim.Optimizer, scaler: Any) -> Progress:
    state = checkpoint.load(task.device)
    if state is None:
        return Progress()
    task.module.load_state_dict(state["module"])
    optimiser.load_state_dict(state["optimiser"])
    scaler.load_state_dict(state["scaler"])
    progress = Progress(**state["progress"])
    print(f"{task.name}: going on after epoch {progress.epoch} from {checkpoint.path}")
    return progress


def _report(task: Task, row: dict[str, float], progress: Progress) -> None:
    epoch, epochs = progress.epoch, task.training.epochs
    if epoch % max(1, epochs // 8) and epoch not in {1, epochs}:
        return
    line = f"{task.name}: epoch {epoch}/{epochs}, train loss {row['train_loss']:.4f}"
    if not math.isnan(row["validation_loss"]):
        line += f", validation loss {row['validation_loss']:.4f}, accuracy {row['validation_accuracy']:.3f}"
    print(line, flush=True)
