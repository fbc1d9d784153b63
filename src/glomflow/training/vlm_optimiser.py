"""AdamW and SGD for many runs at once, each with a step count and a learning rate of its own."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from glomflow.models.vlm.methods.base import Recipe

_BETAS = (0.9, 0.999)


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


class Optimiser:
    """Updates the first runs of stacked parameters in place.

    AdamW as Loshchilov and Hutter (ICLR 2019), SGD with momentum and an L2 term in the gradient, both as
    torch computes them.

    Args:
        recipe: Optimiser, learning rate and decay.
        parameters: Name to (R, ...).
        steps: (R,) steps that each run takes in an epoch.
    """

    def __init__(self, recipe: Recipe, parameters: dict[str, Tensor], steps: NDArray[np.int64]) -> None:
        self.recipe = recipe
        self._first = {name: torch.zeros_like(value) for name, value in parameters.items()}
        self._second = (
            {name: torch.zeros_like(value) for name, value in parameters.items()}
            if recipe.optimiser == "adamw"
            else {}
        )
        self._steps = np.asarray(steps, dtype=np.int64)
        self._taken = np.zeros(len(self._steps), dtype=np.int64)

    def keep(self, runs: Tensor) -> None:
        """Drops all runs but these."""
        self._first = {name: value[runs] for name, value in self._first.items()}
        self._second = {name: value[runs] for name, value in self._second.items()}
        chosen = runs.cpu().numpy()
        self._steps, self._taken = self._steps[chosen], self._taken[chosen]

    @torch.no_grad()
    def step(
        self, gradients: dict[str, Tensor], parameters: dict[str, Tensor], runs: int, epoch: int
    ) -> None:
        """Takes a step of the first runs.

        Args:
            gradients: Name to (runs, ...).
            parameters: Name to (R, ...); the first ``runs`` change.
            runs: How many.
            epoch: Epoch, from 0.
        """
        pairs = zip(self._taken[:runs].tolist(), self._steps[:runs].tolist(), strict=True)
        rates = [learning_rate(self.recipe, taken, steps, epoch) for taken, steps in pairs]
        self._taken[:runs] += 1
        for name, gradient in gradients.items():
            value, first = parameters[name][:runs], self._first[name][:runs]
            shape = (runs,) + (1,) * (value.ndim - 1)
            rate = torch.tensor(rates, dtype=torch.float64).to(value).reshape(shape)
            if self.recipe.optimiser == "sgd":
                self._sgd(value, gradient, first, rate)
            else:
                self._adamw(value, gradient, first, self._second[name][:runs], rate)

    def _sgd(self, value: Tensor, gradient: Tensor, momentum: Tensor, rate: Tensor) -> None:
        if self.recipe.weight_decay:
            gradient = gradient + self.recipe.weight_decay * value
        momentum.mul_(self.recipe.momentum).add_(gradient)
        value.sub_(rate * momentum)

    def _adamw(self, value: Tensor, gradient: Tensor, first: Tensor, second: Tensor, rate: Tensor) -> None:
        taken = torch.as_tensor(self._taken[: len(value)], dtype=torch.float64).to(value).reshape(rate.shape)
        value.mul_(1 - rate * self.recipe.weight_decay)
        first.lerp_(gradient, 1 - _BETAS[0])
        second.mul_(_BETAS[1]).addcmul_(gradient, gradient, value=1 - _BETAS[1])
        spread = (second / (1 - _BETAS[1] ** taken)).sqrt_().add_(self.recipe.eps)
        value.sub_((rate / (1 - _BETAS[0] ** taken)) * first / spread)
