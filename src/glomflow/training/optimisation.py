"""Optimisers, learning rates, precision, and the moving average of the weights."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from glomflow import config

_MOMENTUM = 0.9


def trained_parameters(*modules: nn.Module) -> list[nn.Parameter]:
    """Returns the parameters that are trained, in the order of the modules."""
    return [p for module in modules for p in module.parameters() if p.requires_grad]


def build_optimiser(
    module: nn.Module, criterion: nn.Module, training: config.Training
) -> torch.optim.Optimizer:
    """Builds the optimiser that the configuration names, in torch's fused form.

    Args:
        module: The model; its parameters decay.
        criterion: The loss; weights that it learns do not decay.
        training: The section of the configuration.

    Returns:
        Adam (published), AdamW, or SGD with Nesterov momentum 0.9.
    """
    groups: list[dict[str, Any]] = [
        {"params": trained_parameters(module), "weight_decay": training.weight_decay},
        {"params": trained_parameters(criterion), "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    rate = training.learning_rate
    if training.optimiser == "sgd":
        return torch.optim.SGD(groups, lr=rate, momentum=_MOMENTUM, nesterov=True, fused=True)
    kind = torch.optim.AdamW if training.optimiser == "adamw" else torch.optim.Adam
    return kind(groups, lr=rate, amsgrad=training.amsgrad, fused=True)


def rate_at(epoch: int, step: int, steps: int, training: config.Training) -> float:
    """Returns the learning rate of a step.

    It rises in a line, step by step, over the first ``warmup_epochs`` and then follows a cosine, epoch by
    epoch (as published), from ``learning_rate`` to ``final_learning_rate`` in the last epoch.

    Args:
        epoch: Epoch, from 0.
        step: Step of the epoch, from 0.
        steps: Steps of an epoch.
        training: The section of the configuration.
    """
    low, high, warmup = training.final_learning_rate, training.learning_rate, training.warmup_epochs
    if epoch < warmup:
        return high * (epoch * steps + step + 1) / (warmup * steps)
    share = (epoch - warmup) / max(training.epochs - warmup - 1, 1)
    return low + 0.5 * (high - low) * (1.0 + math.cos(math.pi * share))


def amp_type(device: torch.device, precision: str) -> torch.dtype | None:
    """Returns the type that the forward pass is cast to, None for float32; the CPU uses float32."""
    if device.type != "cuda" or precision == "float32":
        return None
    return torch.bfloat16 if precision == "bfloat16" else torch.float16


def autocast(device: torch.device, precision: str) -> Any:
    """Returns a context in which the forward pass is cast as the configuration says."""
    dtype = amp_type(device, precision)
    return nullcontext() if dtype is None else torch.autocast(device.type, dtype=dtype)


def grad_scaler(device: torch.device, precision: str) -> Any:
    """Returns the scaler of the loss; it does nothing unless the precision is float16."""
    return torch.amp.GradScaler(device.type, enabled=amp_type(device, precision) == torch.float16)


@torch.no_grad()
def move_average(average: Sequence[Tensor], current: Sequence[Tensor], decay: float, step: int) -> None:
    """Moves averaged weights towards the current ones; the first steps are forgotten faster.

    Args:
        average: Averaged tensors, changed in place.
        current: The tensors that they follow.
        decay: Largest share that is kept of the average.
        step: Steps done before this one.
    """
    weight = 1.0 - min(decay, (1.0 + step) / (10.0 + step))
    torch._foreach_lerp_(list(average), list(current), weight)


class Average:
    """An exponential moving average of trained parameters.

    Batch normalisation's running statistics are averages already; the current ones go with it.

    Args:
        parameters: The parameters.
        decay: Share that is kept per step; None for no average, where nothing here does anything.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], decay: float | None) -> None:
        self._parameters = list(parameters)
        self._decay = decay
        self._steps = 0
        self._values = [] if decay is None else [p.detach().clone() for p in self._parameters]

    def update(self) -> None:
        """Takes in the parameters after a step."""
        if self._decay is not None:
            move_average(self._values, [p.detach() for p in self._parameters], self._decay, self._steps)
            self._steps += 1

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Runs a block with the averaged weights in place of the current ones."""
        if self._decay is None:
            yield
            return
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        current = [p.detach() for p in self._parameters]
        kept = [value.clone() for value in current]
        torch._foreach_copy_(current, self._values)
        torch._foreach_copy_(self._values, kept)

    def state_dict(self) -> dict[str, Any]:
        """Returns the averaged weights and the steps done."""
        return {"steps": self._steps, "values": list(self._values)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes averaged weights over."""
        self._steps = state_dict["steps"]
        self._values = list(state_dict["values"])


def running_statistics(module: nn.Module) -> list[Tensor]:
    """Returns the buffers that a training pass changes: those of batch normalisation in training mode."""
    kinds = nn.modules.batchnorm._NormBase
    return [
        buffer
        for each in module.modules()
        if isinstance(each, kinds) and each.training
        for buffer in each.buffers(recurse=False)
    ]
