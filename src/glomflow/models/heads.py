"""Classification heads: one linear layer or a small fusion network, for nominal or ordered classes."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

_SMALLEST_GAP = 1e-4


class OrdinalHead(nn.Module):
    """Proportional odds (cumulative logits; McCullagh, J. R. Stat. Soc. B 1980).

    One severity s = w x and thresholds t_1 < ... < t_(K-1): P(class <= k) = sigmoid(t_k - s). The head
    returns log-probabilities; they are their own log-softmax, so that cross-entropy and softmax treat
    them like logits. At s = 0 all classes are equally probable to begin with.

    Args:
        width: Channels of the input.
        classes: K, at least 2, in their order.
    """

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.severity = nn.Linear(width, 1, bias=False)
        cuts = [math.log(k / (classes - k)) for k in range(1, classes)]
        gaps = [upper - lower - _SMALLEST_GAP for lower, upper in pairwise(cuts)]
        self.first = nn.Parameter(torch.tensor(cuts[:1]))
        self.gaps = nn.Parameter(torch.tensor([math.log(math.expm1(gap)) for gap in gaps]))

    def thresholds(self) -> Tensor:
        """Returns the (K - 1,) thresholds in rising order."""
        return torch.cat([self.first, self.first + self._steps().cumsum(0)])

    def forward(self, features: Tensor) -> Tensor:
        """Returns the log-probabilities of the classes.

        With a = t_k - s and b = t_(k-1) - s, sigmoid(a) - sigmoid(b) = sigmoid(a) sigmoid(-b)
        (1 - exp(b - a)), whose logarithm is exact far out too.

        Args:
            features: (B, width).

        Returns:
            (B, K) float32.
        """
        above = self.thresholds().float() - self.severity(features).float()
        between = torch.log(-torch.expm1(-self._steps().float()))
        edge = torch.zeros_like(above[:, :1])
        below_upper = torch.cat([functional.logsigmoid(above), edge], dim=1)
        above_lower = torch.cat([edge, functional.logsigmoid(-above)], dim=1)
        return below_upper + above_lower + functional.pad(between, (1, 1))

    def _steps(self) -> Tensor:
        return functional.softplus(self.gaps) + _SMALLEST_GAP


def linear_head(width: int, classes: int, *, ordinal: bool = False) -> nn.Module:
    """Builds the last layer of a network, (B, width) to (B, classes).

    Args:
        width: Channels of the input.
        classes: K.
        ordinal: The classes are ordered: proportional odds and log-probabilities instead of logits.
    """
    return OrdinalHead(width, classes) if ordinal else nn.Linear(width, classes)


def fusion_head(
    width: int, hidden: int, classes: int, *, dropout: float = 0.0, ordinal: bool = False
) -> nn.Sequential:
    """Builds the published fusion head: linear, dropout, ReLU, and a last layer.

    Args:
        width: Channels of the input.
        hidden: Channels between the layers.
        classes: K.
        dropout: Probability of dropout between the layers.
        ordinal: As of :func:`linear_head`.
    """
    return nn.Sequential(
        nn.Linear(width, hidden),
        nn.Dropout(dropout),
        nn.ReLU(),
        linear_head(hidden, classes, ordinal=ordinal),
    )
