"""A small network on frozen image features."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from glomflow.models.vlm.methods.base import (
    ClassText,
    Problem,
    Recipe,
    Settings,
    State,
    TrainedMethod,
    uniform_per_run,
)

_MOMENTUM, _EPS = 0.1, 1e-5  # torch.nn.BatchNorm1d's


_RECIPE = Recipe(epochs=20, batch_size=16, lr=1e-3, weight_decay=1e-4)


@dataclass(frozen=True)
class ClassifierSettings(Settings):
    """Settings of the network.

    Attributes:
        hidden: Width of the hidden layer.
        dropout: Share of the hidden units that training leaves out.
        recipe: How it is trained.
    """

    hidden: int = 512
    dropout: float = 0.5
    recipe: Recipe = _RECIPE


class Classifier(TrainedMethod):
    """The classifier of Glo-VLMs (arXiv 2508.15960): Linear, BatchNorm, ReLU, Dropout, Linear; no text.

    Batch normalisation and dropout are computed per run: statistics over the images of the run's own batch,
    dropout drawn from the run's own seed, so that a run does not depend on the others.
    """

    name = "classifier"
    needs_text = False
    needs_pairs = True

    def __init__(self, settings: ClassifierSettings) -> None:
        self.settings: ClassifierSettings = settings
        self.noise_width = settings.hidden if settings.dropout else 0

    def start(self, problem: Problem) -> State:
        """Draws the weights as torch.nn.Linear does, each run from its own seed."""
        seeds, like = problem.shots.seeds, problem.table
        width, hidden, classes = like.shape[1], self.settings.hidden, len(problem.shots.classes)
        first, second = width**-0.5, hidden**-0.5
        draws = uniform_per_run(seeds, (hidden * (width + 1) + classes * (hidden + 1),), 1.0, like)
        sizes = [hidden * width, hidden, classes * hidden, classes]
        w1, b1, w2, b2 = torch.split(draws, sizes, dim=1)
        runs = len(seeds)
        trained = {
            "w1": (w1 * first).reshape(runs, hidden, width),
            "b1": b1 * first,
            "gain": like.new_ones(runs, hidden),
            "shift": like.new_zeros(runs, hidden),
            "w2": (w2 * second).reshape(runs, classes, hidden),
            "b2": b2 * second,
        }
        fixed = {"mean": like.new_zeros(runs, hidden), "variance": like.new_ones(runs, hidden)}
        return State(trained, fixed)

    def training_logits(
        self, state: State, features: Tensor, text: ClassText, mask: Tensor, noise: Tensor | None
    ) -> Tensor:
        """Returns (R, B, K) with the batch's statistics and dropout; moves the running statistics."""
        inner = self._inner(state, features)
        count = mask.sum(dim=1)[:, None].to(inner.dtype)
        present = mask[..., None].to(inner.dtype)
        mean = (inner * present).sum(dim=1) / count
        variance = ((inner - mean[:, None]) ** 2 * present).sum(dim=1) / count
        with torch.no_grad():
            state.fixed["mean"].lerp_(mean, _MOMENTUM)
            state.fixed["variance"].lerp_(variance * count / (count - 1), _MOMENTUM)
        active = self._active(state, inner, mean, variance)
        if noise is not None:
            active = active * (noise >= self.settings.dropout) / (1.0 - self.settings.dropout)
        return self._outer(state, active)

    def logits(self, state: State, features: Tensor, text: ClassText) -> Tensor:
        """Returns (R, B, K)."""
        inner = self._inner(state, features)
        return self._outer(state, self._active(state, inner, state.fixed["mean"], state.fixed["variance"]))

    def adapted_text(self, state: State, text: ClassText) -> Tensor | None:
        """Returns None: the classifier knows no text."""
        return None

    @staticmethod
    def _inner(state: State, features: Tensor) -> Tensor:
        return features @ state.trained["w1"].transpose(1, 2) + state.trained["b1"][:, None]

    @staticmethod
    def _active(state: State, inner: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
        scaled = (inner - mean[:, None]) / (variance[:, None] + _EPS).sqrt()
        return functional.relu(scaled * state.trained["gain"][:, None] + state.trained["shift"][:, None])

    @staticmethod
    def _outer(state: State, active: Tensor) -> Tensor:
        return active @ state.trained["w2"].transpose(1, 2) + state.trained["b2"][:, None]


PRESETS = {name: ClassifierSettings() for name in ("default", "clip", "plip", "conch")}
"""The published settings are the same for all backbones, and the default."""
