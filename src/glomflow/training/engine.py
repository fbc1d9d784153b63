"""One training loop for every network of the diagnosis track.

What is drawn at random (order, dropout, flips, stains) depends on the seed, the epoch, the step and the
patient alone, so that a training resumed from a checkpoint, which may lie within an epoch, ends with the
same bits as one that was never stopped.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from glomflow.errors import DivergedError, GlomflowError
from glomflow.training.checkpoints import Checkpoint, Observer, Stateful, restore, training_state
from glomflow.training.data import chunks
from glomflow.training.optimisation import autocast
from glomflow.training.progress import Reporter
from glomflow.training.seeds import seeded_torch, shuffled
from glomflow.training.step import Stepper, Task, out_of_memory


@dataclass
class Progress:
    """Where a training stands after a step.

    Attributes:
        epoch: Epochs done.
        step: Steps done of the epoch after these.
        parts: Parts that a step is cut into.
        losses: (heads, n) loss of the training patients in the order of this epoch, filled step by step;
            empty between epochs.
        counts: (heads,) patients scored in these steps.
        best_epoch: Number, from 1, of the epoch whose weights are kept; 0 before the first.
        best_loss: Its validation loss (infinite if there is none).
        best_state: Its weights.
        history: One row per epoch.
    """

    epoch: int = 0
    step: int = 0
    parts: int = 1
    losses: Tensor = field(default_factory=lambda: torch.empty(0, 0))
    counts: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))
    best_epoch: int = 0
    best_loss: float = math.inf
    best_state: dict[str, Tensor] = field(default_factory=dict)
    history: list[dict[str, float]] = field(default_factory=list)


def fit(
    task: Task,
    checkpoint: Checkpoint,
    observer: Observer | None = None,
    *,
    scalars: Path | None = None,
    keep: bool = False,
) -> Progress:
    """Trains a model, or goes on where a checkpoint of the same training left off.

    Args:
        task: What to train.
        checkpoint: Saved after steps, when due; not removed here.
        observer: Called with the number of steps done after each step and its checkpoint.
        scalars: Folder for TensorBoard.
        keep: Save the checkpoint at the end, due or not, so that the training need not be done again.

    Returns:
        The weights of the selected epoch and the history.

    Raises:
        GlomflowError: Selection by validation loss without validation patients; a loss that is not
            finite, where the message names the patients; memory that does not suffice; or a network that
            cannot be compiled.
    """
    if task.training.selection == "validation_loss" and not len(task.validation):
        raise GlomflowError(
            "diagnosis.training.selection: validation_loss needs validation patients and this fold has "
            "none; set diagnosis.training.selection: last"
        )
    with seeded_torch(task.seed):
        training = _Training(task, checkpoint)
        try:
            training.run(observer, scalars, keep)
        except torch.OutOfMemoryError as error:
            raise GlomflowError(out_of_memory(task, 1)) from error
        finally:
            task.source.close()
    return training.progress


class _Training:
    """A training under way."""

    def __init__(self, task: Task, checkpoint: Checkpoint) -> None:
        self._task = task
        self._checkpoint = checkpoint
        self._stepper = Stepper(task)
        self._state: dict[str, Stateful] = {
            "module": task.module,
            "criterion": task.criterion,
            "optimiser": self._stepper.optimiser,
            "scaler": self._stepper.scaler,
            "average": self._stepper.average,
        }
        start = Progress(parts=self._stepper.parts)
        self.progress, resumed = restore(checkpoint, start, self._state, task.device)
        self._stepper.parts = self.progress.parts
        task.world.wait()
        if resumed and task.world.rank == 0:
            where = f"epoch {self.progress.epoch}, step {self.progress.step}"
            print(f"{task.name}: going on after {where} from {checkpoint.path}")

    def run(self, observer: Observer | None, scalars: Path | None, keep: bool) -> None:
        """Goes on to the last epoch, or until patience is at an end."""
        task, progress = self._task, self.progress
        first = task.world.rank == 0
        reporter = Reporter(task.name, task.training.epochs, progress.epoch, scalars) if first else None
        count = math.ceil(len(task.train) / task.training.batch_size)
        while progress.epoch < task.training.epochs and not self._patience_is_over():
            epoch = progress.epoch
            order = task.train[torch.from_numpy(shuffled(len(task.train), task.seed, "order", epoch))]
            steps = chunks(order, task.training.batch_size)
            task.module.train()
            task.criterion.train()
            self._stepper.plan(steps[progress.step :])
            if progress.step == 0:
                self._empty_losses(len(order))
            while progress.epoch == epoch:
                losses, counts = self._stepper.take(steps, progress.step, epoch)
                done = progress.step * task.training.batch_size
                progress.losses[:, done : done + losses.shape[1]] = losses
                progress.counts += counts
                progress.step += 1
                progress.parts = self._stepper.parts
                if progress.step == count:
                    self._end_epoch(steps, reporter)
                if first and self._checkpoint.due():
                    self._save(order)
                if observer is not None:
                    observer(progress.epoch * count + progress.step)
        if keep and first:
            self._checkpoint.save(training_state(progress, self._state))
        if reporter is not None:
            reporter.close()

    def _empty_losses(self, patients: int) -> None:
        heads, device = len(self._task.criterion.heads), self._task.device
        self.progress.losses = torch.zeros(heads, patients, device=device)
        self.progress.counts = torch.zeros(heads, dtype=torch.int64, device=device)

    def _patience_is_over(self) -> bool:
        progress, patience = self.progress, self._task.training.patience
        if self._task.training.selection != "validation_loss" or patience is None:
            return False
        over = progress.epoch - progress.best_epoch >= patience
        if over and self._task.world.rank == 0:
            print(f"{self._task.name}: no better epoch since epoch {progress.best_epoch}; stopping")
        return over

    def _end_epoch(self, steps: list[Tensor], reporter: Reporter | None) -> None:
        """Validates, adds a row to the history and keeps the weights if they are the best."""
        task, progress = self._task, self.progress
        what = f"of epoch {progress.epoch + 1}"
        _check_finite(task, progress.losses, torch.cat(steps), what)
        by_validation = task.training.selection == "validation_loss"
        last = progress.epoch + 1 == task.training.epochs
        with self._stepper.average.applied():
            validation_loss, accuracy = evaluate(task, task.validation)
            better = not by_validation or validation_loss < progress.best_loss
            if better and (by_validation or last):
                progress.best_state = _snapshot(task.module)
        row = {
            "epoch": progress.epoch + 1,
            "learning_rate": self._stepper.optimiser.param_groups[0]["lr"],
            "train_loss": float(_mean_loss(task, progress.losses, progress.counts)),
            "validation_loss": validation_loss,
            "validation_accuracy": accuracy,
        }
        progress.history.append(row)
        progress.epoch += 1
        progress.step = 0
        self._empty_losses(0)
        if better:
            progress.best_epoch, progress.best_loss = progress.epoch, validation_loss
        if reporter is not None:
            reporter.epoch(row)

    def _save(self, order: Tensor) -> None:
        """Saves the state, unless it is spoilt: then the last good one stays."""
        task, progress = self._task, self.progress
        _check_finite(task, progress.losses, order, f"of epoch {progress.epoch + 1}")
        if not self._stepper.parameters_are_finite():
            size = task.training.batch_size
            done = (progress.step or math.ceil(len(order) / size)) - 1
            names = sorted(task.patients[place] for place in order[done * size :][:size].tolist())
            raise DivergedError(
                f"{task.name}: the weights are not finite any more, at the latest after a step of "
                f"{', '.join(names[:5])}; lower diagnosis.training.learning_rate or set gradient_clip"
            )
        self._checkpoint.save(training_state(progress, self._state))


@torch.no_grad()
def evaluate(task: Task, places: Tensor) -> tuple[float, float]:
    """Computes the mean weighted loss and the accuracy of the fusion head.

    Args:
        task: The model and its patients.
        places: (n,) int64 patients to evaluate; may be empty.

    Returns:
        Loss and accuracy; NaN for no patients.

    Raises:
        GlomflowError: The loss is not finite; the message names the patients.
    """
    if not len(places):
        return math.nan, math.nan
    task.module.eval()
    task.criterion.eval()
    heads = len(task.criterion.heads)
    size = 2 * task.training.batch_size
    losses = torch.zeros(heads, len(places), device=task.device)
    right = torch.zeros(len(places), dtype=torch.float64, device=task.device)
    counts = torch.zeros(heads, dtype=torch.int64, device=task.device)
    own = list(enumerate(chunks(places, size)))[task.world.rank :: task.world.size]
    task.source.plan([rows for _, rows in own])
    for number, rows in own:
        with autocast(task.device, task.training.precision):
            outputs = task.source.outputs(rows, None)
        labels = task.labels[rows.to(task.device, non_blocking=True)]
        here = slice(number * size, number * size + len(rows))
        losses[:, here] = task.criterion.per_patient(outputs, labels)
        right[here] = (outputs.logits["fusion"].argmax(1) == labels).double()
        counts += task.criterion.counts(outputs)
    for values in (losses, right, counts):
        task.world.add(values)
    _check_finite(task, losses, places, "of validation")
    return float(task.criterion.combine(losses, counts)), float(right.mean())


def _mean_loss(task: Task, losses: Tensor, counts: Tensor) -> Tensor:
    """Returns the loss over the patients of an epoch, as if they were one step, by the fixed weights."""
    task.criterion.eval()
    with torch.no_grad():
        return task.criterion.combine(losses, counts)


def _check_finite(task: Task, losses: Tensor, places: Tensor, what: str) -> None:
    """Looks once per epoch or checkpoint, not once per step, so that a GPU need not wait."""
    finite = losses.isfinite().all(0).cpu()
    if bool(finite.all()):
        return
    first = int(torch.argmax((~finite).int()))
    step = first - first % task.training.batch_size
    bad = [place for place in range(step, len(finite)) if not finite[place]]
    bad = [place for place in bad if place < step + task.training.batch_size]
    names = sorted(task.patients[int(places[place])] for place in bad)
    raise DivergedError(
        f"{task.name}: the loss {what} is not finite, first for {', '.join(names[:5])}; look at "
        "these patients' images and features, or lower diagnosis.training.learning_rate"
    )


def _snapshot(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in module.state_dict().items()}
