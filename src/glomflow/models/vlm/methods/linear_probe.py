"""Logistic regression on frozen features."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from glomflow.errors import GlomflowError
from glomflow.models.vlm.methods.base import ClassText, Problem, Settings, SolvedMethod, State


@dataclass(frozen=True)
class LinearProbeSettings(Settings):
    """Settings of the probe.

    Attributes:
        l2: Inverse strength of the L2 penalty (scikit-learn's C).
        grid: What validation data choose ``l2`` among.
        tolerance: Largest gradient at which the solver stops.
        iterations: Most iterations.
    """

    l2: float = 1.0
    grid: tuple[float, ...] = (0.01, 0.1, 1.0, 10.0, 100.0)
    tolerance: float = 1e-9
    iterations: int = 50_000


class LinearProbe(SolvedMethod):
    """Multinomial logistic regression with an L2 penalty (Radford et al., ICML 2021), without text.

    Features are centred on the mean over classes of the shots' class means and scaled to unit length
    (CL2N; Wang et al., arXiv 1911.04623); classes weigh equally. The minimum is unique and found by
    accelerated gradient descent with restarts (O'Donoghue and Candes, Found Comput Math 2015) in the span
    of the shots, where a weight is a combination of them: (N, N) products in place of (N, D).
    """

    name = "linear_probe"

    def __init__(self, settings: LinearProbeSettings) -> None:
        self.settings = settings

    def candidates(self) -> list[LinearProbe]:
        """Returns one probe per penalty, that of the settings first."""
        others = [value for value in self.settings.grid if value != self.settings.l2]
        return [self, *(LinearProbe(self.settings.but(l2=value)) for value in others)]

    def solve(self, problem: Problem) -> State:
        """Fits all runs.

        Raises:
            GlomflowError: The solver does not come to rest; the message names the run and the settings.
        """
        train, classes = problem.shots.train, len(problem.shots.classes)
        centre = _centre(problem, classes)
        seen = _centred(problem.features(), centre) * train.mask[..., None]
        counts = train.counts(classes).to(seen.dtype)
        weights = train.mask.sum(dim=1, keepdim=True) / (classes * counts.clamp(min=1))
        each = self.settings.l2 * weights.gather(1, train.labels) * train.mask
        truth = functional.one_hot(train.labels, classes).to(seen.dtype)
        parts, bias = self._descend(seen @ seen.transpose(1, 2), truth, each, problem.shots.names)
        return State(fixed={"centre": centre, "weight": parts.transpose(1, 2) @ seen, "bias": bias})

    def _descend(
        self, gram: Tensor, truth: Tensor, each: Tensor, names: tuple[str, ...]
    ) -> tuple[Tensor, Tensor]:
        """Returns each shot's part in the weights, (R, N, K), and the biases, (R, K)."""
        root = each.sqrt()
        curvature = torch.linalg.eigvalsh(root[:, :, None] * (gram + 1.0) * root[:, None, :])[:, -1]
        step = 1.0 / (0.5 * curvature + 1.0)[:, None, None]
        parts = torch.zeros_like(truth)
        bias = truth.new_zeros(len(truth), 1, truth.shape[2])
        ahead, ahead_bias = parts, bias
        age = truth.new_ones(len(truth), 1, 1)
        for _ in range(self.settings.iterations):
            excess = each[..., None] * ((gram @ ahead + ahead_bias).softmax(dim=-1) - truth)
            slope, slope_bias = excess + ahead, excess.sum(dim=1, keepdim=True)
            steepest = torch.maximum((gram @ slope).abs().amax((1, 2)), slope_bias.abs().amax((1, 2)))
            if bool((steepest < self.settings.tolerance).all()):
                return ahead, ahead_bias[:, 0]
            new, new_bias = ahead - step * slope, ahead_bias - step * slope_bias
            moved, moved_bias = new - parts, new_bias - bias
            uphill = (slope * (gram @ moved)).sum((1, 2)) + (slope_bias * moved_bias).sum((1, 2)) > 0
            age = torch.where(uphill[:, None, None], torch.ones_like(age), age)
            older = (1 + (1 + 4 * age**2).sqrt()) / 2
            push = torch.where(uphill[:, None, None], torch.zeros_like(age), (age - 1) / older)
            ahead, ahead_bias = new + push * moved, new_bias + push * moved_bias
            parts, bias, age = new, new_bias, older
        run = int(steepest.argmax())
        raise GlomflowError(
            f"linear_probe, {names[run]}: no minimum within {self.settings.iterations} iterations (gradient "
            f"{float(steepest[run]):.1e}); lower l2 ({self.settings.l2}) or raise iterations or tolerance"
        )

    def logits(self, state: State, features: Tensor, text: ClassText) -> Tensor:
        """Returns (R, B, K)."""
        seen = _centred(features, state.fixed["centre"])
        return seen @ state.fixed["weight"].transpose(1, 2) + state.fixed["bias"][:, None]

    def adapted_text(self, state: State, text: ClassText) -> Tensor | None:
        """Returns None: the probe knows no text."""
        return None


def _centre(problem: Problem, classes: int) -> Tensor:
    """Returns the mean over classes of the shots' class means, (R, D)."""
    train = problem.shots.train
    member = functional.one_hot(train.labels, classes) * train.mask[..., None]
    counts = member.sum(dim=1).clamp(min=1)[..., None]
    means = member.to(problem.table.dtype).transpose(1, 2) @ problem.features() / counts
    return means.mean(dim=1)


def _centred(features: Tensor, centre: Tensor) -> Tensor:
    return functional.normalize(features - centre[:, None], dim=-1)


PRESETS = {"default": LinearProbeSettings()}
