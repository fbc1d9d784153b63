"""Batches and learning rates of a recipe, and AdamW and SGD for many runs at once, each with its own."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from glomflow.models.vlm.losses import balanced_batches, shuffled_batches
from glomflow.models.vlm.methods.base import Recipe


def learning_rate(recipe: Recipe, step: int, steps: int, epoch: int) -> float:
    """Returns the learning rate of a step.

    Args:
        recipe: The schedule.
        step: Steps taken before, from the start of training.
        steps: Steps of an epoch.
        epoch: Epoch, from 0.
    """
    if epoch < recipe.warmup_epochs:
        return recipe.warmup_lr
    if recipe.schedule == "constant":
        return recipe.lr
    share = epoch / recipe.epochs if recipe.per == "epoch" else step / (recipe.epochs * steps)
    return recipe.lr * (recipe.floor + (1 - recipe.floor) * (1 + math.cos(math.pi * share)) / 2)


def epoch_batches(recipe: Recipe, labels: ArrayLike, *, seed: int, epoch: int) -> list[NDArray[np.int64]]:
    """Returns the batches of an epoch as a recipe asks for them: classes by turns, or rows in any order.

    Args:
        recipe: Size and kind of the batches.
        labels: (n,) classes of a run's shots.
        seed: Seed of the run.
        epoch: Epoch, from 0.

    Raises:
        GlomflowError: There is no shot, or the batch size is below 1.
    """
    if recipe.balanced:
        return balanced_batches(labels, recipe.batch_size, seed=seed, epoch=epoch)
    return shuffled_batches(len(np.asarray(labels)), recipe.batch_size, seed=seed, epoch=epoch)


class Optimiser:
    """Updates stacked parameters in place: torch's AdamW or SGD on each run's slices.

    Args:
        recipe: Optimiser, learning rate and decay.
        parameters: Name to (R, ...).
        steps: (R,) steps that each run takes in an epoch.
    """

    def __init__(self, recipe: Recipe, parameters: dict[str, Tensor], steps: NDArray[np.int64]) -> None:
        self.recipe = recipe
        self._steps = np.asarray(steps, dtype=np.int64)
        self._taken = np.zeros(len(self._steps), dtype=np.int64)
        self._own = self._slices(parameters)
        self._torch = self._made()

    def _slices(self, parameters: dict[str, Tensor]) -> list[list[nn.Parameter]]:
        """Returns each run's parameters, which share the memory of the stacks."""
        if not all(value.is_contiguous() for value in parameters.values()):
            raise ValueError("parameters must be contiguous")
        runs = range(len(self._steps))
        return [[nn.Parameter(value[run]) for value in parameters.values()] for run in runs]

    def _made(self) -> torch.optim.Optimizer:
        """Makes torch's optimiser: a group per run if learning rates differ between runs, else one."""
        recipe = self.recipe
        groups = [{"params": own} for own in self._own]
        if not self._differ:
            groups = [{"params": [value for own in self._own for value in own]}]
        options: dict[str, Any] = {"lr": recipe.lr, "weight_decay": recipe.weight_decay, "fused": True}
        if recipe.optimiser == "sgd":
            return torch.optim.SGD(groups, momentum=recipe.momentum, **options)
        return torch.optim.AdamW(groups, eps=recipe.eps, **options)

    @property
    def _differ(self) -> bool:
        return self.recipe.schedule == "cosine" and self.recipe.per == "step"

    def keep(self, runs: NDArray[np.int64], parameters: dict[str, Tensor]) -> None:
        """Goes on with some of the runs.

        Args:
            runs: Which of those so far.
            parameters: Their parameters, stacked anew.
        """
        before, state = self._own, self._torch.state
        self._steps, self._taken = self._steps[runs], self._taken[runs]
        self._own = self._slices(parameters)
        self._torch = self._made()
        for own, run in zip(self._own, runs.tolist(), strict=True):
            for value, old in zip(own, before[run], strict=True):
                self._torch.state[value] = state[old]

    def give(self, start: int, gradients: Sequence[Tensor]) -> None:
        """Takes the gradients of some runs.

        Args:
            start: The first of them.
            gradients: One per parameter, (runs, ...), in the order of the parameters.
        """
        laid_out = [gradient.contiguous() for gradient in gradients]  # as torch's fused steps take it
        for place in range(len(laid_out[0])):
            for value, gradient in zip(self._own[start + place], laid_out, strict=True):
                value.grad = gradient[place]

    def step(self, runs: int, epoch: int) -> None:
        """Takes a step of the first runs, whose gradients were given.

        Args:
            runs: How many.
            epoch: Epoch, from 0.
        """
        for place, group in enumerate(self._torch.param_groups):
            group["lr"] = learning_rate(self.recipe, int(self._taken[place]), int(self._steps[place]), epoch)
        self._torch.step()
        self._taken[:runs] += 1
        for own in self._own[:runs]:
            for value in own:
                value.grad = None
