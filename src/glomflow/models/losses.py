"""The loss over branch and fusion heads (CMUS-Net, arXiv 2512.15171), for any number of heads."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from glomflow import config
from glomflow.models.outputs import Outputs


class Criterion(nn.Module):
    """A weighted sum of one classification loss per head: L = sum over heads of w_h CE_h.

    Args:
        settings: Weights and the form of the terms.
        heads: Names of the heads, in the order of the outputs' logits.
        class_weights: (K,) weight of each class, or None for equal ones.
        summed: Sum over patients, as published, instead of the mean over those scored.
    """

    def __init__(
        self,
        settings: config.Loss,
        heads: Sequence[str],
        class_weights: Tensor | None = None,
        *,
        summed: bool = False,
    ) -> None:
        super().__init__()
        self.settings = settings
        self.heads = tuple(heads)
        self.summed = summed
        self.register_buffer("class_weights", class_weights, persistent=False)

    def forward(self, outputs: Outputs, labels: Tensor) -> Tensor:
        """Returns the training loss, a scalar.

        Args:
            outputs: Logits per head, (B, K), and which heads have something to look at.
            labels: (B,) int64.
        """
        return self.combine(self.per_patient(outputs, labels), self.counts(outputs))

    def per_patient(self, outputs: Outputs, labels: Tensor) -> Tensor:
        """Returns each patient's loss at each head, (heads, B) float32; zeros where it is not scored."""
        losses = [
            functional.cross_entropy(outputs.logits[head].float(), labels, reduction="none")
            for head in self.heads
        ]
        return torch.where(self.masks(outputs), torch.stack(losses), 0.0)

    def masks(self, outputs: Outputs) -> Tensor:
        """Returns (heads, B) bool, True where a head is scored."""
        return torch.stack([outputs.present[head] for head in self.heads])

    def counts(self, outputs: Outputs) -> Tensor:
        """Returns how many patients are scored at each head, (heads,)."""
        return self.masks(outputs).sum(1)

    def combine(self, losses: Tensor, counts: Tensor) -> Tensor:
        """Combines per-patient losses into the training loss, a scalar.

        Args:
            losses: (heads, B) from :meth:`per_patient`.
            counts: (heads,) patients scored at each head; also of a larger step that these are part of.
        """
        totals = losses.sum(1)
        if not self.summed:
            totals = totals / counts.clamp(min=1).to(totals.dtype)
        total = totals.new_zeros(())
        for row, head in enumerate(self.heads):
            total = total + self.settings.weight_of(head) * totals[row]
        return total
