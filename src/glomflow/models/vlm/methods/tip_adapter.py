"""A cache of the shots beside the classes' prompts, without training."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from glomflow.models.vlm.methods.base import ClassText, Problem, Settings, SolvedMethod, State


@dataclass(frozen=True)
class TipAdapterSettings(Settings):
    """Settings of the cache.

    Attributes:
        alpha: Weight of the cache's answer.
        beta: Sharpness: how fast a shot's say falls with its distance.
        alphas: What validation data choose ``alpha`` among.
        betas: What validation data choose ``beta`` among.
    """

    alpha: float = 1.0
    beta: float = 5.5
    alphas: tuple[float, ...] = (0.3, 1.0, 3.0)
    betas: tuple[float, ...] = (1.0, 3.0, 5.5, 7.0)


def start_cache(problem: Problem) -> tuple[Tensor, Tensor]:
    """Returns the shots' features (R, N, D) and their classes (R, N, K), zeros where padded."""
    train = problem.shots.train
    values = functional.one_hot(train.labels, len(problem.shots.classes)) * train.mask[..., None]
    return problem.features(), values.to(problem.table.dtype)


def cache_logits(
    features: Tensor, keys: Tensor, values: Tensor, alpha: Tensor, beta: Tensor, text: ClassText
) -> Tensor:
    """Returns scale cos(f, text) + alpha exp(-beta (1 - f k)) v, (R, B, K).

    Args:
        features: (R, B, D).
        keys: (R, N, D).
        values: (R, N, K).
        alpha: (R,).
        beta: (R,).
        text: The classes.
    """
    closeness = features @ keys.transpose(1, 2)
    say = torch.exp(-beta[:, None, None] * (1.0 - closeness))
    return text.scale * features @ text.embeddings.T + alpha[:, None, None] * (say @ values)


class TipAdapter(SolvedMethod):
    """Tip-Adapter (Zhang et al., ECCV 2022; arXiv 2207.09519).

    Each shot adds to its class's logit, the more the nearer it is. Without validation data alpha and beta are
    the authors' starting values; with them, both are chosen by validation AUC. The cache holds one view of
    each shot (the authors average over augmented ones). Without a text tower the cache's answer is all there
    is: a kernel classifier, whose alpha changes how sure it is, and not what it says.
    """

    name = "tip_adapter"
    needs_text = False

    def __init__(self, settings: TipAdapterSettings) -> None:
        self.settings: TipAdapterSettings = settings

    def candidates(self) -> list[TipAdapter]:
        """Returns one per pair of alpha and beta, that of the settings first."""
        own = (self.settings.alpha, self.settings.beta)
        pairs = [(a, b) for a in self.settings.alphas for b in self.settings.betas if (a, b) != own]
        return [self, *(TipAdapter(self.settings.but(alpha=a, beta=b)) for a, b in pairs)]

    def solve(self, problem: Problem) -> State:
        """Stores the shots of all runs."""
        keys, values = start_cache(problem)
        runs = keys.new_ones(len(keys))
        fixed = {"keys": keys, "values": values}
        return State(fixed={**fixed, "alpha": self.settings.alpha * runs, "beta": self.settings.beta * runs})

    def logits(self, state: State, features: Tensor, text: ClassText) -> Tensor:
        """Returns (R, B, K)."""
        own = state.fixed
        return cache_logits(features, own["keys"], own["values"], own["alpha"], own["beta"], text)


PRESETS = {"default": TipAdapterSettings()}
