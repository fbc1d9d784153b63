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
        weights: (B, n) weight of every TEM instance, 0 for padding and filtered instances; None for
            a model without TEM.
        kept: (B, n) bool, True where a TEM instance passed the filter; None for a model without TEM.
    """

    tokens: dict[str, Tensor]
    present: dict[str, Tensor]
    weights: Tensor | None
    kept: Tensor | None

    def select(self, rows: Tensor) -> Pooled:
        """Returns the patients at ``rows`` (int64 indices)."""
        return Pooled(
            {name: tokens.index_select(0, rows) for name, tokens in self.tokens.items()},
            {name: present.index_select(0, rows) for name, present in self.present.items()},
            None if self.weights is None else self.weights.index_select(0, rows),
            None if self.kept is None else self.kept.index_select(0, rows),
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


def concatenate(parts: list[Pooled]) -> Pooled:
    """Joins pooled batches; bags are padded to the longest.

    Args:
        parts: At least one pooled batch, all of the same modalities.

    Returns:
        All patients in order.
    """
    first = parts[0]
    return Pooled(
        _joined([part.tokens for part in parts]),
        _joined([part.present for part in parts]),
        None if first.weights is None else _joined_bags([part.weights for part in parts]),
        None if first.kept is None else _joined_bags([part.kept for part in parts]),
    )


def _joined(parts: list[Mapping[str, Tensor]] | list[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def _joined_bags(parts: list[Tensor | None]) -> Tensor:
    bags = [part for part in parts if part is not None]
    longest = max(bag.shape[1] for bag in bags)
    return torch.cat([torch.nn.functional.pad(bag, (0, longest - bag.shape[1])) for bag in bags])


def _as(mask: Tensor, bags: Tensor) -> Tensor:
    return mask.reshape(*mask.shape, *[1] * (bags.ndim - mask.ndim))
