"""Early fusion: features side by side."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from glomflow import config
from glomflow.models.baselines.base import PooledBaseline
from glomflow.models.batch import Pooled
from glomflow.models.outputs import Outputs


class Concatenation(PooledBaseline):
    """One multi-layer perceptron over the concatenated features of all modalities.

    Early fusion, the "joint representation" of Baltrusaitis et al., "Multimodal machine learning: a survey
    and taxonomy", IEEE TPAMI 41(2), 2019. It is CMUS-Net less its attention and its branches: global average
    pooling of each pooled map, and the same fusion head. Adapted: a modality that a patient lacks is zeros,
    or its stand-in with ``absent: learned``.

    Args:
        model: The model's section of the configuration.
        channels: C of the feature maps, per modality of the model.
        classes: K.
    """

    def __init__(self, model: config.Model, channels: Mapping[str, int], classes: int) -> None:
        super().__init__(model, channels, classes, model.width)
        self.fusion = self.classifier(sum(self.widths.values()))

    @property
    def heads(self) -> tuple[str, ...]:
        """The fusion head alone."""
        return ("fusion",)

    def classify(self, pooled: Pooled) -> Outputs:
        """Runs the head on the concatenated features.

        Args:
            pooled: One map per patient and modality.

        Returns:
            Logits of the fusion head.
        """
        present = self.presence(pooled)
        logits = self.fusion(torch.cat(list(self.summaries(pooled, present).values()), dim=1))
        return Outputs({"fusion": logits}, present, pooled.weights, pooled.kept)
