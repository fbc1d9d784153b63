"""Early fusion: features side by side."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from glomflow import config
from glomflow.models.baselines.base import Baseline, classifier
from glomflow.models.batch import Pooled
from glomflow.models.outputs import Outputs


class Concatenation(Baseline):
    """One multi-layer perceptron over the concatenated features of all modalities.

    Early fusion, the "joint representation" of Baltrusaitis et al., "Multimodal machine learning: a survey
    and taxonomy", IEEE TPAMI 41(2), 2019. It is CMUS-Net less its attention and its branches: global average
    pooling of each pooled map, and the same fusion head. Adapted: a modality that a patient lacks is zeros.

    Args:
        model: The model's section of the configuration.
        channels: C of the feature maps, per modality of the model.
        classes: K.
    """

    def __init__(self, model: config.Model, channels: Mapping[str, int], classes: int) -> None:
        super().__init__(model, channels, classes, model.width)
        self.fusion = classifier(model, sum(self.widths.values()), classes)

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
        logits = self.fusion(torch.cat(list(self.summaries(pooled).values()), dim=1))
        return Outputs({"fusion": logits}, self.presence(pooled), pooled.weights, pooled.kept)
