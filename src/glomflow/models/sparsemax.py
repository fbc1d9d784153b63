"""Sparsemax: a softmax whose shares can be zero (Martins and Astudillo, ICML 2016)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def sparsemax(scores: Tensor, mask: Tensor) -> Tensor:
    """Projects scores onto the probability simplex (Euclidean projection) among those of a mask.

    Args:
        scores: (..., n), finite or not where the mask is False.
        mask: (..., n) bool.

    Returns:
        (..., n) shares >= 0 that sum to 1; zeros where the mask is False, and throughout for an empty mask.
    """
    return _Sparsemax.apply(scores, mask)  # type: ignore[no-any-return, no-untyped-call]


class _Sparsemax(torch.autograd.Function):
    """Forward by sorting; backward by the Jacobian diag(s) - s s^T / |S| with s the indicator of S."""

    @staticmethod
    def forward(ctx: Any, scores: Tensor, mask: Tensor) -> Tensor:
        lowered = scores.masked_fill(~mask, -torch.inf)
        highest = torch.where(mask.any(-1, keepdim=True), lowered.amax(-1, keepdim=True), 0.0)
        lowered = lowered - highest
        ordered = lowered.sort(dim=-1, descending=True).values
        sums = ordered.cumsum(-1)
        ranks = torch.arange(1, scores.shape[-1] + 1, device=scores.device, dtype=scores.dtype)
        count = (1.0 + ranks * ordered > sums).sum(-1, keepdim=True).clamp(min=1)
        threshold = (sums.gather(-1, count - 1) - 1.0) / count
        shares = (lowered - threshold).clamp(min=0.0).masked_fill(~mask, 0.0)
        ctx.save_for_backward(shares > 0)
        return shares

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (support,) = ctx.saved_tensors
        gradient = gradients[0].masked_fill(~support, 0.0)
        mean = gradient.sum(-1, keepdim=True) / support.sum(-1, keepdim=True).clamp(min=1)
        return (gradient - mean).masked_fill(~support, 0.0), None
