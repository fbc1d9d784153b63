"""The weighted loss over branch and fusion heads (CMUS-Net, arXiv 2512.15171)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional

from glomflow import config


def head_losses(logits: Mapping[str, Tensor], present: Mapping[str, Tensor], labels: Tensor) -> Tensor:
    """Computes each patient's cross-entropy at each head.

    Args:
        logits: Per head, (B, K).
        present: Per head, (B,) bool; where False the head is not scored.
        labels: (B,) int64.

    Returns:
        (heads, B) float32, zeros where a head is not scored; heads in the order of ``logits``.
    """
    losses = [
        functional.cross_entropy(values.float(), labels, reduction="none") for values in logits.values()
    ]
    masks = torch.stack([present[name] for name in logits])
    return torch.where(masks, torch.stack(losses), 0.0)


def combine(
    losses: Tensor, counts: Tensor, heads: list[str], weights: config.Loss, *, summed: bool = False
) -> Tensor:
    """Combines per-patient losses into the training loss.

    Args:
        losses: (heads, B) from :func:`head_losses`.
        counts: (heads,) patients scored at each head.
        heads: Names in the order of the rows.
        weights: Weight of each head.
        summed: Sum over patients, as published, instead of the mean over those scored.

    Returns:
        Scalar: L = sum over heads of weight * cross-entropy.
    """
    totals = losses.sum(1)
    if not summed:
        totals = totals / counts.clamp(min=1).to(totals.dtype)
    total = totals.new_zeros(())
    for row, name in enumerate(heads):
        total = total + float(getattr(weights, name)) * totals[row]
    return total


def weighted_loss(
    logits: Mapping[str, Tensor],
    present: Mapping[str, Tensor],
    labels: Tensor,
    weights: config.Loss,
    *,
    summed: bool = False,
) -> Tensor:
    """Computes L = CE(fusion) + w_OM CE(OM) + w_IM CE(IM) + w_TEM CE(TEM).

    Args:
        logits: Per head, (B, K).
        present: Per head, (B,) bool.
        labels: (B,) int64.
        weights: Weight of each head.
        summed: Sum over patients, as published, instead of the mean over those scored.

    Returns:
        Scalar.
    """
    losses = head_losses(logits, present, labels)
    counts = torch.stack([present[name] for name in logits]).sum(1)
    return combine(losses, counts, list(logits), weights, summed=summed)
