"""Logistic regression on frozen features."""

from __future__ import annotations

from dataclasses import dataclass, fields

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
        tolerance: Length of the gradient at which the solver stops; a logit is then exact to as much.
        iterations: Most iterations.
    """

    l2: float = 1.0
    grid: tuple[float, ...] = (0.01, 0.1, 1.0, 10.0, 100.0)
    tolerance: float = 1e-8
    iterations: int = 50_000


@dataclass(frozen=True)
class _Walk:
    """Where accelerated descent is: (R, N, K) parts of the shots, and what the shots see of them.

    Attributes:
        parts: Last point.
        seen: Gram matrix times it.
        ahead: Point that the slope is taken at.
        ahead_seen: Gram matrix times it.
        bias: Biases of the last point, (R, 1, K).
        ahead_bias: Biases of the point ahead.
        age: Grows with the steps since the last restart, (R, 1, 1).
    """

    parts: Tensor
    seen: Tensor
    ahead: Tensor
    ahead_seen: Tensor
    bias: Tensor
    ahead_bias: Tensor
    age: Tensor

    @classmethod
    def start(cls, like: Tensor) -> _Walk:
        """Returns the beginning, at zero."""
        zero, bias = torch.zeros_like(like), like.new_zeros(len(like), 1, like.shape[2])
        return cls(zero, zero, zero, zero, bias, bias, like.new_ones(len(like), 1, 1))

    def take(self, runs: Tensor) -> _Walk:
        """Returns some of the runs."""
        return _Walk(*(getattr(self, entry.name)[runs] for entry in fields(self)))

    def step(self, step: Tensor, slope: Tensor, slope_seen: Tensor, slope_bias: Tensor) -> _Walk:
        """Goes downhill; a run that has gone uphill since its last point starts anew."""
        new, new_seen = self.ahead - step * slope, self.ahead_seen - step * slope_seen
        new_bias = self.ahead_bias - step * slope_bias
        moved, moved_seen, moved_bias = new - self.parts, new_seen - self.seen, new_bias - self.bias
        uphill = (slope * moved_seen).sum((1, 2)) + (slope_bias * moved_bias).sum((1, 2)) > 0
        age = torch.where(uphill[:, None, None], torch.ones_like(self.age), self.age)
        older = (1 + (1 + 4 * age**2).sqrt()) / 2
        push = torch.where(uphill[:, None, None], torch.zeros_like(age), (age - 1) / older)
        ahead, ahead_seen = new + push * moved, new_seen + push * moved_seen
        return _Walk(new, new_seen, ahead, ahead_seen, new_bias, new_bias + push * moved_bias, older)


class LinearProbe(SolvedMethod):
    """Multinomial logistic regression with an L2 penalty (Radford et al., ICML 2021), without text.

    Features are centred on the mean over classes of the shots' class means and scaled to unit length
    (CL2N; Wang et al., arXiv 1911.04623); classes weigh equally. The minimum is unique and found by
    accelerated gradient descent with restarts (O'Donoghue and Candes, Found Comput Math 2015) in the span
    of the shots, where a weight is a combination of them: (N, N) products in place of (N, D).
    """

    name = "linear_probe"
    needs_text = False

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
        live = torch.arange(len(truth), device=truth.device)
        found = torch.zeros_like(truth)
        found_bias = truth.new_zeros(len(truth), truth.shape[2])
        new = torch.zeros_like(truth)
        walk = _Walk(
            new, new, new, new, found_bias[:, None], found_bias[:, None], truth.new_ones(len(truth), 1, 1)
        )
        for iteration in range(self.settings.iterations):
            seen = (walk.ahead_seen + walk.ahead_bias).softmax(dim=-1)
            excess = each[..., None] * (seen - truth)
            slope, slope_bias = excess + walk.ahead, excess.sum(dim=1, keepdim=True)
            slope_seen = gram @ slope
            steepness = ((slope * slope_seen).sum((1, 2)) + slope_bias.pow(2).sum((1, 2))).sqrt()
            if iteration % 10 == 0:
                done = steepness < self.settings.tolerance
                if bool(done.any()):
                    found[live[done]], found_bias[live[done]] = walk.ahead[done], walk.ahead_bias[done, 0]
                    if bool(done.all()):
                        return found, found_bias
                    keep = ~done
                    live, gram, truth, each, step = (
                        live[keep],
                        gram[keep],
                        truth[keep],
                        each[keep],
                        step[keep],
                    )
                    slope, slope_bias, slope_seen = slope[keep], slope_bias[keep], slope_seen[keep]
                    walk = walk.take(keep)
            walk = walk.step(step, slope, slope_seen, slope_bias)
        run = int(live[int(steepness.argmax())])
        raise GlomflowError(
            f"linear_probe, {names[run]}: no minimum within {self.settings.iterations} iterations (gradient "
            f"{float(steepness.max()):.1e}); lower l2 ({self.settings.l2}) or raise iterations or tolerance"
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
