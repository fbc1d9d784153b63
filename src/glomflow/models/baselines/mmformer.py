"""mmFormer: a transformer per modality, and one across them."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from glomflow import config
from glomflow.models.baselines.base import PooledBaseline
from glomflow.models.baselines.transformer import TransformerBlock, masked_mean
from glomflow.models.batch import Pooled
from glomflow.models.heads import linear_head
from glomflow.models.outputs import Outputs

_DROPOUT = 0.1
_PERCEPTRON = 8


class MmFormer(PooledBaseline):
    """Transformers within and between modalities, with missing ones masked.

    Taken from Zhang et al., "mmFormer: multimodal medical transformer for incomplete multimodal learning of
    brain tumor segmentation", MICCAI 2022, arXiv 2206.02425: an intra-modal transformer block per modality,
    a modality-correlated block over the concatenated tokens, and auxiliary predictions from each modality
    alone by a decoder that they share. Adapted: the convolutional encoder is the model's own encoder and the
    decoder a classifier, as there is a label per patient and no mask; missing tokens are hidden from the
    attention instead of being set to zero; positions are sinusoids (Vaswani 2017) in place of learned ones,
    because the size of the maps is the encoder's, and each modality has a learned mark. ``modality_dropout``
    hides modalities in training as the paper does.

    Args:
        model: The model's section of the configuration; tokens have ``width`` channels, or ``hidden`` where
            there is none, and ``cmsa.heads`` heads.
        channels: C of the feature maps, per modality of the model.
        classes: K.

    Raises:
        GlomflowError: The attention heads do not divide the channels.
    """

    def __init__(self, model: config.Model, channels: Mapping[str, int], classes: int) -> None:
        width = model.width or model.hidden
        super().__init__(model, channels, classes, width)
        heads, hidden = model.cmsa.heads, _PERCEPTRON * width
        self.marks = nn.ParameterDict(
            {name: nn.Parameter(0.02 * torch.randn(1, 1, width)) for name in self.modalities}
        )
        self.intra = nn.ModuleDict(
            {name: TransformerBlock(width, heads, hidden, _DROPOUT) for name in self.modalities}
        )
        self.inter = TransformerBlock(width, heads, hidden, _DROPOUT)
        self.auxiliary = linear_head(width, classes, ordinal=model.ordinal)
        self.fusion = self.classifier(width)

    @property
    def heads(self) -> tuple[str, ...]:
        """The auxiliary head on each modality, and the fusion head."""
        return (*self.modalities, "fusion")

    def classify(self, pooled: Pooled) -> Outputs:
        """Runs the transformers and heads.

        Args:
            pooled: One map per patient and modality.

        Returns:
            Logits per head.
        """
        present = self.presence(pooled)
        encoded, masks, logits = [], [], {}
        for name, tokens in self.tokens(pooled, present).items():
            mask = present[name][:, None].expand(-1, tokens.shape[1])
            marked = tokens + positions(tokens) + self.marks[name]
            encoded.append(self.intra[name](marked, mask))
            masks.append(mask)
            logits[name] = self.auxiliary(masked_mean(encoded[-1], mask))
        mask = torch.cat(masks, dim=1)
        together = self.inter(torch.cat(encoded, dim=1), mask)
        logits["fusion"] = self.fusion(masked_mean(together, mask))
        return Outputs(logits, present, pooled.weights, pooled.kept)


def positions(tokens: Tensor) -> Tensor:
    """Returns sinusoids that tell the places of (B, N, D) tokens apart, (N, D)."""
    count, width = tokens.shape[1:]
    places = torch.arange(count, device=tokens.device, dtype=torch.float32)[:, None]
    steps = torch.arange(0, width, 2, device=tokens.device, dtype=torch.float32)
    angles = places * torch.exp(steps * (-math.log(10000.0) / width))
    return torch.stack([angles.sin(), angles.cos()], dim=2).flatten(1)[:, :width].to(tokens.dtype)
