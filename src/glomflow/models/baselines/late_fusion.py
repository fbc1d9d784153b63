"""Late fusion: one network per modality, and the mean of what they say."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from glomflow import config
from glomflow.models.baselines.base import PooledBaseline
from glomflow.models.batch import Pooled
from glomflow.models.outputs import Outputs


class LateFusion(PooledBaseline):
    """Soft voting by networks that never see each other's modality.

    Taken from Kittler et al., "On combining classifiers", IEEE TPAMI 20(3), 1998: the sum rule, which adds
    up posterior probabilities. Each modality has a branch of its own (global average pooling, then a head
    as CMUS-Net's fusion has), trained by its own term of the loss and by nothing else. Adapted: the mean
    runs over the modalities that a patient has. The vote has no parameter and passes no gradient on; all
    branches stop at the same epoch, the one at which their weighted loss on validation patients is lowest.

    Args:
        model: The model's section of the configuration.
        channels: C of the feature maps, per modality of the model.
        classes: K.
    """

    def __init__(self, model: config.Model, channels: Mapping[str, int], classes: int) -> None:
        super().__init__(model, channels, classes, model.width)
        self.branches = nn.ModuleDict({name: self.classifier(width) for name, width in self.widths.items()})

    @property
    def heads(self) -> tuple[str, ...]:
        """The branch of each modality, and their vote."""
        return (*self.modalities, "fusion")

    def classify(self, pooled: Pooled) -> Outputs:
        """Runs each branch on its modality, and lets them vote.

        Args:
            pooled: One map per patient and modality.

        Returns:
            Logits per branch; under 'fusion' the log of the mean probabilities.
        """
        present = self.presence(pooled)
        summaries = self.summaries(pooled, present)
        logits = {name: self.branches[name](summary) for name, summary in summaries.items()}
        there = torch.stack([present[name] for name in logits])
        logits["fusion"] = soft_vote(torch.stack(list(logits.values())).detach(), there)
        return Outputs(logits, present, pooled.weights, pooled.kept)


def soft_vote(logits: Tensor, present: Tensor) -> Tensor:
    """Averages the probabilities of the branches that have something to look at.

    Args:
        logits: (M, B, K).
        present: (M, B) bool.

    Returns:
        (B, K) log-probabilities; uniform where no branch is present.
    """
    shares = torch.log_softmax(logits.float(), dim=2)
    count = present.sum(0)[:, None]
    total = torch.logsumexp(shares.masked_fill(~present[:, :, None], -torch.inf), dim=0)
    return torch.where(count > 0, total - count.clamp(min=1).log(), -math.log(logits.shape[2]))
