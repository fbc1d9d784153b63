"""One step of a training: forwards, backwards, update; in parts, in several processes, in less memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from glomflow import config
from glomflow.errors import GlomflowError
from glomflow.models.losses import Criterion
from glomflow.training.distributed import World
from glomflow.training.optimisation import (
    Average,
    autocast,
    build_optimiser,
    grad_scaler,
    rate_at,
    running_statistics,
    trained_parameters,
)
from glomflow.training.sources import Draws, Source, compiling


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
        criterion: The loss; parameters of its own are trained too.
        training: Optimisation.
        seed: Base seed.
        device: Where the module is.
        world: The processes that share the training.
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
    world: World = World()  # noqa: RUF009 (holds two numbers that nobody changes)


_Part = tuple[int, Tensor, Draws]
"""Place of the part's first patient in the step, its patients, and its draws."""


class Stepper:
    """Takes the steps of a training.

    Every step is cut into ``accumulate`` parts per process. Their gradients add up to that of the whole
    step: each part's loss is divided by the patients of the step, not by its own. What the model draws at
    random (dropout) is drawn part by part.

    Args:
        task: What is trained.

    Attributes:
        optimiser: The optimiser.
        scaler: Scales the loss where the precision is float16.
        average: Moving average of the weights.
        parts: Parts that a process cuts its share of a step into; doubled when memory runs out.
    """

    def __init__(self, task: Task) -> None:
        self._task = task
        self.optimiser = build_optimiser(task.module, task.criterion, task.training)
        self.scaler = grad_scaler(task.device, task.training.precision)
        self._parameters = trained_parameters(task.module, task.criterion)
        self.average = Average(self._parameters, task.training.ema)
        self.parts = task.training.accumulate
        self._statistics: list[Tensor] | None = None

    def shares(self, rows: Tensor) -> list[tuple[int, Tensor]]:
        """Returns this process's parts of a step: the place of the first patient, and the patients."""
        world = self._task.world
        pieces = torch.tensor_split(rows, self.parts * world.size)
        starts = [0]
        for piece in pieces:
            starts.append(starts[-1] + len(piece))
        own = list(zip(starts[:-1], pieces, strict=True))[world.rank * self.parts :][: self.parts]
        return [(start, piece) for start, piece in own if len(piece)]

    def plan(self, steps: Sequence[Tensor]) -> None:
        """Has the patients of the next steps read ahead."""
        self._task.source.plan([part for rows in steps for _, part in self.shares(rows)])

    def take(self, steps: Sequence[Tensor], number: int, epoch: int) -> tuple[Tensor, Tensor]:
        """Takes a step.

        Args:
            steps: Patients of each step of the epoch.
            number: The step, from 0.
            epoch: The epoch, from 0.

        Returns:
            Loss per patient, (heads, B), and patients scored at each head, (heads,).

        Raises:
            GlomflowError: Memory runs out and the step cannot be cut any further.
        """
        task, rows = self._task, steps[number]
        self._set_rate(rate_at(epoch, number, len(steps), task.training))
        if self._statistics is None:
            self._statistics = running_statistics(task.module)
        statistics = self._statistics
        kept = [each.clone() for each in statistics] if task.training.auto_batch else []
        while True:
            parts = self._parts(rows, number, epoch)
            done = self._try(parts, len(rows), self._counts(parts))
            if not task.world.any(done is None, task.device):
                break
            self._cut_further(rows)
            if kept:
                torch._foreach_copy_(statistics, kept)
            self.plan(steps[number:])
        assert done is not None
        task.world.average(statistics)
        self._update()
        return task.world.add(done[0]), done[1]

    def _set_rate(self, rate: float) -> None:
        for group in self.optimiser.param_groups:
            group["lr"] = rate

    def _parts(self, rows: Tensor, number: int, epoch: int) -> list[_Part]:
        task = self._task
        return [
            (start, part, Draws(task.seed, epoch, number, start, task.device))
            for start, part in self.shares(rows)
        ]

    @torch.no_grad()
    def _counts(self, parts: list[_Part]) -> Tensor | None:
        """Returns how many patients of the whole step are scored at each head, in all processes.

        None where the step is one part of one process: its own outputs tell.
        """
        task = self._task
        if self.parts * task.world.size == 1:
            return None
        counts = torch.zeros(len(task.criterion.heads), dtype=torch.int64, device=task.device)
        for _, part, draws in parts:
            counts += task.criterion.counts(task.source.outline(part, draws))
        return task.world.add(counts)

    def _try(self, parts: list[_Part], patients: int, counts: Tensor | None) -> tuple[Tensor, Tensor] | None:
        """Computes the gradient of a step; returns None if memory runs out."""
        self.optimiser.zero_grad(set_to_none=True)
        try:
            return self._gradient(parts, patients, counts)
        except torch.OutOfMemoryError:
            self.optimiser.zero_grad(set_to_none=True)
        if self._task.device.type == "cuda":
            torch.cuda.empty_cache()
        return None

    def _gradient(self, parts: list[_Part], patients: int, counts: Tensor | None) -> tuple[Tensor, Tensor]:
        task, criterion = self._task, self._task.criterion
        losses = torch.zeros(len(criterion.heads), patients, device=task.device)
        for start, part, draws in parts:
            with autocast(task.device, task.training.precision):
                outputs = task.source.outputs(part, draws)
            own = criterion.per_patient(outputs, task.labels[part.to(task.device, non_blocking=True)])
            if counts is None:
                counts = criterion.counts(outputs)
            loss = criterion.combine(own, counts, share=len(part) / patients)
            with compiling(task.training.compile):
                self.scaler.scale(loss).backward()
            losses[:, start : start + len(part)] = own.detach()
        assert counts is not None  # a single process without a part has no step
        return losses, counts

    def _update(self) -> None:
        task = self._task
        task.world.add_gradients(self._parameters)
        if task.training.gradient_clip is not None:
            self.scaler.unscale_(self.optimiser)
            torch.nn.utils.clip_grad_norm_(self._parameters, task.training.gradient_clip)
        self.scaler.step(self.optimiser)
        self.scaler.update()
        self.average.update()

    def _cut_further(self, rows: Tensor) -> None:
        world = self._task.world
        longest = max(len(part) for part in torch.tensor_split(rows, self.parts * world.size))
        if not self._task.training.auto_batch or longest <= 1:
            raise GlomflowError(out_of_memory(self._task, longest))
        self.parts *= 2
        print(
            f"{self._task.name}: out of memory with {longest} patients at once; steps are cut into "
            f"{self.parts} parts from here on (diagnosis.training.accumulate: {self.parts})",
            flush=True,
        )

    def parameters_are_finite(self) -> bool:
        """Tells whether no parameter holds NaN or infinity; waits for the device."""
        values = [p.detach() for p in self._parameters]
        return bool(torch.stack(torch._foreach_norm(values)).isfinite().all()) if values else True


def out_of_memory(task: Task, patients: int) -> str:
    """Returns what to do where memory does not suffice for so many patients at once."""
    if patients > 1:
        advice = "set diagnosis.training.auto_batch: true, raise accumulate or lower batch_size"
    else:
        advice = (
            "set diagnosis.training.gradient_checkpointing: true or precision: bfloat16, or lower "
            "imaging.tem.max_instances or the size of the crops"
        )
    return f"{task.name}: out of memory with {patients} patient{'s' * (patients > 1)} at once; {advice}"
