"""What every model of the diagnosis track says about a batch of patients."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from glomflow.tables import MODALITIES


@dataclass
class Outputs:
    """What a model says about B patients and K classes.

    Attributes:
        logits: Per head ('fusion' and each branch), (B, K).
        present: Per head, (B,) bool, True where the head has something to look at.
        weights: Per modality that is pooled over instances, (B, n) weight of every instance, 0 for
            padding and for instances that were left out.
        kept: Per modality of ``weights``, (B, n) bool, True where an instance entered the pooled map.
    """

    logits: dict[str, Tensor]
    present: dict[str, Tensor]
    weights: dict[str, Tensor] = field(default_factory=dict)
    kept: dict[str, Tensor] = field(default_factory=dict)


def probabilities(outputs: Outputs) -> Tensor:
    """Returns the fusion head's softmax, (B, K) float64."""
    return torch.softmax(outputs.logits["fusion"].double(), dim=1)


def modality_names(present: Mapping[str, bool]) -> str:
    """Joins the names of the modalities that are present by '+', in the order OM, IM, TEM."""
    return "+".join(name for name in MODALITIES if present.get(name))
