"""The gated multimodal unit."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from glomflow import config
from glomflow.models.baselines.base import PooledBaseline
from glomflow.models.batch import Pooled
from glomflow.models.heads import linear_head
from glomflow.models.outputs import Outputs


class GatedUnit(PooledBaseline):
    """Lets all modalities decide how far each of them counts.

    Taken from Arevalo et al., "Gated multimodal units for information fusion", 2017, arXiv 1702.01992, its
    form for more than two modalities: h_m = tanh(W_m x_m), z_m = sigmoid(V_m [x_1, ..., x_M]) and
    h = sum_m z_m * h_m, over the mean token x_m of each pooled map. Adapted: the gate of a modality that a
    patient lacks is shut and x_m is zeros in the other gates (with
    ``absent: learned`` a stand-in takes its place in both); a linear layer after dropout takes the place
    of the paper's maxout classifier.

    Args:
        model: The model's section of the configuration; ``hidden`` is the width of the unit.
        channels: C of the feature maps, per modality of the model.
        classes: K.
    """

    def __init__(self, model: config.Model, channels: Mapping[str, int], classes: int) -> None:
        super().__init__(model, channels, classes, model.width)
        total = sum(self.widths.values())
        self.features = nn.ModuleDict(
            {name: nn.Linear(width, model.hidden) for name, width in self.widths.items()}
        )
        self.gates = nn.ModuleDict({name: nn.Linear(total, model.hidden) for name in self.modalities})
        self.fusion = nn.Sequential(
            nn.Dropout(model.dropout), linear_head(model.hidden, classes, ordinal=model.ordinal)
        )

    @property
    def heads(self) -> tuple[str, ...]:
        """The fusion head alone."""
        return ("fusion",)

    def classify(self, pooled: Pooled) -> Outputs:
        """Runs the unit and its head.

        Args:
            pooled: One map per patient and modality.

        Returns:
            Logits of the fusion head.
        """
        present = self.presence(pooled)
        summaries, used = self.summaries(pooled, present), self.used(present)
        everything = torch.cat(list(summaries.values()), dim=1)
        parts = []
        for name, summary in summaries.items():
            gate = torch.sigmoid(self.gates[name](everything))
            gate = gate.masked_fill(~used[name][:, None], 0)
            parts.append(gate * torch.tanh(self.features[name](summary)))
        logits = self.fusion(torch.stack(parts).sum(0))
        return Outputs({"fusion": logits}, present, pooled.weights, pooled.kept)
