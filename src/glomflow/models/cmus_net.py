"""CMUS-Net: cross-modal, ultrastructure-led classification (arXiv 2512.15171)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from glomflow import config
from glomflow.models.base import PatientNet
from glomflow.models.batch import Batch, Pooled, mean_over_instances
from glomflow.models.cmsa import CrossModalAttention
from glomflow.models.outputs import Outputs
from glomflow.models.smil import smil_distance, smil_sum


class CmusNet(PatientNet):
    """Branch heads, cross-modal attention and fusion over feature maps.

    A modality that a patient lacks enters the fusion as zeros and its branch head is not scored;
    without TEM the other maps pass the attention unchanged.

    Args:
        model: The model's section of the configuration.
        channels: C of the feature maps, per modality of the model.
        classes: K.

    Raises:
        GlomflowError: The attention heads do not divide the channels.
    """

    def __init__(self, model: config.Model, channels: Mapping[str, int], classes: int) -> None:
        super().__init__(model, channels, classes)
        width = next(iter(self.channels.values()))
        self.attended = tuple(name for name in self.modalities if name != "TEM" and "TEM" in self.modalities)
        self.parity = model.parity
        if self.attended:
            self.cmsa = CrossModalAttention(width, model.cmsa.heads, parity=model.parity)
        self.branches = nn.ModuleDict({name: nn.Linear(width, classes) for name in self.modalities})
        self.fusion = nn.Sequential(
            nn.Linear(len(self.modalities) * width, model.hidden),
            nn.Dropout(model.dropout),
            nn.ReLU(),
            nn.Linear(model.hidden, classes),
        )

    @property
    def heads(self) -> tuple[str, ...]:
        """The branch of each modality, and the fusion head."""
        return (*self.modalities, "fusion")

    @property
    def static_pooling(self) -> bool:
        """Whether pooling has nothing to learn."""
        return True

    def pool(self, batch: Batch) -> Pooled:
        """Turns each bag into one map: SMIL over TEM, the mean over several OM or IM instances.

        Args:
            batch: Bags of feature maps.

        Returns:
            Tokens (B, N, C) per modality, zeros where it is missing.
        """
        tokens: dict[str, Tensor] = {}
        present: dict[str, Tensor] = {}
        weights: dict[str, Tensor] = {}
        kept: dict[str, Tensor] = {}
        for name in self.modalities:
            maps, mask = self.standardised(name, batch.maps[name]), batch.masks[name]
            if name == "TEM":
                merged, weights[name], kept[name] = self._pool_tem(maps, mask)
            else:
                merged = mean_over_instances(maps, mask)
            tokens[name] = merged.flatten(1, 2)
            present[name] = mask.any(1)
        return Pooled(tokens, present, weights, kept)

    def _pool_tem(self, maps: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        smil = self.settings.smil
        if smil.variant == "sum":
            return smil_sum(maps, mask)
        return smil_distance(maps, mask, smil.threshold, parity=self.parity)

    def classify(self, pooled: Pooled) -> Outputs:
        """Runs attention and heads on pooled maps.

        Args:
            pooled: One map per patient and modality.

        Returns:
            Logits per head.
        """
        summaries = {name: pooled.tokens[name].mean(1) for name in self.modalities}
        if self.attended:
            others = [pooled.tokens[name] for name in self.attended]
            answers = self.cmsa.pooled(pooled.tokens["TEM"], others)
            for name, answer in zip(self.attended, answers, strict=True):
                summaries[name] = torch.where(pooled.present["TEM"][:, None], answer, summaries[name])
        for name, summary in summaries.items():
            summaries[name] = summary.masked_fill(~pooled.present[name][:, None], 0)
        logits = {name: self.branches[name](summary) for name, summary in summaries.items()}
        if self.parity:
            logits = {name: torch.relu(values) for name, values in logits.items()}
        logits["fusion"] = self.fusion(torch.cat(list(summaries.values()), dim=1))
        present = {name: pooled.present[name] for name in self.modalities}
        present["fusion"] = torch.stack(list(present.values())).any(0)
        return Outputs(logits, present, pooled.weights, pooled.kept)
