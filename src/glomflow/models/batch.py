"""What a model is given: bags of feature maps per modality, with masks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class Batch:
    """Bags of encoder feature maps for B patients.

    Attributes:
        maps: Per modality, (B, n, h, w, C) float; padded instances hold zeros. n may differ between
            modalities and between batches and must be at least 1.
        masks: Per modality, (B, n) bool, True where there is an instance.
    """

    maps: dict[str, Tensor]
    masks: dict[str, Tensor]


@dataclass
class Instances:
    """Bags before padding: the instances of B patients one after the other.

    Attributes:
        rows: Per modality, (R, ...): feature maps (h, w, C) or uint8 crops (H, W, C).
        slots: Per modality, (B, n) int64: the row of each instance, -1 where there is none.
    """

    rows: dict[str, Tensor]
    slots: dict[str, Tensor]

    def to(self, device: torch.device) -> Instances:
        """Returns a copy on ``device``; waits for nothing if the memory is pinned."""
        return Instances(
            {name: rows.to(device, non_blocking=True) for name, rows in self.rows.items()},
            {name: slots.to(device, non_blocking=True) for name, slots in self.slots.items()},
        )


@dataclass
class Pooled:
    """One feature map per patient and modality: a batch after multi-instance pooling.

    Attributes:
        tokens: Per modality, (B, N, C) float with N = h * w; zeros where the modality is missing.
        present: Per modality, (B,) bool, True where the patient has it.
        weights: Per modality, (B, n) weight of every instance, 0 for padding and for instances left out.
        kept: Per modality, (B, n) bool, True where an instance entered the map.
    """

    tokens: dict[str, Tensor]
    present: dict[str, Tensor]
    weights: dict[str, Tensor]
    kept: dict[str, Tensor]

    def select(self, rows: Tensor) -> Pooled:
        """Returns the patients at ``rows`` (int64 indices)."""
        return Pooled(
            _chosen(self.tokens, rows),
            _chosen(self.present, rows),
            _chosen(self.weights, rows),
            _chosen(self.kept, rows),
        )


def gather_bags(rows: Tensor, slots: Tensor) -> tuple[Tensor, Tensor]:
    """Lays rows out as padded bags.

    Args:
        rows: (R, ...) one entry per instance.
        slots: (B, n) int64, the row of each instance, -1 where there is none.

    Returns:
        The bags (B, n, ...), zeros where there is no instance, and their mask (B, n) bool.
    """
    mask = slots >= 0
    shape = (*slots.shape, *rows.shape[1:])
    if rows.shape[0] == 0:
        return rows.new_zeros(shape), mask
    bags = rows.index_select(0, slots.clamp(min=0).flatten()).reshape(shape)
    return bags.masked_fill(~_as(mask, bags), 0), mask


def mean_over_instances(bags: Tensor, mask: Tensor) -> Tensor:
    """Averages the instances of each bag.

    Args:
        bags: (B, n, ...) float.
        mask: (B, n) bool.

    Returns:
        (B, ...), zeros for empty bags.
    """
    total = bags.masked_fill(~_as(mask, bags), 0).sum(1)
    count = mask.sum(1).clamp(min=1)
    return total / count.reshape(-1, *[1] * (bags.ndim - 2)).to(bags.dtype)


def masked_softmax(scores: Tensor, mask: Tensor) -> Tensor:
    """Returns the softmax over the last axis among ``mask``, zeros elsewhere; all zeros for an empty mask.

    Args:
        scores: (..., n), finite or not where the mask is False.
        mask: Bool, of a shape that broadcasts to that of ``scores``.
    """
    lowest = torch.finfo(scores.dtype).min
    return torch.softmax(scores.masked_fill(~mask, lowest), dim=-1).masked_fill(~mask, 0)


def concatenate(parts: list[Pooled]) -> Pooled:
    """Joins pooled batches; bags are padded to the longest.

    Args:
        parts: At least one pooled batch, all of the same modalities.

    Returns:
        All patients in order.
    """
    return Pooled(
        _joined([part.tokens for part in parts]),
        _joined([part.present for part in parts]),
        _joined_bags([part.weights for part in parts]),
        _joined_bags([part.kept for part in parts]),
    )


def _joined(parts: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def _joined_bags(parts: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    joined = {}
    for name in parts[0]:
        longest = max(part[name].shape[1] for part in parts)
        joined[name] = torch.cat(
            [torch.nn.functional.pad(part[name], (0, longest - part[name].shape[1])) for part in parts]
        )
    return joined


def _chosen(parts: Mapping[str, Tensor], rows: Tensor) -> dict[str, Tensor]:
    return {name: part.index_select(0, rows) for name, part in parts.items()}


def _as(mask: Tensor, bags: Tensor) -> Tensor:
    return mask.reshape(*mask.shape, *[1] * (bags.ndim - mask.ndim))
