"""The loss over branch and fusion heads (CMUS-Net, arXiv 2512.15171), for any number of heads."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from glomflow import config
from glomflow.models.outputs import Outputs

_SMALLEST_DOUBT = 1e-6  # of 1 - p in the focal factor, whose derivative may be infinite at 0


def balanced_weights(labels: Tensor, classes: int) -> Tensor:
    """Returns class weights n / (K n_c), whose mean over the patients is 1; 0 for classes without any.

    Args:
        labels: (n,) int64 class numbers of the training patients.
        classes: K.

    Returns:
        (K,) float32.
    """
    counts = torch.bincount(labels, minlength=classes)
    weights = len(labels) / (int((counts > 0).sum()) * counts.clamp(min=1).double())
    return torch.where(counts > 0, weights, 0.0).float()


class Criterion(nn.Module):
    """A weighted sum of one classification loss per head: L = sum over heads of w_h L_h.

    L_h is the mean over the patients scored at the head of a_y (1 - p_y)^g CE: a_y is the weight of the
    patient's class, g the focal exponent (Lin 2017) and CE the cross-entropy against the label, smoothed
    by ``label_smoothing`` e to (1 - e) of it and e / K for every class. Heads of ordered classes give
    log-probabilities, for which all of this holds too; smoothing then spreads over all classes alike,
    neighbours no more than others.

    With ``weighting: uncertainty`` the weights are learned while the criterion is in training mode
    (Kendall, Gal and Cipolla 2018): L = sum over heads of exp(-s_h) L_h + s_h / 2 with s_h = log of the
    head's variance, from exp(-s_h) = w_h. Heads of weight 0 stay out. In evaluation mode the weights are
    those of the configuration, so that epochs are compared by the same measure.

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
        self.class_weights: Tensor | None
        self.register_buffer("class_weights", class_weights, persistent=False)
        self._weights = [settings.weight_of(head) for head in self.heads]
        if settings.weighting == "uncertainty":
            start = [-math.log(weight) if weight else 0.0 for weight in self._weights]
            self.log_variances = nn.Parameter(torch.tensor(start))

    def forward(self, outputs: Outputs, labels: Tensor) -> Tensor:
        """Returns the training loss, a scalar.

        Args:
            outputs: Logits per head, (B, K), and which heads have something to look at.
            labels: (B,) int64.
        """
        return self.combine(self.per_patient(outputs, labels), self.counts(outputs))

    def per_patient(self, outputs: Outputs, labels: Tensor) -> Tensor:
        """Returns each patient's loss at each head, (heads, B) float32; zeros where it is not scored."""
        losses = torch.stack([self._losses(outputs.logits[head].float(), labels) for head in self.heads])
        return torch.where(self.masks(outputs), losses, 0.0)

    def masks(self, outputs: Outputs) -> Tensor:
        """Returns (heads, B) bool, True where a head is scored."""
        return torch.stack([outputs.present[head] for head in self.heads])

    def counts(self, outputs: Outputs) -> Tensor:
        """Returns how many patients are scored at each head, (heads,)."""
        return self.masks(outputs).sum(1)

    def combine(self, losses: Tensor, counts: Tensor, share: float = 1.0) -> Tensor:
        """Combines per-patient losses into the training loss, a scalar.

        The losses of the parts of a step, each combined with the counts of the whole step and its own
        share, add up to the loss of the step.

        Args:
            losses: (heads, B) from :meth:`per_patient`.
            counts: (heads,) patients scored at each head; also of a larger step that these are part of.
            share: Share of the step's patients that these are.
        """
        totals = losses.sum(1)
        if not self.summed:
            totals = totals / counts.clamp(min=1).to(totals.dtype)
        total = totals.new_zeros(())
        learned = self.training and self.settings.weighting == "uncertainty"
        for row, weight in enumerate(self._weights):
            if learned and weight:
                doubt = self.log_variances[row]
                total = total + torch.exp(-doubt) * totals[row] + share * 0.5 * doubt * (counts[row] > 0)
            else:
                total = total + weight * totals[row]
        return total

    def _losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Returns (B,) losses from (B, K) logits or log-probabilities."""
        log_chances = torch.log_softmax(logits, dim=1)
        right = log_chances.gather(1, labels[:, None]).squeeze(1)
        smoothing, gamma = self.settings.label_smoothing, self.settings.focal_gamma
        losses = -right
        if smoothing:
            losses = (1.0 - smoothing) * losses - smoothing * log_chances.mean(1)
        if gamma:
            losses = losses * (-torch.expm1(right)).clamp(min=_SMALLEST_DOUBT) ** gamma
        if self.class_weights is not None:
            losses = losses * self.class_weights[labels]
        return losses
